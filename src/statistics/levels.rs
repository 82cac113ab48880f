//! Whether a series stays at one level, or moves through several: change points.
//!
//! `docs/METRICS.md` has the formulas, their sources and how often they are right.

use super::trend::average_ranks;

/// The most levels.
const MAX_LEVELS: usize = 4;

/// A level lasts at least this share of the series, and at least this many values.
const MIN_LENGTH: usize = 20;
const MIN_VALUES: usize = 3;

/// How much more the values must differ between levels than within them, for two levels, three and four. In simulations, series
/// without a change exceed one of these limits in at most one case of a hundred, if neighbours correlate by 0.5 or less in two.
const LIMITS: [f64; MAX_LEVELS - 1] = [28.0, 22.0, 20.0];

/// The same for a swing.
const SWING_LIMIT: f64 = 24.0;

/// A further level leaves at most this part of the sum of squares.
const MIN_REDUCTION: f64 = 0.6;

/// The largest correlation of neighbours that is allowed for. A series that resembles itself more does not stay at a level.
const MAX_RESEMBLANCE: f64 = 0.85;

/// The first place of each level of a series, without the first one's 0; empty if it is one level.
///
/// The ranks of the values are divided so that they differ least within the levels. A division counts if the levels differ by more
/// than chance gives, where neighbours that resemble each other are worth less.
#[must_use]
pub fn find_levels(series: &[f64]) -> Vec<usize> {
    let n = series.len();
    let shortest = (n / MIN_LENGTH).max(MIN_VALUES);
    if n < 2 * shortest {
        return Vec::new();
    }
    let ranks = average_ranks(series);
    let divisions = divide(&ranks, shortest);
    let whole = divisions[0].0;
    let counts = |((within, places), limit): &(&(f64, Vec<usize>), f64)| {
        whole > 0.0 && (whole - within) / places.len() as f64 > limit * noise(&ranks, places, *within)
    };
    let counting: Vec<&(f64, Vec<usize>)> =
        divisions[1..].iter().zip(LIMITS).filter(counts).map(|(division, _)| division).collect();
    // Another level must explain a good part of what the levels so far do not.
    let explains = |(i, (within, _)): &(usize, &(f64, Vec<usize>))| {
        counting[i + 1..].iter().all(|(other, _)| *other >= within * MIN_REDUCTION)
    };
    let best = counting.iter().copied().enumerate().find(explains).map(|(_, division)| division);
    let swing = || divisions.get(2).filter(|_| swings(&ranks));
    best.or_else(swing).map(|(_, places)| places.clone()).unwrap_or_default()
}

/// For one level, two and so on: the sum of squares within the levels, and where the second and later ones start. By dynamic
/// programming over all divisions.
fn divide(values: &[f64], shortest: usize) -> Vec<(f64, Vec<usize>)> {
    let n = values.len();
    let mut sums = vec![(0.0, 0.0)];
    sums.extend(values.iter().scan((0.0, 0.0), |(sum, squares), v| {
        *sum += v;
        *squares += v * v;
        Some((*sum, *squares))
    }));
    let within = |from: usize, to: usize| {
        let (sum, squares) = (sums[to].0 - sums[from].0, sums[to].1 - sums[from].1);
        (squares - sum * sum / (to - from) as f64).max(0.0)
    };
    // For each number of levels and each end: the least sum, and the start of the last level.
    let mut table: Vec<Vec<(f64, usize)>> =
        vec![(0..=n).map(|end| if end < shortest { (f64::INFINITY, 0) } else { (within(0, end), 0) }).collect()];
    for levels in 1..MAX_LEVELS {
        let one_less = &table[levels - 1];
        let best = |end: usize| {
            let starts = shortest..=end.saturating_sub(shortest);
            let all = starts.map(|start| (one_less[start].0 + within(start, end), start));
            all.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0))
        };
        table.push((0..=n).map(best).collect());
    }
    let places = |levels: usize| {
        let mut places = Vec::new();
        let mut end = n;
        for row in table[1..=levels].iter().rev() {
            end = row[end].1;
            places.push(end);
        }
        places.reverse();
        (table[levels][n].0, places)
    };
    (0..MAX_LEVELS).map(places).filter(|(within, _)| within.is_finite()).collect()
}

/// Whether a series swings up and down once over its length: a period of a sine explains more than chance gives. The levels of a
/// swing without much noise are not flat, so that the test of levels would take it for values that resemble their neighbours.
fn swings(values: &[f64]) -> bool {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let angle = |i: usize| (i as f64 + 0.5) / n * std::f64::consts::TAU;
    let (mut sine, mut cosine) = (0.0, 0.0);
    for (i, value) in values.iter().enumerate() {
        sine += angle(i).sin() * (value - mean) * 2.0 / n;
        cosine += angle(i).cos() * (value - mean) * 2.0 / n;
    }
    let left: Vec<f64> = values
        .iter()
        .enumerate()
        .map(|(i, value)| value - mean - sine * angle(i).sin() - cosine * angle(i).cos())
        .collect();
    let within = left.iter().map(|v| v * v).sum::<f64>();
    let explained = (sine * sine + cosine * cosine) * n / 2.0;
    within > 0.0 && explained / 2.0 > SWING_LIMIT * noise_of_rest(&left, &[0, left.len()], within, 3.0)
}

/// The variance that independent values would have which vary as much over many values as these do within their levels.
fn noise(values: &[f64], places: &[usize], within: f64) -> f64 {
    let bounds: Vec<usize> = std::iter::once(0).chain(places.iter().copied()).chain([values.len()]).collect();
    let mut rest = Vec::with_capacity(values.len());
    for level in bounds.windows(2) {
        let level = &values[level[0]..level[1]];
        let mean = level.iter().sum::<f64>() / level.len() as f64;
        rest.extend(level.iter().map(|value| value - mean));
    }
    noise_of_rest(&rest, &bounds, within, places.len() as f64 + 1.0)
}

/// The same for what is left between these bounds, after `fitted` numbers were fitted.
fn noise_of_rest(rest: &[f64], bounds: &[usize], within: f64, fitted: f64) -> f64 {
    let n = rest.len() as f64;
    let neighbours: f64 =
        bounds.windows(2).flat_map(|level| rest[level[0]..level[1]].windows(2).map(|pair| pair[0] * pair[1])).sum();
    let seen = if within > 0.0 { neighbours / within } else { 0.0 };
    // What was fitted hides a part of the resemblance.
    let resemblance = (seen + fitted * (1.0 + 3.0 * seen) / n).clamp(0.0, MAX_RESEMBLANCE);
    // Not zero, so that levels without any variation inside are found.
    (within / (n - fitted)).max(1e-6) * (1.0 + resemblance) / (1.0 - resemblance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn series(level: impl Fn(f64) -> f64, seed: u64, like: f64) -> Vec<f64> {
        let mut random = rng::random_stream(seed, "levels", 0);
        let mut last = 0.0;
        let value = |i: u32| {
            last = like * last + rng::sample_normal(&mut random);
            level(f64::from(i) / 60.0) + last
        };
        (0..60).map(value).collect()
    }

    #[test]
    fn levels_are_found_where_they_are() {
        let step = find_levels(&series(|at| if at < 0.4 { 0.0 } else { 4.0 }, 1, 0.0));
        assert!(step.len() == 1 && step[0].abs_diff(24) < 2, "{step:?}");
        let hill = find_levels(&series(|at| if (0.3..0.6).contains(&at) { 4.0 } else { 0.0 }, 2, 0.0));
        assert!(hill.len() == 2 && hill[0].abs_diff(18) < 2 && hill[1].abs_diff(36) < 2, "{hill:?}");
        // Three values of sixty that all fail.
        let outage: Vec<f64> = (0..60).map(|i| if (30..33).contains(&i) { 0.0 } else { 1.0 }).collect();
        assert_eq!(find_levels(&outage), [30, 33]);
        assert!(!find_levels(&series(|at| 20.0 * (at * std::f64::consts::TAU).sin(), 3, 0.0)).is_empty(), "a swing");
        assert_eq!(find_levels(&[1.0; 60]), [0_usize; 0]);
        assert_eq!(find_levels(&[1.0, 2.0]), [0_usize; 0]);
    }

    /// At most 1 of 100 series without levels may seem to have some, and a few more if neighbours resemble each other.
    #[test]
    fn chance_gives_no_levels() {
        for (like, most) in [(0.0, 4), (0.5, 8), (0.7, 36)] {
            let found = (0..400).filter(|seed| !find_levels(&series(|_| 0.0, *seed, like)).is_empty()).count();
            println!("{found} of 400 at {like}");
            assert!(found <= most, "{found} of 400 at {like}");
        }
    }
}
