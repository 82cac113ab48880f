//! Finds and reads results: files, folders, or standard input.

use std::{
    ffi::OsStr,
    fs,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use super::run::{Run, Runs};
use crate::{
    cli,
    error::{Error, strip_location},
    ndjson::BOM,
};

/// What was read.
#[derive(Debug, Default)]
pub struct Found {
    /// The runs, in the order of the input.
    pub runs: Vec<Run>,
    /// How many inputs, or parts of them, could not be read; each was named on standard error.
    pub broken: usize,
}

/// Hands the text of each file, of the results in folders, and of standard input for `-` (an empty path) over.
pub fn texts(paths: &[PathBuf], mut take: impl FnMut(&[u8], &str)) -> Result<(), Error> {
    for path in paths {
        if path == Path::new("-") {
            let mut text = Vec::new();
            std::io::stdin().lock().read_to_end(&mut text).map_err(|e| Error::read("stdin", e))?;
            take(&text, "");
        } else if path.is_dir() {
            for file in results_in(path)? {
                take(&read(&file)?, &file.display().to_string());
            }
        } else {
            take(&read(path)?, &path.display().to_string());
        }
    }
    Ok(())
}

/// The results right in a folder. Its `summary.json` repeats them, and other JSON is not for us.
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
        cli::print_warning("vb-agg", format!("{}: no .json file in it", folder.display()));
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
    BufReader::new(file).read_to_end(&mut text).map_err(|e| Error::read(path, e))?;
    Ok(text)
}

impl Found {
    /// Reads files, the results in folders, and standard input for `-`.
    pub fn read(&mut self, paths: &[PathBuf]) -> Result<(), Error> {
        texts(paths, |text, path| self.take(text, path))
    }

    /// The results in `text`, which was read from `path` (empty: standard input): one behind the other, on one line or
    /// on many. After a broken one it goes on at the next line that begins an object.
    fn take(&mut self, text: &[u8], path: &str) {
        let mut from = if text.starts_with(BOM) { BOM.len() } else { 0 };
        if !path.is_empty() && text[from..].trim_ascii().is_empty() {
            self.complain(format!("{path}: the file is empty; left out"));
        }
        while from < text.len() {
            let mut values = serde_json::Deserializer::from_slice(&text[from..]).into_iter::<Runs>();
            let Some(value) = values.next() else { return };
            match value {
                Ok(Runs(runs)) if runs.iter().any(Run::is_record) => {
                    let cure = "give it to vb-stats, and its result to vb-agg";
                    return self.complain(format!("{}: a stream of vb-fire: {cure}; left out", source(path)));
                }
                Ok(Runs(runs)) => {
                    from += values.byte_offset();
                    self.keep(runs, path);
                }
                Err(e) => {
                    let line = text[..from].split(|b| *b == b'\n').count() - 1 + e.line();
                    self.complain(format!("{}:{line}: {}; left out", source(path), strip_location(&e)));
                    from += after_line(&text[from..], e.line());
                    from = text[from..].windows(2).position(|w| w == b"\n{").map_or(text.len(), |at| from + at);
                }
            }
        }
    }

    fn keep(&mut self, runs: Vec<Run>, path: &str) {
        for run in runs {
            if run.is_result() {
                self.runs.push(run.of_file(path));
            } else {
                cli::print_warning(
                    "vb-agg",
                    format!("{}: not the result of a run (no duration and completed); left out", source(path)),
                );
            }
        }
    }

    fn complain(&mut self, what: String) {
        cli::print_warning("vb-agg", what);
        self.broken += 1;
    }
}

/// How many bytes the first `lines` lines have, without the last newline.
fn after_line(text: &[u8], lines: usize) -> usize {
    let ends = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i);
    ends.take(lines).last().unwrap_or(text.len())
}

/// The name of an input in messages.
#[must_use]
pub fn source(path: &str) -> &str {
    if path.is_empty() { "stdin" } else { path }
}
