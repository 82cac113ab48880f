//! Statistics of samples and series, with vLLM's formulas: percentiles with intervals, histograms, tests for trends.
//!
//! Nothing here knows requests or runs. `docs/METRICS.md` has the formulas and their sources.

pub mod bins;
mod dependence;
pub mod histogram;
pub mod interval;
pub mod levels;
pub mod numpy;
mod ranks;
mod sample;
mod summary;
pub mod trend;

pub use self::{
    dependence::{Dependence, Doubt, MIN_CORRELATION_TIMES, find_doubt},
    histogram::HdrHistogram,
    ranks::percentiles_of_slices,
    sample::{PoolMode, SampleEvidence, SampleStats, SummaryOptions, Unit, parse_percentiles},
    summary::{Summary, SummaryHistogram, parse_percentile},
};
