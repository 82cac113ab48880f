//! How often `vb-diff` calls runs of one server different that queue, and how often it finds a change with as many requests as it asks for.

use rand::rngs::ChaCha8Rng;
use vb::{
    diff::{ALPHA, ChangeRow, ChangeVerdict, CompareOptions, Report, Side},
    recording::Recording,
    rng,
};

use crate::{
    comparisons::{options, side_of_runs},
    count_trials,
    coverage::{CLOSED_LOOP, loaded_queue},
    engine::EngineModel,
    fewest_of,
    models::{ClosedLoop, Queue, Stalls, equal_tokens, independent_run, mild_noise},
    noise::fractional_noise,
    percent,
};

/// A server and its load.
struct Setup {
    name: &'static str,
    /// Makes a run in which work takes this many times as long.
    run: fn(&mut ChaCha8Rng, usize, f64) -> Recording,
}

const fn setup(name: &'static str, run: fn(&mut ChaCha8Rng, usize, f64) -> Recording) -> Setup {
    Setup { name, run }
}

const ENGINE: EngineModel = EngineModel { max_num_seqs: 8, longest_output: 60 };

const SETUPS: &[Setup] = &[
    setup("M/G/8 0.5", |r, n, slowness| Queue { slowness, ..loaded_queue(|_| 0.5) }.simulate(n, r)),
    setup("M/G/8 0.8", |r, n, slowness| Queue { slowness, ..loaded_queue(|_| 0.8) }.simulate(n, r)),
    setup("M/G/8 0.95", |r, n, slowness| Queue { slowness, warm_up: 20_000, ..loaded_queue(|_| 0.95) }.simulate(n, r)),
    setup("lock-step", |r, n, slowness| {
        slow_loop(ClosedLoop { tokens: equal_tokens, ..CLOSED_LOOP }, slowness).simulate(n, r)
    }),
    setup("closed loop", |r, n, slowness| slow_loop(CLOSED_LOOP, slowness).simulate(n, r)),
    setup("fractional 0.8", |r, n, slowness| {
        let mut noise = fractional_noise(r, n).into_iter();
        independent_run(n, r, |_| slowness, |_| noise.next().unwrap())
    }),
    setup("stalls", |r, n, slowness| {
        let stalls = Some(Stalls { first: 0.0, length: 0.8, every: 15.0 });
        Queue { places: 64, stalls, slowness, ..loaded_queue(|_| 0.3) }.simulate(n, r)
    }),
    setup("slow mode", |r, n, slowness| {
        let noise = |r: &mut ChaCha8Rng| mild_noise(r) * if rng::sample_unit(r) < 0.005 { 20.0 } else { 1.0 };
        independent_run(n, r, |_| slowness, noise)
    }),
    setup("vb-sim at load 0.8", |r, n, _| ENGINE.run_at_load(n, r, 0.8)),
    setup("vb-sim, closed loop", |r, n, _| ENGINE.run_closed(n, r)),
];

fn slow_loop(model: ClosedLoop, slowness: f64) -> ClosedLoop {
    ClosedLoop { slowness: if slowness > 1.0 { |_| SLOWER } else { |_| 1.0 }, ..model }
}

/// How many times as long everything takes on a slower server.
const SLOWER: f64 = 1.2;

fn make_side(setup: &Setup, n: usize, repeats: u64, (name, trial): (&str, u64), slowness: f64) -> Side {
    let run = |i| (setup.run)(&mut rng::random_stream(trial * 10 + i, name, n as u64), n, slowness);
    side_of_runs((0..repeats).map(run).collect())
}

fn is_different(row: &ChangeRow) -> bool {
    matches!(row.verdict, ChangeVerdict::Better | ChangeVerdict::Worse) || row.p_corrected.is_some_and(|p| p < ALPHA)
}

#[test]
fn equals_that_queue_are_called_different_in_at_most_5_percent_of_comparisons() {
    let trials = count_trials(2);
    println!("| model | n | repeats | called different | latencies without a verdict |");
    println!("|---|---|---|---|---|");
    for setup in SETUPS {
        for (n, repeats) in [(300, 1), (1000, 1), (300, 3)] {
            let (mut different, mut refused, mut latencies) = (0.0, 0.0, 0.0);
            for trial in 0..trials {
                let side = |name| make_side(setup, n, repeats, (name, trial), 1.0);
                let report = Report::compare_sides(&side("a"), &side("b"), &options());
                different += f64::from(u8::from(report.changes.iter().any(is_different)));
                for row in report.changes.iter().filter(|row| row.unit == "ms") {
                    latencies += 1.0;
                    refused += f64::from(u8::from(row.p.is_none()));
                }
            }
            let same = trials as f64 - different;
            assert!(same >= fewest_of(0.95, trials as f64), "{}, {n} requests: {different} of {trials}", setup.name);
            let (share, without) = (percent(different, trials as f64), percent(refused, latencies));
            println!("| {} | {n} | {repeats} | {share} | {without} |", setup.name);
        }
    }
}

/// The share of changes that are found with as many requests as a comparison of two runs asks for.
#[test]
fn a_slower_server_is_found_with_as_many_requests_as_it_says() {
    let trials = count_trials(1);
    let options = CompareOptions { margin: SLOWER - 1.0, ..options() };
    let (mut all_asked, mut all_found) = (0.0, 0.0);
    println!("| model | number | at once | asks for more | requests a side | found |");
    println!("|---|---|---|---|---|---|");
    for setup in SETUPS.iter().filter(|setup| !setup.name.starts_with("vb-sim")) {
        for statistic in ["mean", "p50", "p90"] {
            let metric = if ["slow mode", "fractional 0.8"].contains(&setup.name) { "ttft" } else { "e2el" };
            let compare = |name: &str, trial: u64, n: usize| {
                let (a, b) = (format!("{name} a"), format!("{name} b"));
                let (a, b) = (make_side(setup, n, 1, (&a, trial), 1.0), make_side(setup, n, 1, (&b, trial), SLOWER));
                let changes = Report::compare_sides(&a, &b, &options).changes;
                changes.into_iter().find(|row| row.metric == metric && row.statistic == statistic).unwrap()
            };
            let (mut at_once, mut asked, mut found, mut needed) = (0.0, 0.0, 0.0, 0.0);
            for trial in 0..trials {
                let first = compare("first", trial, 400);
                at_once += f64::from(u8::from(is_different(&first)));
                let Some(more) = first.needs_more.filter(|more| *more < 20_000) else { continue };
                let n = 400 + usize::try_from(more).unwrap();
                asked += 1.0;
                needed += n as f64;
                found += f64::from(u8::from(is_different(&compare("second", trial, n))));
            }
            (all_asked, all_found) = (all_asked + asked, all_found + found);
            let all = trials as f64;
            let (at_once, share, found) = (percent(at_once, all), percent(asked, all), percent(found, asked));
            let needed = if asked > 0.0 { format!("{:.0}", needed / asked) } else { "-".to_owned() };
            println!("| {} | {metric} {statistic} | {at_once} | {share} | {needed} | {found} |", setup.name);
        }
    }
    println!("{all_found} of {all_asked}");
    assert!(all_found >= fewest_of(0.8, all_asked), "{all_found} of {all_asked}");
}
