//! Lock-step: requests of a closed loop that start together, again and again, because they ended together.

use crate::{recording::RecordedRequest, statistics::numpy};

/// 1 + CV² of the gaps between starts is N for groups of N at equal distances, and 1 for independent starts; from this on, the starts
/// are in groups. Chance does not give it.
const MIN_CLUSTERING: f64 = 4.0;

/// A gap this many times as long as the mean separates two groups.
const LONG_GAP: f64 = 2.0;

/// How many requests start at about the same time, on average; `None` if they do not start in groups. `sent` are requests in the order
/// in which they were sent.
#[must_use]
pub fn detect_lock_step(sent: &[&RecordedRequest]) -> Option<f64> {
    let starts: Vec<f64> = sent.iter().filter_map(|r| r.start).collect();
    let gaps: Vec<f64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = numpy::mean(&gaps);
    let clustering = 1.0 + (numpy::std(&gaps) / mean).powi(2);
    let groups = gaps.iter().filter(|gap| **gap > LONG_GAP * mean).count() + 1;
    (clustering >= MIN_CLUSTERING).then(|| starts.len() as f64 / groups as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn lock_step_is_detected_and_chance_is_not() {
        let mut rng = rng::random_stream(1, "starts", 0);
        let at = |start: f64| RecordedRequest { start: Some(start), ..RecordedRequest::default() };
        let waves: Vec<RecordedRequest> =
            (0..200_u32).map(|i| at(f64::from(i / 16) + 0.01 * rng::sample_unit(&mut rng))).collect();
        let mut time = 0.0;
        let poisson: Vec<RecordedRequest> = (0..200)
            .map(|_| {
                time += rng::sample_exponential(&mut rng);
                at(time)
            })
            .collect();
        let detected = |requests: &[RecordedRequest]| {
            let mut in_time: Vec<&RecordedRequest> = requests.iter().collect();
            in_time.sort_by(|a, b| a.start.unwrap().total_cmp(&b.start.unwrap()));
            detect_lock_step(&in_time)
        };
        assert!((detected(&waves).unwrap() - 16.0).abs() < 2.0, "{:?}", detected(&waves));
        assert_eq!(detected(&poisson), None);
    }
}
