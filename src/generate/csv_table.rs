//! A CSV file whose columns are found by name.

use std::{
    io::{self, BufRead, Read},
    path::Path,
};

use crate::{
    arrival::{TimeScale, TimeValue},
    cli,
    error::{Error, truncate_quote},
    fields::WholeCount,
    units::Nanos,
};

/// Longest row in bytes. A longer one is an unclosed quote, which would be read to the end of the file.
const LONGEST_ROW: usize = 1 << 16;

/// Fails when more than the longest row was read; `left` is reset before each row.
struct RowLimitReader<R> {
    input: R,
    left: usize,
}

impl<R: Read> Read for RowLimitReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a row of more than {} KiB: a quote is not closed", LONGEST_ROW >> 10),
            ));
        }
        let most = buffer.len().min(self.left);
        let got = self.input.read(&mut buffer[..most])?;
        self.left -= got;
        Ok(got)
    }
}

/// Rows of a CSV file.
pub struct CsvTable<R> {
    reader: csv::Reader<RowLimitReader<R>>,
    name: String,
    header: Vec<String>,
    record: csv::StringRecord,
}

impl CsvTable<Box<dyn BufRead + Send>> {
    /// Opens a file, or standard input for `-`, and reads its header.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (input, name) = cli::open_input(path)?;
        Self::new(input, name)
    }
}

impl<R: Read> CsvTable<R> {
    /// Reads the header.
    pub fn new(input: R, name: String) -> Result<Self, Error> {
        let input = RowLimitReader { input, left: LONGEST_ROW };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(input);
        let header = reader.headers().map_err(|e| csv_error(&name, 1, e))?;
        if header.is_empty() {
            return Err(Error::Input(format!("{name} is empty: it has no header and no rows")));
        }
        // Spreadsheets write a byte order mark first.
        let header = header.iter().map(|column| column.trim_start_matches('\u{feff}').to_owned()).collect();
        Ok(CsvTable { reader, name, header, record: csv::StringRecord::new() })
    }

    /// Index of the column called `name`.
    pub fn find_column(&self, name: &str) -> Result<usize, Error> {
        let found = self.header.iter().position(|column| column.eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let (file, columns) = (&self.name, truncate_quote(&self.header.join(", ")));
            Error::Input(format!(
                "{file}:1: no column `{name}`; the columns are {columns}: is this the file of another dataset?"
            ))
        })
    }

    /// Index of a column that may be missing.
    pub fn find_optional(&self, name: &str) -> Option<usize> {
        self.find_column(name).ok()
    }

    /// Reads the next row. `false`: the file has ended.
    pub fn read_row(&mut self) -> Result<bool, Error> {
        let line = self.reader.position().line();
        self.reader.get_mut().left = LONGEST_ROW;
        self.reader.read_record(&mut self.record).map_err(|e| csv_error(&self.name, line, e))
    }

    /// A field of the current row.
    pub fn field_text(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default()
    }

    /// A field of the current row, parsed by `parse`.
    pub fn parse_field<T>(&self, column: usize, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        let text = self.field_text(column);
        parse(text).ok_or_else(|| {
            let (column, text) = (self.header.get(column).map_or("", String::as_str), truncate_quote(text));
            Error::Input(format!("{}:{}: invalid value `{text}` in column `{column}`", self.name, self.line_number()))
        })
    }

    /// A field of the current row as a number of tokens, which some files write with a decimal point.
    pub fn parse_count(&self, column: usize) -> Result<u32, Error> {
        self.parse_field(column, |text| WholeCount::parse(text).map(|count| count.0))
    }

    /// A field of the current row as a time.
    pub fn parse_time(&self, column: usize, scale: &mut TimeScale) -> Result<Nanos, Error> {
        self.parse_field(column, |text| scale.convert(TimeValue::parse(text)?).ok())
    }

    /// The place of the current row in messages.
    pub fn row_place(&self) -> String {
        format!("{}:{}", self.name, self.line_number())
    }

    fn line_number(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }
}

/// Converts the error of a row that begins at `line`.
fn csv_error(name: &str, line: u64, e: csv::Error) -> Error {
    match e.into_kind() {
        csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::InvalidData => Error::Input(format!("{name}:{line}: {e}")),
        csv::ErrorKind::Io(e) => Error::read(name, e),
        csv::ErrorKind::Utf8 { pos, err } => {
            let line = pos.map_or(line, |at| at.line());
            Error::Input(format!("{name}:{line}: {err}"))
        }
        other => Error::Input(format!("{name}:{line}: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unclosed_quote_does_not_swallow_the_file() {
        let row = |i: usize| format!("{}{i},7\n", if i == 2000 { "\"" } else { "" });
        let text = "a,b\n".to_owned() + &(0..100_000).map(row).collect::<String>();
        let mut table = CsvTable::new(text.as_bytes(), "t.csv".into()).unwrap();
        for _ in 0..2000 {
            assert!(table.read_row().unwrap());
        }
        let error = table.read_row().unwrap_err();
        assert_eq!(error.to_string(), "t.csv:2002: a row of more than 64 KiB: a quote is not closed");
        assert_eq!(error.exit_code(), 3);

        let short = format!("a,b\n\"{}", "7,8\n".repeat(1000));
        let mut table = CsvTable::new(short.as_bytes(), "t.csv".into()).unwrap();
        assert!(table.read_row().unwrap());
        let error = table.parse_field(0, |_| None::<u32>).unwrap_err().to_string();
        assert!(error.starts_with("t.csv:2: invalid value `7,8") && error.len() < 200, "{error}");
    }

    #[test]
    fn an_empty_file_is_reported() {
        let Err(error) = CsvTable::new(&b""[..], "t.csv".into()) else { panic!("a table") };
        assert!(error.to_string().contains("t.csv is empty"), "{error}");
    }
}
