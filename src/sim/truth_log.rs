//! Writes the truth log (`--truth-log`).

use std::{
    cell::RefCell,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{error::Error, record::Truth};

/// The file that `--truth-log` names.
#[derive(Debug)]
pub struct TruthLog {
    path: PathBuf,
    out: RefCell<BufWriter<File>>,
}

impl TruthLog {
    /// Creates the file, or empties it.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|e| Error::write(path, e))?;
        Ok(TruthLog { path: path.to_path_buf(), out: RefCell::new(BufWriter::with_capacity(1 << 16, file)) })
    }

    /// Adds a line. An error shows when the log is flushed.
    pub fn write_line(&self, truth: &Truth) {
        let mut out = self.out.borrow_mut();
        let _ = serde_json::to_writer(&mut *out, truth).map_err(Into::into).and_then(|()| out.write_all(b"\n"));
    }

    /// Writes all lines to the file.
    pub fn flush(&self) -> Result<(), Error> {
        self.out.borrow_mut().flush().map_err(|e| Error::write(&self.path, e))
    }
}
