//! Little's law: whether the requests in flight fit their rate and their latency.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::verdict::Window;
use crate::statistics::numpy;

/// Little's law, L = λW: in a steady state, requests in flight = rate × latency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Little {
    /// L: requests in flight, averaged over the window.
    pub concurrency: f64,
    /// λ: requests sent per second.
    pub rate: f64,
    /// W: their mean latency in seconds.
    pub latency_s: f64,
    /// L / (λW) − 1.
    pub gap: f64,
}

/// Computed from the start and the duration of all requests that were sent.
#[must_use]
pub fn littles_law(sent: &[(f64, f64)], window: Window) -> Option<Little> {
    let seconds = window.length_seconds();
    let within: Vec<f64> =
        sent.iter().filter(|(start, _)| (window.from..window.to).contains(start)).map(|(_, took)| *took).collect();
    let overlap = |(start, took): &(f64, f64)| ((start + took).min(window.to) - start.max(window.from)).max(0.0);
    let concurrency = sent.iter().map(overlap).sum::<f64>() / seconds;
    let (rate, latency_s) = (within.len() as f64 / seconds, numpy::mean(&within));
    let gap = concurrency / (rate * latency_s) - 1.0;
    gap.is_finite().then_some(Little { concurrency, rate, latency_s, gap })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn littles_law_holds_in_a_steady_state() {
        // Always four in flight: one request each half second, of two seconds.
        let sent: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i) * 0.5, 2.0)).collect();
        let law = littles_law(&sent, Window { from: 4.0, to: 14.0 }).unwrap();
        assert!((law.concurrency - 4.0).abs() < 1e-9 && (law.rate - 2.0).abs() < 1e-9, "{law:?}");
        assert!(law.gap.abs() < 1e-9, "{law:?}");
        assert_eq!(littles_law(&[], Window { from: 0.0, to: 1.0 }), None);
    }
}
