//! Counts in simulated runs how often the interval of a throughput contains the truth, and prints the table of `docs/METRICS.md`.

use vb::{
    rng,
    statistics::numpy,
    stats::{MeasuredRate, whole_rates},
};

use crate::{
    count_trials,
    coverage::{Kind, MODELS, Model, Source},
    fewest_of, percent, trials_asked,
};

/// The rates of successes and of tokens in each run.
fn measure_runs(model: &Model, n: usize, runs: u64) -> Option<[Vec<MeasuredRate>; 2]> {
    let Source::Runs(simulate) = model.source else { return None };
    let measure = |run| {
        let recording = simulate(&mut rng::random_stream(run, model.name, n as u64), n);
        whole_rates(&recording, recording.run_origin(), recording.duration())
    };
    let (requests, tokens) = (0..runs).map(measure).unzip();
    Some([requests, tokens])
}

/// How many intervals there are, how many of them contain the rate of the average run, and their mean width as a share of it.
fn count_right(rates: &[MeasuredRate]) -> (f64, f64, f64) {
    let truth = numpy::mean(&rates.iter().map(|rate| rate.per_s).collect::<Vec<_>>());
    let intervals: Vec<[f64; 2]> = rates.iter().filter_map(|rate| rate.interval).collect();
    let right = intervals.iter().filter(|[low, high]| (*low..=*high).contains(&truth)).count();
    let width = numpy::mean(&intervals.iter().map(|[low, high]| (high - low) / truth).collect::<Vec<_>>());
    (intervals.len() as f64, right as f64, width)
}

#[test]
fn intervals_of_throughput_contain_the_truth_as_often_as_the_manual_says() {
    let sizes: &[usize] = if trials_asked().is_some() { &[300, 1000, 5000] } else { &[1000] };
    println!("| model | n | intervals | requests/s | width in % | intervals | tokens/s | width in % |");
    println!("|---|---|---|---|---|---|---|---|");
    let trials = count_trials(4);
    let (mut printed, mut inside) = (0.0, 0.0);
    for (n, model) in sizes.iter().flat_map(|n| MODELS.iter().map(move |model| (*n, model))) {
        let Some(rates) = measure_runs(model, n, trials) else { continue };
        let cells = rates.each_ref().map(|rates| {
            let (intervals, right, width) = count_right(rates);
            if matches!(model.kind, Kind::Dependent) {
                (printed, inside) = (printed + intervals, inside + right);
            }
            let width = if intervals > 0.0 { format!("{:.0}", 100.0 * width) } else { "-".to_owned() };
            format!("{} | {} | {width}", percent(intervals, trials as f64), percent(right, intervals))
        });
        println!("| {} | {n} | {} |", model.name, cells.join(" | "));
    }
    assert!(inside >= fewest_of(0.92, printed), "{inside} of {printed}");
}
