//! Datasets as people publish them, by the ending of the file: JSON, JSON lines, CSV and parquet become rows of JSON.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{Rows, quotes::Quotes, spool::Spool};
use crate::error::Error;

/// How many rows of JSON tell which columns there are.
const LOOKED_AT: usize = 1000;

/// Chooses among the names of columns those that are needed.
pub type Pick<'a> = &'a mut dyn FnMut(&[String]) -> Result<Vec<String>, Error>;

/// The rows of a file, or of the parquet files of a folder in the order of their names.
///
/// `pick` sees the names of the columns once, before any row. CSV and parquet cannot be read in any order, so the chosen columns
/// are unpacked into an unnamed temporary file, not into memory. `lenient`: what is bad or cut off is left out, but of parquet, which
/// is whole or no parquet; the second value then says how much.
pub fn open(path: &Path, lenient: bool, pick: Pick) -> Result<(Rows, Option<String>), Error> {
    if path.is_dir() {
        return Ok((super::parquet::open(&shards(path)?, path, pick)?, None));
    }
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str().unwrap_or_default() {
        "parquet" => Ok((super::parquet::open(&[path.to_owned()], path, pick)?, None)),
        "csv" => csv(path, b',', lenient, pick),
        "tsv" => csv(path, b'\t', lenient, pick),
        "json" | "jsonl" | "ndjson" => json(path, lenient, pick),
        other => Err(Error::Usage(format!(
            "{}: what a file ending in `{other}` holds is not known: .parquet, .json, .jsonl, .csv, .tsv, or a folder of .parquet",
            path.display()
        ))),
    }
}

/// The parquet files of a folder.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |e| Error::read(folder, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet")) {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    if paths.is_empty() {
        return Err(Error::Usage(format!("the folder {} has no .parquet file in it", folder.display())));
    }
    Ok(paths)
}

/// A list or lines: many a `.json` holds lines.
fn json(path: &Path, lenient: bool, pick: Pick) -> Result<(Rows, Option<String>), Error> {
    let (rows, note) = if begins_a_list(path)? { Rows::of_list(path, lenient)? } else { (Rows::of_lines(path)?, None) };
    pick(&keys(&rows, path)?)?;
    Ok((rows, note))
}

/// The keys of the first rows, in the order in which they come: a row may lack what others have.
fn keys(rows: &Rows, path: &Path) -> Result<Vec<String>, Error> {
    let (mut keys, mut seen, mut bad) = (Vec::new(), HashSet::new(), None);
    for index in 0..rows.count().min(LOOKED_AT) {
        let Some(row) = rows.read(index)? else { break };
        match serde_json::from_slice::<Map<String, Value>>(&row.json) {
            Ok(object) => keys.extend(object.into_iter().map(|(key, _)| key).filter(|key| seen.insert(key.clone()))),
            // Told when it is its turn, unless no row is better.
            Err(e) => bad = bad.or_else(|| Some(row.bad_json(&e))),
        }
    }
    match bad {
        Some(e) if keys.is_empty() => Err(e),
        _ if rows.count() == 0 => Err(Error::Input(format!("{} has no row", path.display()))),
        _ => Ok(keys),
    }
}

fn begins_a_list(path: &Path) -> Result<bool, Error> {
    let mut file = BufReader::new(File::open(path).map_err(|e| Error::read(path, e))?);
    loop {
        let bytes = file.fill_buf().map_err(|e| Error::read(path, e))?;
        // White space and a byte order mark are no sign of either.
        match bytes.iter().find(|byte| !byte.is_ascii_whitespace() && !crate::ndjson::BOM.contains(byte)) {
            Some(byte) => return Ok(*byte == b'['),
            None if bytes.is_empty() => return Ok(false),
            None => {
                let n = bytes.len();
                file.consume(n);
            }
        }
    }
}

/// A table with a line of names; every value is text.
fn csv(path: &Path, delimiter: u8, lenient: bool, pick: Pick) -> Result<(Rows, Option<String>), Error> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(Quotes::of(file, delimiter));
    let wrong = |e: csv::Error| match e.into_kind() {
        csv::ErrorKind::Io(e) => Error::read(path, e),
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |pos| pos.line());
            Error::Input(format!(
                "{name}:{line}: {len} fields, but the first line has {expected_len}; --lenient leaves it out"
            ))
        }
        csv::ErrorKind::Utf8 { pos, err } => {
            Error::Input(format!("{name}:{}: {err}; --lenient leaves it out", pos.map_or(0, |pos| pos.line())))
        }
        other => Error::Input(format!("{name}: {other:?}")),
    };
    let mut names: Vec<String> = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect();
    if let Some(first) = names.first_mut() {
        *first = first.trim_start_matches('\u{feff}').to_owned();
    }
    let unclosed = |line: u64| {
        format!("{name}:{line}: a quote is opened here and never closed, so the rest of the file is one field")
    };
    if let Some(line) = reader.get_ref().unclosed() {
        return Err(Error::Input(unclosed(line)));
    }
    let picked = pick(&names)?;
    let mut spool = Spool::new()?;
    let (mut record, mut bad, mut notes) = (csv::StringRecord::new(), 0_u64, Vec::new());
    loop {
        let read = reader.read_record(&mut record);
        if let Some(line) = reader.get_ref().unclosed() {
            let what = unclosed(line);
            if !lenient {
                return Err(Error::Input(format!("{what}: close it, or pass --lenient to leave that out")));
            }
            notes.push(format!("{what}; left out"));
            break;
        }
        match read.map_err(wrong) {
            Ok(false) => break,
            Ok(true) => {
                let fields = names.iter().zip(&record).filter(|(name, _)| picked.contains(name));
                let row: Map<String, Value> = fields.map(|(name, text)| (name.clone(), text.into())).collect();
                spool.push(&row, record.position().map_or(0, csv::Position::line))?;
            }
            Err(Error::Input(_)) if lenient => bad += 1,
            Err(e) => return Err(e),
        }
    }
    if bad > 0 {
        notes.push(format!("{bad} bad lines of {name} were left out"));
    }
    Ok((spool.rows(name, ":")?, (!notes.is_empty()).then(|| notes.join("; "))))
}
