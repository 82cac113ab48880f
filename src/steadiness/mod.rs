//! How a run developed: in a steady state, overloaded, drifting or changing.
//!
//! All times are *issue* times, the starts of requests: a request that ends late cannot stretch the window. The verdict goes by the
//! `backlog`, and by series of blocks (`signals`) without the `warm_up`.

pub mod backlog;
pub mod little;
pub mod lock_step;
mod signals;
pub mod stall;
mod verdict;
mod warm_up;

pub use self::{
    signals::Signal,
    verdict::{Judgement, Levels, Stability, SteadyInput, Window, judge_run, percentile_of_latencies},
};
