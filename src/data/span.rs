//! The place of a row in its file.

/// Where a row lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset in bytes of its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Line or row number, counted from 1; 0 if the file has none.
    pub line: u64,
}
