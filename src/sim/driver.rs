//! Runs the engine in real time, on an absolute schedule: a step that was handed out late does not move the next.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::sync::Notify;

use super::{
    engine::{Engine, Job, RequestId, Step},
    metrics::Metrics,
    truth::TruthLog,
    vocabulary::END_OF_TEXT,
};
use crate::{cli, clock::Clock, error::Error, pacer::Pacer, record::Truth, units::Nanos};

/// Further behind than this the schedule is given up: the machine is too slow for the load.
const FURTHEST_BEHIND: Nanos = Nanos(100_000_000);

/// The engine and everyone who waits for it.
pub struct Driver {
    clock: Clock,
    engine: RefCell<Engine>,
    metrics: RefCell<Metrics>,
    live: RefCell<HashMap<RequestId, Live>>,
    next_id: Cell<RequestId>,
    work: Notify,
}

/// A request in the engine.
struct Live {
    progress: Rc<RefCell<Progress>>,
    stops: bool,
    prompt_only: bool,
    prompt_tokens: u64,
    arrived: Nanos,
    admitted: Nanos,
    first: Nanos,
    latest: Nanos,
}

/// How far a request is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tokens generated so far.
    pub generated: usize,
    /// Whether that is all.
    pub finished: bool,
    /// Tokens of the prompt that were in the prefix cache.
    pub cached_tokens: u32,
    /// Arrival → first turn.
    pub queue_time: Option<Nanos>,
    /// When the latest token was due.
    due: Nanos,
    waker: Option<Waker>,
}

/// The right to the tokens of one request; dropping it takes an unfinished request out of the engine.
pub struct Ticket {
    driver: Rc<Driver>,
    id: RequestId,
    progress: Rc<RefCell<Progress>>,
    taken: usize,
}

/// The tickets of a request, for `n` answers to each of its prompts.
pub struct Tickets {
    /// One for each answer.
    pub each: Vec<Ticket>,
    /// Answers to each prompt.
    pub n: usize,
}

impl Tickets {
    /// Tokens of the prompts that were in the prefix cache, by the first answer to each.
    pub fn cached_tokens(&self) -> u32 {
        self.each.iter().step_by(self.n.max(1)).map(|ticket| ticket.progress.borrow().cached_tokens).sum()
    }

    /// Waits for all tokens.
    pub async fn finished(&mut self) {
        for ticket in &mut self.each {
            ticket.finished().await;
        }
    }

    /// Tells the truth log what the engine did for the request.
    pub fn tell(&self, truth: &mut Truth) {
        truth.queue_time = self.each.first().and_then(|ticket| ticket.progress.borrow().queue_time);
        truth.cached_tokens = self.cached_tokens();
        let generated: usize = self.each.iter().map(|ticket| ticket.progress.borrow().generated).sum();
        truth.output_tokens = u32::try_from(generated).unwrap_or(u32::MAX);
        if !self.each.iter().all(|ticket| ticket.progress.borrow().finished) {
            truth.finish_reason = None;
        }
    }
}

impl Driver {
    /// A driver with nothing to do.
    pub fn new(engine: Engine, clock: Clock) -> Rc<Self> {
        Rc::new(Driver {
            clock,
            engine: RefCell::new(engine),
            metrics: RefCell::default(),
            live: RefCell::default(),
            next_id: Cell::new(0),
            work: Notify::new(),
        })
    }

    /// Queues a prompt that is computed and nothing else. To the engine it ends with the token that nobody asks for.
    pub fn submit_prompt(self: &Rc<Self>, prompt: &[u32]) -> Ticket {
        let ticket = self.submit(prompt, [END_OF_TEXT].into(), true);
        if let Some(live) = self.live.borrow_mut().get_mut(&ticket.id) {
            live.prompt_only = true;
        }
        ticket
    }

    /// Queues a request that arrives now. `stops`: it will end by itself.
    pub fn submit(self: &Rc<Self>, prompt: &[u32], output: Rc<[u32]>, stops: bool) -> Ticket {
        let now = self.clock.now();
        let id = self.next_id.replace(self.next_id.get() + 1);
        let progress = Rc::new(RefCell::new(Progress::default()));
        let live = Live {
            progress: Rc::clone(&progress),
            stops,
            prompt_only: false,
            prompt_tokens: prompt.len() as u64,
            arrived: now,
            admitted: now,
            first: now,
            latest: now,
        };
        self.live.borrow_mut().insert(id, live);
        self.engine.borrow_mut().submit(now, Job { id, prompt: prompt.into(), output });
        self.work.notify_one();
        Ticket { driver: Rc::clone(self), id, progress, taken: 0 }
    }

    /// The text of `/metrics`.
    pub fn metrics_page(&self, model: &str) -> String {
        let began = self.clock.to_unix(Nanos(0));
        self.metrics.borrow().page(&self.engine.borrow(), model, began).unwrap_or_default()
    }

    /// Empties the prefix cache, unless a request is running; says whether it did.
    pub fn reset_prefix_cache(&self) -> bool {
        self.engine.borrow_mut().reset_prefix_cache()
    }

    /// Makes steps for as long as it is polled.
    pub async fn run(&self, pacer: Pacer, truth: Option<Rc<TruthLog>>) -> Result<(), Error> {
        let mut now = Nanos(0);
        let mut warned = false;
        loop {
            let step = self.engine.borrow_mut().step(now);
            let Some(step) = step else {
                if let Some(log) = &truth {
                    log.flush()?;
                }
                self.work.notified().await;
                continue;
            };
            if self.clock.now() < step.ends_at {
                pacer.sleep_until(step.ends_at).await;
            } else {
                // Even a simulator that cannot keep up must read what its clients send.
                tokio::task::yield_now().await;
            }
            let late = self.clock.now().since(step.ends_at);
            self.hand_out(&step, late);
            now = step.ends_at;
            if late > FURTHEST_BEHIND {
                now = self.clock.now();
                if !std::mem::replace(&mut warned, true) {
                    cli::print_warning(
                        "vb-sim",
                        format!("a step came {late} late: this machine cannot keep up with the load"),
                    );
                }
            }
        }
    }

    fn hand_out(&self, step: &Step, late: Nanos) {
        let (mut live, mut metrics) = (self.live.borrow_mut(), self.metrics.borrow_mut());
        metrics.step_lateness.time(late);
        metrics.iteration_tokens.observe(step.scheduled_tokens as f64);
        for admission in &step.admitted {
            let Some(request) = live.get_mut(&admission.id) else { continue };
            request.admitted = step.starts_at;
            let mut progress = request.progress.borrow_mut();
            progress.cached_tokens = admission.cached_tokens;
            progress.queue_time = Some(request.admitted.since(request.arrived));
            metrics.prompt_tokens += request.prompt_tokens;
            metrics.cached_tokens += u64::from(admission.cached_tokens);
        }
        for token in &step.tokens {
            let Some(request) = live.get_mut(&token.id) else { continue };
            let waker = request.advance(step.ends_at, token.index, token.last);
            request.count(step.ends_at, token.index, &mut metrics);
            if token.last {
                request.count_finished(token.index as u64 + 1, &mut metrics);
                live.remove(&token.id);
            }
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl Live {
    fn advance(&self, due: Nanos, index: usize, last: bool) -> Option<Waker> {
        let mut progress = self.progress.borrow_mut();
        progress.due = due;
        progress.generated = index + 1;
        progress.finished = last;
        progress.waker.take()
    }

    fn count(&mut self, now: Nanos, index: usize, metrics: &mut Metrics) {
        if self.prompt_only {
            (self.first, self.latest) = (now, now);
            return;
        }
        metrics.generation_tokens += 1;
        if index == 0 {
            self.first = now;
            metrics.time_to_first_token.time(now.since(self.arrived));
        } else {
            metrics.inter_token_latency.time(now.since(self.latest));
        }
        self.latest = now;
    }

    fn count_finished(&self, tokens: u64, metrics: &mut Metrics) {
        if self.stops {
            metrics.stop += 1;
        } else {
            metrics.length += 1;
        }
        let decode = self.latest.since(self.first);
        metrics.request_prompt_tokens.observe(self.prompt_tokens as f64);
        if !self.prompt_only {
            metrics.request_generation_tokens.observe(tokens as f64);
        }
        metrics.e2e_request_latency.time(self.latest.since(self.arrived));
        metrics.request_queue_time.time(self.admitted.since(self.arrived));
        metrics.request_inference_time.time(self.latest.since(self.admitted));
        metrics.request_prefill_time.time(self.first.since(self.admitted));
        metrics.request_decode_time.time(decode);
        if tokens > 1 {
            metrics.time_per_output_token.time(Nanos(decode.0 / (tokens - 1)));
        }
    }
}

impl Ticket {
    /// Waits for tokens that were not taken yet, and takes them: how many they are, and whether they are the last.
    pub fn poll_tokens(&mut self, cx: &mut Context<'_>) -> Poll<(usize, bool)> {
        let mut progress = self.progress.borrow_mut();
        if progress.generated == self.taken && !progress.finished {
            progress.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let fresh = progress.generated - self.taken;
        self.taken = progress.generated;
        let late = self.driver.clock.now().since(progress.due);
        self.driver.metrics.borrow_mut().token_lateness.time(late);
        Poll::Ready((fresh, progress.finished))
    }

    /// Waits for the last token.
    pub async fn finished(&mut self) {
        while !std::future::poll_fn(|cx| self.poll_tokens(cx)).await.1 {}
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.progress.borrow().finished {
            self.driver.engine.borrow_mut().abort(self.id);
            self.driver.live.borrow_mut().remove(&self.id);
            self.driver.metrics.borrow_mut().abort += 1;
        }
    }
}
