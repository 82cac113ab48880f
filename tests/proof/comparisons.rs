//! Checks in simulated comparisons that the verdicts of `vb-diff` are as reliable as they claim.

use rand::rngs::ChaCha8Rng;
use vb::{
    diff::{ALPHA, ChangeRow, CompareOptions, Report, Side, SideRun},
    recording::Recording,
    rng,
};

use crate::{
    count_trials,
    engine::EngineModel,
    models::{RequestTimes, fail_between, record_run},
};

pub fn options() -> CompareOptions {
    CompareOptions {
        percentiles: vec![50.0, 90.0, 99.0],
        margin: 0.05,
        rules: Vec::new(),
        labels: ["A", "B"].map(str::to_owned),
    }
}

/// A made-up server: how long a request takes, given the request before it.
pub struct MadeUpServer {
    pub name: &'static str,
    draw: fn(&mut ChaCha8Rng, &mut f64) -> f64,
}

pub const SERVERS: [MadeUpServer; 4] = [
    MadeUpServer { name: "exponential", draw: |rng, _| rng::sample_exponential(rng) },
    MadeUpServer { name: "log-normal", draw: |rng, _| (0.5 * rng::sample_normal(rng)).exp() },
    // Four of five between 0 and 1, the fifth between 10 and 11, as with a prefix cache that hits and misses.
    MadeUpServer {
        name: "bimodal",
        draw: |rng, _| if rng::sample_unit(rng) < 0.8 { rng::sample_unit(rng) } else { 10.0 + rng::sample_unit(rng) },
    },
    // Each is similar to the one before it (0.8).
    MadeUpServer {
        name: "autocorrelated",
        draw: |rng, last| {
            *last = 0.8 * *last + 0.6 * rng::sample_normal(rng);
            (0.5 * *last).exp()
        },
    },
];

/// A run of `n` requests. Each takes `slower` times as long as on the server.
fn run(server: &MadeUpServer, n: usize, (name, number): (&str, u64), slower: f64) -> Recording {
    let mut random = rng::random_stream(number, name, 0);
    let (mut of_ttft, mut of_gaps) = (rng::sample_normal(&mut random), rng::sample_normal(&mut random));
    let mut start = 0.0;
    let mut request = |_| {
        start += 0.1 * rng::sample_exponential(&mut random);
        let ttft = slower * 0.1 * (server.draw)(&mut random, &mut of_ttft);
        let gaps = (0..4).map(|_| slower * 0.01 * (server.draw)(&mut random, &mut of_gaps)).collect();
        RequestTimes { due: start, start, first: start + ttft, gaps }
    };
    let mut run = record_run((0..n).map(&mut request).collect(), true);
    for i in (7..n).step_by(50) {
        if rng::sample_unit(&mut random) < 0.5 {
            fail_between(&mut run.requests[i..=i], 0.0, 1.0, 0.1);
        }
    }
    run
}

pub fn side_of_runs(runs: Vec<Recording>) -> Side {
    let named = |(i, recording): (usize, Recording)| SideRun { name: format!("run {i}"), recording, summary: None };
    Side { runs: runs.into_iter().enumerate().map(named).collect() }
}

pub fn side(server: &MadeUpServer, n: usize, stream: (&str, u64), slower: f64) -> Side {
    side_of_runs(vec![run(server, n, stream, slower)])
}

fn called(report: &Report) -> bool {
    report.changes.iter().any(|row| row.p_corrected.is_some_and(|p| p < ALPHA))
}

/// How often the interval of a change holds the truth.
#[test]
fn intervals_of_a_change_hold_the_truth_as_often_as_they_say() {
    let trials = count_trials(80);
    let truth = 0.05;
    let mut held = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for server in &SERVERS {
        for trial in 0..trials {
            let (a, b) = (side(server, 800, ("held a", trial), 1.0), side(server, 800, ("held b", trial), 1.0 + truth));
            for row in Report::compare_sides(&a, &b, &options()).changes.iter().filter(|row| row.metric == "ttft") {
                let interval = row.relative.unwrap();
                let inside =
                    interval.low.is_none_or(|low| low <= truth) && interval.high.is_none_or(|high| truth <= high);
                let (hits, of) = held.entry(format!("{} {}", server.name, row.statistic)).or_default();
                (*hits, *of) = (*hits + u64::from(inside), *of + 1);
            }
        }
    }
    println!("{held:?}");
    let least = 0.95 - 3.5 * (0.95 * 0.05 / trials as f64).sqrt() - 0.01;
    assert!(held.values().all(|(hits, of)| *hits as f64 >= least * *of as f64), "{held:?}");
    let (hits, of) = held.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(hits as f64 >= 0.94 * of as f64, "{held:?}");
}

/// The family-wise error: all of the numbers of a comparison together.
#[test]
fn equals_are_called_different_in_at_most_5_percent_of_comparisons() {
    let trials = count_trials(250);
    let mut all = Vec::new();
    for server in &SERVERS {
        let mut wrong = 0;
        let mut each = std::collections::BTreeMap::<String, u32>::new();
        for (trial, n) in (0..trials).zip([200, 400, 800, 1600].into_iter().cycle()) {
            let (a, b) = (side(server, n, ("a", trial), 1.0), side(server, n, ("b", trial), 1.0));
            let report = Report::compare_sides(&a, &b, &options());
            wrong += u64::from(called(&report));
            for row in &report.changes {
                *each.entry(format!("{}.{}", row.metric, row.statistic)).or_default() +=
                    u32::from(row.p_corrected.is_some_and(|p| p < ALPHA));
            }
        }
        each.retain(|_, n| *n > 0);
        println!("{}: {wrong} of {trials}: {each:?}", server.name);
        all.push((server.name, wrong));
    }
    let sum: u64 = all.iter().map(|(_, wrong)| wrong).sum();
    assert!(sum * 20 <= trials * SERVERS.len() as u64, "of {trials} each: {all:?}");
    // A single server may exceed 5 % by chance.
    let most = 0.05 * trials as f64 + 3.0 * (0.05 * 0.95 * trials as f64).sqrt();
    assert!(all.iter().all(|(_, wrong)| (*wrong as f64) <= most), "of {trials} each: {all:?}");
}

/// The same for vb-sim's engine, whose requests wait for each other and whose gaps are steps of the batch.
#[test]
fn equal_runs_of_the_simulated_engine_are_called_different_in_at_most_5_percent_of_comparisons() {
    let trials = count_trials(60);
    for open in [false, true] {
        let side = |name: &str, trial: u64, n: usize| {
            let mut random = rng::random_stream(trial, name, 0);
            let engine = EngineModel { max_num_seqs: 256, longest_output: 24 };
            let run = if open { engine.run_at_rate(n, &mut random, 33.0) } else { engine.run_closed(n, &mut random) };
            side_of_runs(vec![run])
        };
        let mut each = std::collections::BTreeMap::<String, u32>::new();
        let mut wrong = 0;
        for (trial, n) in (0..trials).zip([200, 400, 800].into_iter().cycle()) {
            let report = Report::compare_sides(&side("a", trial, n), &side("b", trial, n), &options());
            wrong += u64::from(called(&report));
            for row in report.changes.iter().filter(|row| row.p_corrected.is_some_and(|p| p < ALPHA)) {
                *each.entry(format!("{}.{}", row.metric, row.statistic)).or_default() += 1;
            }
        }
        println!("engine, open loop {open}: {wrong} of {trials}: {each:?}");
        assert!(wrong * 20 <= trials, "open loop {open}: {wrong} of {trials}: {each:?}");
    }
}

/// Repeats that differ from each other by a few percent more than their requests explain, as on a real machine.
#[test]
fn repeats_of_equals_are_called_different_in_at_most_5_percent_of_comparisons() {
    let trials = count_trials(40);
    let mut all = Vec::new();
    for (repeats, differ) in [(3, 0.1), (4, 0.03), (4, 0.1), (8, 0.1)] {
        let side = |name: &str, trial: u64| {
            let mut random = rng::random_stream(trial, name, 1);
            let one =
                |i| run(&SERVERS[1], 200, (name, trial * 10 + i), (differ * rng::sample_normal(&mut random)).exp());
            side_of_runs((0..repeats).map(one).collect())
        };
        let wrong = (0..trials)
            .filter(|trial| called(&Report::compare_sides(&side("a", *trial), &side("b", *trial), &options())));
        all.push((repeats, differ, wrong.count()));
    }
    println!("(repeats, how they differ, called different) of {trials}: {all:?}");
    let sum: usize = all.iter().map(|(.., wrong)| wrong).sum();
    assert!(sum as u64 * 20 <= trials * all.len() as u64, "of {trials} each: {all:?}");
}

fn find<'a>(report: &'a Report, metric: &str, statistic: &str) -> &'a ChangeRow {
    report.changes.iter().find(|row| row.metric == metric && row.statistic == statistic).unwrap()
}

#[test]
fn a_change_of_the_margin_is_found_with_as_many_requests_as_it_says() {
    let trials = count_trials(60);
    let server = MadeUpServer { name: "narrow", draw: |rng, _| (0.25 * rng::sample_normal(rng)).exp() };
    let (mut found, mut needed, mut trial) = (0, 0, 0);
    for pilot in 0.. {
        // A pilot that is too small reports how many it needs; one that is decided by chance reports nothing.
        let n = 400;
        let (a, b) = (side(&server, n, ("pilot a", pilot), 1.0), side(&server, n, ("pilot b", pilot), 1.0));
        let report = Report::compare_sides(&a, &b, &options());
        let Some(more) = find(&report, "ttft", "p50").needs_more else { continue };
        let n = n + usize::try_from(more).unwrap();
        needed += n as u64;
        let (a, b) = (side(&server, n, ("power a", pilot), 1.0), side(&server, n, ("power b", pilot), 1.05));
        let report = Report::compare_sides(&a, &b, &options());
        found += u64::from(find(&report, "ttft", "p50").p_corrected.is_some_and(|p| p < ALPHA));
        trial += 1;
        if trial == trials {
            break;
        }
    }
    println!("{found} of {trials}, with {} requests a side on average", needed / trials);
    assert!(found * 10 >= trials * 8, "{found} of {trials}");
}
