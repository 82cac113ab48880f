//! Whether requests were sent when they were planned, from the end records of the clients.

use super::pooling::{Pooled, Pooling};
use crate::record::{Arrivals, GapTest, LateCounts};

impl Pooled for Arrivals {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        all.all.iter().copied().copied().reduce(merge_arrivals)
    }
}

/// Merges the tests of two clients: counts are added, and each test keeps the worse result.
#[must_use]
pub fn merge_arrivals(a: Arrivals, b: Arrivals) -> Arrivals {
    let worse = |a: GapTest, b: GapTest| if b.p < a.p { b } else { a };
    let (distance, p) = if b.p < a.p { (b.distance, b.p) } else { (a.distance, a.p) };
    Arrivals {
        planned: a.planned.saturating_add(b.planned),
        distance,
        p,
        gaps: a.gaps.into_iter().chain(b.gaps).reduce(worse),
        late: LateCounts {
            no_slot: a.late.no_slot.saturating_add(b.late.no_slot),
            input: a.late.input.saturating_add(b.late.input),
            client: a.late.client.saturating_add(b.late.client),
        },
    }
}

/// Describes them in one line.
#[must_use]
pub fn describe_arrivals(arrivals: &Arrivals) -> String {
    let Arrivals { planned, distance, p, gaps, late } = arrivals;
    let gaps = gaps.map_or_else(String::new, |gaps| format!(", gaps p {}", format_probability(gaps.p)));
    let causes = [("no slot", late.no_slot), ("late input", late.input), ("client", late.client)];
    let causes: Vec<String> =
        causes.iter().filter(|(_, n)| *n > 0).map(|(cause, n)| format!("{n} ({cause})")).collect();
    let late = if causes.is_empty() { "none late".into() } else { format!("late: {}", causes.join(", ")) };
    format!(
        "arrivals: {planned} planned, at most {:.1} % overdue (p {}{gaps}), {late}",
        distance * 100.0,
        format_probability(*p)
    )
}

fn format_probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_the_worse_test_and_adds_counts() {
        let good = Arrivals {
            planned: 10,
            distance: 0.0,
            p: 1.0,
            gaps: Some(GapTest { distance: 0.01, p: 0.4 }),
            ..Arrivals::default()
        };
        let late = LateCounts { no_slot: 3, input: 0, client: 1 };
        let bad =
            Arrivals { planned: 20, distance: 0.3, p: 1e-9, gaps: Some(GapTest { distance: 0.2, p: 0.002 }), late };
        let merged = merge_arrivals(good, bad);
        assert_eq!(merged, merge_arrivals(bad, good));
        assert_eq!((merged.planned, merged.p, merged.late), (30, 1e-9, late));
        let line =
            "arrivals: 30 planned, at most 30.0 % overdue (p < 0.001, gaps p 0.002), late: 3 (no slot), 1 (client)";
        assert_eq!(describe_arrivals(&merged), line);
        assert_eq!(
            describe_arrivals(&Arrivals { gaps: None, ..good }),
            "arrivals: 10 planned, at most 0.0 % overdue (p 1.000), none late"
        );
    }
}
