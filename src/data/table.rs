//! Datasets as people publish them, by file extension: JSON, JSON lines, CSV and parquet become rows of JSON.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{Rows, rows::PickColumns, spool::RowSpool};
use crate::{error::Error, text::TextReader};

/// How many JSON rows are read to find out which columns there are.
const ROWS_FOR_KEYS: usize = 1000;

/// Opens a file, or the parquet files of a folder in the order of their names.
///
/// `pick` gets the names of the columns once, before any row. CSV and parquet cannot be read in random order, so the chosen columns
/// are unpacked into an unnamed temporary file, not into memory. With `lenient`, bad or cut rows are left out, and the second value
/// reports how many; not for parquet, where a damaged file cannot be read at all.
pub fn open_table(path: &Path, lenient: bool, pick: PickColumns) -> Result<(Rows, Option<String>), Error> {
    if path.is_dir() {
        return Ok((super::parquet::open_parquet(&list_shards(path)?, path, pick)?, None));
    }
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str().unwrap_or_default() {
        "parquet" => Ok((super::parquet::open_parquet(&[path.to_owned()], path, pick)?, None)),
        "csv" => open_csv(path, b',', lenient, pick),
        "tsv" => open_csv(path, b'\t', lenient, pick),
        "json" | "jsonl" | "ndjson" => open_json(path, lenient, pick),
        other => Err(Error::Usage(format!(
            "{}: unknown file extension `{other}`: use .parquet, .json, .jsonl, .csv, .tsv, or a folder of .parquet",
            path.display()
        ))),
    }
}

/// The parquet files of a folder.
fn list_shards(folder: &Path) -> Result<Vec<PathBuf>, Error> {
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

/// Opens a JSON file in any form: many `.json` files hold lines.
fn open_json(path: &Path, lenient: bool, pick: PickColumns) -> Result<(Rows, Option<String>), Error> {
    let (rows, note) = Rows::from_json(path, lenient)?;
    pick(&collect_keys(&rows, path)?)?;
    Ok((rows, note))
}

/// The keys of the first rows, in order of appearance: a row may lack keys that others have.
fn collect_keys(rows: &Rows, path: &Path) -> Result<Vec<String>, Error> {
    let (mut keys, mut seen, mut bad) = (Vec::new(), HashSet::new(), None);
    for index in 0..rows.count().min(ROWS_FOR_KEYS) {
        let Some(row) = rows.read(index)? else { break };
        if row.is_null() {
            continue;
        }
        match row.parse_columns() {
            Ok(object) => keys.extend(object.into_iter().map(|(key, _)| key).filter(|key| seen.insert(key.clone()))),
            // Reported when the row is read, unless no row is better.
            Err(e) => bad = bad.or(Some(e)),
        }
    }
    match bad {
        Some(e) if keys.is_empty() => Err(e),
        _ if rows.count() == 0 => Err(Error::Input(format!("{} has no row", path.display()))),
        _ => Ok(keys),
    }
}

/// The row that is appended to a CSV file. A quote that is never closed swallows it, which reveals the quote: the rest of the file
/// is then one field, in a row that may even have the right number of fields.
const END_ROW: &str = "\n\0end of table\0";

/// A CSV file with a header; every value is text.
fn open_csv(path: &Path, delimiter: u8, lenient: bool, pick: PickColumns) -> Result<(Rows, Option<String>), Error> {
    let name = path.display().to_string();
    let file = TextReader::new(BufReader::new(File::open(path).map_err(|e| Error::read(path, e))?));
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(file.chain(END_ROW.as_bytes()));
    let wrong = |e: csv::Error| match e.into_kind() {
        csv::ErrorKind::Io(e) => Error::read(path, e),
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |pos| pos.line());
            Error::Input(format!(
                "{name}:{line}: {len} fields, but the first line has {expected_len}; --lenient leaves it out"
            ))
        }
        csv::ErrorKind::Utf8 { pos, err } => {
            let line = pos.map_or(0, |pos| pos.line());
            Error::Input(format!(
                "{name}:{line}: {err}; convert the file (iconv -f GB18030 -t UTF-8 FILE); --lenient leaves such lines out"
            ))
        }
        other => Error::Input(format!("{name}: {other:?}")),
    };
    let is_end = |row: &csv::StringRecord| row.len() == 1 && row[0] == *END_ROW.trim_start();
    let unclosed = |row: &csv::StringRecord| {
        let swallowed = row.iter().next_back().is_some_and(|field| field.ends_with(END_ROW));
        let line = row.position().map_or(0, csv::Position::line);
        swallowed.then(|| {
            format!("{name}:{line}: a quote opened in this row is never closed, so the rest of the file is one field")
        })
    };
    let header = reader.headers().map_err(wrong)?;
    if let Some(what) = unclosed(header) {
        return Err(Error::Input(what));
    }
    let mut names: Vec<String> = header.iter().filter(|_| !is_end(header)).map(str::to_owned).collect();
    if let Some(first) = names.first_mut() {
        *first = first.trim_start_matches('\u{feff}').to_owned();
    }
    let picked = pick(&names)?;
    let mut spool = RowSpool::new()?;
    let (mut row, mut bad, mut notes) = (csv::StringRecord::new(), 0_u64, Vec::new());
    loop {
        let read = reader.read_record(&mut row);
        if is_end(&row) {
            break;
        }
        if let Some(what) = unclosed(&row) {
            if !lenient {
                return Err(Error::Input(format!("{what}: close it, or pass --lenient to leave that out")));
            }
            notes.push(format!("{what}; left out"));
            break;
        }
        match read.map_err(wrong) {
            Ok(false) => break,
            Ok(true) => {
                let fields = names.iter().zip(&row).filter(|(name, _)| picked.contains(name));
                let object: Map<String, Value> = fields.map(|(name, text)| (name.clone(), text.into())).collect();
                spool.push(&object, row.position().map_or(0, csv::Position::line))?;
            }
            Err(Error::Input(_)) if lenient => bad += 1,
            Err(e) => return Err(e),
        }
    }
    if bad > 0 {
        notes.push(format!("{bad} bad lines of {name} were left out"));
    }
    Ok((spool.into_rows(name, ":")?, (!notes.is_empty()).then(|| notes.join("; "))))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The error of reading a CSV file with this text.
    fn csv_error(text: &str) -> Option<String> {
        let path = std::env::temp_dir().join(format!("vb-quotes-{}.csv", std::process::id()));
        fs::write(&path, text).unwrap();
        let read = open_csv(&path, b',', false, &mut |names| Ok(names.to_vec()));
        fs::remove_file(&path).unwrap();
        read.err().map(|e| e.to_string().strip_prefix(path.to_str().unwrap()).unwrap().to_owned())
    }

    #[test]
    fn a_quote_that_is_never_closed_is_an_error_with_its_row() {
        for closed in
            ["", "a,b\n", "\"a\",\"b\"", "\"a \"\"b\"\"\n\",c", "it's 5\" wide\n", "\"a\"b\",c", "\u{feff}\"a\"\n"]
        {
            assert_eq!(csv_error(closed), None, "{closed}");
        }
        for (cut, line) in
            [("\"a", 1), ("\u{feff}\"a\n", 1), ("a,b\nc,\"d\ne,f\n", 2), ("\"a\n\"\n\"b \"\"", 3), ("\"a\"\"", 1)]
        {
            let error = csv_error(cut).unwrap();
            assert!(error.starts_with(&format!(":{line}: a quote opened in this row")), "{cut}: {error}");
        }
    }
}
