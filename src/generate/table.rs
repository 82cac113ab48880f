//! A CSV file, whose columns are found by name.

use std::io::Read;

use crate::error::Error;

/// The rows of a table.
pub struct Table<R> {
    reader: csv::Reader<R>,
    name: String,
    header: Vec<String>,
    record: csv::StringRecord,
}

impl<R: Read> Table<R> {
    /// Reads the header.
    pub fn new(input: R, name: String) -> Result<Self, Error> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(input);
        let header = reader.headers().map_err(|e| bad(&name, e))?;
        // Spreadsheets put a byte order mark in front.
        let header = header.iter().map(|column| column.trim_start_matches('\u{feff}').to_owned()).collect();
        Ok(Table { reader, name, header, record: csv::StringRecord::new() })
    }

    /// The place of the column of this name.
    pub fn column(&self, name: &str) -> Result<usize, Error> {
        let found = self.header.iter().position(|column| column.eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let (file, columns) = (&self.name, self.header.join(", "));
            Error::Input(format!("{file}:1: no column `{name}`; there are {columns}: is it another dataset's file?"))
        })
    }

    /// The place of a column that may be absent.
    pub fn optional(&self, name: &str) -> Option<usize> {
        self.column(name).ok()
    }

    /// Reads the next row; whether there was one.
    pub fn advance(&mut self) -> Result<bool, Error> {
        self.reader.read_record(&mut self.record).map_err(|e| bad(&self.name, e))
    }

    /// A field of the row.
    pub fn text(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default()
    }

    /// A field of the row as `parse` reads it.
    pub fn field<T>(&self, column: usize, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        let text = self.text(column);
        parse(text).ok_or_else(|| {
            let column = self.header.get(column).map_or("", String::as_str);
            Error::Input(format!("{}:{}: `{text}` in the column `{column}`", self.name, self.line()))
        })
    }

    /// The line of the row.
    pub fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }
}

fn bad(name: &str, e: csv::Error) -> Error {
    let line = e.position().map_or_else(String::new, |at| format!(":{}", at.line()));
    let what = e.to_string();
    match e.into_kind() {
        csv::ErrorKind::Io(e) => Error::read(name, e),
        _ => Error::Input(format!("{name}{line}: {what}")),
    }
}
