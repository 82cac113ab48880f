//! Finds and reads results: files, folders, or standard input.

use std::{
    ffi::OsStr,
    fs,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use super::run::{ResultRow, ResultRows};
use crate::{
    cli,
    error::{Error, strip_location},
    ndjson::BOM,
};

/// The results that were read.
#[derive(Debug, Default)]
pub struct FoundResults {
    /// The runs, in the order of the input.
    pub runs: Vec<ResultRow>,
    /// How many inputs, or parts of them, could not be read; each was reported on standard error.
    pub broken: usize,
}

/// Passes the text and the path of each file, of each result file in a folder, and of standard input for `-` to `take`. The
/// path of standard input is empty.
pub fn read_texts(paths: &[PathBuf], mut take: impl FnMut(&[u8], &str)) -> Result<(), Error> {
    for path in paths {
        if path == Path::new("-") {
            let mut text = Vec::new();
            std::io::stdin().lock().read_to_end(&mut text).map_err(|e| Error::read("stdin", e))?;
            take(&text, "");
        } else if path.is_dir() {
            for file in results_in(path)? {
                take(&read_file(&file)?, &file.display().to_string());
            }
        } else {
            take(&read_file(path)?, &path.display().to_string());
        }
    }
    Ok(())
}

/// The result files directly in a folder, without `summary.json`, which repeats them.
fn results_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|e| Error::read(folder, e))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::read(folder, e))?.path();
        let json = path.extension() == Some(OsStr::new("json"));
        if json && path.is_file() && path.file_name() != Some(OsStr::new("summary.json")) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        cli::print_warning("vb-agg", format!("{}: no .json file in this folder", folder.display()));
    }
    Ok(files)
}

fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
    BufReader::new(file).read_to_end(&mut text).map_err(|e| Error::read(path, e))?;
    Ok(text)
}

impl FoundResults {
    /// Reads files, the results in folders, and standard input for `-`.
    pub fn read(&mut self, paths: &[PathBuf]) -> Result<(), Error> {
        read_texts(paths, |text, path| self.take_results(text, path))
    }

    /// Adds the results in `text`, which was read from `path` (empty: standard input). Results follow each other, each on one
    /// or more lines. After an invalid one, reading continues at the next line that begins an object.
    fn take_results(&mut self, text: &[u8], path: &str) {
        let mut from = if text.starts_with(BOM) { BOM.len() } else { 0 };
        if !path.is_empty() && text[from..].trim_ascii().is_empty() {
            self.report_broken(format!("{path}: the file is empty; skipped"));
        }
        while from < text.len() {
            let mut values = serde_json::Deserializer::from_slice(&text[from..]).into_iter::<ResultRows>();
            let Some(value) = values.next() else { return };
            match value {
                Ok(ResultRows(runs)) if runs.iter().any(ResultRow::is_record) => {
                    let cure = "pass it to vb-stats, and the result to vb-agg";
                    return self.report_broken(format!(
                        "{}: output of vb-fire, not a result: {cure}; skipped",
                        input_name(path)
                    ));
                }
                Ok(ResultRows(runs)) => {
                    from += values.byte_offset();
                    self.add_runs(runs, path);
                }
                Err(e) => {
                    let line = text[..from].split(|b| *b == b'\n').count() - 1 + e.line();
                    self.report_broken(format!("{}:{line}: {}; skipped", input_name(path), strip_location(&e)));
                    from += bytes_of_lines(&text[from..], e.line());
                    from = text[from..].windows(2).position(|w| w == b"\n{").map_or(text.len(), |at| from + at);
                }
            }
        }
    }

    fn add_runs(&mut self, runs: Vec<ResultRow>, path: &str) {
        for run in runs {
            if run.is_result() {
                self.runs.push(run.with_file(path));
            } else {
                cli::print_warning(
                    "vb-agg",
                    format!("{}: not the result of a run (no `duration` and `completed`); skipped", input_name(path)),
                );
            }
        }
    }

    fn report_broken(&mut self, what: String) {
        cli::print_warning("vb-agg", what);
        self.broken += 1;
    }
}

/// The length of the first `lines` lines in bytes, without the last newline.
fn bytes_of_lines(text: &[u8], lines: usize) -> usize {
    let ends = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i);
    ends.take(lines).last().unwrap_or(text.len())
}

/// The name of an input in messages.
#[must_use]
pub fn input_name(path: &str) -> &str {
    if path.is_empty() { "stdin" } else { path }
}
