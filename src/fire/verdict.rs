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
    /// The most requests in flight; `None`: no limit.
    pub slots: Option<u32>,
    /// The mean latency of the successes; `None`: there is none.
    pub latency: Option<Nanos>,
    /// The run's duration.
    pub duration: Nanos,
    /// Requests that were sent.
    pub sent: u64,
    /// Whether so many turns of conversations had to wait that the lines behind them could not be read in time.
    pub hidden: bool,
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
/// A client that is typically away for longer than this joins chunks of usual gaps. Then a read that seems in time, by
/// the stamp of its last chunk, may have joined others too, so that nobody knows the server's habit either. Below it the
/// client can hardly have joined any, so that it is suspect at most where that habit is not known.
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
const TURN_ROUND: Limit = Limit { suspect: 0.02, bound: 0.05 };
/// Noticing late that an answer is over leaves its slot empty too. But servers that work in steps end many answers
/// at once, and do not mind what comes within the step, hence more room.
const NOTICED_LATE: Limit = Limit { suspect: 0.05, bound: 0.2 };
/// Requests for each slot from which on the median is that of slots that were used again.
const TURNS: u64 = 2;
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
    found.extend([retransmits(evidence), hidden(evidence)]);
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
    let away = evidence.client.wake_lag.unwrap_or_default().p50 > SLIGHT_LAG;
    let base_known = prompt >= FEW_PROMPT && !away;
    let by_server = if base_known { share(coalesced.saturating_sub(late_coalesced), prompt) } else { 0.0 };
    let bent = (share(late_coalesced, late) - by_server).max(0.0) * late as f64;
    if bent < FEW_BENT {
        return None;
    }
    let share = bent / chunks as f64;
    let mut verdict = BENT.of(share)?;
    if !base_known && !away && lag.p50 < SLIGHT_LAG {
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

/// What a time is of the mean latency, where it is long enough to speak of and slots were used again and again.
fn of_latency(evidence: &Evidence, time: Nanos) -> Option<f64> {
    let latency = evidence.latency.filter(|latency| latency.0 > 0)?;
    let closed = !evidence.by_schedule && evidence.sent >= TURNS.saturating_mul(evidence.slots?.into());
    (closed && time > TURN_ROUND_FLOOR).then(|| time.as_secs_f64() / latency.as_secs_f64())
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

fn hidden(evidence: &Evidence) -> Option<(Verdict, String)> {
    let what = "so many later turns of conversations had to be kept (1 GiB) that the conversations behind them began late: make \
                them shorter, or give several clients a part of them each";
    evidence.hidden.then(|| (Verdict::Suspect, what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn all(ms: f64) -> Percentiles {
        let time = Nanos::from_secs_f64(ms / 1e3);
        Percentiles { p50: time, p99: time, max: time }
    }

    /// An idle client with kernel stamps: a minute, 1,000 requests of 2 s, 100,000 chunks.
    fn kernel() -> Evidence {
        Evidence {
            kernel: true,
            stamps: Stamps { chunks: 100_000, late: 200, ..Stamps::default() },
            read_lag: Some(Percentiles { p50: Nanos(40_000), p99: Nanos(MS), max: Nanos(5 * MS) }),
            send_lag: Some(Percentiles { p50: Nanos(50_000), p99: Nanos(2 * MS), max: Nanos(9 * MS) }),
            client: ClientUse { cpu: 0.2, busiest_thread: 0.2, run_queue: Some(0.01), ..ClientUse::default() },
            by_schedule: false,
            slots: Some(64),
            latency: Some(Nanos(2 * SECOND)),
            duration: Nanos(60 * SECOND),
            sent: 1000,
            hidden: false,
        }
    }

    #[test]
    fn conversations_that_began_late_are_told() {
        let (verdict, reasons) = judge(&Evidence { hidden: true, ..kernel() });
        assert!(verdict == Verdict::Suspect && reasons[0].contains("began late"), "{reasons:?}");
    }

    /// The same without kernel stamps.
    fn user() -> Evidence {
        let client = ClientUse { wake_lag: Some(all(1.1)), retransmits: None, ..kernel().client };
        let stamps = Stamps { chunks: 100_000, user: 100_000, ..Stamps::default() };
        Evidence { kernel: false, stamps, read_lag: None, client, ..kernel() }
    }

    /// One thing is changed: to what is still clean, what is suspect, and what is client-bound where that exists. There
    /// is one reason, with these words.
    fn steps(
        of: fn() -> Evidence,
        change: impl Fn(&mut Evidence, f64),
        values: [f64; 2],
        bound: Option<f64>,
        says: &str,
    ) {
        let judged = |value: f64| {
            let mut evidence = of();
            change(&mut evidence, value);
            judge(&evidence)
        };
        assert_eq!(judged(values[0]), (Verdict::Clean, vec![]), "{says}");
        let wanted = [(values[1], Verdict::Suspect), (bound.unwrap_or(values[1]), Verdict::ClientBound)];
        for (value, want) in &wanted[..=usize::from(bound.is_some())] {
            let (verdict, reasons) = judged(*value);
            assert_eq!(verdict, *want, "{value}: {reasons:?}");
            assert!(reasons.len() == 1 && reasons[0].contains(says) && !reasons[0].contains('\n'), "{reasons:?}");
        }
        if let Some(bound) = bound {
            let below = values[1] + (bound - values[1]) * 0.9;
            assert_eq!(judged(below).0, Verdict::Suspect, "{says}: {below}");
        }
    }

    fn chunks(share: f64) -> u64 {
        Nanos::from_secs_f64(share * 100_000.0 / 1e9).0
    }

    #[test]
    fn an_idle_client_is_clean_with_and_without_kernel_stamps() {
        for evidence in [kernel(), user(), Evidence { by_schedule: true, ..kernel() }, Evidence::default()] {
            assert_eq!(judge(&evidence), (Verdict::Clean, vec![]));
        }
    }

    #[test]
    fn chunks_that_lost_their_stamp_to_a_late_read_count() {
        let late = |evidence: &mut Evidence, share: f64| {
            evidence.stamps.late = 20_000;
            evidence.stamps.late_coalesced = chunks(share);
            evidence.stamps.coalesced = chunks(share);
        };
        steps(kernel, late, [0.0099, 0.0101], Some(0.0501), "of the chunks carry a later chunk's stamp");
        let mut evidence = kernel();
        late(&mut evidence, 0.072);
        evidence.read_lag = Some(Percentiles { p99: Nanos(41 * MS), ..Percentiles::default() });
        assert_eq!(
            judge(&evidence).1,
            [
                "7.2 % of the chunks carry a later chunk's stamp, because the client read late (read lag p99 41.0 ms): give \
              it a free core, or more --threads"
            ]
        );
    }

    #[test]
    fn a_server_that_puts_several_chunks_into_a_segment_is_no_fault_of_the_client() {
        let mut evidence = kernel();
        // It does so with 40 % of the chunks, whether they are read in time or late.
        evidence.stamps =
            Stamps { chunks: 100_000, coalesced: 40_000, late: 30_000, late_coalesced: 12_000, ..Stamps::default() };
        assert_eq!(judge(&evidence), (Verdict::Clean, vec![]));
        // Late reads join more than that: 20 % of 30 %.
        evidence.stamps.coalesced += 6_000;
        evidence.stamps.late_coalesced += 6_000;
        assert_eq!(judge(&evidence).0, Verdict::ClientBound);
    }

    #[test]
    fn a_burst_in_step_that_is_read_late_but_whole_is_clean() {
        // 2,048 streams every 50 ms: the last of a step is read some 20 ms after it came, with its own stamp.
        let mut evidence = kernel();
        evidence.stamps.late = 95_000;
        evidence.read_lag = Some(Percentiles { p50: Nanos(9 * MS), p99: Nanos(20 * MS), max: Nanos(30 * MS) });
        evidence.client.busiest_thread = 0.45;
        assert_eq!(judge(&evidence), (Verdict::Clean, vec![]));
    }

    #[test]
    fn without_chunks_in_time_the_server_is_not_known_and_a_long_lag_decides() {
        let mut evidence = kernel();
        evidence.stamps =
            Stamps { chunks: 100_000, coalesced: 60_000, late: 99_950, late_coalesced: 59_990, ..Stamps::default() };
        evidence.read_lag = Some(all(2.0));
        assert_eq!(judge(&evidence).0, Verdict::Suspect);
        evidence.read_lag = Some(all(45.0));
        assert_eq!(judge(&evidence).0, Verdict::ClientBound);
    }

    #[test]
    fn a_client_that_is_mostly_away_does_not_tell_the_habit_of_the_server() {
        // Held to a tenth of the time by stops: reads that seem in time have joined chunks as well.
        let mut evidence = kernel();
        evidence.stamps =
            Stamps { chunks: 25_600, coalesced: 21_456, late: 24_055, late_coalesced: 20_274, ..Stamps::default() };
        evidence.client.wake_lag = Some(all(43.0));
        let (verdict, reasons) = judge(&evidence);
        assert_eq!(verdict, Verdict::ClientBound);
        assert!(reasons[0].starts_with("79.2 % of the chunks"), "{reasons:?}");
    }

    #[test]
    fn a_few_joined_chunks_of_a_short_run_are_an_accident() {
        let mut evidence = kernel();
        evidence.stamps = Stamps { chunks: 110, coalesced: 9, late: 10, late_coalesced: 9, ..Stamps::default() };
        assert_eq!(judge(&evidence).0, Verdict::Clean);
        evidence.stamps = Stamps { chunks: 150, coalesced: 12, late: 40, late_coalesced: 12, ..Stamps::default() };
        assert_eq!(judge(&evidence).0, Verdict::ClientBound);
    }

    #[test]
    fn stamps_of_user_space_among_those_of_the_kernel_are_suspect() {
        let unstamped = |evidence: &mut Evidence, share: f64| evidence.stamps.user = chunks(share);
        steps(kernel, unstamped, [0.0099, 0.0101], None, "stamped in user space");
    }

    #[test]
    fn a_kernel_that_stamps_nothing_leaves_the_rules_of_user_space() {
        let mut evidence = Evidence { kernel: true, ..user() };
        evidence.client.run_queue = Some(0.3);
        let (verdict, reasons) = judge(&evidence);
        assert_eq!((verdict, reasons.len()), (Verdict::ClientBound, 2), "{reasons:?}");
        assert!(reasons[0].contains("had no core") && reasons[1].contains("no stamp of the kernel"));
    }

    #[test]
    fn a_busy_thread_that_stamps_is_late() {
        let busy = |evidence: &mut Evidence, share: f64| evidence.client.busiest_thread = share;
        steps(user, busy, [0.699, 0.701], Some(0.901), "busy, so it stamps late: use more --threads");
        steps(kernel, busy, [0.899, 0.901], None, "so it has no room for more: use more --threads");
    }

    #[test]
    fn waiting_for_a_core_counts_where_the_client_stamps() {
        let wait = |evidence: &mut Evidence, share: f64| evidence.client.run_queue = Some(share);
        steps(user, wait, [0.049, 0.051], Some(0.251), "had no core for");
        steps(kernel, wait, [0.49, 0.51], None, "had no core for");
    }

    #[test]
    fn waking_late_counts_where_the_client_stamps() {
        let wake = |evidence: &mut Evidence, ms: f64| evidence.client.wake_lag = Some(all(ms));
        steps(user, wake, [4.9, 5.1], Some(25.1), "wakes late");
        let mut evidence = kernel();
        wake(&mut evidence, 500.0);
        assert_eq!(judge(&evidence).0, Verdict::Clean);
    }

    #[test]
    fn shares_of_a_moment_are_not_judged() {
        let mut evidence = user();
        evidence.client.run_queue = Some(0.9);
        evidence.client.wake_lag = Some(all(100.0));
        evidence.duration = Nanos(SECOND - 1);
        assert_eq!(judge(&evidence).0, Verdict::Clean);
        evidence.duration = Nanos(SECOND);
        assert_eq!(judge(&evidence).0, Verdict::ClientBound);
    }

    #[test]
    fn an_open_loop_must_send_on_time() {
        let open = || Evidence { by_schedule: true, ..kernel() };
        let late = |evidence: &mut Evidence, ms: f64| {
            evidence.send_lag = Some(Percentiles { p99: all(ms).p99, ..evidence.send_lag.unwrap() });
        };
        steps(open, late, [4.9, 5.1], Some(50.1), "sent late against the schedule (send lag p99");
        // The largest of a few is an accident.
        let mut evidence = Evidence { sent: 99, ..open() };
        late(&mut evidence, 100.0);
        assert_eq!(judge(&evidence).0, Verdict::Clean);
        evidence.send_lag = Some(all(100.0));
        assert_eq!(judge(&evidence).0, Verdict::ClientBound);
    }

    #[test]
    fn a_closed_loop_must_turn_round_fast_against_the_latency() {
        // The mean latency is 2 s.
        let lag = |evidence: &mut Evidence, ms: f64| evidence.send_lag = Some(all(ms));
        steps(kernel, lag, [39.9, 40.1], Some(100.1), "to send the next request");
        // All slots are free at the start, and the last of them waits for the others.
        let mut evidence = kernel();
        evidence.send_lag = Some(Percentiles { p50: Nanos(60_000), p99: Nanos(300 * MS), max: Nanos(900 * MS) });
        assert_eq!(judge(&evidence).0, Verdict::Clean);
        // Nor does a load that is all start.
        let burst = Evidence { send_lag: Some(all(300.0)), slots: None, ..kernel() };
        assert_eq!(judge(&burst).0, Verdict::Clean);
        assert_eq!(judge(&Evidence { slots: Some(501), ..burst.clone() }).0, Verdict::Clean);
        assert_eq!(judge(&Evidence { slots: Some(500), ..burst }).0, Verdict::ClientBound);
        // Microseconds are nothing to judge short requests by.
        let short = Evidence { latency: Some(Nanos(5 * MS)), send_lag: Some(all(0.99)), ..kernel() };
        assert_eq!(judge(&short).0, Verdict::Clean);
        assert_eq!(judge(&Evidence { send_lag: Some(all(1.01)), ..short.clone() }).0, Verdict::ClientBound);
        assert_eq!(judge(&Evidence { latency: None, send_lag: Some(all(900.0)), ..short }).0, Verdict::Clean);
    }

    #[test]
    fn ends_that_are_noticed_late_leave_slots_empty_in_a_closed_loop_only() {
        let lag = |evidence: &mut Evidence, ms: f64| evidence.read_lag = Some(all(ms));
        steps(kernel, lag, [99.0, 101.0], Some(401.0), "notices the end of an answer");
        assert_eq!(judge(&Evidence { by_schedule: true, read_lag: Some(all(401.0)), ..kernel() }).0, Verdict::Clean);
    }

    #[test]
    fn reads_seconds_late_may_hold_the_server_back() {
        let open = || Evidence { by_schedule: true, ..kernel() };
        let lag = |evidence: &mut Evidence, ms: f64| evidence.read_lag = Some(all(ms));
        steps(open, lag, [999.0, 1001.0], None, "held the server back");
    }

    #[test]
    fn segments_sent_again_are_the_network() {
        let again = |evidence: &mut Evidence, count: f64| {
            evidence.sent = 2000;
            evidence.client.retransmits = Some(Nanos::from_secs_f64(count / 1e9).0);
        };
        steps(kernel, again, [2.0, 3.0], None, "3 TCP segments of 2000 requests had to be sent again");
        let mut one = kernel();
        (one.sent, one.client.retransmits) = (10, Some(1));
        assert_eq!(judge(&one).0, Verdict::Clean);
    }

    #[test]
    fn the_gravest_reason_comes_first() {
        let mut evidence = user();
        evidence.client.busiest_thread = 0.8;
        evidence.send_lag = Some(all(1000.0));
        let (verdict, reasons) = judge(&evidence);
        assert_eq!(verdict, Verdict::ClientBound);
        assert!(reasons[0].contains("send lag") && reasons[1].contains("80.0 % busy"), "{reasons:?}");
    }
}
