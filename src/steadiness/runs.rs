//! Simulated runs of many kinds, in virtual time: what the verdicts on a run are checked against.

use std::collections::VecDeque;

use rand::rngs::ChaCha8Rng;

use crate::{
    recording::RecordedRequest,
    rng,
    sim::{
        EngineProfile,
        engine::{Job, SimEngine},
    },
    units::Nanos,
};

/// The requests of a run, in the order in which they were sent.
#[derive(Debug, Clone)]
pub struct SimulatedRun {
    /// All of them.
    pub requests: Vec<RecordedRequest>,
    /// Whether they were sent by a schedule.
    pub open_loop: bool,
    /// Whether the client limited the load.
    pub is_client_bound: bool,
}

/// The requests that a queue serves at the same time, and the mean service time in seconds.
const SERVERS: usize = 8;

/// What happens in a queue: a Poisson process of arrivals at a server of eight places, which is empty at first. Service times are
/// log-normal with a mean of one second.
#[derive(Debug, Clone, Copy)]
pub struct QueueModel {
    /// The rate of arrivals as a share of the capacity, at a time in seconds.
    pub load: fn(f64) -> f64,
    /// When a stall starts that holds back all work, and how long it lasts; it is repeated after `every`.
    pub stall: Option<(f64, f64, f64)>,
    /// At most this many in flight at the server; the others wait in the client.
    pub clients_slots: usize,
}

impl QueueModel {
    /// A constant load without stalls.
    #[must_use]
    pub fn at_load(load: fn(f64) -> f64) -> Self {
        QueueModel { load, stall: None, clients_slots: usize::MAX }
    }

    /// The first `n` requests.
    #[must_use]
    pub fn simulate(&self, n: usize, random: &mut ChaCha8Rng) -> Vec<RecordedRequest> {
        let mut free = [0.0_f64; SERVERS];
        let mut slots: Vec<f64> = vec![0.0; self.clients_slots.min(n)];
        let mut time = 0.0;
        let mut requests = Vec::with_capacity(n);
        for _ in 0..n {
            time += rng::sample_exponential(random) / ((self.load)(time) * SERVERS as f64);
            let service = (0.8 * rng::sample_normal(random) - 0.32).exp();
            let place = earliest(&free);
            let slot = earliest(&slots);
            // Without a limit there is a slot for each request.
            let start = if self.clients_slots > n { time } else { slots[slot].max(time) };
            let begin = self.after_stalls(start.max(free[place]));
            let end = begin + service + self.stalled_between(begin, begin + service);
            free[place] = end;
            slots[slot] = end;
            let first = begin + 0.02 + 0.05 * service;
            requests.push(success(time, start, first.min(end), end));
        }
        requests.sort_by(|a, b| a.start.unwrap_or_default().total_cmp(&b.start.unwrap_or_default()));
        requests
    }

    fn after_stalls(&self, time: f64) -> f64 {
        match self.stall_at(time) {
            Some((from, length)) if (from..from + length).contains(&time) => from + length,
            _ => time,
        }
    }

    fn stalled_between(&self, from: f64, to: f64) -> f64 {
        self.stall_at(to).map_or(0.0, |(at, length)| if (from..to).contains(&at) { length } else { 0.0 })
    }

    /// The last stall before a time.
    fn stall_at(&self, time: f64) -> Option<(f64, f64)> {
        let (from, length, every) = self.stall?;
        (time >= from).then(|| (from + ((time - from) / every).floor() * every, length))
    }
}

fn earliest(times: &[f64]) -> usize {
    times.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(place, _)| place)
}

fn success(due: f64, start: f64, first: f64, end: f64) -> RecordedRequest {
    RecordedRequest {
        success: true,
        output_tokens: 50,
        start: Some(start),
        queue_time: Some(start - due),
        ttft: Some(first - start),
        latency: Some(end - start),
        done: Some(end - start),
        ..RecordedRequest::default()
    }
}

/// Independent requests at a level that changes with time: 20 per second, each of about a second.
///
/// `level` gives the TTFT at a share of the run, in units of 0.2 s; `noise` draws a factor.
pub fn independent_run(
    n: usize,
    random: &mut ChaCha8Rng,
    level: impl Fn(f64) -> f64,
    noise: impl Fn(&mut ChaCha8Rng) -> f64,
) -> Vec<RecordedRequest> {
    let mut time = 0.0;
    let request = |i: usize| {
        time += 0.05 * rng::sample_exponential(random);
        let first = time + 0.2 * level(i as f64 / n as f64) * noise(random);
        success(time, time, first, first + 0.8 * (1.0 + 0.2 * (rng::sample_unit(random) - 0.5)))
    };
    (0..n).map(request).collect()
}

/// The steps of an engine that serves a closed loop: all running requests get a token per step, and at most four prompts are computed
/// in each.
///
/// `tokens` draws the length of an output, and `slowness` is a factor for the steps at a share of the run.
pub fn closed_loop(
    n: usize,
    users: usize,
    random: &mut ChaCha8Rng,
    tokens: impl Fn(&mut ChaCha8Rng) -> usize,
    slowness: impl Fn(f64) -> f64,
) -> Vec<RecordedRequest> {
    struct Stream {
        sent: f64,
        first: Option<f64>,
        left: usize,
        tokens: usize,
    }
    let mut now = 0.0;
    let mut waiting: VecDeque<Stream> = VecDeque::new();
    let mut running: Vec<Stream> = Vec::new();
    let mut requests = Vec::with_capacity(n + users);
    let new_stream = |sent: f64, random: &mut ChaCha8Rng| {
        let tokens = tokens(random).max(1);
        Stream { sent, first: None, left: tokens, tokens }
    };
    for _ in 0..users {
        waiting.push_back(new_stream(0.0, random));
    }
    while requests.len() < n {
        let prompts = waiting.len().min(4);
        running.extend(waiting.drain(..prompts));
        let at = requests.len() as f64 / n as f64;
        let noise = (0.05 * rng::sample_normal(random)).exp();
        now += (0.008 + 0.0002 * running.len() as f64 + 0.006 * prompts as f64) * noise * slowness(at);
        for stream in &mut running {
            stream.first.get_or_insert(now);
            stream.left -= 1;
        }
        let mut ended = 0;
        running.retain(|stream| {
            if stream.left == 0 {
                let first = stream.first.unwrap_or(now);
                requests.push(RecordedRequest {
                    output_tokens: u32::try_from(stream.tokens).unwrap(),
                    ..success(stream.sent, stream.sent, first, now)
                });
                ended += 1;
            }
            stream.left > 0
        });
        for _ in 0..ended {
            waiting.push_back(new_stream(now, random));
        }
    }
    requests.sort_by(|a, b| a.start.unwrap_or_default().total_cmp(&b.start.unwrap_or_default()));
    requests
}

/// A run of vb-sim's engine in virtual time, with eight requests in its batch: `load` is the rate of arrivals as a share of what it
/// serves when all requests are there at the start.
pub fn engine_run(n: usize, random: &mut ChaCha8Rng, load: f64) -> Vec<RecordedRequest> {
    let all_at_once = run_engine(&vec![Nanos(0); 500], random);
    let seconds = all_at_once.iter().filter_map(|request| request.latency).fold(0.0, f64::max);
    let mut now = Nanos(0);
    let arrivals: Vec<Nanos> = (0..n)
        .map(|_| {
            now = now + Nanos::from_secs_f64(rng::sample_exponential(random) * seconds / 500.0 / load);
            now
        })
        .collect();
    run_engine(&arrivals, random)
}

fn run_engine(arrivals: &[Nanos], random: &mut ChaCha8Rng) -> Vec<RecordedRequest> {
    let profile = EngineProfile { prefix_caching: false, max_num_seqs: 8, ..EngineProfile::default() };
    let mut engine = SimEngine::new(profile).unwrap();
    for (id, at) in arrivals.iter().enumerate() {
        let mut tokens =
            |low, high| (0..).take(usize::try_from(rng::sample_between(random, low, high)).unwrap()).collect();
        engine.submit_job(*at, Job { id: id as u64, prompt: tokens(50, 800), output: tokens(4, 60) });
    }
    let mut times: Vec<(u32, Nanos, Nanos)> = vec![(0, Nanos(0), Nanos(0)); arrivals.len()];
    let mut now = Nanos(0);
    while let Some(step) = engine.run_step(now) {
        now = step.ends_at;
        for token in step.tokens {
            let (count, first, last) = &mut times[usize::try_from(token.id).unwrap()];
            *first = if *count == 0 { now } else { *first };
            (*count, *last) = (*count + 1, now);
        }
    }
    let output = |(at, (tokens, first, last)): (&Nanos, &(u32, Nanos, Nanos))| {
        let [at, first, last] = [at, first, last].map(|time| time.as_secs_f64());
        RecordedRequest { output_tokens: *tokens, ..success(at, at, first, last) }
    };
    arrivals.iter().zip(&times).map(output).collect()
}

/// Turns the requests that were sent in a part of the run into failures, which take `seconds`.
pub fn fail_between(requests: &mut [RecordedRequest], from: f64, to: f64, seconds: f64) {
    let n = requests.len() as f64;
    for (i, request) in requests.iter_mut().enumerate() {
        if (from..to).contains(&(i as f64 / n)) {
            request.success = false;
            (request.ttft, request.latency, request.done) = (None, None, Some(seconds));
        }
    }
}
