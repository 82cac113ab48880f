//! The tools as a user runs them: real binaries, real pipes, the simulated server on a port of its own.

mod agg;
mod config;
mod fire;
mod generate;
mod readme;
mod sim;
mod stats;
mod tool;
