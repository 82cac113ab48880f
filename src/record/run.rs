//! The first and the last line of a run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Object;
use crate::units::{Nanos, UnixNanos};

/// The first line that `vb-fire` writes: what was asked for. A stream without one is still a stream of outputs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunRecord {
    /// Always `"run"`.
    #[serde(rename = "type")]
    pub kind: RunType,
    /// The version of the record format.
    pub format: u32,
    /// Names this run; the same in each of its records.
    pub run_id: String,
    /// The program and its version, as `vb-fire 0.1.0`.
    pub tool: String,
    /// The command line, secrets removed.
    pub argv: Vec<String>,
    /// The name of the client's host.
    pub host: String,
    /// The model asked for.
    pub model: String,
    /// The tokenizer's name, when `vb-fire` was told one.
    pub tokenizer: Option<String>,
    /// The API spoken: `openai`, `openai-chat`.
    pub backend: String,
    /// The server, without any user and password.
    pub base_url: String,
    /// The path of the endpoint.
    pub endpoint: String,
    /// `false`: replies come in one piece. Absent: they are streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Requests per second; `null`: no limit.
    pub request_rate: Option<f64>,
    /// The rate over time as it was asked for, where it is not the same all the time (`request_rate` is `null` then).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_profile: Option<String>,
    /// Requests that arrive at one instant. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_size: Option<u32>,
    /// The shape of the gamma distribution of the gaps: 1 is a Poisson process, smaller is burstier; `null`: infinite, which
    /// makes the gaps even.
    pub burstiness: Option<f64>,
    /// The most requests in flight; `null`: no limit.
    pub max_concurrency: Option<u32>,
    /// Requests sent before the clock started; their outcomes are not in the stream.
    pub num_warmups: u32,
    /// The seed of the arrivals.
    pub seed: u64,
    /// How bytes were carried and stamped: `stamped` or `portable`.
    pub transport: Option<String>,
    /// Threads that read answers.
    pub threads: Option<u32>,
    /// What `vb-selftest` found on this machine, when it was attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selftest: Option<Object>,
    /// The instant from which schedules count.
    pub clock: ClockAnchor,
}

/// How the monotonic clock of a run relates to the wall clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClockAnchor {
    /// Wall-clock time at the start of the run. All instants of the run are this plus monotonic time.
    pub start: UnixNanos,
}

/// The value of `type` in a run record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunType {
    /// The only one.
    #[default]
    #[serde(rename = "run")]
    Run,
}

/// The last line that `vb-fire` writes. A stream without one is a run that was cut.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EndRecord {
    /// Always `"end"`.
    #[serde(rename = "type")]
    pub kind: EndType,
    /// As in the run record.
    pub run_id: String,
    /// Start of the run → last outcome.
    pub duration: Nanos,
    /// Outputs written.
    pub offered: u64,
    /// Outputs by outcome: `ok` and the names of error kinds.
    pub outcomes: BTreeMap<String, u64>,
    /// Requests that never reached the server.
    pub not_sent: NotSent,
    /// Whether a signal ended the run early.
    pub interrupted: bool,
    /// Whether requests were sent by a schedule (a rate, their timestamps, or all at once) and not when others ended.
    pub open_loop: Option<bool>,
    /// Whether requests were sent when they were planned; absent where they had no plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<Arrivals>,
    /// How late requests were handed to the socket against their schedule; `null` when nothing was sent.
    /// In an open loop with a limit on concurrency this includes waiting for a slot.
    pub schedule_lag: Option<Percentiles>,
    /// The client's own part of that: from the moment when a request was due and had its slot to the write of its first
    /// byte, connecting left out; `null` when nothing was sent.
    pub send_lag: Option<Percentiles>,
    /// Kernel receive stamp → read returned, over all reads of answers; `null` without kernel stamps.
    pub read_lag: Option<Percentiles>,
    /// How the chunks were stamped.
    pub stamps: Option<Stamps>,
    /// What the client used of its machine; `null` where the system does not tell.
    pub client: Option<ClientUse>,
    /// Whether the client was fit for this load; `null` in streams of older versions.
    pub verdict: Option<Verdict>,
    /// Why the verdict is not `clean`, each in one line.
    pub reasons: Vec<String>,
}

/// The requests of a run that had a plan, and whether they were sent by it. `docs/METRICS.md` says how it is tested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Arrivals {
    /// Requests that were due.
    pub planned: u64,
    /// The largest share of them that was due and not yet sent at some moment: Kolmogorov and Smirnov's distance between the
    /// planned and the realised arrivals.
    pub distance: f64,
    /// The probability of such a distance, or a larger one, by chance.
    pub p: f64,
    /// The gaps between the requests sent, against the distribution that was asked for; `null` for even gaps, bursts, and
    /// requests with times of their own, which have none.
    pub gaps: Option<GapTest>,
    /// Requests that were sent more than a millisecond behind their plan, by what kept them last.
    pub late: LateCounts,
}

/// A test of the gaps between requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GapTest {
    /// Kolmogorov and Smirnov's distance of the gaps from their distribution.
    pub distance: f64,
    /// The probability of such a distance, or a larger one, by chance.
    pub p: f64,
}

/// What kept requests that were late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LateCounts {
    /// No slot was free (`--max-concurrency`).
    pub no_slot: u64,
    /// They came too late from standard input.
    pub input: u64,
    /// The client itself.
    pub client: u64,
}

/// How the token-bearing chunks of a run were stamped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stamps {
    /// Token-bearing chunks in all.
    pub chunks: u64,
    /// Of those, how many carry the stamp of a later chunk, because one read returned both.
    pub coalesced: u64,
    /// Of those, how many were stamped in user space.
    pub user: u64,
    /// Chunks whose read came more than a millisecond after the kernel's stamp.
    pub late: u64,
    /// Chunks that are both late and coalesced. Coalesced chunks of reads in time are the server's doing.
    pub late_coalesced: u64,
    /// Steps of the wall clock that were seen. They bend nothing: chunks around them are stamped in user space.
    pub clock_steps: u64,
}

impl std::ops::Add for Stamps {
    type Output = Stamps;

    /// Of both together, which saw steps of different clocks.
    fn add(self, other: Stamps) -> Stamps {
        Stamps {
            chunks: self.chunks.saturating_add(other.chunks),
            coalesced: self.coalesced.saturating_add(other.coalesced),
            user: self.user.saturating_add(other.user),
            late: self.late.saturating_add(other.late),
            late_coalesced: self.late_coalesced.saturating_add(other.late_coalesced),
            clock_steps: self.clock_steps.saturating_add(other.clock_steps),
        }
    }
}

/// What the client used of its machine while the clock ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClientUse {
    /// CPU time of the process, in cores: CPU seconds per second of the run.
    pub cpu: f64,
    /// CPU time of the busiest thread that reads answers, as a share of the run.
    pub busiest_thread: f64,
    /// The longest that a thread on the clock waited for a core, as a share of the run (Linux's `schedstat`); `null`
    /// elsewhere.
    pub run_queue: Option<f64>,
    /// How late a timer of the threads that read answers rang: what stamps in user space are late by; `null`: not
    /// measured.
    pub wake_lag: Option<Percentiles>,
    /// TCP segments that this client sent again (Linux's `TCP_INFO`); `null` elsewhere.
    pub retransmits: Option<u64>,
}

/// Whether the numbers of a run are the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The client kept up.
    Clean,
    /// Something was not as it should be; the reasons say how much it may matter.
    Suspect,
    /// The client, and not the server, set some of the numbers.
    ClientBound,
}

impl Verdict {
    /// The name in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Suspect => "suspect",
            Verdict::ClientBound => "client_bound",
        }
    }
}

/// Requests that were read but never sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NotSent {
    /// How many of the requests that were read by then. Those that were due have an output with `not_sent`.
    pub count: u64,
    /// `--max-seconds`, a signal, a bad input line; `null` when every request was sent.
    pub why: Option<String>,
}

/// Percentiles of a duration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Percentiles {
    /// The median.
    pub p50: Nanos,
    /// The 99th percentile.
    pub p99: Nanos,
    /// The largest.
    pub max: Nanos,
}

/// The value of `type` in an end record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndType {
    /// The only one.
    #[default]
    #[serde(rename = "end")]
    End,
}
