//! The records that travel on the pipes. `docs/FORMAT.md` is their manual.
//!
//! They are the public interface of the tools: data without behaviour. Readers ignore unknown keys, so old tools can read
//! new streams. Keys are written in the order of the fields.

use schemars::JsonSchema;

mod json_writer;
mod output;
mod prompt_lengths;
mod request;
mod request_line;
mod run;
mod scrape;
mod truth;

pub use json_writer::WriteJson;
pub use output::{ErrorKind, OutputType, Phases, RequestFuncOutput, ServerTimes, Stamp, TokenSource};
pub use prompt_lengths::PromptLengths;
pub use request::{Prompt, SampleRequest};
pub use request_line::{ContentForm, RawContent};
pub use run::{
    Arrivals, Bounds, Buffering, ClientUse, ClockAnchor, EndRecord, EndType, GapTest, LateCounts, NotSent,
    PercentileBounds, Percentiles, RunRecord, RunType, Stamps, TimeBounds, Verdict,
};
pub use scrape::{ScrapeRecord, ScrapeType};
pub use truth::Truth;

/// The version of the record format, in the `run` record of every stream.
pub const FORMAT_VERSION: u32 = 1;

/// Any line of the output of `vb-fire`, for its JSON Schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant)] // never built
pub enum Line {
    /// The first line.
    Run(RunRecord),
    /// One per request.
    Output(RequestFuncOutput),
    /// The server's metrics, with `--scrape`.
    Scrape(ScrapeRecord),
    /// The last line.
    End(EndRecord),
}

/// A flat JSON object whose keys keep their order.
pub type Object = serde_json::Map<String, serde_json::Value>;
