//! Histograms of times, as the numbers about the client itself come from them.

use hdrhistogram::Histogram;

use crate::{error::Error, record::Percentiles, units::Nanos};

/// An empty histogram that keeps three digits of nanoseconds and grows as needed.
pub fn new_histogram() -> Result<Histogram<u64>, Error> {
    Histogram::new(3).map_err(|e| Error::Setup(format!("cannot make a histogram: {e}")))
}

/// The percentiles of a histogram of nanoseconds; `None` if it is empty.
pub fn histogram_percentiles(lag: &Histogram<u64>) -> Option<Percentiles> {
    let at = |q| Nanos(lag.value_at_quantile(q));
    (!lag.is_empty()).then(|| Percentiles { p50: at(0.5), p99: at(0.99), max: Nanos(lag.max()) })
}
