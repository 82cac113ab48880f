//! Models of runs whose true mean and percentiles are known, to count how often an interval contains them ([`super::proof`]).

use rand::rngs::ChaCha8Rng;

use crate::rng;

/// The percentiles whose truth is known.
pub const PERCENTILES: [f64; 3] = [50.0, 90.0, 99.0];

/// A series of values in time order.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Its name in tables.
    pub name: &'static str,
    /// Makes `n` values.
    pub values: fn(&mut ChaCha8Rng, usize) -> Vec<f64>,
    /// The true mean and percentiles: of 30 runs of 100,000 values by `print_the_truths`, or exact.
    pub truth: [f64; 4],
    /// How its values depend on each other.
    pub kind: Kind,
}

/// How the values of a model depend on each other.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Not at all.
    Independent,
    /// They do.
    Dependent,
    /// For longer than a run lasts: intervals need a warning, and cannot be right.
    Unknowable,
}

/// The models: independent values, then values that depend on each other.
#[allow(clippy::approx_constant, reason = "what a long simulation gave, as the others")]
pub const MODELS: [Model; 19] = [
    Model {
        kind: Kind::Independent,
        ..model("exponential", |rng, n| draw(n, || rng::sample_exponential(rng)), [1.0000, 0.6931, 2.3026, 4.6052])
    },
    Model {
        kind: Kind::Independent,
        ..model("log-normal 1.5", |rng, n| draw(n, || (1.5 * normal(rng)).exp()), [3.0802, 1.0000, 6.8369, 32.7703])
    },
    Model { kind: Kind::Independent, ..model("slow mode", slow_mode, [1.1463, 1.0018, 1.4802, 2.1647]) },
    Model {
        kind: Kind::Independent,
        ..model(
            "Pareto 1.5, cut",
            |rng, n| draw(n, || uniform(rng).powf(-1.0 / 1.5).min(100.0)),
            [2.8069, 1.5880, 4.6434, 21.8559],
        )
    },
    model("AR(1) 0.95", autoregressive, [1.1331, 1.0000, 1.8980, 3.2001]),
    model("M/G/8 0.5 TTFT", |rng, n| queue(rng, n, &Queue::loaded(0.5)).0, [0.0831, 0.0585, 0.1450, 0.4800]),
    model("M/G/8 0.5 E2EL", |rng, n| queue(rng, n, &Queue::loaded(0.5)).1, [1.0131, 0.7408, 2.0439, 4.6793]),
    model("M/G/8 0.8 TTFT", |rng, n| queue(rng, n, &Queue::loaded(0.8)).0, [0.3368, 0.1075, 0.9476, 2.3651]),
    model("M/G/8 0.8 E2EL", |rng, n| queue(rng, n, &Queue::loaded(0.8)).1, [1.2668, 0.9742, 2.5327, 5.1854]),
    Model {
        kind: Kind::Unknowable,
        ..model("M/G/8 0.95 TTFT", |rng, n| queue(rng, n, &Queue::loaded(0.95)).0, [2.1920, 1.3030, 5.4159, 13.0235])
    },
    Model {
        kind: Kind::Unknowable,
        ..model("M/G/8 0.95 E2EL", |rng, n| queue(rng, n, &Queue::loaded(0.95)).1, [3.1220, 2.2989, 6.5872, 14.2387])
    },
    model("lock-step TTFT", |rng, n| closed_loop(rng, n, false).0, [0.0385, 0.0384, 0.0429, 0.0470]),
    model("lock-step E2EL", |rng, n| closed_loop(rng, n, false).1, [0.9153, 0.9136, 0.9875, 1.0521]),
    model("closed loop TTFT", |rng, n| closed_loop(rng, n, true).0, [0.0242, 0.0229, 0.0314, 0.0397]),
    model("closed loop E2EL", |rng, n| closed_loop(rng, n, true).1, [0.9078, 0.7567, 1.6426, 3.0827]),
    model("stalls TTFT", |rng, n| queue(rng, n, &STALLS).0, [0.0940, 0.0597, 0.1593, 0.7216]),
    model("stalls E2EL", |rng, n| queue(rng, n, &STALLS).1, [1.0745, 0.7751, 2.1988, 4.9862]),
    model("diurnal TTFT", |rng, n| queue(rng, n, &DIURNAL).0, [0.3769, 0.0881, 1.0980, 3.3983]),
    Model { kind: Kind::Unknowable, ..model("fractional 0.8", fractional_noise, [1.1331, 1.0000, 1.8980, 3.2001]) },
];

const fn model(name: &'static str, values: fn(&mut ChaCha8Rng, usize) -> Vec<f64>, truth: [f64; 4]) -> Model {
    Model { name, values, truth, kind: Kind::Dependent }
}

fn draw(n: usize, one: impl FnMut() -> f64) -> Vec<f64> {
    std::iter::repeat_with(one).take(n).collect()
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    rng::sample_unit(rng).max(f64::MIN_POSITIVE)
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// A log-normal time with the mean 1.
fn work(rng: &mut ChaCha8Rng, sigma: f64) -> f64 {
    (sigma * normal(rng) - sigma * sigma / 2.0).exp()
}

/// One request in 200 takes 20 times as long.
fn slow_mode(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    draw(n, || (0.3 * normal(rng)).exp() * if uniform(rng) < 0.005 { 20.0 } else { 1.0 })
}

fn autoregressive(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    let mut last = normal(rng);
    draw(n, || {
        last = 0.95 * last + (1.0_f64 - 0.95 * 0.95).sqrt() * normal(rng);
        (0.5 * last).exp()
    })
}

/// A queue with several servers: Poisson arrivals, log-normal work with the mean 1.
struct Queue {
    servers: usize,
    load: f64,
    /// All work stops for this long, every so often.
    stall: Option<(f64, f64)>,
    /// The arrival rate swings by 30 % with this period.
    period: Option<f64>,
}

impl Queue {
    const fn loaded(load: f64) -> Self {
        Queue { servers: 8, load, stall: None, period: None }
    }
}

const STALLS: Queue = Queue { servers: 64, load: 0.3, stall: Some((0.8, 15.0)), period: None };

const DIURNAL: Queue = Queue { servers: 8, load: 0.7, stall: None, period: Some(300.0) };

/// The times to first token (the wait, and a little of the work) and the latencies of a run that starts in the steady state.
fn queue(rng: &mut ChaCha8Rng, n: usize, queue: &Queue) -> (Vec<f64>, Vec<f64>) {
    let warm_up = if queue.load > 0.9 { 20_000 } else { 3000 };
    let mut free = vec![0.0_f64; queue.servers];
    let mut now = uniform(rng) * queue.period.unwrap_or_default();
    let (mut ttfts, mut latencies) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for i in 0..n + warm_up {
        let swing = queue.period.map_or(0.0, |period| 0.3 * (std::f64::consts::TAU * now / period).sin());
        now += rng::sample_exponential(rng) / (queue.load * queue.servers as f64 * (1.0 + swing));
        let first = (0..queue.servers).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap();
        let begin = now.max(free[first]);
        let end = begin + work(rng, 0.8);
        let (begin, end) = queue.stall.map_or((begin, end), |stall| stop(stall, begin, end));
        free[first] = end;
        if i >= warm_up {
            ttfts.push(0.02 + begin - now + 0.05 * (end - begin));
            latencies.push(end - now);
        }
    }
    (ttfts, latencies)
}

/// Moves what would happen during a stall to its end.
fn stop((length, every): (f64, f64), begin: f64, end: f64) -> (f64, f64) {
    let stall_of = |time: f64| (time / every).floor();
    let wait = (stall_of(begin) * every + length - begin).max(0.0);
    let (begin, end) = (begin + wait, end + wait);
    (begin, end + length * (stall_of(end) - stall_of(begin)))
}

/// A closed loop of 32 requests on an engine that decodes one token of each request per step, and starts at most four that
/// wait; the speed of steps drifts a little. Times to first token and latencies, in the order of the starts.
fn closed_loop(rng: &mut ChaCha8Rng, n: usize, varied: bool) -> (Vec<f64>, Vec<f64>) {
    const USERS: usize = 32;
    const WARM_UP: usize = 500;
    let length = |rng: &mut ChaCha8Rng| if varied { (50.0 * work(rng, 0.6)).max(1.0).floor() } else { 50.0 };
    let mut sent = vec![0.0; USERS];
    let (mut ttfts, mut latencies) = (vec![0.0; USERS], vec![0.0; USERS]);
    let mut waiting: std::collections::VecDeque<usize> = (0..USERS).collect();
    // The number of the request, and the tokens that are left.
    let mut running: Vec<(usize, f64)> = Vec::new();
    let (mut now, mut level, mut done) = (0.0, 0.0, 0);
    while done < n + WARM_UP {
        level = 0.98 * level + 0.1 * 0.02_f64.sqrt() * normal(rng);
        let before = running.len();
        while running.len() < before + 4 {
            let Some(request) = waiting.pop_front() else { break };
            running.push((request, length(rng)));
        }
        let started = running.len() - before;
        let step = 0.008 + 0.0002 * running.len() as f64 + 0.006 * started as f64;
        now += step * (level + 0.05 * normal(rng)).exp();
        for (request, _) in &running[before..] {
            ttfts[*request] = now - sent[*request];
        }
        for (_, left) in &mut running {
            *left -= 1.0;
        }
        running.retain(|(request, left)| {
            if *left <= 0.0 {
                latencies[*request] = now - sent[*request];
                done += 1;
                waiting.push_back(sent.len());
                sent.push(now);
                ttfts.push(0.0);
                latencies.push(0.0);
            }
            *left > 0.0
        });
    }
    // Those that started before the last ones ended.
    let of_run = WARM_UP - USERS * 4..WARM_UP - USERS * 4 + n;
    (ttfts[of_run.clone()].to_vec(), latencies[of_run].to_vec())
}

/// Fractional Gaussian noise with H = 0.8 on a logarithmic scale, whose waves are as long as any run. Exact, by circulant embedding
/// (Davies and Harte).
fn fractional_noise(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    const EXPONENT: f64 = 1.6;
    let half = n.next_power_of_two();
    let power = |lag: f64| lag.abs().powf(EXPONENT);
    let covariance = |lag: usize| {
        let lag = lag.min(2 * half - lag) as f64;
        (0.5 * (power(lag - 1.0) - 2.0 * power(lag) + power(lag + 1.0)), 0.0)
    };
    let spectrum = transform(&(0..2 * half).map(covariance).collect::<Vec<_>>());
    let noise = |(power, _): &(f64, f64)| {
        let scale = (power.max(0.0) / (2 * half) as f64).sqrt();
        (scale * normal(rng), scale * normal(rng))
    };
    let noise: Vec<(f64, f64)> = spectrum.iter().map(noise).collect();
    transform(&noise).into_iter().take(n).map(|(real, _)| (0.5 * real).exp()).collect()
}

/// The discrete Fourier transform of a power of two of complex numbers.
fn transform(values: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if values.len() == 1 {
        return values.to_vec();
    }
    let part = |from: usize| transform(&values.iter().skip(from).step_by(2).copied().collect::<Vec<_>>());
    let (even, odd) = (part(0), part(1));
    let turned = |(i, (re, im)): (usize, &(f64, f64))| {
        let (sin, cos) = (-std::f64::consts::TAU * i as f64 / values.len() as f64).sin_cos();
        (re * cos - im * sin, re * sin + im * cos)
    };
    let odd: Vec<(f64, f64)> = odd.iter().enumerate().map(turned).collect();
    let sums = even.iter().zip(&odd).map(|(a, b)| (a.0 + b.0, a.1 + b.1));
    let differences = even.iter().zip(&odd).map(|(a, b)| (a.0 - b.0, a.1 - b.1));
    sums.chain(differences).collect()
}
