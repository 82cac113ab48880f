//! What ships with the project, and the files that datasets come in.

mod json_list;
mod parquet;
mod rows;
mod span;
mod spool;
pub mod table;

pub use rows::{Row, Rows};

/// Shakespeare's sonnets, one line of verse a line, apostrophes and punctuation left out.
pub const SONNETS: &str = include_str!("sonnets.txt");
