//! Load tests for LLM inference servers: small programs joined by NDJSON pipes.
//!
//! ```text
//!                        vLLM, or vb-sim
//!                             ▲ │ HTTP
//!                             │ ▼
//! vb-gen ──SampleRequest──▶ vb-fire ──RequestFuncOutput──▶ vb-stats ──result──▶ vb-agg ──▶ CSV
//! prompts of                load, and the time             metrics of           one row
//! exact length              of each token                  one run              per run
//! ```
//!
//! Each tool is a function of this library: `run` in the module of the tool. The binaries only call it, through [`tools`].
//! The modules from the lowest layer to the highest; a module uses only modules of the groups above its own
//! (`tests/it/layers.rs` checks this).
//!
//! | module | what it is |
//! |---|---|
//! | [`error`] | why a tool stopped, and its exit code |
//! | [`units`] | integer nanoseconds and counts: in JSON, in flags, for people |
//! | [`printable`] | text of servers and files, made fit for a terminal |
//! | [`lang`] | the language of text for people: a table that translates it where it is shown |
//! | [`secrets`] | texts that must never be shown, and how they are found and hidden |
//! | [`clock`] | the only module that reads the system's clocks |
//! | [`rng`] | named random streams, the same on every machine |
//! | [`text`] | text files in other encodings become UTF-8 |
//! | [`printout`] | text for people: lines, notes and columns, with colours, as wide as the terminal |
//! | [`arrival`], [`fields`] | times, counts and names as others write them |
//! | [`json`] | JSON as others write it, with NaN and half characters; and quickly as we write it |
//! | [`parallel`] | work on more than one core |
//! | | |
//! | [`record`] | the lines on the pipes: the public interface, described in `docs/FORMAT.md` |
//! | [`ndjson`] | reads and writes records, one per line |
//! | [`statistics`] | percentiles with intervals, histograms, tests for trends; knows nothing of requests |
//! | [`summaries`] | results without their requests, of this and other load generators, in vLLM's keys |
//! | [`pacer`] | waits until an instant, to a tenth of a millisecond |
//! | | |
//! | [`data`] | dataset files, read row by row, and the sonnets |
//! | [`http`] | connections with timestamps, server-sent events, and requests that are not measured |
//! | [`load`] | when each request is due, computed before the run starts |
//! | [`tokens`] | tokenizers: built in, from a file, from the hub, or the server's |
//! | | |
//! | [`backend`] | the APIs of servers: builds request bodies, parses chunks |
//! | | |
//! | [`cli`] | what all tools share: files, messages, signals, exit codes |
//! | [`config`] | `config.yaml`: the grid of a sweep, and values for flags |
//! | | |
//! | [`recording`] | the outputs of a run, as read from a stream |
//! | | |
//! | [`steadiness`] | how a run developed: in a steady state, overloaded, drifting, changing |
//! | | |
//! | [`generate`] | `vb-gen`: turns a dataset into requests |
//! | [`fire`] | `vb-fire`: sends requests and records their outputs |
//! | [`stats`] | `vb-stats`: turns the outputs of a run into a result, as `docs/METRICS.md` defines it |
//! | [`diff`] | `vb-diff`: compares two sets of outputs and gives a verdict for each metric |
//! | [`agg`] | `vb-agg`: turns results into a table |
//! | [`sim`] | `vb-sim`: a simulated server with known timing and faults on demand |
//! | [`selftest`] | `vb-selftest`: checks the client on this machine against the truth log of `vb-sim` |
//! | | |
//! | [`tools`] | the seven programs, and the `main` that they share |

pub mod agg;
pub mod arrival;
pub mod backend;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data;
pub mod diff;
pub mod error;
pub mod fields;
pub mod fire;
pub mod generate;
pub mod http;
pub mod json;
pub mod lang;
pub mod load;
pub mod ndjson;
pub mod pacer;
pub mod parallel;
pub mod printable;
pub mod printout;
pub mod record;
pub mod recording;
pub mod rng;
pub mod secrets;
pub mod selftest;
pub mod sim;
pub mod statistics;
pub mod stats;
pub mod steadiness;
pub mod summaries;
pub mod text;
pub mod tokens;
pub mod tools;
pub mod units;
