//! Ending a run early: first no new requests are sent (drain), then requests in flight are cancelled.

use tokio::sync::watch;

use crate::{
    cli,
    units::{Nanos, SECOND},
};

/// How far the run has been stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum StopStage {
    #[default]
    Running,
    Draining,
    Cancelled,
}

/// Why a run was ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// `--max-seconds` have passed.
    MaxSeconds,
    /// A signal.
    Interrupted,
    /// The records cannot be written any more.
    OutputLost,
    /// The reader of the records is too slow for `--max-buffer`.
    OutputStalled,
    /// An earlier turn of the same conversation failed. This ends only the conversation, not the run.
    EarlierTurn,
    /// It has a placeholder for a response that the server never sent. This does not end the run either.
    NoResponse,
}

impl StopReason {
    /// The reason as text, for the records.
    pub fn reason_text(self) -> &'static str {
        match self {
            StopReason::MaxSeconds => "reached --max-seconds",
            StopReason::Interrupted => "interrupted by a signal",
            StopReason::OutputLost => "the records could not be written",
            StopReason::NoResponse => "it has placeholders for more responses than there were turns before it",
            StopReason::EarlierTurn => "an earlier turn of its session failed",
            StopReason::OutputStalled => "the reader of the records was too slow for --max-buffer",
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct StopState {
    stage: StopStage,
    reason: Option<StopReason>,
}

/// Ends a run. Only the first reason is kept.
#[derive(Debug, Clone, Default)]
pub struct Stopper(watch::Sender<StopState>);

impl Stopper {
    /// Sends no new requests.
    pub fn start_drain(&self, reason: StopReason) {
        self.advance_to(StopStage::Draining, reason);
    }

    /// Cancels the requests in flight, and sends no new ones.
    pub fn cancel_all(&self, reason: StopReason) {
        self.advance_to(StopStage::Cancelled, reason);
    }

    /// Handles a signal: the first one drains, the next one cancels.
    pub fn handle_signal(&self) {
        let running = self.0.borrow().stage == StopStage::Running;
        self.advance_to(if running { StopStage::Draining } else { StopStage::Cancelled }, StopReason::Interrupted);
    }

    fn advance_to(&self, stage: StopStage, reason: StopReason) {
        self.0.send_modify(|state| {
            state.stage = state.stage.max(stage);
            state.reason.get_or_insert(reason);
        });
    }

    /// A signal that reports when this stops the run.
    pub fn stop_signal(&self) -> StopSignal {
        StopSignal(self.0.subscribe())
    }
}

/// Reports on standard error that signals end the run, and what still goes on.
pub async fn announce_stop(mut stop: StopSignal, grace: Nanos, in_flight: impl Fn() -> u64) {
    let print = |line: &str| cli::print_warning("vb-fire", line);
    stop.wait_for_drain().await;
    if stop.stop_reason() == Some(StopReason::Interrupted) {
        print(&drain_text(in_flight(), grace));
    }
    stop.wait_for_cancel().await;
    // Without their number: the threads that read them may have ended them already.
    if !matches!(stop.stop_reason(), Some(StopReason::OutputLost | StopReason::OutputStalled)) {
        print("ending now: requests in flight are cancelled");
    }
}

fn drain_text(in_flight: u64, grace: Nanos) -> String {
    let limit = if grace.0.is_multiple_of(SECOND) { format!("{} s", grace.0 / SECOND) } else { grace.to_string() };
    match in_flight {
        0 => "stopping: none in flight".into(),
        n => format!("stopping: {n} in flight, up to {limit}; Ctrl-C again ends now"),
    }
}

/// Reports how a run is ended.
#[derive(Debug, Clone)]
pub struct StopSignal(watch::Receiver<StopState>);

impl StopSignal {
    /// Why the run is ended early; `None`: it goes on.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.0.borrow().reason
    }

    /// Whether no new requests are to be sent.
    pub fn is_draining(&self) -> bool {
        self.0.borrow().stage >= StopStage::Draining
    }

    /// Returns when no new requests are to be sent.
    pub async fn wait_for_drain(&mut self) {
        self.wait_for_stage(StopStage::Draining).await;
    }

    /// Returns when the requests in flight are to be cancelled.
    pub async fn wait_for_cancel(&mut self) {
        self.wait_for_stage(StopStage::Cancelled).await;
    }

    async fn wait_for_stage(&mut self, stage: StopStage) {
        if self.0.wait_for(|state| state.stage >= stage).await.is_err() {
            // The stopper is dropped, so the stage is never reached.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_how_long_it_may_take() {
        let text = drain_text(8, Nanos(30 * SECOND));
        assert_eq!(text, "stopping: 8 in flight, up to 30 s; Ctrl-C again ends now");
        assert!(drain_text(1, Nanos(SECOND / 2)).contains("up to 500.0 ms"));
    }
}
