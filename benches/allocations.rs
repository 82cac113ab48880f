//! Counts the allocations of `vb-fire` per chunk in steady state, for every API that streams: two runs that differ only in the
//! length of the responses, each in a process with a counting allocator.
//!
//! `cargo test --bench allocations` prints the counts, and fails if a chunk costs an allocation.
#![allow(unsafe_code, clippy::print_stdout, clippy::unwrap_used)] // A counting allocator; a bench prints to the terminal.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{BufRead, BufReader, Write},
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct CountingAllocator;

// SAFETY: all calls are forwarded to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const STREAMS: u64 = 64;

/// The APIs that stream text for a prompt. All parsers borrow; most chunks of completions and chats are not parsed at all.
const BACKENDS: [&str; 8] =
    ["openai", "openai-chat", "openai-responses", "anthropic", "tgi", "sglang", "tensorrt-llm", "ollama"];

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--base-url") {
        let code = vb::tools::main(&vb::tools::FIRE);
        eprintln!("{}", ALLOCATIONS.load(Relaxed));
        return code;
    }
    let mut sim = Command::new(env!("CARGO_BIN_EXE_vb-sim"))
        .args(["--port", "0", "--step-base", "2ms", "--max-num-seqs", "64"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(sim.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let (short, long) = (100, 900);
    let mut worst: f64 = 0.0;
    for backend in BACKENDS {
        let [few, many] = [short, long].map(|tokens| count_allocations(url.trim(), backend, tokens));
        let per_chunk = (many as f64 - few as f64) / (STREAMS * (long - short)) as f64;
        println!("{backend}: {few} allocations with {short} tokens, {many} with {long}: {per_chunk:.3} per chunk");
        worst = worst.max(per_chunk);
    }
    sim.kill().unwrap();
    sim.wait().unwrap();
    // The remaining allocations are for writing records and for the timers of the runtime.
    if worst < 0.05 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn count_allocations(url: &str, backend: &str, tokens: u64) -> u64 {
    let mut fire = Command::new(std::env::current_exe().unwrap())
        .args(["--base-url", url, "--max-concurrency", "64", "--backend", backend])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = fire.stdin.take().unwrap();
    for i in 0..STREAMS {
        let body = "\"body\":{\"ignore_eos\":true}";
        writeln!(stdin, "{{\"prompt\":\"prompt {i}\",\"expected_output_len\":{tokens},{body}}}").unwrap();
    }
    drop(stdin);
    let done = fire.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stderr).trim().lines().last().unwrap().parse().unwrap()
}
