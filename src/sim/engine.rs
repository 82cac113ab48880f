//! The model of the engine: continuous batching as a pure function of virtual time.
//!
//! The engine has neither a clock nor randomness. Its caller passes the time, so a test can check the exact nanosecond of each
//! token. The scheduler follows vLLM's V1 engine with its default policy, first come, first served:
//!
//! 1. Running requests are scheduled in order of arrival: one token for each request that decodes, and the next part of a prompt
//!    that exceeded the budget. When blocks run out, the latest arrival is preempted: it loses its blocks, returns to the front of
//!    the queue and is computed again.
//! 2. If no request was preempted, waiting requests are admitted while budget, blocks and `max_num_seqs` allow.
//!
//! All tokens of a step appear at its end.

use std::{collections::VecDeque, rc::Rc};

use super::{
    blocks::{BlockId, BlockPool, chain_hash},
    profile::EngineProfile,
};
use crate::{error::Error, units::Nanos};

/// Identifies a request within one engine.
pub type RequestId = u64;

/// A request to the engine. Its output is known in advance; the engine only decides when each token appears.
#[derive(Debug, Clone)]
pub struct Job {
    /// Unique among unfinished requests.
    pub id: RequestId,
    /// The prompt; at least one token.
    pub prompt: Rc<[u32]>,
    /// The output; at least one token.
    pub output: Rc<[u32]>,
}

/// One forward pass of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineStep {
    /// When the step began: at the `now` of the call, or later.
    pub starts_at: Nanos,
    /// When the step ended and its tokens appeared.
    pub ends_at: Nanos,
    /// Computed prompt tokens, and computed output tokens of preempted requests.
    pub prefill_tokens: u64,
    /// Tokens of the scheduled requests that were in the KV cache before the step.
    pub context_tokens: u64,
    /// All computed tokens; at most `max_num_batched_tokens`.
    pub scheduled_tokens: u64,
    /// Requests that were scheduled for the first time.
    pub admitted: Vec<AdmittedRequest>,
    /// Requests that lost their blocks.
    pub preempted: Vec<RequestId>,
    /// The generated tokens: at most one for each request.
    pub tokens: Vec<GeneratedToken>,
}

/// A request that was scheduled for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmittedRequest {
    /// The request.
    pub id: RequestId,
    /// Prompt tokens that were prefix cache hits.
    pub cached_tokens: u32,
}

/// A generated token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneratedToken {
    /// The request.
    pub id: RequestId,
    /// Its index in the output, from 0.
    pub index: usize,
    /// Whether it is the last token of the output.
    pub last: bool,
}

/// Totals since the engine was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Prompt tokens looked up in the prefix cache, once for each request.
    pub prefix_queries: u64,
    /// Prompt tokens found in the prefix cache.
    pub prefix_hits: u64,
    /// How often a request lost its blocks.
    pub preemptions: u64,
}

/// The simulated engine.
#[derive(Debug)]
pub struct SimEngine {
    profile: EngineProfile,
    blocks: BlockPool,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    counters: EngineCounters,
}

#[derive(Debug)]
struct Sequence {
    job: Job,
    arrived: Nanos,
    /// Output tokens so far.
    generated: usize,
    /// Tokens whose keys and values are in `blocks`.
    computed: usize,
    /// Computing up to this many tokens counts as prefill.
    prefill_end: usize,
    /// Tokens to compute in the current step.
    scheduled: usize,
    blocks: Vec<BlockId>,
    /// The hash of the prefix up to the end of each full block.
    hashes: Vec<u64>,
    was_admitted: bool,
}

impl SimEngine {
    /// An idle engine.
    pub fn new(profile: EngineProfile) -> Result<Self, Error> {
        profile.validate()?;
        Ok(SimEngine {
            blocks: BlockPool::new(profile.num_gpu_blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            counters: EngineCounters::default(),
            profile,
        })
    }

    /// Queues a job that arrived at `now`. Jobs must be queued in order of arrival. Prompt and output need at least one token
    /// each and must fit into `max_model_len` together.
    pub fn submit_job(&mut self, now: Nanos, job: Job) {
        debug_assert!(!job.prompt.is_empty() && !job.output.is_empty());
        self.waiting.push_back(Sequence {
            arrived: now,
            generated: 0,
            computed: 0,
            prefill_end: 0,
            scheduled: 0,
            blocks: Vec::new(),
            hashes: Vec::new(),
            was_admitted: false,
            job,
        });
    }

    /// Removes a waiting or running request. Unknown ids are ignored.
    pub fn abort_request(&mut self, id: RequestId) {
        self.waiting.retain(|sequence| sequence.job.id != id);
        if let Some(index) = self.running.iter().position(|sequence| sequence.job.id == id) {
            let aborted = self.running.remove(index);
            self.blocks.release_blocks(&aborted.blocks);
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
        1.0 - self.blocks.num_free() as f64 / self.blocks.num_blocks() as f64
    }

    /// The totals so far.
    #[must_use]
    pub fn counters(&self) -> EngineCounters {
        self.counters
    }

    /// Clears the prefix cache unless a request is running; returns whether it did.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.blocks.clear_prefixes()
    }

    /// Runs the next step. It begins at `now`; if no request is running and the first one arrives later, it begins then. `None`:
    /// the engine has no requests.
    ///
    /// The `now` of the next call must be this step's `ends_at` or later.
    pub fn run_step(&mut self, now: Nanos) -> Option<EngineStep> {
        let starts_at = if self.running.is_empty() { now.max(self.waiting.front()?.arrived) } else { now };
        let mut step = EngineStep { starts_at, ..EngineStep::default() };
        let mut budget = self.profile.max_num_batched_tokens as usize;
        self.schedule_running(&mut budget, &mut step);
        if step.preempted.is_empty() {
            self.admit_waiting(&mut budget, &mut step);
        }
        self.compute_scheduled(&mut step);
        step.ends_at = starts_at + self.profile.step_time(step.prefill_tokens, step.context_tokens);
        Some(step)
    }

    fn schedule_running(&mut self, budget: &mut usize, step: &mut EngineStep) {
        let size = self.profile.block_size as usize;
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let sequence = &mut self.running[index];
            let tokens = (sequence.len() - sequence.computed).min(*budget);
            let fresh = (sequence.computed + tokens).div_ceil(size) - sequence.blocks.len();
            if let Some(allocated) = self.blocks.allocate(Vec::new(), fresh) {
                sequence.blocks.extend(allocated);
                sequence.scheduled = tokens;
                *budget -= tokens;
                index += 1;
            } else {
                // The last sequence may be this one. Then the loop ends, because no sequence follows it.
                self.preempt_last(step);
            }
        }
    }

    fn preempt_last(&mut self, step: &mut EngineStep) {
        let Some(mut victim) = self.running.pop() else { return };
        self.blocks.release_blocks(&victim.blocks);
        victim.blocks.clear();
        victim.computed = 0;
        self.counters.preemptions += 1;
        step.preempted.push(victim.job.id);
        self.waiting.push_front(victim);
    }

    fn admit_waiting(&mut self, budget: &mut usize, step: &mut EngineStep) {
        let size = self.profile.block_size as usize;
        while *budget > 0 && self.running.len() < self.profile.max_num_seqs as usize {
            let Some(sequence) = self.waiting.front_mut().filter(|s| s.arrived <= step.starts_at) else { return };
            // The last token is always computed, because computing it yields the next one.
            let known = if self.profile.prefix_caching {
                self.blocks.longest_prefix(sequence.prefix_hashes((sequence.len() - 1) / size, size))
            } else {
                Vec::new()
            };
            let computed = known.len() * size;
            let tokens = (sequence.len() - computed).min(*budget);
            let fresh = (computed + tokens).div_ceil(size) - known.len();
            let Some(allocated) = self.blocks.allocate(known, fresh) else { return };
            sequence.blocks = allocated;
            sequence.computed = computed;
            sequence.prefill_end = sequence.len();
            sequence.scheduled = tokens;
            *budget -= tokens;
            self.running.extend(self.waiting.pop_front());
            self.record_admission(computed, step);
        }
    }

    /// Counts an admission. A request that returns after a preemption was counted before.
    fn record_admission(&mut self, cached: usize, step: &mut EngineStep) {
        let Some(sequence) = self.running.last_mut() else { return };
        if !std::mem::replace(&mut sequence.was_admitted, true) {
            if self.profile.prefix_caching {
                self.counters.prefix_queries += sequence.job.prompt.len() as u64;
                self.counters.prefix_hits += cached as u64;
            }
            let cached_tokens = u32::try_from(cached).unwrap_or(u32::MAX);
            step.admitted.push(AdmittedRequest { id: sequence.job.id, cached_tokens });
        }
    }

    fn compute_scheduled(&mut self, step: &mut EngineStep) {
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
                    self.blocks.record_prefix(sequence.blocks[block], sequence.hashes[block]);
                }
            }
            if sequence.computed == sequence.len() {
                let index = sequence.generated;
                sequence.generated += 1;
                step.tokens.push(GeneratedToken { id: sequence.job.id, index, last: sequence.is_done() });
            }
        }
        let blocks = &mut self.blocks;
        self.running.retain(|sequence| {
            if sequence.is_done() {
                blocks.release_blocks(&sequence.blocks);
            }
            !sequence.is_done()
        });
    }
}

impl Sequence {
    /// Tokens known so far: the prompt and the generated ones.
    fn len(&self) -> usize {
        self.job.prompt.len() + self.generated
    }

    fn is_done(&self) -> bool {
        self.generated == self.job.output.len()
    }

    fn token_at(&self, index: usize) -> u32 {
        match self.job.prompt.get(index) {
            Some(token) => *token,
            None => self.job.output[index - self.job.prompt.len()],
        }
    }

    /// The hashes of the prefixes that end with each of the first `count` blocks.
    fn prefix_hashes(&mut self, count: usize, size: usize) -> &[u64] {
        while self.hashes.len() < count {
            let start = self.hashes.len() * size;
            let tokens: Vec<u32> = (start..start + size).map(|index| self.token_at(index)).collect();
            self.hashes.push(chain_hash(self.hashes.last().copied().unwrap_or(0), &tokens));
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

    /// 10 ms per step, 10 µs per prefill token, 1 µs per context token.
    fn profile() -> EngineProfile {
        EngineProfile {
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

    /// A job that shares no tokens with other jobs.
    fn job(id: RequestId, prompt: usize, output: usize) -> Job {
        let first = u32::try_from(id).unwrap() * 10_000;
        let tokens = |from: u32, n: usize| (from..).take(n).collect();
        Job { id, prompt: tokens(first, prompt), output: tokens(first + 5000, output) }
    }

    /// Runs until no requests are left; returns the times of each request's tokens, and the steps.
    fn run(engine: &mut SimEngine, mut now: Nanos) -> (BTreeMap<RequestId, Vec<u64>>, Vec<EngineStep>) {
        let (mut times, mut steps) = (BTreeMap::<_, Vec<u64>>::new(), Vec::new());
        while let Some(step) = engine.run_step(now) {
            now = step.ends_at;
            for token in &step.tokens {
                let seen = times.entry(token.id).or_default();
                assert_eq!(seen.len(), token.index);
                seen.push(now.0);
            }
            steps.push(step);
            assert!(steps.len() < 100_000, "the engine does not finish");
        }
        (times, steps)
    }

    #[test]
    fn one_request_has_the_ttft_and_itl_of_the_formula() {
        let mut engine = SimEngine::new(profile()).unwrap();
        engine.submit_job(Nanos(3 * MS), job(1, 50, 3));
        let (times, _) = run(&mut engine, Nanos(0));
        let first = 3 * MS + 10 * MS + 50 * 10_000;
        let second = first + 10 * MS + 50 * 1000;
        assert_eq!(times[&1], [first, second, second + 10 * MS + 51 * 1000]);
    }

    #[test]
    fn a_long_prompt_is_computed_in_chunks_of_the_budget() {
        let mut engine = SimEngine::new(profile()).unwrap();
        engine.submit_job(Nanos(0), job(1, 250, 1));
        let (times, steps) = run(&mut engine, Nanos(0));
        assert_eq!(
            steps.iter().map(|s| (s.prefill_tokens, s.context_tokens)).collect::<Vec<_>>(),
            [(100, 0), (100, 100), (50, 200)]
        );
        assert_eq!(times[&1], [30 * MS + 250 * 10_000 + 300 * 1000]);
    }

    #[test]
    fn decodes_go_first_and_a_prefill_gets_the_remaining_budget() {
        let mut engine = SimEngine::new(profile()).unwrap();
        engine.submit_job(Nanos(0), job(1, 10, 4));
        engine.submit_job(Nanos(1), job(2, 150, 2));
        let (times, steps) = run(&mut engine, Nanos(0));
        // The second request arrived after the first step had begun.
        assert_eq!(steps[0].scheduled_tokens, 10);
        assert_eq!((steps[1].scheduled_tokens, steps[1].prefill_tokens), (100, 99));
        assert_eq!((steps[2].scheduled_tokens, steps[2].prefill_tokens), (52, 51));
        assert_eq!(times[&2][0], times[&1][2], "all tokens of a step appear at the same time");
    }

    #[test]
    fn no_more_than_max_num_seqs_run_at_once() {
        let mut engine = SimEngine::new(EngineProfile { max_num_seqs: 2, ..profile() }).unwrap();
        (1..=3).for_each(|id| engine.submit_job(Nanos(0), job(id, 4, 2)));
        let (times, _) = run(&mut engine, Nanos(0));
        assert_eq!(times[&1], times[&2]);
        assert!(times[&3][0] > times[&1][1]);
    }

    #[test]
    fn the_prefix_cache_gives_back_exactly_the_full_blocks() {
        for (prompt, cached) in [(4, 0), (5, 4), (8, 4), (9, 8), (11, 8)] {
            let mut engine = SimEngine::new(profile()).unwrap();
            let first = job(1, prompt, 1);
            let again = Job { id: 2, ..first.clone() };
            engine.submit_job(Nanos(0), first);
            run(&mut engine, Nanos(0));
            engine.submit_job(Nanos(0), again);
            let (_, steps) = run(&mut engine, Nanos(0));
            assert_eq!(steps[0].admitted, [AdmittedRequest { id: 2, cached_tokens: cached }], "{prompt}");
            assert_eq!(steps[0].prefill_tokens, prompt as u64 - u64::from(cached));
            let counted = engine.counters();
            assert_eq!((counted.prefix_queries, counted.prefix_hits), (2 * prompt as u64, u64::from(cached)));
            assert!(engine.reset_prefix_cache());
        }
    }

    #[test]
    fn the_next_turn_of_a_chat_finds_the_output_in_the_cache() {
        let mut engine = SimEngine::new(profile()).unwrap();
        let first = job(1, 8, 9);
        let next: Vec<u32> = first.prompt.iter().chain(first.output.iter()).copied().chain([7, 8, 9]).collect();
        engine.submit_job(Nanos(0), first);
        run(&mut engine, Nanos(0));
        engine.submit_job(Nanos(0), Job { id: 2, prompt: next.into(), output: [1].into() });
        let (_, steps) = run(&mut engine, Nanos(0));
        // 16 of the 17 tokens: the last one was generated but never computed.
        assert_eq!(steps[0].admitted[0].cached_tokens, 16);
    }

    #[test]
    fn the_latest_is_preempted_recomputed_and_still_finishes() {
        // There are 8 blocks of 4 tokens; each request needs 5 of them at its end.
        let small = EngineProfile { num_gpu_blocks: 8, max_model_len: 32, prefix_caching: false, ..profile() };
        let mut engine = SimEngine::new(small).unwrap();
        engine.submit_job(Nanos(0), job(1, 12, 8));
        engine.submit_job(Nanos(0), job(2, 12, 8));
        let (times, steps) = run(&mut engine, Nanos(0));
        assert_eq!(steps.iter().flat_map(|s| &s.preempted).collect::<Vec<_>>(), [&2]);
        assert_eq!((times[&1].len(), times[&2].len()), (8, 8));
        assert_eq!(engine.counters().preemptions, 1);
        // Both hold 4 blocks with 16 tokens when the 17th needs a fifth block. 12 prompt tokens and 5 generated ones are
        // recomputed.
        let again = steps.iter().rposition(|s| s.prefill_tokens > 0).unwrap();
        assert_eq!(steps[again].prefill_tokens, 17);
        assert_eq!(steps.iter().map(|s| s.admitted.len()).sum::<usize>(), 2, "each is admitted once");
    }

    #[test]
    fn an_aborted_request_releases_its_blocks() {
        let mut engine = SimEngine::new(profile()).unwrap();
        (1..=3).for_each(|id| engine.submit_job(Nanos(0), job(id, 20, 5)));
        engine.run_step(Nanos(0)).unwrap();
        engine.submit_job(Nanos(0), job(4, 20, 5));
        for id in 1..=5 {
            engine.abort_request(id);
        }
        assert_eq!((engine.num_running(), engine.num_waiting()), (0, 0));
        assert!(engine.kv_cache_usage() < f64::EPSILON);
        assert_eq!(engine.run_step(Nanos(0)), None);
    }

    fn any_profile() -> impl Strategy<Value = EngineProfile> {
        (1..6_u32, 1..40_u32, 1..8_u32, 0..20_u32, any::<bool>()).prop_map(|(seqs, budget, size, spare, caching)| {
            EngineProfile {
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
            let mut engine = SimEngine::new(profile.clone()).unwrap();
            let mut arrivals: Vec<_> = jobs.iter().map(|j| j.0).collect();
            arrivals.sort_unstable();
            let mut wanted = BTreeMap::new();
            for (id, (arrived, (_, prompt, output, family))) in (0..).zip(arrivals.iter().zip(&jobs)) {
                // Requests of a family share tokens, so that there are prefix cache hits.
                let from = family * 1000;
                let tokens = |from: u32, n: usize| (from..).take(n).collect();
                engine.submit_job(Nanos(*arrived), Job { id, prompt: tokens(from, *prompt), output: tokens(from + 500, *output) });
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
            // First come, first served: requests are admitted in order of arrival.
            let admitted: Vec<_> = steps.iter().flat_map(|s| &s.admitted).map(|a| a.id).collect();
            prop_assert!(admitted.is_sorted());
            // Every block was released, and the counters agree with the steps.
            prop_assert!(engine.kv_cache_usage() < f64::EPSILON);
            let cached: u64 = steps.iter().flat_map(|s| &s.admitted).map(|a| u64::from(a.cached_tokens)).sum();
            prop_assert_eq!(engine.counters().prefix_hits, cached);
        }
    }
}
