//! The warm-up: the part at the start of a run that is unlike everything later, and settles.

use crate::statistics::numpy;

/// A warm-up that lasts longer than this part of the run is a drift.
const MAX_SHARE: usize = 4;

/// The fewest blocks: a single one may be different by chance.
const MIN_BLOCKS: usize = 2;

/// How much farther away the second half of a warm-up may be than the first, by chance.
const MAX_RETREAT: f64 = 1.25;

/// The number of leading values that are a warm-up: all of them are beyond every value of the second half, on the same side, and
/// they approach these. A run that is interrupted by a stall, or changes later, has none: nothing before the interruption is unlike
/// what follows.
#[must_use]
pub fn count_warm_up(series: &[f64]) -> usize {
    let later = &series[series.len() / 2..];
    let (Some(first), true) = (series.first(), later.len() > MIN_BLOCKS) else { return 0 };
    let (least, most) = later.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    let above = *first > most;
    let is_beyond = |value: &&f64| if above { **value > most } else { **value < least };
    let beyond = series.iter().take_while(is_beyond).count();
    let settles = beyond >= MIN_BLOCKS
        && beyond <= series.len() / MAX_SHARE
        && approaches(&series[..beyond], f64::midpoint(least, most));
    if settles { beyond } else { 0 }
}

/// Whether values beyond `level` do not move away from it: on average, the second half of them is not much farther away than the first
/// half.
fn approaches(values: &[f64], level: f64) -> bool {
    let distance = |values: &[f64]| (numpy::mean(values) - level).abs();
    let (first, second) = values.split_at(values.len() / 2);
    distance(second) <= distance(first) * MAX_RETREAT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_settles_is_a_warm_up() {
        let noise = |i: usize| (i * 7919 % 13) as f64 / 13.0;
        let run = |level: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..60).map(|i| level(i) + noise(i)).collect() };
        assert_eq!(count_warm_up(&run(&|_| 5.0)), 0);
        assert_eq!(count_warm_up(&run(&|i| if i < 6 { 17.0 - 2.0 * i as f64 } else { 5.0 })), 6);
        assert_eq!(count_warm_up(&run(&|i| if i < 4 { i as f64 } else { 5.0 })), 4, "from below");
        assert_eq!(count_warm_up(&run(&|i| if i < 3 { 20.0 } else { 5.0 })), 3, "a plateau");
        assert_eq!(count_warm_up(&run(&|i| if i < 8 { 10.0 + 2.0 * i as f64 } else { 5.0 })), 0, "it rises first");
        assert_eq!(count_warm_up(&run(&|i| if i == 24 || i == 25 { 90.0 } else { 5.0 })), 0, "a stall at 40 %");
        assert_eq!(count_warm_up(&run(&|i| 100.0 - i as f64)), 0, "a drift");
        assert_eq!(count_warm_up(&[]), 0);
    }
}
