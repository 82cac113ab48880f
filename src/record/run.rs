//! The first and the last record of a run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Object;
use crate::units::{Nanos, UnixNanos};

/// The first line that `vb-fire` writes: the settings of the run. A stream without it is still a valid stream of outputs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunRecord {
    /// Always `"run"`.
    #[serde(rename = "type")]
    pub kind: RunType,
    /// The version of the record format.
    pub format: u32,
    /// The id of the run; the same in all of its records.
    pub run_id: String,
    /// The program and its version, as `vb-fire 0.1.0`.
    pub tool: String,
    /// The command line, secrets removed.
    pub argv: Vec<String>,
    /// The name of the client's host.
    pub host: String,
    /// The requested model.
    pub model: String,
    /// The name of the tokenizer, if `vb-fire` was given one.
    pub tokenizer: Option<String>,
    /// The API of the server: `openai`, `openai-chat`.
    pub backend: String,
    /// The server, without user and password.
    pub base_url: String,
    /// The path of the endpoint.
    pub endpoint: String,
    /// `false`: non-streaming responses. Absent: streaming.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Requests per second; `null`: no limit.
    pub request_rate: Option<f64>,
    /// The requested rate over time, if it is not constant; `request_rate` is then `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_profile: Option<String>,
    /// Requests that arrive at the same instant. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_size: Option<u32>,
    /// The shape of the gamma distribution of the gaps: 1 is a Poisson process, smaller is burstier; `null`: infinite, so all
    /// gaps are equal.
    pub burstiness: Option<f64>,
    /// The limit of requests in flight; `null`: no limit.
    pub max_concurrency: Option<u32>,
    /// Requests sent before the measurement started; their outcomes are not in the stream.
    pub num_warmups: u32,
    /// The seed of the arrivals.
    pub seed: u64,
    /// How bytes were transferred and stamped: `stamped` or `portable`.
    pub transport: Option<String>,
    /// `packets` if chunks were stamped by their packets, `kernel` if `--stamps auto` could not; absent: they were not to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamps: Option<String>,
    /// Threads that read responses.
    pub threads: Option<u32>,
    /// The result of `vb-selftest` on this machine, if attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selftest: Option<Object>,
    /// The instant from which schedules count.
    pub clock: ClockAnchor,
}

/// The relation between the monotonic clock of a run and the wall clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClockAnchor {
    /// Wall-clock time at the start of the run. Every instant of the run is this time plus monotonic time.
    pub start: UnixNanos,
}

/// The value of `type` in a run record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunType {
    /// The only value.
    #[default]
    #[serde(rename = "run")]
    Run,
}

/// The last line that `vb-fire` writes. A stream without it is incomplete.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EndRecord {
    /// Always `"end"`.
    #[serde(rename = "type")]
    pub kind: EndType,
    /// As in the run record.
    pub run_id: String,
    /// From the start of the run to the last outcome.
    pub duration: Nanos,
    /// Outputs written.
    pub offered: u64,
    /// Outputs by outcome: `ok` and the names of error kinds.
    pub outcomes: BTreeMap<String, u64>,
    /// Requests that were not sent.
    pub not_sent: NotSent,
    /// Whether a signal ended the run early.
    pub interrupted: bool,
    /// Whether requests were sent by a schedule (a rate, their timestamps, or all at once) and not when others ended.
    pub open_loop: Option<bool>,
    /// Whether requests were sent at their planned times; absent without a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<Arrivals>,
    /// From the scheduled time until a request was handed to the socket; `null` if nothing was sent.
    /// In an open loop with a limit on concurrency this includes the wait for a slot.
    pub schedule_lag: Option<Percentiles>,
    /// The client's part of the schedule lag: from the moment a request was due and had a slot until its first byte was
    /// written, without the time to connect; `null` if nothing was sent.
    pub send_lag: Option<Percentiles>,
    /// From the kernel's receive stamp until the read returned, over all reads of responses; `null` without kernel stamps.
    pub read_lag: Option<Percentiles>,
    /// How the chunks were stamped.
    pub stamps: Option<Stamps>,
    /// What is known of the percentiles if chunks waited for the client and lost their own stamps. Absent: no chunk did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<TimeBounds>,
    /// Requests that were sent again on a new connection, because the server closed the open one before it saw them. Absent: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub resent: u64,
    /// Whether connections were not reused any more, because the server closed one right after a response without announcing it.
    /// Absent: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reuse_ended: bool,
    /// Whether chunks were held back on their way; absent: no response shows it, or the client read too late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffering: Option<Buffering>,
    /// Resources that the client used; `null` if the system does not report them.
    pub client: Option<ClientUse>,
    /// Whether the client kept up with the load; `null` in streams of older versions.
    pub verdict: Option<Verdict>,
    /// Why the verdict is not `clean`, one line per reason.
    pub reasons: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde requires a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Whether the planned requests of a run were sent at their planned times. `docs/METRICS.md` describes the test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Arrivals {
    /// Requests that were due.
    pub planned: u64,
    /// The largest share of requests that was due but not yet sent at any moment: Kolmogorov and Smirnov's distance between
    /// the planned and the realised arrivals.
    pub distance: f64,
    /// The probability of at least this distance by chance.
    pub p: f64,
    /// The gaps between sent requests, compared with the requested distribution; `null` for equal gaps, bursts, and requests
    /// with timestamps, which have no distribution.
    pub gaps: Option<GapTest>,
    /// Requests that were sent more than a millisecond late, by the last cause of the delay.
    pub late: LateCounts,
}

/// A test of the gaps between requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GapTest {
    /// Kolmogorov and Smirnov's distance between the gaps and their distribution.
    pub distance: f64,
    /// The probability of at least this distance by chance.
    pub p: f64,
}

/// Late requests by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LateCounts {
    /// No slot was free (`--max-concurrency`).
    pub no_slot: u64,
    /// They arrived too late on standard input.
    pub input: u64,
    /// The client itself.
    pub client: u64,
}

/// How the token-bearing chunks of a run were stamped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stamps {
    /// All token-bearing chunks.
    pub chunks: u64,
    /// Chunks that carry the stamp of a later chunk, because one read returned both.
    pub coalesced: u64,
    /// Chunks that were stamped in user space.
    pub user: u64,
    /// Chunks that have the arrival of a packet (`--stamps packets`). Absent: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub packets: u64,
    /// Packets that found no room in the ring. Absent: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub packet_drops: u64,
    /// Chunks that were read more than a millisecond after the kernel's stamp.
    pub late: u64,
    /// Chunks that are both late and coalesced. Coalesced chunks of timely reads were sent together by the server.
    pub late_coalesced: u64,
    /// Detected steps of the wall clock. They distort nothing: chunks near them are stamped in user space.
    pub clock_steps: u64,
}

impl std::ops::Add for Stamps {
    type Output = Stamps;

    /// Adds both. The steps add up too, because each part has its own clock.
    fn add(self, other: Stamps) -> Stamps {
        Stamps {
            chunks: self.chunks.saturating_add(other.chunks),
            coalesced: self.coalesced.saturating_add(other.coalesced),
            user: self.user.saturating_add(other.user),
            packets: self.packets.saturating_add(other.packets),
            packet_drops: self.packet_drops.saturating_add(other.packet_drops),
            late: self.late.saturating_add(other.late),
            late_coalesced: self.late_coalesced.saturating_add(other.late_coalesced),
            clock_steps: self.clock_steps.saturating_add(other.clock_steps),
        }
    }
}

/// The least and the most that a time can be.
pub type Bounds = [Nanos; 2];

/// Percentiles that are known only to an interval, because chunks waited for the client and lost their own stamps: with the least and
/// the most that each time can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TimeBounds {
    /// Token-bearing chunks of successful requests with a `stamp_error`.
    pub chunks: u64,
    /// Start → first token; `null` without tokens.
    pub ttft: Option<PercentileBounds>,
    /// The gaps between chunks; `null` without gaps.
    pub itl: Option<PercentileBounds>,
    /// Start → last token; `null` without tokens.
    pub e2el: Option<PercentileBounds>,
}

/// The bounds of a metric's percentiles; `null`: too few values, as in the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PercentileBounds {
    /// Of the median.
    pub p50: Option<Bounds>,
    /// Of the 90th percentile.
    pub p90: Option<Bounds>,
    /// Of the 99th percentile.
    pub p99: Option<Bounds>,
}

/// Streamed responses whose chunks a proxy or the server held back and sent in bursts. `docs/METRICS.md` describes the rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Buffering {
    /// Successful responses whose chunks show whether they were held back.
    pub compared: u64,
    /// Those that were held back.
    pub buffered: u64,
    /// The `Via` or `Server` header of the first of them; `null` without.
    pub server: Option<String>,
}

impl Buffering {
    /// As many responses must have been held back, unless there are fewer.
    const MIN_BUFFERED: u64 = 3;
    /// The share that must have been held back: some requests may take another way.
    const MIN_SHARE: f64 = 0.2;

    /// Whether enough responses were held back to hide from TTFT, TPOT and ITL when the model generated its tokens.
    #[must_use]
    pub fn hides_latencies(&self) -> bool {
        let enough = self.buffered >= Self::MIN_BUFFERED.min(self.compared);
        enough && self.buffered as f64 > Self::MIN_SHARE * self.compared as f64
    }

    /// Adds the responses of another part of a run.
    #[must_use]
    pub fn merge_with(self, other: Buffering) -> Buffering {
        Buffering {
            compared: self.compared.saturating_add(other.compared),
            buffered: self.buffered.saturating_add(other.buffered),
            server: self.server.or(other.server),
        }
    }
}

/// Resources that the client used during the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClientUse {
    /// CPU time of the process, in cores: CPU seconds per second of the run.
    pub cpu: f64,
    /// CPU time of the busiest thread that reads responses, as a share of the run.
    pub busiest_thread: f64,
    /// The longest time that a measuring thread waited for a core, as a share of the run (Linux's `schedstat`); `null` on
    /// other systems.
    pub run_queue: Option<f64>,
    /// Time in which a thread that reads responses did not run for 30 ms or longer, as a share of the run: the process was stopped, the
    /// virtual machine paused, or the thread had no core; `null`: not measured.
    pub away: Option<f64>,
    /// How late timers fired on the threads that read responses: user-space stamps are late by as much; `null`: not
    /// measured.
    pub wake_lag: Option<Percentiles>,
    /// TCP segments that the client retransmitted (Linux's `TCP_INFO`); `null` on other systems.
    pub retransmits: Option<u64>,
}

/// Whether the numbers of a run describe the server and not the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The client kept up.
    Clean,
    /// Something was out of order; the reasons say how much it may matter.
    Suspect,
    /// The client, and not the server, determined some of the numbers.
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
    /// The number of requests that were read but not sent. The due ones have an output with `not_sent`.
    pub count: u64,
    /// `--max-seconds`, a signal, an invalid input line; `null` if every request was sent.
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
    /// The only value.
    #[default]
    #[serde(rename = "end")]
    End,
}
