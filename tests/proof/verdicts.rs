//! How often the verdict on a run is right, over simulated runs of many kinds.

use rand::rngs::ChaCha8Rng;
use vb::{
    recording::{RecordedRequest, Recording},
    rng,
    statistics::numpy,
    steadiness::{Judgement, Stability, SteadyInput, judge_run},
};

use crate::{
    engine::EngineModel,
    fewest_of,
    models::{
        ClosedLoop, Queue, Stalls, bound_by_client, equal_tokens, fail_between, independent_run, mild_noise,
        varied_tokens,
    },
    trials_asked,
};

/// A kind of runs.
struct Kind {
    name: &'static str,
    /// Requests in a run.
    sizes: &'static [usize],
    make: fn(usize, &mut ChaCha8Rng) -> Recording,
    /// The letters of the verdicts that are right.
    right: &'static str,
    /// How many percent are right at least, for each size.
    least: &'static [u32],
}

/// S steady, O overloaded, U and D drifting up and down, C changing, T too short.
fn letter(judgement: &Judgement) -> char {
    match judgement.verdict {
        Stability::Steady => 'S',
        Stability::Overloaded => 'O',
        Stability::DriftingUp => 'U',
        Stability::DriftingDown => 'D',
        Stability::Changing => 'C',
        Stability::TooShort => 'T',
    }
}

fn queue(load: fn(f64) -> f64, n: usize, random: &mut ChaCha8Rng) -> Recording {
    Queue::at_load(load).simulate(n, random)
}

fn shaped(level: fn(f64) -> f64) -> impl Fn(usize, &mut ChaCha8Rng) -> Recording {
    move |n, random| independent_run(n, random, level, mild_noise)
}

const ENGINE: EngineModel = EngineModel { max_num_seqs: 8, longest_output: 60 };

/// A loop that starts with all its requests at once.
const CLOSED_LOOP: ClosedLoop = ClosedLoop { tokens: varied_tokens, slowness: |_| 1.0, drift: 0.0, warm_up: 0 };

const USUAL: &[usize] = &[1000];
const QUEUES: &[usize] = &[300, 1000, 5000];

const KINDS: &[Kind] = &[
    Kind { name: "independent", sizes: USUAL, make: |n, r| shaped(|_| 1.0)(n, r), right: "S", least: &[98] },
    Kind {
        name: "log-normal, sigma 1.5",
        sizes: USUAL,
        make: |n, r| independent_run(n, r, |_| 1.0, |r| (1.5 * rng::sample_normal(r)).exp()),
        right: "S",
        least: &[97],
    },
    Kind {
        name: "0.5 % take 20 times as long",
        sizes: USUAL,
        make: |n, r| independent_run(n, r, |_| 1.0, |r| if rng::sample_unit(r) < 0.005 { 20.0 } else { mild_noise(r) }),
        right: "S",
        least: &[96],
    },
    Kind {
        name: "queue at load 0.5",
        sizes: QUEUES,
        make: |n, r| queue(|_| 0.5, n, r),
        right: "S",
        least: &[95, 96, 97],
    },
    Kind {
        name: "queue at load 0.8",
        sizes: QUEUES,
        make: |n, r| queue(|_| 0.8, n, r),
        right: "S",
        least: &[75, 90, 97],
    },
    Kind {
        name: "queue at load 0.95",
        sizes: QUEUES,
        make: |n, r| queue(|_| 0.95, n, r),
        right: "SUDCT",
        least: &[99; 3],
    },
    Kind {
        name: "queue at load 0.98",
        sizes: QUEUES,
        make: |n, r| queue(|_| 0.98, n, r),
        right: "SUDCT",
        least: &[99; 3],
    },
    Kind {
        name: "queue at load 1.1",
        sizes: QUEUES,
        make: |n, r| queue(|_| 1.1, n, r),
        right: "O",
        least: &[0, 15, 90],
    },
    Kind {
        name: "queue at load 1.2",
        sizes: QUEUES,
        make: |n, r| queue(|_| 1.2, n, r),
        right: "O",
        least: &[15, 80, 99],
    },
    Kind {
        name: "queue at load 1.5",
        sizes: QUEUES,
        make: |n, r| queue(|_| 1.5, n, r),
        right: "O",
        least: &[85, 99, 99],
    },
    Kind {
        name: "queue at load 10",
        sizes: QUEUES,
        make: |n, r| queue(|_| 10.0, n, r),
        right: "O",
        least: &[65, 97, 99],
    },
    Kind {
        name: "vb-sim at load 0.5",
        sizes: USUAL,
        make: |n, r| ENGINE.run_at_load(n, r, 0.5),
        right: "S",
        least: &[94],
    },
    Kind {
        name: "vb-sim at load 0.8",
        sizes: USUAL,
        make: |n, r| ENGINE.run_at_load(n, r, 0.8),
        right: "S",
        least: &[85],
    },
    Kind {
        name: "vb-sim at load 0.95",
        sizes: USUAL,
        make: |n, r| ENGINE.run_at_load(n, r, 0.95),
        right: "SUDCT",
        least: &[98],
    },
    Kind {
        name: "vb-sim at load 1.1",
        sizes: USUAL,
        make: |n, r| ENGINE.run_at_load(n, r, 1.1),
        right: "OUCT",
        least: &[90],
    },
    Kind {
        name: "vb-sim at load 1.2",
        sizes: USUAL,
        make: |n, r| ENGINE.run_at_load(n, r, 1.2),
        right: "O",
        least: &[80],
    },
    Kind {
        name: "load 1.2, 16 slots in the client",
        sizes: QUEUES,
        make: |n, r| Queue { clients_slots: 16, ..Queue::at_load(|_| 1.2) }.simulate(n, r),
        right: "O",
        least: &[15, 75, 99],
    },
    Kind {
        name: "load 1.2, but by the client",
        sizes: USUAL,
        make: |n, r| bound_by_client(queue(|_| 1.2, n, r)),
        right: "SUDCT",
        least: &[99],
    },
    Kind {
        name: "load from 0.2 to 0.7",
        sizes: USUAL,
        make: |n, r| queue(|t| (0.2 + 0.5 * t / 280.0).min(0.7), n, r),
        right: "UCD",
        least: &[95],
    },
    Kind {
        name: "load doubles from 0.35",
        sizes: USUAL,
        make: |n, r| queue(|t| if t < 119.0 { 0.35 } else { 0.7 }, n, r),
        right: "UC",
        least: &[97],
    },
    Kind {
        name: "load swings once, 0.7 +- 30 %",
        sizes: USUAL,
        make: |n, r| queue(|t| 0.7 + 0.21 * (t / 178.0 * std::f64::consts::TAU).sin(), n, r),
        right: "UDC",
        least: &[55],
    },
    Kind {
        name: "warm-up of 10 %",
        sizes: USUAL,
        make: |n, r| shaped(|at| 1.0 + 3.0 * (1.0 - at / 0.1).max(0.0))(n, r),
        right: "S",
        least: &[97],
    },
    Kind { name: "ramp up", sizes: USUAL, make: |n, r| shaped(|at| 1.0 + at)(n, r), right: "U", least: &[98] },
    Kind { name: "ramp down", sizes: USUAL, make: |n, r| shaped(|at| 2.0 - at)(n, r), right: "D", least: &[98] },
    Kind {
        name: "level 1.5 after two thirds",
        sizes: USUAL,
        make: |n, r| shaped(|at| if at > 0.67 { 1.5 } else { 1.0 })(n, r),
        right: "U",
        least: &[95],
    },
    Kind {
        name: "level 2 in the middle third",
        sizes: USUAL,
        make: |n, r| shaped(|at| if (0.33..0.67).contains(&at) { 2.0 } else { 1.0 })(n, r),
        right: "C",
        least: &[98],
    },
    Kind {
        name: "one full swing, +- 30 %",
        sizes: USUAL,
        make: |n, r| shaped(|at| 1.0 + 0.3 * (at * std::f64::consts::TAU).sin())(n, r),
        right: "CUD",
        least: &[97],
    },
    Kind {
        name: "outage of 15 %, failing at once",
        sizes: USUAL,
        make: |n, r| {
            let mut run = independent_run(n, r, |_| 1.0, mild_noise);
            fail_between(&mut run.requests, 0.4, 0.55, 0.01);
            run
        },
        right: "C",
        least: &[99],
    },
    Kind {
        name: "outage of 5 % in a closed loop",
        sizes: USUAL,
        make: |n, r| {
            let mut run = CLOSED_LOOP.simulate(n, r);
            fail_between(&mut run.requests, 0.6, 0.65, 0.5);
            run
        },
        right: "C",
        least: &[98],
    },
    Kind {
        name: "2 % fail at any time",
        sizes: USUAL,
        make: |n, r| {
            let mut run = independent_run(n, r, |_| 1.0, mild_noise);
            for i in 0..n {
                if rng::sample_unit(r) < 0.02 {
                    fail_between(&mut run.requests[i..=i], 0.0, 1.0, 1.0);
                }
            }
            run
        },
        right: "S",
        least: &[97],
    },
    Kind {
        name: "a stall of 3 s at 40 %",
        sizes: USUAL,
        make: |n, r| {
            let stalls = Some(Stalls { first: 100.0, length: 3.0, every: 1e9 });
            Queue { stalls, ..Queue::at_load(|_| 0.5) }.simulate(n, r)
        },
        right: "S",
        least: &[97],
    },
    Kind {
        name: "a stall of 0.8 s each 15 s",
        sizes: USUAL,
        make: |n, r| {
            let stalls = Some(Stalls { first: 15.0, length: 0.8, every: 15.0 });
            Queue { stalls, ..Queue::at_load(|_| 0.3) }.simulate(n, r)
        },
        right: "S",
        least: &[96],
    },
    Kind {
        name: "closed loop, one length",
        sizes: USUAL,
        make: |n, r| ClosedLoop { tokens: equal_tokens, ..CLOSED_LOOP }.simulate(n, r),
        right: "S",
        least: &[97],
    },
    Kind {
        name: "closed loop, varied lengths",
        sizes: USUAL,
        make: |n, r| CLOSED_LOOP.simulate(n, r),
        right: "S",
        least: &[97],
    },
    Kind {
        name: "closed loop, half as fast at the end",
        sizes: USUAL,
        make: |n, r| ClosedLoop { slowness: |at| if at > 0.6 { 2.0 } else { 1.0 }, ..CLOSED_LOOP }.simulate(n, r),
        right: "UC",
        least: &[97],
    },
    Kind {
        name: "100 requests at once",
        sizes: &[100],
        make: |n, r| {
            let mut run = independent_run(n, r, |_| 1.0, mild_noise);
            for request in &mut run.requests {
                request.start = request.start.map(|start| start * 0.01);
            }
            run
        },
        right: "T",
        least: &[99],
    },
];

/// The verdicts on `runs` runs of one kind, as letters, and how high the window's P99 of TTFT is against the whole run's, on average
/// over the steady ones.
fn judge_kind(kind: &Kind, n: usize, runs: u64) -> (String, f64) {
    let mut letters = String::new();
    let mut ratios = Vec::new();
    for seed in 0..runs {
        let mut random = rng::random_stream(seed, kind.name, n as u64);
        let run = (kind.make)(n, &mut random);
        let sent: Vec<&RecordedRequest> = run.requests.iter().collect();
        let judgement = judge_run(&SteadyInput::new(&run, &sent));
        letters.push(letter(&judgement));
        if judgement.verdict == Stability::Steady {
            let p99 = |requests: &[&RecordedRequest]| {
                numpy::percentile_of_unsorted(requests.iter().filter_map(|r| r.ttft).collect(), 99.0)
            };
            ratios.push(p99(&sent[judgement.members]) / p99(&sent));
        }
    }
    (letters, numpy::mean(&ratios))
}

#[test]
fn verdicts_are_right_over_many_kinds_of_runs() {
    // A table of the whole takes a release build.
    let (runs, longest) = trials_asked().map_or((3, 1000), |trials| ((trials / 2).max(20), usize::MAX));
    let mut wrong = Vec::new();
    println!(
        "| kind of run | n | right | steady | overloaded | up | down | changing | too short | P99 of the window |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for kind in KINDS {
        for (n, least) in kind.sizes.iter().zip(kind.least).filter(|(n, _)| **n <= longest) {
            let (letters, ratio) = judge_kind(kind, *n, runs);
            let count = |of: &str| letters.chars().filter(|letter| of.contains(*letter)).count();
            let cells = ["S", "O", "U", "D", "C", "T"].map(|of| match count(of) {
                0 => String::new(),
                n => (100 * n / letters.len()).to_string(),
            });
            let right = count(kind.right);
            let ratio = if count("S") > 0 { format!("{ratio:.2}") } else { String::new() };
            let share = 100 * right / letters.len();
            println!("| {} | {n} | {share} | {} | {ratio} |", kind.name, cells.join(" | "));
            if (right as f64) < fewest_of(f64::from(*least) / 100.0, runs as f64) {
                wrong.push(format!("{} of {n}: {right} of {runs}, and not {least} %", kind.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
