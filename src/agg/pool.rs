//! `--pool`: one result for all, as if one `vb-stats` had read all their requests.

use std::path::PathBuf;

use serde_json::value::RawValue;

use super::input::{input_name, read_texts};
use crate::{
    error::{Error, strip_location},
    ndjson::BOM,
    stats::{self, RunResult},
};

/// Reads the results and pools them.
pub fn pool_results(paths: &[PathBuf]) -> Result<RunResult, Error> {
    let mut results = Vec::new();
    let mut invalid = None;
    read_texts(paths, |text, path| {
        let text = text.strip_prefix(BOM).unwrap_or(text);
        for value in serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>() {
            match value.and_then(|raw| RunResult::parse(raw.get().as_bytes())) {
                Ok(result) => results.push(result),
                Err(e) => {
                    let cure = "--pool needs results of vb-stats --histograms";
                    invalid.get_or_insert(format!("{}: {}; {cure}", input_name(path), strip_location(&e)));
                    return;
                }
            }
        }
    })?;
    match invalid {
        Some(invalid) => Err(Error::Input(invalid)),
        None => stats::pool_runs(results).map_err(Error::Input),
    }
}
