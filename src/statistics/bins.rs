//! Runs of values that fall into the same bin: times in order are counted bin by bin, and not one by one.

use std::ops::Range;

/// Calls `visit` with each bin and the values that fall into it. If the values ascend, so must their bins; then each bin is
/// visited once, and found by search.
pub fn visit_bins(values: &[f64], bin: impl Fn(f64) -> usize, mut visit: impl FnMut(usize, Range<usize>)) {
    let ascend = values.is_sorted();
    let mut from = 0;
    while let Some((first, others)) = values[from..].split_first() {
        let own = bin(*first);
        let is_own = |value: &f64| bin(*value) == own;
        let more = match others.last() {
            None => 0,
            Some(last) if ascend && is_own(last) => others.len(),
            Some(_) if ascend => others.partition_point(is_own),
            Some(_) => others.iter().take_while(|value| is_own(value)).count(),
        };
        visit(own, from..from + 1 + more);
        from += 1 + more;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_is_in_its_bin(mut values in prop::collection::vec(0.0..50.0, 0..60), sorted in any::<bool>()) {
            if sorted {
                values.sort_by(f64::total_cmp);
            }
            let bin = |value: f64| super::super::numpy::truncate_to_usize(value / 3.0);
            let (mut next, mut last) = (0, None);
            visit_bins(&values, bin, |own, run| {
                assert!(run.start == next && values[run.clone()].iter().all(|value| bin(*value) == own));
                assert_ne!(last, Some(own));
                (next, last) = (run.end, Some(own));
            });
            prop_assert_eq!(next, values.len());
        }
    }
}
