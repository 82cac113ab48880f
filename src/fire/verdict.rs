//! Whether the numbers of a run are the server's: a pure function of what the client measured of itself.
//!
//! `docs/METRICS.md` tells the rules to users; the reason of each threshold stands here.

use std::cmp::Reverse;

use crate::{
    record::{ClientUse, Percentiles, Stamps, Verdict},
    units::{Nanos, SECOND},
};

/// What the client knows of itself.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Whether chunks were to be stamped by the kernel.
    pub kernel: bool,
    /// How the chunks were stamped.
    pub stamps: Stamps,
    /// Kernel receive stamp → read returned; `None` without kernel stamps.
    pub read_lag: Option<Percentiles>,
    /// Due, with a slot → first byte written, connecting left out.
    pub send_lag: Option<Percentiles>,
    /// What the client used of its machine.
    pub client: ClientUse,
    /// Whether requests had their own instants (a finite rate, timestamps), which lateness then misses. A burst without
    /// a limit has none, no more than a closed loop has.
    pub by_schedule: bool,
    /// The mean latency of the successes; `None`: there is none.
    pub latency: Option<Nanos>,
    /// The run's duration.
    pub duration: Nanos,
    /// Requests that were sent.
    pub sent: u64,
}

/// Above which values a number makes a run suspect, and above which client-bound.
#[derive(Debug, Clone, Copy)]
struct Limit {
    suspect: f64,
    bound: f64,
}

/// The share of chunks that the client bent by reading late. A hundredth is what a p99 begins to feel; of one in twenty
/// no percentile beyond p95 is the server's.
const BENT: Limit = Limit { suspect: 0.01, bound: 0.05 };
/// Fewer bent chunks than this are an accident, whatever their share of a short run.
const FEW_BENT: f64 = 10.0;
/// With fewer chunks in time than this nobody knows how many the server puts into a segment by itself.
const FEW_PROMPT: u64 = 100;
/// Then every joined chunk counts as the client's, but a typical lag below this joins chunks of no usual gap, so that
/// it cannot be sure.
const SLIGHT_LAG: Nanos = Nanos(5_000_000);
/// The share of chunks without a kernel stamp, in a run that has them: as many as a p99 begins to feel.
const UNSTAMPED: Limit = Limit { suspect: 0.01, bound: f64::INFINITY };
/// A read lag, p99, by which the socket's buffer may fill and hold the server back.
const READ_LAG_SECONDS: Limit = Limit { suspect: 1.0, bound: f64::INFINITY };

/// The busiest reading thread, where it also stamps. A queue at 70 % use makes its customers wait about twice their
/// service time; near 90 % it makes them wait nine times that, and user-space stamps wait with them.
const BUSY: Limit = Limit { suspect: 0.7, bound: 0.9 };
/// The same where the kernel stamps: a full thread bends nothing yet, but has no room left.
const BUSY_KERNEL: Limit = Limit { suspect: 0.9, bound: f64::INFINITY };
/// Waiting for a core. Stamps of user space are late for as much of the time.
const RUN_QUEUE: Limit = Limit { suspect: 0.05, bound: 0.25 };
/// The same where the kernel stamps: only what it leads to counts, and half the run is not normal.
const RUN_QUEUE_KERNEL: Limit = Limit { suspect: 0.5, bound: f64::INFINITY };
/// How late a timer of the reading thread rings, p99, where it also stamps: reads are late by as much. A gap between
/// tokens is some 10 to 50 ms.
const WAKE_LAG_SECONDS: Limit = Limit { suspect: 0.005, bound: 0.025 };
/// Shares of less time than this are those of starting up.
const SHORTEST: Nanos = Nanos(SECOND);

/// Lateness against a schedule: of a TTFT from schedule of 100 ms these are 5 % and half.
const SEND_LAG_SECONDS: Limit = Limit { suspect: 0.005, bound: 0.05 };
/// A p99 of fewer requests than this is one accident; the median is taken instead.
const FEW_SENT: u64 = 100;
/// Turning a slot round, as a share of the mean latency: by as much the throughput of a closed loop is too low. The
/// median, because at the start all slots are free at once and the last of them must wait for the others.
const TURN_ROUND: Limit = Limit { suspect: 0.01, bound: 0.05 };
/// Noticing late that an answer is over leaves its slot empty too. But servers that work in steps end many answers
/// at once, and do not mind what comes within the step, hence more room.
const NOTICED_LATE: Limit = Limit { suspect: 0.05, bound: 0.2 };
/// Below this a slot is turned round as fast as a machine can.
const TURN_ROUND_FLOOR: Nanos = Nanos(1_000_000);

/// Segments sent again per request. A lost one costs 200 ms at the least, and one in a thousand reaches a p99.9.
const RETRANSMITS: Limit = Limit { suspect: 0.001, bound: f64::INFINITY };
/// A single loss is an accident.
const FEW_RETRANSMITS: u64 = 1;

/// The verdict, and its reasons, the gravest first: each one line with the figure and the cure.
#[must_use]
pub fn judge(evidence: &Evidence) -> (Verdict, Vec<String>) {
    let user = share(evidence.stamps.user, evidence.stamps.chunks);
    let stamps_itself = !evidence.kernel || user > 0.5;
    let mut found: Vec<Option<(Verdict, String)>> = if evidence.kernel {
        vec![coalescing(evidence), unstamped(user), read_lag(evidence), noticed_late(evidence)]
    } else {
        vec![]
    };
    if evidence.duration >= SHORTEST {
        found.extend([run_queue(evidence, stamps_itself), busy(evidence, stamps_itself)]);
        found.extend(stamps_itself.then(|| wake_lag(evidence)));
    }
    found.push(if evidence.by_schedule { late_sending(evidence) } else { turn_round(evidence) });
    found.push(retransmits(evidence));
    let mut found: Vec<(Verdict, String)> = found.into_iter().flatten().collect();
    found.sort_by_key(|(verdict, _)| Reverse(*verdict));
    let verdict = found.first().map_or(Verdict::Clean, |(verdict, _)| *verdict);
    (verdict, found.into_iter().map(|(_, reason)| reason).collect())
}

impl Limit {
    /// What `value` means; `None`: nothing.
    fn of(self, value: f64) -> Option<Verdict> {
        if value > self.bound { Some(Verdict::ClientBound) } else { (value > self.suspect).then_some(Verdict::Suspect) }
    }
}

fn share(part: u64, of: u64) -> f64 {
    part as f64 / (of as f64).max(1.0)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Chunks that lost their own stamp because the client read them late, and with a later one.
///
/// Servers too put several chunks into one segment. How often they do is seen where the client was in time, and only
/// what is more than that is the client's doing.
fn coalescing(evidence: &Evidence) -> Option<(Verdict, String)> {
    let Stamps { chunks, coalesced, late, late_coalesced, .. } = evidence.stamps;
    let lag = evidence.read_lag.unwrap_or_default();
    let prompt = chunks.saturating_sub(late);
    let base_known = prompt >= FEW_PROMPT;
    let by_server = if base_known { share(coalesced.saturating_sub(late_coalesced), prompt) } else { 0.0 };
    let bent = (share(late_coalesced, late) - by_server).max(0.0) * late as f64;
    if bent < FEW_BENT {
        return None;
    }
    let share = bent / chunks as f64;
    let mut verdict = BENT.of(share)?;
    if !base_known && lag.p50 < SLIGHT_LAG {
        verdict = Verdict::Suspect;
    }
    let share = percent(share);
    Some((
        verdict,
        format!(
            "{share} of the chunks carry a later chunk's stamp, because the client read late (read lag p99 {}): give it \
             a free core, or more --threads",
            lag.p99
        ),
    ))
}

fn unstamped(user: f64) -> Option<(Verdict, String)> {
    let share = percent(user);
    Some((
        UNSTAMPED.of(user)?,
        format!(
            "{share} of the chunks have no stamp of the kernel and were stamped in user space, so they may be late: see \
             whether the clock was stepped or the server is reached through a socket without stamps"
        ),
    ))
}

fn read_lag(evidence: &Evidence) -> Option<(Verdict, String)> {
    let lag = evidence.read_lag?.p99;
    Some((
        READ_LAG_SECONDS.of(lag.as_secs_f64())?,
        format!(
            "the client read late (read lag p99 {lag}), so long that full buffers may have held the server back: give it a \
             free core, or more --threads"
        ),
    ))
}

/// What a time is of the mean latency, where it is long enough to speak of and nothing sets the times of requests.
fn of_latency(evidence: &Evidence, time: Nanos) -> Option<f64> {
    let latency = evidence.latency.filter(|latency| latency.0 > 0)?;
    (!evidence.by_schedule && time > TURN_ROUND_FLOOR).then(|| time.as_secs_f64() / latency.as_secs_f64())
}

fn noticed_late(evidence: &Evidence) -> Option<(Verdict, String)> {
    let lag = evidence.read_lag?.p50;
    let share = of_latency(evidence, lag)?;
    Some((
        NOTICED_LATE.of(share)?,
        format!(
            "the client notices the end of an answer {lag} late (read lag p50), {} of the mean latency, so the server had \
             fewer requests than --max-concurrency: give it a free core, or more --threads",
            percent(share)
        ),
    ))
}

fn turn_round(evidence: &Evidence) -> Option<(Verdict, String)> {
    let lag = evidence.send_lag?.p50;
    let share = of_latency(evidence, lag)?;
    Some((
        TURN_ROUND.of(share)?,
        format!(
            "the client takes {lag} to send the next request (send lag p50), {} of the mean latency, so the throughput is \
             its own: give it a free core, or more --threads",
            percent(share)
        ),
    ))
}

fn late_sending(evidence: &Evidence) -> Option<(Verdict, String)> {
    let lag = evidence.send_lag?;
    let (name, lag) = if evidence.sent < FEW_SENT { ("p50", lag.p50) } else { ("p99", lag.p99) };
    Some((
        SEND_LAG_SECONDS.of(lag.as_secs_f64())?,
        format!(
            "the client sent late against the schedule (send lag {name} {lag}), so the load was not the one asked for: give \
             it a free core, or more --threads, or a lower --request-rate"
        ),
    ))
}

fn run_queue(evidence: &Evidence, stamps_itself: bool) -> Option<(Verdict, String)> {
    let waited = evidence.client.run_queue?;
    let limit = if stamps_itself { RUN_QUEUE } else { RUN_QUEUE_KERNEL };
    let waited_share = percent(waited);
    Some((
        limit.of(waited)?,
        format!(
            "a thread of the client was ready and had no core for {waited_share} of the run: stop what else runs on this \
             machine, or raise the client's CPU quota"
        ),
    ))
}

fn busy(evidence: &Evidence, stamps_itself: bool) -> Option<(Verdict, String)> {
    let busy = evidence.client.busiest_thread;
    let (limit, so) =
        if stamps_itself { (BUSY, "so it stamps late") } else { (BUSY_KERNEL, "so it has no room for more") };
    let busy_share = percent(busy);
    Some((limit.of(busy)?, format!("the busiest reading thread is {busy_share} busy, {so}: use more --threads")))
}

fn wake_lag(evidence: &Evidence) -> Option<(Verdict, String)> {
    let lag = evidence.client.wake_lag?.p99;
    Some((
        WAKE_LAG_SECONDS.of(lag.as_secs_f64())?,
        format!(
            "the client wakes late (wake lag p99 {lag}), and without kernel stamps its times are late by as much: give it a \
             free core, or more --threads"
        ),
    ))
}

fn retransmits(evidence: &Evidence) -> Option<(Verdict, String)> {
    let count = evidence.client.retransmits.filter(|count| *count > FEW_RETRANSMITS)?;
    Some((
        RETRANSMITS.of(share(count, evidence.sent))?,
        format!(
            "{count} TCP segments of {} requests had to be sent again: the network loses packets, and some latencies are its \
             own; look at the path to the server",
            evidence.sent
        ),
    ))
}
