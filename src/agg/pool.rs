//! `--pool`: one result of all, as if their requests had been given to one `vb-stats`.

use std::path::PathBuf;

use serde_json::value::RawValue;

use super::input::{source, texts};
use crate::{
    error::{Error, strip_location},
    ndjson::BOM,
    stats::{self, RunResult},
};

/// Reads the results in these and puts them together.
pub fn pool(paths: &[PathBuf]) -> Result<RunResult, Error> {
    let mut results = Vec::new();
    let mut wrong = None;
    texts(paths, |text, path| {
        let text = text.strip_prefix(BOM).unwrap_or(text);
        for value in serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>() {
            match value.and_then(|raw| RunResult::parse(raw.get().as_bytes())) {
                Ok(result) => results.push(result),
                Err(e) => {
                    let cure = "give it results of vb-stats --histograms";
                    wrong.get_or_insert(format!("{}: {}; {cure}", source(path), strip_location(&e)));
                    return;
                }
            }
        }
    })?;
    match wrong {
        Some(wrong) => Err(Error::Input(wrong)),
        None => stats::pool_runs(results).map_err(Error::Input),
    }
}
