//! The tools as a user runs them: real binaries, real pipes, the simulated server on a port of its own.

mod agg;
mod fire;
mod generate;
mod sim;
mod stats;
mod tool;
