//! Models of runs, in virtual time: a queue, a closed loop on an engine that works in steps, and requests that know nothing of each other.

use std::collections::VecDeque;

use rand::rngs::ChaCha8Rng;
use vb::{
    record::{EndRecord, RunRecord, Verdict},
    recording::{RecordedRequest, Recording},
    rng,
    units::{Nanos, UnixNanos},
};

/// When runs start.
const START: UnixNanos = UnixNanos(1_000_000_000);

/// The times of a request in seconds.
#[derive(Debug, Clone)]
pub struct RequestTimes {
    /// When it was due.
    pub due: f64,
    /// When it was sent.
    pub start: f64,
    /// When its first token arrived.
    pub first: f64,
    /// The gaps between its tokens.
    pub gaps: Vec<f64>,
}

impl RequestTimes {
    /// A request with `tokens` tokens at an even pace.
    fn evenly_paced(due: f64, start: f64, first: f64, end: f64, tokens: usize) -> Self {
        let gaps = vec![(end - first) / (tokens - 1) as f64; tokens - 1];
        RequestTimes { due, start, first, gaps }
    }
}

/// The recording of a run whose requests were sent by a schedule, or each after another one had ended.
pub fn record_run(mut requests: Vec<RequestTimes>, open_loop: bool) -> Recording {
    requests.sort_by(|a, b| a.start.total_cmp(&b.start));
    let mut recording = Recording { base: Some(START), span: Some((START, START)), ..Recording::default() };
    let origin = requests.first().map_or(0.0, |request| request.start);
    for RequestTimes { due, start, first, gaps } in requests {
        let ttft = first - start;
        let latency = ttft + gaps.iter().sum::<f64>();
        recording.extend_span(recording.instant_at(start - origin + latency));
        let before = recording.gaps.len();
        recording.gaps.extend_from_slice(&gaps);
        recording.requests.push(RecordedRequest {
            success: true,
            prompt_len: 64,
            output_tokens: 1 + u32::try_from(gaps.len()).unwrap(),
            start: Some(start - origin),
            queue_time: Some(start - due),
            ttft: Some(ttft),
            latency: Some(latency),
            done: Some(latency),
            gaps: before..recording.gaps.len(),
            ..RecordedRequest::default()
        });
    }
    let duration = recording.span.map_or(Nanos(0), |(first, last)| last.since(first));
    recording.runs = vec![RunRecord::default()];
    recording.runs[0].clock.start = START;
    let offered = recording.requests.len() as u64;
    recording.ends = vec![EndRecord { offered, duration, open_loop: Some(open_loop), ..EndRecord::default() }];
    recording
}

/// Turns the requests that were sent in a part of the run into failures, which take `seconds`.
pub fn fail_between(requests: &mut [RecordedRequest], from: f64, to: f64, seconds: f64) {
    let n = requests.len() as f64;
    for (i, request) in requests.iter_mut().enumerate() {
        if (from..to).contains(&(i as f64 / n)) {
            *request = RecordedRequest {
                start: request.start,
                queue_time: request.queue_time,
                done: Some(seconds),
                ..RecordedRequest::default()
            };
        }
    }
}

/// The run with the verdict that its client limited the load.
pub fn bound_by_client(mut recording: Recording) -> Recording {
    recording.ends[0].verdict = Some(Verdict::ClientBound);
    recording
}

/// A factor around 1.
pub fn mild_noise(random: &mut ChaCha8Rng) -> f64 {
    1.0 + 0.5 * (rng::sample_unit(random) - 0.5)
}

/// Requests that know nothing of each other, at a level that changes with time: 20 per second, each of about a second.
///
/// `level` gives the TTFT at a share of the run, in units of 0.2 s; `noise` draws a factor.
pub fn independent_run(
    n: usize,
    random: &mut ChaCha8Rng,
    level: impl Fn(f64) -> f64,
    mut noise: impl FnMut(&mut ChaCha8Rng) -> f64,
) -> Recording {
    let mut time = 0.0;
    let request = |i: usize| {
        time += 0.05 * rng::sample_exponential(random);
        let first = time + 0.2 * level(i as f64 / n as f64) * noise(random);
        let end = first + 0.8 * (1.0 + 0.2 * (rng::sample_unit(random) - 0.5));
        RequestTimes::evenly_paced(time, time, first, end, 20)
    };
    record_run((0..n).map(request).collect(), true)
}

/// Times when no work is done.
#[derive(Debug, Clone, Copy)]
pub struct Stalls {
    /// When the first one starts.
    pub first: f64,
    /// How long each lasts.
    pub length: f64,
    /// The time from one to the next.
    pub every: f64,
}

impl Stalls {
    /// How many started by this time.
    fn count_until(&self, time: f64) -> f64 {
        ((time - self.first) / self.every).floor() + 1.0
    }

    /// Moves what would happen during a stall to its end.
    fn postpone(&self, begin: f64, end: f64) -> (f64, f64) {
        let before = self.count_until(begin).max(0.0);
        let over = self.first + (before - 1.0) * self.every + self.length;
        let wait = if before > 0.0 { (over - begin).max(0.0) } else { 0.0 };
        let (begin, end) = (begin + wait, end + wait);
        (begin, end + self.length * (self.count_until(end).max(0.0) - before))
    }
}

/// A queue: Poisson arrivals at a server with several places, log-normal work with a mean of one second. A little of the work comes
/// before the first token.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// How many requests are served at the same time.
    pub places: usize,
    /// The rate of arrivals as a share of the capacity, at a time in seconds.
    pub load: fn(f64) -> f64,
    /// How many times as long everything takes, at the same rate of arrivals.
    pub slowness: f64,
    /// When no work is done.
    pub stalls: Option<Stalls>,
    /// At most this many in flight at the server; the others wait in the client.
    pub clients_slots: usize,
    /// The requests before the run. Without any, the queue is empty at first.
    pub warm_up: usize,
    /// The first request is due up to this many seconds after 0.
    pub latest_start: f64,
}

impl Queue {
    /// A queue of eight places that is empty at first.
    pub fn at_load(load: fn(f64) -> f64) -> Self {
        let clients_slots = usize::MAX;
        Queue { places: 8, load, slowness: 1.0, stalls: None, clients_slots, warm_up: 0, latest_start: 0.0 }
    }

    /// A run of `n` requests.
    pub fn simulate(&self, n: usize, random: &mut ChaCha8Rng) -> Recording {
        let all = self.warm_up + n;
        let mut free = vec![0.0_f64; self.places];
        // Without a limit there is a slot for each request.
        let mut slots: Vec<f64> = if self.clients_slots < all { vec![0.0; self.clients_slots] } else { Vec::new() };
        let mut time = self.latest_start * rng::sample_unit(random);
        let mut requests = Vec::with_capacity(n);
        for i in 0..all {
            time += rng::sample_exponential(random) / ((self.load)(time) * self.places as f64);
            let work = (0.8 * rng::sample_normal(random) - 0.32).exp();
            let place = earliest(&free);
            let slot = (!slots.is_empty()).then(|| earliest(&slots));
            let start = slot.map_or(time, |slot| slots[slot].max(time));
            let begin = start.max(free[place]);
            let end = begin + self.slowness * work;
            let (begin, end) = self.stalls.map_or((begin, end), |stalls| stalls.postpone(begin, end));
            free[place] = end;
            if let Some(slot) = slot {
                slots[slot] = end;
            }
            if i >= self.warm_up {
                let first = begin + (0.02 * self.slowness + 0.05 * (end - begin)).min(end - begin);
                let tokens = 2 + vb::statistics::numpy::truncate_to_usize(20.0 * work);
                requests.push(RequestTimes::evenly_paced(time, start, first, end, tokens));
            }
        }
        record_run(requests, true)
    }
}

fn earliest(times: &[f64]) -> usize {
    times.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(place, _)| place)
}

/// The steps of an engine that serves a closed loop of 32 requests: all running requests get a token per step, and at most four prompts
/// are computed in each.
#[derive(Debug, Clone, Copy)]
pub struct ClosedLoop {
    /// Draws the number of tokens of an output.
    pub tokens: fn(&mut ChaCha8Rng) -> usize,
    /// A factor for the steps, at a share of the run.
    pub slowness: fn(f64) -> f64,
    /// How much the speed of steps drifts.
    pub drift: f64,
    /// The requests before the run. Without any, 32 start at once.
    pub warm_up: usize,
}

/// Requests in flight.
pub const USERS: usize = 32;

/// The same number of tokens for each request, so that they run in lock-step.
pub fn equal_tokens(_: &mut ChaCha8Rng) -> usize {
    50
}

/// Different numbers of tokens, 50 on average.
pub fn varied_tokens(random: &mut ChaCha8Rng) -> usize {
    vb::statistics::numpy::truncate_to_usize(50.0 * (0.6 * rng::sample_normal(random) - 0.18).exp()).max(1)
}

impl ClosedLoop {
    /// A run of `n` requests. The loop goes on until the last of them has ended.
    pub fn simulate(&self, n: usize, random: &mut ChaCha8Rng) -> Recording {
        struct Stream {
            number: usize,
            sent: f64,
            times: Vec<f64>,
            left: usize,
        }
        let (mut now, mut level, mut sent) = (0.0, 0.0, 0);
        let mut waiting: VecDeque<Stream> = VecDeque::new();
        let mut running: Vec<Stream> = Vec::new();
        let mut requests = Vec::with_capacity(n);
        while requests.len() < n {
            while waiting.len() + running.len() < USERS {
                waiting.push_back(Stream { number: sent, sent: now, times: Vec::new(), left: (self.tokens)(random) });
                sent += 1;
            }
            let prompts = waiting.len().min(4);
            running.extend(waiting.drain(..prompts));
            level = 0.98 * level + self.drift * 0.02_f64.sqrt() * rng::sample_normal(random);
            let noise = (level + 0.05 * rng::sample_normal(random)).exp();
            let at = sent.saturating_sub(self.warm_up) as f64 / n as f64;
            now += (0.008 + 0.0002 * running.len() as f64 + 0.006 * prompts as f64) * noise * (self.slowness)(at);
            for stream in &mut running {
                stream.times.push(now);
                stream.left -= 1;
            }
            for stream in running.extract_if(.., |stream| stream.left == 0) {
                if (self.warm_up..self.warm_up + n).contains(&stream.number) {
                    let gaps = stream.times.windows(2).map(|pair| pair[1] - pair[0]).collect();
                    requests.push(RequestTimes { due: stream.sent, start: stream.sent, first: stream.times[0], gaps });
                }
            }
        }
        record_run(requests, false)
    }
}
