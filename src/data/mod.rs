//! Data that ships with the project, and the file formats that datasets come in.

mod json_list;
mod parquet;
mod rows;
mod span;
mod spool;
pub mod table;

pub use rows::{Row, Rows};

/// Shakespeare's sonnets, one line of verse per line, without apostrophes and punctuation.
pub const SONNETS: &str = include_str!("sonnets.txt");
