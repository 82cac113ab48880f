//! Load tests for LLM inference servers: small programs joined by NDJSON pipes.
//!
//! ```text
//!                        vLLM, or vb-sim
//!                             ▲ │ HTTP
//!                             │ ▼
//! vb-gen ──SampleRequest──▶ vb-fire ──RequestFuncOutput──▶ vb-stats ──result──▶ vb-agg ──▶ CSV
//! prompts of                load, and the moment           numbers of           one row
//! exact length              of each token                  one run              a run
//! ```
//!
//! Each tool is a function of this library, `run(Args)` in the module of its name; the binaries only call it. Where to
//! look, from the ground up: a module uses those of the groups above it (`tests/it/layers.rs` holds them to it).
//!
//! | module | what it is |
//! |---|---|
//! | [`error`] | why a tool stopped, and its exit code |
//! | [`units`] | integer nanoseconds and counts: in JSON, in flags, for people |
//! | [`clock`] | the one place that asks for the time |
//! | [`rng`] | named random streams, the same on every machine |
//! | | |
//! | [`record`] | the lines on the pipes: the product's interface, described in `docs/FORMAT.md` |
//! | [`ndjson`] | reading and writing them, a line each |
//! | [`statistics`] | percentiles with intervals, histograms, tests for trends: knows no requests |
//! | [`pacer`] | waiting for an instant, to a tenth of a millisecond |
//! | | |
//! | [`data`] | dataset files, read row by row, and the sonnets |
//! | [`http`] | connections with stamps, server-sent events; questions off the stopwatch |
//! | [`load`] | when each request is due, decided before any clock runs |
//! | [`tokens`] | tokenizers: built in, from a file, from the hub, or the server's own |
//! | | |
//! | [`backend`] | the APIs that servers speak: bodies of requests, pieces of replies |
//! | | |
//! | [`cli`] | what every `main` shares: flags, pipes, signals, exit codes |
//! | [`config`] | `config.yaml`: the grid of a sweep, and a value for any flag, which it asks the tools for |
//! | | |
//! | [`recording`] | the outputs of a run as read from streams: what statistics are made of |
//! | | |
//! | [`generate`] | `vb-gen`: a dataset becomes requests |
//! | [`fire`] | `vb-fire`: requests become outputs |
//! | [`stats`] | `vb-stats`: the outputs of a run become one result, by the definitions of `docs/METRICS.md` |
//! | [`diff`] | `vb-diff`: two sides of outputs become a verdict for each metric |
//! | [`agg`] | `vb-agg`: results become a table |
//! | [`sim`] | `vb-sim`: a server whose timing is known and whose faults are wanted |
//! | [`selftest`] | `vb-selftest`: the client of this machine against the truth log of `vb-sim` |

pub mod agg;
pub mod backend;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data;
pub mod diff;
pub mod error;
pub mod fire;
pub mod generate;
pub mod http;
pub mod load;
pub mod ndjson;
pub mod pacer;
pub mod record;
pub mod recording;
pub mod rng;
pub mod selftest;
pub mod sim;
pub mod statistics;
pub mod stats;
pub mod tokens;
pub mod units;
