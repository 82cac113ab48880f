//! Runs of vb-sim's engine in virtual time.

use rand::rngs::ChaCha8Rng;
use vb::{
    recording::Recording,
    rng,
    sim::{
        EngineProfile,
        engine::{Job, SimEngine},
    },
    units::Nanos,
};

use crate::models::{RequestTimes, record_run};

/// An engine without a prefix cache, and what it is asked for: prompts of 50 to 800 tokens.
#[derive(Debug, Clone, Copy)]
pub struct EngineModel {
    /// The most requests in its batch.
    pub max_num_seqs: u32,
    /// The most tokens of an output; the least is 4.
    pub longest_output: u64,
}

impl EngineModel {
    /// `n` requests that are sent at random, `load` as fast as it serves when all are there at the start.
    pub fn run_at_load(&self, n: usize, random: &mut ChaCha8Rng, load: f64) -> Recording {
        let all_at_once = self.run_open(&[Nanos(0); 500], random);
        self.run_at_rate(n, random, load * 500.0 / all_at_once.duration())
    }

    /// `n` requests that are sent at random, at this rate per second.
    pub fn run_at_rate(&self, n: usize, random: &mut ChaCha8Rng, rate: f64) -> Recording {
        let mut now = Nanos(0);
        let arrival = |_| {
            now = now + Nanos::from_secs_f64(rng::sample_exponential(random) / rate);
            now
        };
        let arrivals: Vec<Nanos> = (0..n).map(arrival).collect();
        self.run_open(&arrivals, random)
    }

    /// `n` requests, 16 at a time.
    pub fn run_closed(&self, n: usize, random: &mut ChaCha8Rng) -> Recording {
        record_run(self.run(n, &[Nanos(0); 16], random), false)
    }

    fn run_open(&self, arrivals: &[Nanos], random: &mut ChaCha8Rng) -> Recording {
        record_run(self.run(arrivals.len(), arrivals, random), true)
    }

    /// Requests that arrive at these times, then one for each that ends, until there are `n`.
    fn run(&self, n: usize, arrivals: &[Nanos], random: &mut ChaCha8Rng) -> Vec<RequestTimes> {
        let profile =
            EngineProfile { prefix_caching: false, max_num_seqs: self.max_num_seqs, ..EngineProfile::default() };
        let mut engine = SimEngine::new(profile).unwrap();
        let mut sent: Vec<(Nanos, Vec<f64>)> = Vec::with_capacity(n);
        let mut submit = |engine: &mut SimEngine, sent: &mut Vec<(Nanos, Vec<f64>)>, at: Nanos| {
            let mut tokens =
                |low, high| (0..).take(usize::try_from(rng::sample_between(random, low, high)).unwrap()).collect();
            let job = Job { id: sent.len() as u64, prompt: tokens(50, 800), output: tokens(4, self.longest_output) };
            engine.submit_job(at, job);
            sent.push((at, Vec::new()));
        };
        for at in arrivals {
            submit(&mut engine, &mut sent, *at);
        }
        let mut now = Nanos(0);
        while let Some(step) = engine.run_step(now) {
            now = step.ends_at;
            for token in step.tokens {
                sent[usize::try_from(token.id).unwrap()].1.push(now.as_secs_f64());
                if token.last && sent.len() < n {
                    submit(&mut engine, &mut sent, now);
                }
            }
        }
        let times = |(at, tokens): (Nanos, Vec<f64>)| RequestTimes {
            due: at.as_secs_f64(),
            start: at.as_secs_f64(),
            first: tokens[0],
            gaps: tokens.windows(2).map(|pair| pair[1] - pair[0]).collect(),
        };
        sent.into_iter().map(times).collect()
    }
}
