//! How a run goes so far, on standard error: counted where responses are read and written, put into words by another thread.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    attempt::ClientState,
    counts::ReaderCounts,
    extent::{InputExtent, InputSize},
    priority::Work,
};
use crate::{
    cli::progress::{Progress, ProgressDisplay, format_seconds},
    error::Error,
    load::RateProfile,
    units::{Nanos, SECOND},
};

/// How often the counts are read. A terminal shows as many.
const TICK: Duration = Duration::from_millis(500);

/// How long the first request may take before that is shown.
const PATIENCE: Duration = Duration::from_secs(2);

/// Rates are counted over this many ticks: 5 s.
const WINDOW: usize = 10;

/// A server that has sent nothing for so long while requests are in flight is worth a word.
const QUIET_TIME: Nanos = Nanos(5 * SECOND);

/// What is known of the load before it is sent.
#[derive(Debug)]
pub struct ProgressPlan {
    /// The rate; `None`: as fast as responses allow, or at the times of the requests.
    pub rate: Option<RateProfile>,
    /// The end of sending.
    pub max_seconds: Option<Nanos>,
    /// Whether tokens arrive one after the other.
    pub streamed: bool,
    /// How much input there is.
    pub input: Arc<InputExtent>,
}

/// Shows that the first request is awaited, if it takes a while.
pub async fn show_waiting(shown: bool) -> Infallible {
    let mut display = if shown { ProgressDisplay::open("vb-fire", true) } else { None };
    loop {
        sleep(PATIENCE).await;
        if let Some(display) = &mut display {
            display.update(|| Progress { steps: None, text: "waiting for the first request".into() });
        }
    }
}

/// The thread that shows the progress. When this is dropped, it shows how the run ended instead.
pub struct ProgressThread {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ProgressThread {
    /// Starts it.
    pub fn start(client: Arc<ClientState>, plan: ProgressPlan, mut display: ProgressDisplay) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let show = move || {
            Work::Write.apply_to_thread();
            let mut history = History::default();
            while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                history.add(Snapshot::take(&client));
                display.update(|| history.describe(&plan));
            }
            let now = Snapshot::take(&client);
            display.close(&now.describe_end());
        };
        let thread = thread::Builder::new().name("progress".into()).spawn(show);
        let thread = thread.map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))?;
        Ok(ProgressThread { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ProgressThread {
    fn drop(&mut self) {
        // The thread ends when the sender is dropped.
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The counts at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Snapshot {
    at: Nanos,
    started: u64,
    running: u64,
    done: u64,
    failed: u64,
    tokens: f64,
    mean_ttft: Option<Nanos>,
    /// Of the successes; 0 without any.
    mean_latency: Nanos,
    /// The last end.
    ended: Nanos,
}

impl Snapshot {
    fn take(client: &ClientState) -> Self {
        let sum = |count: fn(&ReaderCounts) -> &AtomicU64| -> u64 {
            client.readers.iter().map(|reader| count(reader).load(Relaxed)).sum()
        };
        let outputs = &client.outputs;
        let (first_tokens, ttft_sum) = (sum(|reader| &reader.first_tokens), sum(|reader| &reader.ttft_sum));
        let (judged, judged_shown) = (outputs.tokens.load(Relaxed), outputs.shown_tokens.load(Relaxed));
        // A server may put several tokens into a chunk, which only the end of a response shows.
        let per_shown = if judged > 0 && judged_shown > 0 { judged as f64 / judged_shown as f64 } else { 1.0 };
        let arriving = sum(|reader| &reader.tokens).saturating_sub(judged_shown);
        Snapshot {
            at: client.clock.now(),
            started: client.started.load(Relaxed),
            running: client.count_in_flight(),
            done: outputs.done.load(Relaxed),
            failed: outputs.failed.load(Relaxed),
            tokens: judged as f64 + arriving as f64 * per_shown,
            mean_ttft: ttft_sum.checked_div(first_tokens).map(Nanos),
            mean_latency: Nanos(outputs.mean_latency.load(Relaxed)),
            ended: Nanos(client.ended.load(Relaxed)),
        }
    }

    /// How a run ended.
    fn describe_end(&self) -> String {
        let seconds = self.ended.as_secs_f64();
        let rate = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let mut parts = vec![format!("{} done in {}", self.done, format_seconds(self.ended))];
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.push(format!("{} requests/s", format_rate(rate(self.done.saturating_sub(self.failed) as f64))));
        if self.tokens > 0.0 {
            parts.push(format!("{:.0} tokens/s", rate(self.tokens)));
        }
        parts.join(", ")
    }
}

/// The counts of the last seconds.
#[derive(Debug, Default)]
struct History {
    snapshots: VecDeque<Snapshot>,
    /// When something last arrived.
    active: Nanos,
}

impl History {
    fn add(&mut self, now: Snapshot) {
        let arrived = |s: &Snapshot| (s.tokens.to_bits(), s.done);
        if now.running == 0 || self.snapshots.back().is_none_or(|last| arrived(last) != arrived(&now)) {
            self.active = now.at;
        }
        self.snapshots.push_back(now);
        if self.snapshots.len() > WINDOW + 1 {
            self.snapshots.pop_front();
        }
    }

    fn describe(&self, plan: &ProgressPlan) -> Progress {
        let (Some(first), Some(now)) = (self.snapshots.front(), self.snapshots.back()) else {
            return Progress::default();
        };
        // In the first seconds, the run is the window.
        let first = if self.snapshots.len() > WINDOW { *first } else { Snapshot::default() };
        let seconds = now.at.since(first.at).as_secs_f64().max(1e-3);
        let size = plan.input.size();
        let mut parts = vec![match size {
            InputSize::Counted(all) | InputSize::Estimated(all) if all > 0 => {
                let about = if matches!(size, InputSize::Estimated(_)) { "about " } else { "" };
                format!("{} of {about}{all}", now.done)
            }
            InputSize::AtLeast(read) if read > now.done => format!("{} of {read} or more", now.done),
            _ => format!("{} done", now.done),
        }];
        let quiet = now.at.since(self.active);
        if now.running > 0 && quiet >= QUIET_TIME {
            let what = if plan.streamed { "token" } else { "response" };
            parts.push(format!("no {what} for {}", format_seconds(quiet)));
        } else if let Some(left) = time_left(now, plan, size) {
            parts.push(format!("{} left", format_seconds(left)));
        }
        if now.failed > 0 {
            parts.push(format!("{} failed", now.failed));
        }
        parts.push(match size {
            InputSize::AtLeast(read) if now.running == 0 && now.started >= read => "waiting for requests".into(),
            _ => format!("{} running", now.running),
        });
        let sent = format_rate(now.started.saturating_sub(first.started) as f64 / seconds);
        parts.push(match &plan.rate {
            Some(rate) => {
                let due = rate.requests_by(now.at) - rate.requests_by(first.at);
                format!("{sent} of {} requests/s", format_rate(due / seconds))
            }
            None if plan.input.has_times() => format!("{sent} requests/s sent"),
            None => format!("{} requests/s", format_rate(now.done.saturating_sub(first.done) as f64 / seconds)),
        });
        if now.tokens > 0.0 {
            parts.push(format!("{:.0} tokens/s", (now.tokens - first.tokens).max(0.0) / seconds));
        }
        if let Some(ttft) = now.mean_ttft.filter(|_| plan.streamed) {
            parts.push(format!("mean TTFT {ttft}"));
        }
        let steps = match size {
            InputSize::Counted(all) | InputSize::Estimated(all) => Some((now.done, all)),
            InputSize::AtLeast(_) => None,
        };
        Progress { steps, text: parts.join(", ") }
    }
}

/// How long the run will last, if that is known.
fn time_left(now: &Snapshot, plan: &ProgressPlan, size: InputSize) -> Option<Nanos> {
    let all = match size {
        InputSize::Counted(all) | InputSize::Estimated(all) => Some(all),
        InputSize::AtLeast(_) => None,
    };
    let by_schedule = |last: Nanos| (last + now.mean_latency).since(now.at);
    let by_ends = || {
        let each = now.at.as_secs_f64() / now.done as f64;
        all.filter(|_| now.done > 0).map(|all| Nanos::from_secs_f64(each * all.saturating_sub(now.done) as f64))
    };
    // Requests that wait for slots, or for earlier turns, keep no schedule.
    let until = |last: Nanos, is_late: bool| Some(by_schedule(last)).max(by_ends().filter(|_| is_late));
    let by_count = match (all, &plan.rate) {
        (Some(all), Some(rate)) => {
            let due = rate.requests_by(now.at).min(all as f64);
            until(rate.time_due(all as f64), due >= (now.started + 2) as f64)
        }
        _ if plan.input.has_times() => plan.input.last_due().and_then(|last| until(last, now.at > last)),
        (_, None) => by_ends(),
        (None, Some(_)) => None,
    };
    let by_limit = plan.max_seconds.map(by_schedule);
    [by_count, by_limit].into_iter().flatten().min()
}

/// A rate with three digits.
fn format_rate(rate: f64) -> String {
    match rate {
        r if r < 9.995 => format!("{r:.2}"),
        r if r < 99.95 => format!("{r:.1}"),
        r => format!("{r:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: Option<&str>, max_seconds: Option<u64>, size: InputSize) -> ProgressPlan {
        let (InputSize::Counted(requests) | InputSize::Estimated(requests) | InputSize::AtLeast(requests)) = size;
        let input = InputExtent::with_requests(requests);
        if matches!(size, InputSize::Counted(_)) {
            input.note_end();
        }
        ProgressPlan {
            rate: rate.map(|rate| rate.parse::<crate::load::RequestRate>().unwrap().to_profile().unwrap()),
            max_seconds: max_seconds.map(|s| Nanos(s * SECOND)),
            streamed: true,
            input: Arc::new(input),
        }
    }

    /// A run with 8 streams of 50 tokens, each token 20 ms after the one before it: a request lasts a second.
    fn steady_run(ticks: u64) -> History {
        let mut history = History::default();
        for tick in 1..=ticks {
            let done = tick / 2 * 8;
            history.add(Snapshot {
                at: Nanos(tick * SECOND / 2),
                started: done + 8,
                running: 8,
                done,
                tokens: tick as f64 * 200.0,
                mean_ttft: Some(Nanos(SECOND / 50)),
                mean_latency: if done > 0 { Nanos(SECOND) } else { Nanos(0) },
                ..Snapshot::default()
            });
        }
        history
    }

    #[test]
    fn rates_cover_the_last_seconds_and_are_right_from_the_start() {
        let plan = plan(None, None, InputSize::Counted(400));
        let first = steady_run(1).describe(&plan);
        assert_eq!(first.text, "0 of 400, 8 running, 0.00 requests/s, 400 tokens/s, mean TTFT 20.0 ms");
        let later = steady_run(60).describe(&plan);
        assert_eq!(later.steps, Some((240, 400)));
        assert_eq!(later.text, "240 of 400, 20 s left, 8 running, 8.00 requests/s, 400 tokens/s, mean TTFT 20.0 ms");
    }

    #[test]
    fn the_run_ends_with_the_schedule_or_the_limit() {
        let run = steady_run(60);
        let left = |rate, limit, size| {
            let text = run.describe(&plan(rate, limit, size)).text;
            text.split(", ").find(|part| part.ends_with(" left")).map(str::to_owned)
        };
        // At 8 a second, the last of 400 is due after 50 s and ends a second later.
        assert_eq!(left(Some("8"), None, InputSize::Counted(400)).as_deref(), Some("21 s left"));
        assert_eq!(left(Some("8"), Some(35), InputSize::Counted(400)).as_deref(), Some("6 s left"));
        assert_eq!(left(None, Some(600), InputSize::AtLeast(300)).as_deref(), Some("10 min left"));
        assert_eq!(left(None, None, InputSize::AtLeast(300)), None);
    }

    #[test]
    fn a_run_that_is_later_than_its_schedule_lasts_longer() {
        // All 400 were due after 20 s, and 8 end in a second.
        let text = steady_run(60).describe(&plan(Some("20"), None, InputSize::Counted(400))).text;
        assert!(text.starts_with("240 of 400, 20 s left, "), "{text}");
    }

    #[test]
    fn a_rate_is_shown_with_the_one_that_was_asked_for() {
        let text = steady_run(60).describe(&plan(Some("8"), None, InputSize::AtLeast(248))).text;
        assert!(text.starts_with("240 of 248 or more, 8 running, 8.00 of 8.00 requests/s, "), "{text}");
    }

    #[test]
    fn a_server_that_hangs_is_noticed() {
        let mut history = steady_run(4);
        let last = *history.snapshots.back().unwrap();
        for tick in 5..=28 {
            history.add(Snapshot { at: Nanos(tick * SECOND / 2), failed: 1, ..last });
        }
        let text = history.describe(&plan(None, None, InputSize::Counted(100))).text;
        assert_eq!(
            text,
            "16 of 100, no token for 12 s, 1 failed, 8 running, 0.00 requests/s, 0 tokens/s, \
             mean TTFT 20.0 ms"
        );
        // Between two requests of a schedule, nothing is expected.
        history.add(Snapshot { at: Nanos(20 * SECOND), running: 0, ..last });
        assert!(!history.describe(&plan(Some("1"), None, InputSize::AtLeast(0))).text.contains("no token"));
    }

    #[test]
    fn the_end_counts_what_succeeded() {
        let end = Snapshot { done: 102, failed: 2, tokens: 5000.0, ended: Nanos(10 * SECOND), ..Snapshot::default() };
        assert_eq!(end.describe_end(), "102 done in 10 s, 2 failed, 10.0 requests/s, 500 tokens/s");
    }
}
