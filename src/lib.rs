//! Load tests for LLM inference servers: small programs joined by NDJSON pipes.
//!
//! ```text
//! vb-gen ──SampleRequest──▶ vb-fire ──RequestFuncOutput──▶ vb-stats ──run JSON──▶ vb-agg ──▶ CSV
//! ```
//!
//! Data flows one way, and so do the modules: each uses only those to its left.
//!
//! ```text
//! error units rng clock │ ndjson record │ tokens data load http │ generate fire stats agg sim │ config cli │ bin
//! ```

pub mod agg;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data;
pub mod error;
pub mod fire;
pub mod generate;
pub mod http;
pub mod load;
pub mod ndjson;
pub mod pacer;
pub mod record;
pub mod rng;
pub mod sim;
pub mod stats;
pub mod tokens;
pub mod units;
