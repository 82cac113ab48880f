//! Runs the engine in real time, on an absolute schedule: a late step does not delay the next one.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::sync::Notify;

use super::{
    engine::{EngineStep, Job, RequestId, SimEngine},
    metrics::SimMetrics,
    truth_log::TruthLog,
    vocabulary::END_OF_TEXT,
};
use crate::{cli, clock::Clock, error::Error, pacer::Pacer, record::Truth, units::Nanos};

/// If a step is later than this, the machine is too slow for the load, and the schedule restarts from the current time.
const MAX_LATENESS: Nanos = Nanos(100_000_000);

/// The engine, its clock, and the requests that wait for tokens.
pub struct Driver {
    clock: Clock,
    engine: RefCell<SimEngine>,
    metrics: RefCell<SimMetrics>,
    active: RefCell<HashMap<RequestId, ActiveRequest>>,
    next_id: Cell<RequestId>,
    work: Notify,
}

/// A request in the engine.
struct ActiveRequest {
    progress: Rc<RefCell<EngineProgress>>,
    stops: bool,
    prompt_only: bool,
    prompt_tokens: u64,
    arrived: Nanos,
    admitted: Nanos,
    first: Nanos,
    latest: Nanos,
}

/// The progress of a request in the engine.
#[derive(Debug, Default)]
pub struct EngineProgress {
    /// Tokens generated so far.
    pub generated: usize,
    /// Whether the last token was generated.
    pub finished: bool,
    /// Prompt tokens that were prefix cache hits.
    pub cached_tokens: u32,
    /// From arrival to admission.
    pub queue_time: Option<Nanos>,
    /// When the latest token was due.
    due: Nanos,
    waker: Option<Waker>,
}

/// Receives the tokens of one request. Dropping it removes an unfinished request from the engine.
pub struct Ticket {
    driver: Rc<Driver>,
    id: RequestId,
    progress: Rc<RefCell<EngineProgress>>,
    taken: usize,
}

/// The tickets of one HTTP request, with `n` choices for each of its prompts.
pub struct Tickets {
    /// One ticket for each choice.
    pub all: Vec<Ticket>,
    /// Choices for each prompt.
    pub n: usize,
}

impl Tickets {
    /// Prompt tokens that were prefix cache hits, from the first choice for each prompt.
    pub fn cached_tokens(&self) -> u32 {
        self.all.iter().step_by(self.n.max(1)).map(|ticket| ticket.progress.borrow().cached_tokens).sum()
    }

    /// Waits for all tokens.
    pub async fn wait_finished(&mut self) {
        for ticket in &mut self.all {
            ticket.wait_finished().await;
        }
    }

    /// Adds what the engine did for the request to its truth log line.
    pub fn fill_truth(&self, truth: &mut Truth) {
        truth.queue_time = self.all.first().and_then(|ticket| ticket.progress.borrow().queue_time);
        truth.cached_tokens = self.cached_tokens();
        let generated: usize = self.all.iter().map(|ticket| ticket.progress.borrow().generated).sum();
        truth.output_tokens = u32::try_from(generated).unwrap_or(u32::MAX);
        if !self.all.iter().all(|ticket| ticket.progress.borrow().finished) {
            truth.finish_reason = None;
        }
    }
}

impl Driver {
    /// A driver without requests.
    pub fn new(engine: SimEngine, clock: Clock) -> Rc<Self> {
        Rc::new(Driver {
            clock,
            engine: RefCell::new(engine),
            metrics: RefCell::default(),
            active: RefCell::default(),
            next_id: Cell::new(0),
            work: Notify::new(),
        })
    }

    /// Queues a prompt without output. The engine needs one output token, which is then ignored.
    pub fn submit_prompt(self: &Rc<Self>, prompt: &[u32]) -> Ticket {
        let ticket = self.submit_request(prompt, [END_OF_TEXT].into(), true);
        if let Some(request) = self.active.borrow_mut().get_mut(&ticket.id) {
            request.prompt_only = true;
        }
        ticket
    }

    /// Queues a request that arrives now. `stops`: its finish reason is `stop`.
    pub fn submit_request(self: &Rc<Self>, prompt: &[u32], output: Rc<[u32]>, stops: bool) -> Ticket {
        let now = self.clock.now();
        let id = self.next_id.replace(self.next_id.get() + 1);
        let progress = Rc::new(RefCell::new(EngineProgress::default()));
        let request = ActiveRequest {
            progress: Rc::clone(&progress),
            stops,
            prompt_only: false,
            prompt_tokens: prompt.len() as u64,
            arrived: now,
            admitted: now,
            first: now,
            latest: now,
        };
        self.active.borrow_mut().insert(id, request);
        self.engine.borrow_mut().submit_job(now, Job { id, prompt: prompt.into(), output });
        self.work.notify_one();
        Ticket { driver: Rc::clone(self), id, progress, taken: 0 }
    }

    /// The response to `/metrics`.
    pub fn metrics_page(&self, model: &str) -> String {
        let started = self.clock.to_unix(Nanos(0));
        self.metrics.borrow().render_page(&self.engine.borrow(), model, started).unwrap_or_default()
    }

    /// Clears the prefix cache unless a request is running; returns whether it did.
    pub fn reset_prefix_cache(&self) -> bool {
        self.engine.borrow_mut().reset_prefix_cache()
    }

    /// Runs the engine's steps for as long as it is polled.
    pub async fn run(&self, pacer: Pacer, truth: Option<Rc<TruthLog>>) -> Result<(), Error> {
        let mut now = Nanos(0);
        let mut warned = false;
        loop {
            let step = self.engine.borrow_mut().run_step(now);
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
                // A simulator that cannot keep up must still read what its clients send.
                tokio::task::yield_now().await;
            }
            let late = self.clock.now().since(step.ends_at);
            self.deliver_step(&step, late);
            now = step.ends_at;
            if late > MAX_LATENESS {
                now = self.clock.now();
                if !std::mem::replace(&mut warned, true) {
                    cli::print_warning(
                        "vb-sim",
                        format!("a step was {late} late: this machine is too slow for the load"),
                    );
                }
            }
        }
    }

    fn deliver_step(&self, step: &EngineStep, late: Nanos) {
        let (mut active, mut metrics) = (self.active.borrow_mut(), self.metrics.borrow_mut());
        metrics.step_lateness.observe_duration(late);
        metrics.iteration_tokens.observe_value(step.scheduled_tokens as f64);
        for admission in &step.admitted {
            let Some(request) = active.get_mut(&admission.id) else { continue };
            request.admitted = step.starts_at;
            let mut progress = request.progress.borrow_mut();
            progress.cached_tokens = admission.cached_tokens;
            progress.queue_time = Some(request.admitted.since(request.arrived));
            metrics.prompt_tokens += request.prompt_tokens;
            metrics.cached_tokens += u64::from(admission.cached_tokens);
        }
        for token in &step.tokens {
            let Some(request) = active.get_mut(&token.id) else { continue };
            let waker = request.record_token(step.ends_at, token.index, token.last);
            request.count_token(step.ends_at, token.index, &mut metrics);
            if token.last {
                request.count_finished(token.index as u64 + 1, &mut metrics);
                active.remove(&token.id);
            }
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl ActiveRequest {
    fn record_token(&self, due: Nanos, index: usize, last: bool) -> Option<Waker> {
        let mut progress = self.progress.borrow_mut();
        progress.due = due;
        progress.generated = index + 1;
        progress.finished = last;
        progress.waker.take()
    }

    fn count_token(&mut self, now: Nanos, index: usize, metrics: &mut SimMetrics) {
        if self.prompt_only {
            (self.first, self.latest) = (now, now);
            return;
        }
        metrics.generation_tokens += 1;
        if index == 0 {
            self.first = now;
            metrics.time_to_first_token.observe_duration(now.since(self.arrived));
        } else {
            metrics.inter_token_latency.observe_duration(now.since(self.latest));
        }
        self.latest = now;
    }

    fn count_finished(&self, tokens: u64, metrics: &mut SimMetrics) {
        if self.stops {
            metrics.stop += 1;
        } else {
            metrics.length += 1;
        }
        let decode = self.latest.since(self.first);
        metrics.request_prompt_tokens.observe_value(self.prompt_tokens as f64);
        if !self.prompt_only {
            metrics.request_generation_tokens.observe_value(tokens as f64);
        }
        metrics.e2e_request_latency.observe_duration(self.latest.since(self.arrived));
        metrics.request_queue_time.observe_duration(self.admitted.since(self.arrived));
        metrics.request_inference_time.observe_duration(self.latest.since(self.admitted));
        metrics.request_prefill_time.observe_duration(self.first.since(self.admitted));
        metrics.request_decode_time.observe_duration(decode);
        if tokens > 1 {
            metrics.time_per_output_token.observe_duration(Nanos(decode.0 / (tokens - 1)));
        }
    }
}

impl Ticket {
    /// Waits for tokens that were not taken yet and takes them; returns their number and whether they are the last ones.
    pub fn poll_tokens(&mut self, cx: &mut Context<'_>) -> Poll<(usize, bool)> {
        let mut progress = self.progress.borrow_mut();
        if progress.generated == self.taken && !progress.finished {
            progress.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let fresh = progress.generated - self.taken;
        self.taken = progress.generated;
        let late = self.driver.clock.now().since(progress.due);
        self.driver.metrics.borrow_mut().token_lateness.observe_duration(late);
        Poll::Ready((fresh, progress.finished))
    }

    /// Waits for the last token.
    pub async fn wait_finished(&mut self) {
        while !std::future::poll_fn(|cx| self.poll_tokens(cx)).await.1 {}
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.progress.borrow().finished {
            self.driver.engine.borrow_mut().abort_request(self.id);
            self.driver.active.borrow_mut().remove(&self.id);
            self.driver.metrics.borrow_mut().abort += 1;
        }
    }
}
