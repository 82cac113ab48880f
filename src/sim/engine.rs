//! The model of the engine: continuous batching as a pure function of virtual time.
//!
//! There is no clock and no randomness in here. Whoever drives it says what time it is, so a test can ask for the
//! exact nanosecond of each token. The scheduler is that of vLLM's V1 engine in its default, first come first served:
//!
//! 1. Running requests in order of arrival: one token each for those that decode, a chunk for the one whose prompt was
//!    cut by the budget. When blocks run out, the latest arrival is preempted: it loses its blocks and goes back to the
//!    front of the queue, to be computed again.
//! 2. If nobody was preempted, waiting requests while budget, blocks and `max_num_seqs` last.
//!
//! Every token of a step appears at its end.

use std::{collections::VecDeque, rc::Rc};

use super::{
    blocks::{BlockId, Blocks, chain},
    profile::Profile,
};
use crate::{error::Error, units::Nanos};

/// Names a request within one engine.
pub type RequestId = u64;

/// What to compute: the answer is known beforehand, the engine only decides when each of its tokens appears.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name; no two unfinished ones share it.
    pub id: RequestId,
    /// The prompt; at least one token.
    pub prompt: Rc<[u32]>,
    /// The answer; at least one token.
    pub output: Rc<[u32]>,
}

/// One pass of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// When it began: not before the instant that was asked for.
    pub starts_at: Nanos,
    /// When its tokens appear.
    pub ends_at: Nanos,
    /// Tokens of prompts (and of preempted requests' answers) that it computed.
    pub prefill_tokens: u64,
    /// Tokens that were in the KV cache of the scheduled requests before it.
    pub context_tokens: u64,
    /// All tokens that it computed; never more than `max_num_batched_tokens`.
    pub scheduled_tokens: u64,
    /// Requests that got their first turn in it.
    pub admitted: Vec<Admission>,
    /// Requests that lost their blocks.
    pub preempted: Vec<RequestId>,
    /// The tokens it generated: at most one for each request.
    pub tokens: Vec<Token>,
}

/// A request's first turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Which request.
    pub id: RequestId,
    /// Tokens of its prompt that were in the prefix cache.
    pub cached_tokens: u32,
}

/// A generated token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub id: RequestId,
    /// Its place in the answer, from 0.
    pub index: usize,
    /// Whether the answer ends with it.
    pub last: bool,
}

/// What the engine counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Prompt tokens looked up in the prefix cache, each request once.
    pub prefix_queries: u64,
    /// Of those, the ones found.
    pub prefix_hits: u64,
    /// Times that a request lost its blocks.
    pub preemptions: u64,
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    profile: Profile,
    blocks: Blocks,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    counters: Counters,
}

#[derive(Debug)]
struct Sequence {
    job: Job,
    arrived: Nanos,
    /// Tokens of the answer so far.
    generated: usize,
    /// Tokens whose keys and values are in `blocks`.
    computed: usize,
    /// Up to this many tokens, computing is prefill.
    prefill_end: usize,
    /// Tokens to compute in the current step.
    scheduled: usize,
    blocks: Vec<BlockId>,
    /// The hash of the prefix up to the end of each full block.
    hashes: Vec<u64>,
    admitted_before: bool,
}

impl Engine {
    /// An idle engine.
    pub fn new(profile: Profile) -> Result<Self, Error> {
        profile.check()?;
        Ok(Engine {
            blocks: Blocks::new(profile.num_gpu_blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            counters: Counters::default(),
            profile,
        })
    }

    /// Queues a job that arrived at `now`. Jobs must come in the order of their arrival, with a prompt and an answer of
    /// at least one token each that fit `max_model_len` together.
    pub fn submit(&mut self, now: Nanos, job: Job) {
        debug_assert!(!job.prompt.is_empty() && !job.output.is_empty());
        self.waiting.push_back(Sequence {
            arrived: now,
            generated: 0,
            computed: 0,
            prefill_end: 0,
            scheduled: 0,
            blocks: Vec::new(),
            hashes: Vec::new(),
            admitted_before: false,
            job,
        });
    }

    /// Takes a request out, wherever it is; unknown names are fine.
    pub fn abort(&mut self, id: RequestId) {
        self.waiting.retain(|sequence| sequence.job.id != id);
        if let Some(place) = self.running.iter().position(|sequence| sequence.job.id == id) {
            let gone = self.running.remove(place);
            self.blocks.release(&gone.blocks);
        }
    }

    /// Requests in the batch.
    #[must_use]
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Requests in the queue.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The share of KV blocks in use, from 0 to 1.
    #[must_use]
    pub fn kv_cache_usage(&self) -> f64 {
        1.0 - self.blocks.available() as f64 / self.blocks.total() as f64
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Empties the prefix cache, unless a request is running; says whether it did.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.blocks.forget()
    }

    /// Makes the next step, which begins at `now`, or when the first request arrives if that is later and none is
    /// running. `None`: there is nothing to do.
    ///
    /// The next call's `now` is this step's `ends_at` or later.
    pub fn step(&mut self, now: Nanos) -> Option<Step> {
        let starts_at = if self.running.is_empty() { now.max(self.waiting.front()?.arrived) } else { now };
        let mut step = Step { starts_at, ..Step::default() };
        let mut budget = self.profile.max_num_batched_tokens as usize;
        self.continue_running(&mut budget, &mut step);
        if step.preempted.is_empty() {
            self.admit(&mut budget, &mut step);
        }
        self.compute(&mut step);
        step.ends_at = starts_at + self.profile.step_time(step.prefill_tokens, step.context_tokens);
        Some(step)
    }

    fn continue_running(&mut self, budget: &mut usize, step: &mut Step) {
        let size = self.profile.block_size as usize;
        let mut place = 0;
        while place < self.running.len() && *budget > 0 {
            let sequence = &mut self.running[place];
            let tokens = (sequence.len() - sequence.computed).min(*budget);
            let fresh = (sequence.computed + tokens).div_ceil(size) - sequence.blocks.len();
            if let Some(taken) = self.blocks.take(Vec::new(), fresh) {
                sequence.blocks.extend(taken);
                sequence.scheduled = tokens;
                *budget -= tokens;
                place += 1;
            } else {
                // The last may be the very one that asks: then the loop ends, for nobody comes after it.
                self.preempt_last(step);
            }
        }
    }

    fn preempt_last(&mut self, step: &mut Step) {
        let Some(mut victim) = self.running.pop() else { return };
        self.blocks.release(&victim.blocks);
        victim.blocks.clear();
        victim.computed = 0;
        self.counters.preemptions += 1;
        step.preempted.push(victim.job.id);
        self.waiting.push_front(victim);
    }

    fn admit(&mut self, budget: &mut usize, step: &mut Step) {
        let size = self.profile.block_size as usize;
        while *budget > 0 && self.running.len() < self.profile.max_num_seqs as usize {
            let Some(sequence) = self.waiting.front_mut().filter(|s| s.arrived <= step.starts_at) else { return };
            // The last token is always computed, for its result is the next one.
            let known = if self.profile.prefix_caching {
                self.blocks.longest_prefix(sequence.prefix_hashes((sequence.len() - 1) / size, size))
            } else {
                Vec::new()
            };
            let computed = known.len() * size;
            let tokens = (sequence.len() - computed).min(*budget);
            let fresh = (computed + tokens).div_ceil(size) - known.len();
            let Some(taken) = self.blocks.take(known, fresh) else { return };
            sequence.blocks = taken;
            sequence.computed = computed;
            sequence.prefill_end = sequence.len();
            sequence.scheduled = tokens;
            *budget -= tokens;
            self.running.extend(self.waiting.pop_front());
            self.note_admission(computed, step);
        }
    }

    /// A request that comes back after a preemption was counted before.
    fn note_admission(&mut self, cached: usize, step: &mut Step) {
        let Some(sequence) = self.running.last_mut() else { return };
        if !std::mem::replace(&mut sequence.admitted_before, true) {
            if self.profile.prefix_caching {
                self.counters.prefix_queries += sequence.job.prompt.len() as u64;
                self.counters.prefix_hits += cached as u64;
            }
            let cached_tokens = u32::try_from(cached).unwrap_or(u32::MAX);
            step.admitted.push(Admission { id: sequence.job.id, cached_tokens });
        }
    }

    fn compute(&mut self, step: &mut Step) {
        let size = self.profile.block_size as usize;
        for sequence in &mut self.running {
            let tokens = std::mem::take(&mut sequence.scheduled);
            if tokens == 0 {
                continue;
            }
            step.scheduled_tokens += tokens as u64;
            step.context_tokens += sequence.computed as u64;
            if sequence.computed < sequence.prefill_end {
                step.prefill_tokens += tokens as u64;
            }
            let full_before = sequence.computed / size;
            sequence.computed += tokens;
            if self.profile.prefix_caching && sequence.computed / size > full_before {
                let full = sequence.computed / size;
                sequence.prefix_hashes(full, size);
                for block in full_before..full {
                    self.blocks.remember(sequence.blocks[block], sequence.hashes[block]);
                }
            }
            if sequence.computed == sequence.len() {
                let index = sequence.generated;
                sequence.generated += 1;
                step.tokens.push(Token { id: sequence.job.id, index, last: sequence.is_done() });
            }
        }
        let blocks = &mut self.blocks;
        self.running.retain(|sequence| {
            if sequence.is_done() {
                blocks.release(&sequence.blocks);
            }
            !sequence.is_done()
        });
    }
}

impl Sequence {
    /// Tokens known so far: the prompt and what was generated.
    fn len(&self) -> usize {
        self.job.prompt.len() + self.generated
    }

    fn is_done(&self) -> bool {
        self.generated == self.job.output.len()
    }

    fn token(&self, place: usize) -> u32 {
        match self.job.prompt.get(place) {
            Some(token) => *token,
            None => self.job.output[place - self.job.prompt.len()],
        }
    }

    /// The hashes of the prefixes that end with the first `count` blocks.
    fn prefix_hashes(&mut self, count: usize, size: usize) -> &[u64] {
        while self.hashes.len() < count {
            let start = self.hashes.len() * size;
            let tokens: Vec<u32> = (start..start + size).map(|place| self.token(place)).collect();
            self.hashes.push(chain(self.hashes.last().copied().unwrap_or(0), &tokens));
        }
        &self.hashes[..count]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    /// 10 ms a step, 10 µs a prefill token, 1 µs a context token.
    fn profile() -> Profile {
        Profile {
            name: "test",
            step_base: Nanos(10 * MS),
            per_prefill_token: Nanos(10_000),
            per_context_token: Nanos(1000),
            max_num_seqs: 8,
            max_num_batched_tokens: 100,
            max_model_len: 512,
            block_size: 4,
            num_gpu_blocks: 128,
            prefix_caching: true,
        }
    }

    /// A job whose tokens no other job has.
    fn job(id: RequestId, prompt: usize, output: usize) -> Job {
        let first = u32::try_from(id).unwrap() * 10_000;
        let tokens = |from: u32, n: usize| (from..).take(n).collect();
        Job { id, prompt: tokens(first, prompt), output: tokens(first + 5000, output) }
    }

    /// Runs to the end; the instants of each request's tokens.
    fn run(engine: &mut Engine, mut now: Nanos) -> (BTreeMap<RequestId, Vec<u64>>, Vec<Step>) {
        let (mut times, mut steps) = (BTreeMap::<_, Vec<u64>>::new(), Vec::new());
        while let Some(step) = engine.step(now) {
            now = step.ends_at;
            for token in &step.tokens {
                let seen = times.entry(token.id).or_default();
                assert_eq!(seen.len(), token.index);
                seen.push(now.0);
            }
            steps.push(step);
            assert!(steps.len() < 100_000, "the engine does not come to an end");
        }
        (times, steps)
    }

    #[test]
    fn one_request_has_the_ttft_and_itl_of_the_formula() {
        let mut engine = Engine::new(profile()).unwrap();
        engine.submit(Nanos(3 * MS), job(1, 50, 3));
        let (times, _) = run(&mut engine, Nanos(0));
        let first = 3 * MS + 10 * MS + 50 * 10_000;
        let second = first + 10 * MS + 50 * 1000;
        assert_eq!(times[&1], [first, second, second + 10 * MS + 51 * 1000]);
    }

    #[test]
    fn a_long_prompt_is_computed_in_chunks_of_the_budget() {
        let mut engine = Engine::new(profile()).unwrap();
        engine.submit(Nanos(0), job(1, 250, 1));
        let (times, steps) = run(&mut engine, Nanos(0));
        assert_eq!(
            steps.iter().map(|s| (s.prefill_tokens, s.context_tokens)).collect::<Vec<_>>(),
            [(100, 0), (100, 100), (50, 200)]
        );
        assert_eq!(times[&1], [30 * MS + 250 * 10_000 + 300 * 1000]);
    }

    #[test]
    fn decodes_go_first_and_a_prefill_gets_the_rest_of_the_budget() {
        let mut engine = Engine::new(profile()).unwrap();
        engine.submit(Nanos(0), job(1, 10, 4));
        engine.submit(Nanos(1), job(2, 150, 2));
        let (times, steps) = run(&mut engine, Nanos(0));
        // The second request arrived when the first step had begun.
        assert_eq!(steps[0].scheduled_tokens, 10);
        assert_eq!((steps[1].scheduled_tokens, steps[1].prefill_tokens), (100, 99));
        assert_eq!((steps[2].scheduled_tokens, steps[2].prefill_tokens), (52, 51));
        assert_eq!(times[&2][0], times[&1][2], "all tokens of a step appear at the same instant");
    }

    #[test]
    fn no_more_than_max_num_seqs_run_at_once() {
        let mut engine = Engine::new(Profile { max_num_seqs: 2, ..profile() }).unwrap();
        (1..=3).for_each(|id| engine.submit(Nanos(0), job(id, 4, 2)));
        let (times, _) = run(&mut engine, Nanos(0));
        assert_eq!(times[&1], times[&2]);
        assert!(times[&3][0] > times[&1][1]);
    }

    #[test]
    fn the_prefix_cache_gives_back_exactly_the_full_blocks() {
        for (prompt, cached) in [(4, 0), (5, 4), (8, 4), (9, 8), (11, 8)] {
            let mut engine = Engine::new(profile()).unwrap();
            let first = job(1, prompt, 1);
            let again = Job { id: 2, ..first.clone() };
            engine.submit(Nanos(0), first);
            run(&mut engine, Nanos(0));
            engine.submit(Nanos(0), again);
            let (_, steps) = run(&mut engine, Nanos(0));
            assert_eq!(steps[0].admitted, [Admission { id: 2, cached_tokens: cached }], "{prompt}");
            assert_eq!(steps[0].prefill_tokens, prompt as u64 - u64::from(cached));
            let counted = engine.counters();
            assert_eq!((counted.prefix_queries, counted.prefix_hits), (2 * prompt as u64, u64::from(cached)));
            assert!(engine.reset_prefix_cache());
        }
    }

    #[test]
    fn the_next_turn_of_a_chat_finds_the_answer_in_the_cache() {
        let mut engine = Engine::new(profile()).unwrap();
        let first = job(1, 8, 9);
        let next: Vec<u32> = first.prompt.iter().chain(first.output.iter()).copied().chain([7, 8, 9]).collect();
        engine.submit(Nanos(0), first);
        run(&mut engine, Nanos(0));
        engine.submit(Nanos(0), Job { id: 2, prompt: next.into(), output: [1].into() });
        let (_, steps) = run(&mut engine, Nanos(0));
        // 16 of the 17: the last token was generated but never computed.
        assert_eq!(steps[0].admitted[0].cached_tokens, 16);
    }

    #[test]
    fn the_latest_is_preempted_recomputed_and_still_finishes() {
        // Room for 8 blocks of 4; each request needs 5 in the end.
        let small = Profile { num_gpu_blocks: 8, max_model_len: 32, prefix_caching: false, ..profile() };
        let mut engine = Engine::new(small).unwrap();
        engine.submit(Nanos(0), job(1, 12, 8));
        engine.submit(Nanos(0), job(2, 12, 8));
        let (times, steps) = run(&mut engine, Nanos(0));
        assert_eq!(steps.iter().flat_map(|s| &s.preempted).collect::<Vec<_>>(), [&2]);
        assert_eq!((times[&1].len(), times[&2].len()), (8, 8));
        assert_eq!(engine.counters().preemptions, 1);
        // Both hold 4 blocks with 16 tokens when the 17th asks for a fifth: 12 and the 5 generated come again.
        let again = steps.iter().rposition(|s| s.prefill_tokens > 0).unwrap();
        assert_eq!(steps[again].prefill_tokens, 17);
        assert_eq!(steps.iter().map(|s| s.admitted.len()).sum::<usize>(), 2, "each is admitted once");
    }

    #[test]
    fn an_aborted_request_gives_its_blocks_back() {
        let mut engine = Engine::new(profile()).unwrap();
        (1..=3).for_each(|id| engine.submit(Nanos(0), job(id, 20, 5)));
        engine.step(Nanos(0)).unwrap();
        engine.submit(Nanos(0), job(4, 20, 5));
        for id in 1..=5 {
            engine.abort(id);
        }
        assert_eq!((engine.num_running(), engine.num_waiting()), (0, 0));
        assert!(engine.kv_cache_usage() < f64::EPSILON);
        assert_eq!(engine.step(Nanos(0)), None);
    }

    fn any_profile() -> impl Strategy<Value = Profile> {
        (1..6_u32, 1..40_u32, 1..8_u32, 0..20_u32, any::<bool>()).prop_map(|(seqs, budget, size, spare, caching)| {
            Profile {
                max_num_seqs: seqs,
                max_num_batched_tokens: budget,
                max_model_len: 60,
                block_size: size,
                num_gpu_blocks: 60_u32.div_ceil(size) + spare,
                prefix_caching: caching,
                ..profile()
            }
        })
    }

    proptest! {
        #[test]
        fn every_request_finishes_in_order_within_all_limits(
            profile in any_profile(),
            jobs in prop::collection::vec((0..200 * MS, 1..30_usize, 1..30_usize, 0..3_u32), 1..20),
        ) {
            let mut engine = Engine::new(profile.clone()).unwrap();
            let mut arrivals: Vec<_> = jobs.iter().map(|j| j.0).collect();
            arrivals.sort_unstable();
            let mut wanted = BTreeMap::new();
            for (id, (arrived, (_, prompt, output, family))) in (0..).zip(arrivals.iter().zip(&jobs)) {
                // Families share their tokens, so that prefixes are found.
                let from = family * 1000;
                let tokens = |from: u32, n: usize| (from..).take(n).collect();
                engine.submit(Nanos(*arrived), Job { id, prompt: tokens(from, *prompt), output: tokens(from + 500, *output) });
                wanted.insert(id, (*arrived, *output));
            }
            let (times, steps) = run(&mut engine, Nanos(0));
            for (id, (arrived, output)) in &wanted {
                prop_assert_eq!(times[id].len(), *output);
                prop_assert!(times[id][0] > *arrived);
            }
            for step in &steps {
                prop_assert!(step.scheduled_tokens > 0 || !step.preempted.is_empty());
                prop_assert!(step.scheduled_tokens <= u64::from(profile.max_num_batched_tokens));
                prop_assert!(step.prefill_tokens <= step.scheduled_tokens);
                prop_assert!(step.tokens.len() <= profile.max_num_seqs as usize);
                prop_assert_eq!(step.ends_at.since(step.starts_at), profile.step_time(step.prefill_tokens, step.context_tokens));
            }
            // First come, first served: nobody gets a first turn before an earlier arrival.
            let turns: Vec<_> = steps.iter().flat_map(|s| &s.admitted).map(|a| a.id).collect();
            prop_assert!(turns.is_sorted());
            // Every block came back, and the counters agree with what was reported.
            prop_assert!(engine.kv_cache_usage() < f64::EPSILON);
            let cached: u64 = steps.iter().flat_map(|s| &s.admitted).map(|a| u64::from(a.cached_tokens)).sum();
            prop_assert_eq!(engine.counters().prefix_hits, cached);
        }
    }
}
