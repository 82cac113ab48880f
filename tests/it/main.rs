//! The tools as a user runs them: real binaries, real pipes, and a simulated server.
#![allow(clippy::unwrap_used)] // These are tests, helpers included.

mod agg;
mod attack;
mod backends;
mod captures;
mod config;
mod connections;
mod conversations;
mod datasets;
mod diff;
mod files;
mod fire;
mod generate;
mod layers;
mod lengths;
mod messages;
mod mix;
mod packets;
mod pipe;
mod pool;
mod reading;
mod readme;
mod scrape;
mod selftest;
mod sessions;
mod shapes;
mod sim;
mod source;
mod stats;
mod sweep;
mod tables;
mod tool;
mod trace;
mod transport;
mod verdict;
mod words;
