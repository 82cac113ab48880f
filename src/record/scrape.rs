//! The server's metrics during a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Object;
use crate::units::{Nanos, UnixNanos};

/// The server's metrics at one moment of a run, from its `/metrics` page (`vb-fire --scrape`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScrapeRecord {
    /// Always `"scrape"`.
    #[serde(rename = "type")]
    pub kind: ScrapeType,
    /// The run it belongs to.
    pub run_id: String,
    /// When the page was requested.
    pub time: UnixNanos,
    /// The URL of the page, without user and password.
    pub url: String,
    /// How long the response took.
    pub took: Nanos,
    /// Why the scrape failed, in one line; `null` on success.
    pub error: Option<String>,
    /// The samples as the server wrote them: the name with its labels, and the number. Samples that are not finite numbers and
    /// `_created` samples are left out; `_bucket` and `_info` samples are only in the first and the last scrape of a run.
    pub metrics: Object,
}

/// The value of `type` in a scrape record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScrapeType {
    /// The only value.
    #[default]
    #[serde(rename = "scrape")]
    Scrape,
}
