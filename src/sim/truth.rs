//! The truth log: when each token really left, by request id, so that any client can be checked against it.

use std::{
    cell::RefCell,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    units::{Nanos, UnixNanos},
};

/// One request as the server saw it: a line of the truth log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The client's `x-request-id`, or a name that the server made up.
    pub request_id: String,
    /// When the last of the request had reached the server's socket, by the kernel's stamp; `null`: there is none. A TTFT
    /// that is true begins here: what the request waits from now on, it waits at the server.
    pub arrived: Option<UnixNanos>,
    /// When the request had been read completely.
    pub received: UnixNanos,
    /// The HTTP status; `null`: no answer was begun.
    pub status: Option<u16>,
    /// For each token-bearing chunk, when it was handed to the socket: read right before the write.
    pub sent: Vec<UnixNanos>,
    /// The tokens in each of these chunks.
    pub tokens: Vec<u32>,
    /// Handed to the engine → its first turn there, in virtual time; `null`: it never had one.
    pub queue_time: Option<Nanos>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of those, the ones from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens that were generated for the answer; a fault may have kept some of them back.
    pub output_tokens: u32,
    /// `length`, `stop`; `null`: the answer was never finished.
    pub finish_reason: Option<String>,
    /// The fault, as in `--fault`; `null`: none.
    pub fault: Option<String>,
}

/// The file behind `--truth-log`.
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

    /// Adds a line. A failure shows when the log is flushed.
    pub fn write(&self, truth: &Truth) {
        let mut out = self.out.borrow_mut();
        let _ = serde_json::to_writer(&mut *out, truth).map_err(Into::into).and_then(|()| out.write_all(b"\n"));
    }

    /// Brings everything to the file.
    pub fn flush(&self) -> Result<(), Error> {
        self.out.borrow_mut().flush().map_err(|e| Error::write(&self.path, e))
    }
}
