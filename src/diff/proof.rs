//! Checks in simulated comparisons that the verdicts are as reliable as they claim.
//!
//! `VB_TRIALS` sets the number of comparisons of each kind: `scripts/check-statistics.sh` runs more of them, in a release build.

use rand::rngs::ChaCha8Rng;

use super::{
    change::ALPHA,
    check::{CheckResult, parse_rule},
    report::{CompareOptions, Report},
    row::ChangeRow,
    side::{Side, SideRun},
};
use crate::{
    recording::{RecordedRequest, Recording},
    rng,
    sim::{
        EngineProfile,
        engine::{Job, SimEngine},
    },
    units::{Nanos, UnixNanos},
};

const GAPS: u32 = 4;

fn trials(default: u64) -> u64 {
    std::env::var("VB_TRIALS").map_or(default, |text| text.parse().unwrap())
}

fn options() -> CompareOptions {
    CompareOptions {
        percentiles: vec![50.0, 90.0, 99.0],
        margin: 0.05,
        rules: Vec::new(),
        labels: ["A", "B"].map(str::to_owned),
    }
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    rng::sample_unit(rng).max(f64::MIN_POSITIVE)
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// A made-up server: how long a request takes, given the request before it.
struct MadeUpServer {
    name: &'static str,
    draw: fn(&mut ChaCha8Rng, &mut f64) -> f64,
}

const SERVERS: [MadeUpServer; 4] = [
    MadeUpServer { name: "exponential", draw: |rng, _| rng::sample_exponential(rng) },
    MadeUpServer { name: "log-normal", draw: |rng, _| (0.5 * normal(rng)).exp() },
    // Four of five between 0 and 1, the fifth between 10 and 11, as with a prefix cache that hits and misses.
    MadeUpServer {
        name: "bimodal",
        draw: |rng, _| if uniform(rng) < 0.8 { uniform(rng) } else { 10.0 + uniform(rng) },
    },
    // Each is similar to the one before it (0.8).
    MadeUpServer {
        name: "autocorrelated",
        draw: |rng, last| {
            *last = 0.8 * *last + 0.6 * normal(rng);
            (0.5 * *last).exp()
        },
    },
];

/// A run of `n` requests. Each takes `slower` times as long as on the server.
fn run(server: &MadeUpServer, n: usize, stream: (&str, u64), slower: f64) -> SideRun {
    let mut rng = rng::random_stream(stream.1, stream.0, 0);
    let (mut of_ttft, mut of_gaps) = (normal(&mut rng), normal(&mut rng));
    let mut recording = empty();
    let mut start = 0.0;
    for i in 0..n {
        start += 0.1 * rng::sample_exponential(&mut rng);
        let ttft = slower * 0.1 * (server.draw)(&mut rng, &mut of_ttft);
        let gaps: Vec<f64> = (0..GAPS).map(|_| slower * 0.01 * (server.draw)(&mut rng, &mut of_gaps)).collect();
        let success = i % 50 != 7 || uniform(&mut rng) < 0.5;
        add(&mut recording, success, start, ttft, &gaps);
    }
    SideRun { name: format!("{}-{}", stream.0, stream.1), recording }
}

const BASE: UnixNanos = UnixNanos(1_000_000_000);

fn empty() -> Recording {
    Recording { base: Some(BASE), span: Some((BASE, BASE)), ..Recording::default() }
}

fn add(recording: &mut Recording, success: bool, start: f64, ttft: f64, gaps: &[f64]) {
    let latency = ttft + gaps.iter().sum::<f64>();
    let first = recording.gaps.len();
    recording.gaps.extend_from_slice(if success { gaps } else { &[] });
    recording.requests.push(RecordedRequest {
        success,
        prompt_len: 64,
        output_tokens: 1 + u32::try_from(gaps.len()).unwrap(),
        start: Some(start),
        queue_time: Some(0.0),
        ttft: Some(ttft),
        latency: Some(latency),
        done: Some(latency),
        gaps: first..recording.gaps.len(),
        ..RecordedRequest::default()
    });
    recording.extend_span(recording.instant_at(start + latency));
}

/// A run of vb-sim's engine in virtual time: prompts and outputs of random lengths, so that requests wait for each other. In an
/// open loop, or 16 at a time.
fn engine_run(open: bool, n: u64, stream: (&str, u64)) -> SideRun {
    let mut rng = rng::random_stream(stream.1, stream.0, 0);
    let mut engine = SimEngine::new(EngineProfile { prefix_caching: false, ..EngineProfile::default() }).unwrap();
    let mut starts = Vec::new();
    let submit = |engine: &mut SimEngine, starts: &mut Vec<Nanos>, rng: &mut ChaCha8Rng, now: Nanos| {
        let tokens = |n: u64| (0..).take(usize::try_from(n).unwrap()).collect();
        let (prompt, output) = (tokens(rng::sample_between(rng, 50, 800)), tokens(rng::sample_between(rng, 4, 24)));
        engine.submit_job(now, Job { id: starts.len() as u64, prompt, output });
        starts.push(now);
    };
    let mut now = Nanos(0);
    for _ in 0..if open { n } else { 16 } {
        submit(&mut engine, &mut starts, &mut rng, now);
        if open {
            now = now + Nanos::from_secs_f64(0.03 * rng::sample_exponential(&mut rng));
        }
    }
    let mut tokens: Vec<Vec<f64>> = vec![Vec::new(); usize::try_from(n).unwrap()];
    now = Nanos(0);
    while let Some(step) = engine.run_step(now) {
        now = step.ends_at;
        for token in step.tokens {
            tokens[usize::try_from(token.id).unwrap()].push(now.as_secs_f64());
            if token.last && (starts.len() as u64) < n {
                submit(&mut engine, &mut starts, &mut rng, now);
            }
        }
    }
    let mut recording = empty();
    for (start, tokens) in starts.iter().zip(tokens) {
        let gaps: Vec<f64> = tokens.windows(2).map(|pair| pair[1] - pair[0]).collect();
        add(&mut recording, true, start.as_secs_f64(), tokens[0] - start.as_secs_f64(), &gaps);
    }
    SideRun { name: format!("{}-{}", stream.0, stream.1), recording }
}

fn side(server: &MadeUpServer, n: usize, stream: (&str, u64), slower: f64) -> Side {
    Side { runs: vec![run(server, n, stream, slower)] }
}

fn called(report: &Report) -> bool {
    report.changes.iter().any(|row| row.p_corrected.is_some_and(|p| p < ALPHA))
}

/// How often the interval of a change holds the truth.
#[test]
fn intervals_of_a_change_hold_the_truth_as_often_as_they_say() {
    let trials = trials(80);
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
    let trials = trials(250);
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
    let trials = trials(60);
    for open in [false, true] {
        let side = |name: &str, trial: u64, n: u64| Side { runs: vec![engine_run(open, n, (name, trial))] };
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
    let trials = trials(40);
    let mut all = Vec::new();
    for (repeats, differ) in [(3, 0.1), (4, 0.03), (4, 0.1), (8, 0.1)] {
        let side = |name: &str, trial: u64| {
            let mut rng = rng::random_stream(trial, name, 1);
            let one = |i| run(&SERVERS[1], 200, (name, trial * 10 + i), (differ * normal(&mut rng)).exp());
            Side { runs: (0..repeats).map(one).collect() }
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
    let trials = trials(60);
    let server = MadeUpServer { name: "narrow", draw: |rng, _| (0.25 * normal(rng)).exp() };
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

fn rule(text: &str) -> CompareOptions {
    CompareOptions { rules: vec![parse_rule(text).unwrap()], ..options() }
}

/// A change that is the limit fails its rule by chance, and passes it by chance.
#[test]
fn a_rule_is_wrong_in_each_direction_in_at_most_5_percent_of_comparisons() {
    let trials = trials(60);
    let (mut all, mut sum) = (Vec::new(), 0);
    for (server, statistic) in [(0, "p50"), (1, "mean"), (1, "p90"), (3, "p50")] {
        let (server, options) = (&SERVERS[server], rule(&format!("ttft.{statistic} > +5%")));
        let (mut failed, mut passed) = (0, 0);
        for trial in 0..trials {
            let (a, b) = (side(server, 400, ("rule a", trial), 1.0), side(server, 400, ("rule b", trial), 1.05));
            let result = Report::compare_sides(&a, &b, &options).checks[0].result;
            failed += u64::from(result == CheckResult::Failed);
            passed += u64::from(result == CheckResult::Passed);
        }
        all.push((server.name, statistic, failed, passed));
        sum += failed + passed;
    }
    println!("(server, statistic, failed, passed) of {trials}: {all:?}");
    let most = |n: f64| 0.05 * n + 3.0 * (0.05 * 0.95 * n).sqrt() + 0.01 * n;
    assert!(sum as f64 <= most(8.0 * trials as f64), "{sum}: {all:?}");
    let each = |n: u64| n as f64 <= most(trials as f64);
    assert!(all.iter().all(|(.., failed, passed)| each(*failed) && each(*passed)), "of {trials}: {all:?}");
}

#[test]
fn a_rule_is_decided_by_as_many_requests_as_it_says() {
    let trials = trials(20);
    let options = rule("ttft.p50 > +5%");
    for slower in [1.0, 1.1] {
        let (mut decided, mut right, mut needed, mut done) = (0, 0, 0, 0);
        for pilot in 0.. {
            let compare = |name: &str, n: usize| {
                let (a, b) = (format!("{name} a"), format!("{name} b"));
                let (a, b) = (side(&SERVERS[1], n, (&a, pilot), 1.0), side(&SERVERS[1], n, (&b, pilot), slower));
                Report::compare_sides(&a, &b, &options).checks.remove(0)
            };
            // A pilot that happens to lie near the limit asks for any number.
            let Some(more) = compare("first", 400).needs_more.filter(|more| *more < 8000) else { continue };
            let n = 400 + usize::try_from(more).unwrap();
            let result = compare("second", n).result;
            decided += u64::from(result != CheckResult::Undecided);
            right += u64::from(result == if slower > 1.05 { CheckResult::Failed } else { CheckResult::Passed });
            needed += n as u64;
            done += 1;
            if done == trials {
                break;
            }
        }
        println!("{slower}: {right} right, {decided} decided of {trials}, with {} requests a side", needed / trials);
        // The planned 85 %, less what pilots lose that overestimate the change.
        let least = 0.75 - 3.0 * (0.75 * 0.25 / trials as f64).sqrt();
        assert!(decided as f64 >= least * trials as f64, "{slower}: {decided} of {trials}");
        assert!((decided - right) * 20 <= trials, "{slower}: {right} of {decided}");
    }
}
