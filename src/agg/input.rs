//! Finds and reads results: files, folders, or standard input.

use std::{
    ffi::OsStr,
    fs,
    io::{BufReader, Read},
    iter::once,
    path::{Path, PathBuf},
};

use super::run::{ResultRow, ResultRows};
use crate::{
    cli,
    error::{Error, strip_location},
    json,
    ndjson::BOM,
    summaries::{self, NoSummary},
};

/// How often broken input may be read again, to lose as little of it as possible.
const MAX_REREAD: usize = 8;

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
        let name = input_name(path);
        let mut from = if text.starts_with(BOM) { BOM.len() } else { 0 };
        if !path.is_empty() && text[from..].trim_ascii().is_empty() {
            self.report_broken(1, format_args!("{name}: the file is empty; skipped"));
        }
        // Lines before `from`, the first error, and how many there are: one message for an input of any length.
        let (mut lines_before, mut first_error, mut errors) = (0, None, 0);
        let (mut others, mut reread) = (0, 0);
        while let Some(start) = text[from..].iter().position(|b| !b.is_ascii_whitespace()).map(|at| from + at) {
            lines_before += count_lines(&text[from..start]);
            let next = || text[start..].windows(2).position(|w| w == b"\n{").map_or(text.len(), |at| start + at);
            // Input that has been read many times over is read object by object: an open bracket then ends with its line.
            let end = if reread > MAX_REREAD * text.len() { next() } else { text.len() };
            let mut values = serde_json::Deserializer::from_slice(&text[start..end]).into_iter::<ResultRows>();
            let read = match values.next() {
                Some(Ok(ResultRows(runs))) => {
                    if let Some(what) = runs.iter().find_map(ResultRow::describe_record) {
                        return self.report_broken(1, format_args!("{name}: {what}; skipped"));
                    }
                    Ok((runs, values.byte_offset()))
                }
                Some(Err(e)) => parse_repaired(&text[start..end]).ok_or(e),
                None => break,
            };
            match read {
                Ok((runs, len)) => {
                    from = start + len;
                    match self.add_runs(runs, &text[start..from], path) {
                        Ok(more) => others += more,
                        Err(what) => return self.report_broken(1, format_args!("{name}: {what}; skipped")),
                    }
                }
                Err(e) => {
                    errors += 1;
                    first_error.get_or_insert_with(|| (lines_before + e.line(), strip_location(&e)));
                    reread += offset_of_error(&text[start..end], &e);
                    // Not after the error: an object that is cut off may run into the next ones.
                    from = next();
                }
            }
            lines_before += count_lines(&text[start..from]);
        }
        if let Some((line, error)) = first_error {
            let more = if errors > 1 { format!(", and {} more like it", errors - 1) } else { String::new() };
            self.report_broken(errors, format_args!("{name}:{line}: {error}{more}; skipped"));
        }
        let what = format!("not the result of a run; results of {} are read", summaries::known_tools());
        match others {
            0 => {}
            1 => cli::print_warning("vb-agg", format_args!("{name}: {what}; skipped")),
            n => cli::print_warning("vb-agg", format_args!("{name}: {n} objects, each {what}; skipped")),
        }
    }

    /// Adds the results that `json` holds, of this or another program. Returns how many of the rows are something else.
    ///
    /// # Errors
    /// The program that wrote it is known, and this version of its results is not.
    fn add_runs(&mut self, runs: Vec<ResultRow>, json: &[u8], path: &str) -> Result<usize, String> {
        let (mut results, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(ResultRow::is_result);
        let mut unknown = others.len();
        if results.is_empty() && unknown == 1 {
            match summaries::read_summaries(json) {
                Ok(Ok(found)) => {
                    results = found.into_iter().map(ResultRow::from).collect();
                    unknown = 0;
                }
                Ok(Err(NoSummary::Unreadable(what))) => return Err(what),
                Ok(Err(NoSummary::Unknown(_))) | Err(_) => {}
            }
        }
        self.runs.extend(results.into_iter().map(|run| run.with_file(path)));
        Ok(unknown)
    }

    fn report_broken(&mut self, parts: usize, what: std::fmt::Arguments<'_>) {
        cli::print_warning("vb-agg", what);
        self.broken += parts;
    }
}

/// The position of an error in the text that was parsed.
fn offset_of_error(text: &[u8], e: &serde_json::Error) -> usize {
    let mut starts = once(0).chain(memchr::memchr_iter(b'\n', text).map(|at| at + 1));
    let line = starts.nth(e.line().saturating_sub(1));
    line.map_or(text.len(), |at| (at + e.column()).min(text.len()))
}

fn count_lines(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

/// Parses the first value of `text` after repairing it, as vLLM and pandas write NaN: its results, and its length. A value ends
/// before the next line that begins an object, and a list at the end of the text.
fn parse_repaired(text: &[u8]) -> Option<(Vec<ResultRow>, usize)> {
    let is_list = text.first() == Some(&b'[');
    let next = text.windows(2).position(|pair| pair == b"\n{").filter(|_| !is_list);
    let len = next.unwrap_or(text.len());
    let ResultRows(runs) = json::parse_lenient(&text[..len]).ok()?;
    Some((runs, len))
}

/// The name of an input in messages.
#[must_use]
pub fn input_name(path: &str) -> &str {
    if path.is_empty() { "stdin" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> FoundResults {
        let mut found = FoundResults::default();
        found.take_results(text, "");
        found
    }

    const RESULT: &str = r#"{"duration":1.0,"completed":1}"#;

    #[test]
    fn a_result_that_is_cut_anywhere_costs_only_itself() {
        for end in 1..RESULT.len() {
            for (text, whole) in [
                (RESULT[..end].to_owned(), 0),
                (format!("{RESULT}\n{}", &RESULT[..end]), 1),
                (format!("{}\n{RESULT}\n", &RESULT[..end]), 1),
                (format!("{RESULT}\n{}\n\n{RESULT}", &RESULT[..end]), 2),
            ] {
                let found = read(text.as_bytes());
                assert_eq!((found.runs.len(), found.broken), (whole, 1), "{text}");
            }
        }
    }

    /// The time for many broken lines grows with their number, and not with its square.
    #[test]
    fn many_broken_lines_are_counted() {
        let found = read("{\"a\":}\n".repeat(200_000).as_bytes());
        assert_eq!((found.runs.len(), found.broken), (0, 200_000));
        assert_eq!(read("{\"a\":[1,\n".repeat(20_000).as_bytes()).broken, 20_000);
    }
}
