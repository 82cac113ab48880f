//! How a run is ended early: first nothing new is started, then what still runs is cancelled.

use tokio::sync::watch;

/// How far the ending has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Running,
    Draining,
    Cancelled,
}

/// Why a run was ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `--max-seconds` is over.
    MaxSeconds,
    /// A signal.
    Interrupted,
    /// Nobody takes the records any more.
    OutputLost,
    /// The reader of the records takes them too slowly for `--max-buffer`.
    OutputStalled,
    /// A turn before it, in the same conversation, has failed. This ends no run, only the conversation.
    EarlierTurn,
    /// It has a place for a reply that the server never gave. This ends no run either.
    NoReply,
}

impl Why {
    /// In words, for the end record.
    pub fn words(self) -> &'static str {
        match self {
            Why::MaxSeconds => "--max-seconds was over",
            Why::Interrupted => "interrupted by a signal",
            Why::OutputLost => "the records could not be written",
            Why::NoReply => "it has places for more replies than there were turns before it",
            Why::EarlierTurn => "an earlier turn of its session failed",
            Why::OutputStalled => "the reader of the records was too slow for --max-buffer",
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    stage: Stage,
    why: Option<Why>,
}

/// Ends a run. The first reason is the one that counts.
#[derive(Debug, Clone, Default)]
pub struct Stopper(watch::Sender<State>);

impl Stopper {
    /// Starts nothing new.
    pub fn drain(&self, why: Why) {
        self.reach(Stage::Draining, why);
    }

    /// Cancels what runs, and starts nothing new.
    pub fn cancel(&self, why: Why) {
        self.reach(Stage::Cancelled, why);
    }

    /// A signal came: the first drains, the next cancels.
    pub fn signal(&self) {
        let running = self.0.borrow().stage == Stage::Running;
        self.reach(if running { Stage::Draining } else { Stage::Cancelled }, Why::Interrupted);
    }

    fn reach(&self, stage: Stage, why: Why) {
        self.0.send_modify(|state| {
            state.stage = state.stage.max(stage);
            state.why.get_or_insert(why);
        });
    }

    /// A view of it.
    pub fn watch(&self) -> Stop {
        Stop(self.0.subscribe())
    }
}

/// A view of how a run is ended.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<State>);

impl Stop {
    /// Why the run is ended early; `None`: it goes on.
    pub fn why(&self) -> Option<Why> {
        self.0.borrow().why
    }

    /// Ends when nothing new is to be started.
    pub async fn draining(&mut self) {
        self.reached(Stage::Draining).await;
    }

    /// Ends when what runs is to be cancelled.
    pub async fn cancelled(&mut self) {
        self.reached(Stage::Cancelled).await;
    }

    async fn reached(&mut self, stage: Stage) {
        if self.0.wait_for(|state| state.stage >= stage).await.is_err() {
            // The stopper is gone, so this will never come.
            std::future::pending::<()>().await;
        }
    }
}
