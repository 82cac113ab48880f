//! What the server told of itself while a run lasted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Object;
use crate::units::{Nanos, UnixNanos};

/// The server's own numbers at one moment of a run: what stood on its `/metrics` page (`vb-fire --scrape`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScrapeRecord {
    /// Always `"scrape"`.
    #[serde(rename = "type")]
    pub kind: ScrapeType,
    /// The run it belongs to.
    pub run_id: String,
    /// When the page was asked for.
    pub time: UnixNanos,
    /// The page, without any user and password.
    pub url: String,
    /// How long the answer took.
    pub took: Nanos,
    /// Why there is no page, in one line; `null`: there is one.
    pub error: Option<String>,
    /// The samples as the server wrote them: the name with its labels, and the number. Samples that are no finite number
    /// are left out, and so are `_created` ones; `_bucket` and `_info` ones are only in the first and the last page of a run.
    pub metrics: Object,
}

/// The value of `type` in a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScrapeType {
    /// The only one.
    #[default]
    #[serde(rename = "scrape")]
    Scrape,
}
