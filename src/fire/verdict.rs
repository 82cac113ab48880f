//! Whether the numbers of a run measure the server and not the client: a pure function of what the client measured about itself.
//!
//! `docs/METRICS.md` describes the rules for users; the reason for each threshold is here.

use std::cmp::Reverse;

use super::{buffering::check_buffering, stamp_error::check_bounds};
use crate::{
    record::{Buffering, ClientUse, Percentiles, Stamps, TimeBounds, Verdict},
    units::{Nanos, SECOND},
};

/// What the client measured about itself.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Whether the kernel should have stamped the chunks.
    pub kernel: bool,
    /// How the chunks were stamped.
    pub stamps: Stamps,
    /// What is known of the percentiles; `None`: all stamps are exact.
    pub bounds: Option<TimeBounds>,
    /// Whether `--stamps packets` would have kept the stamps that were lost.
    pub may_capture: bool,
    /// Responses that a proxy held back.
    pub buffering: Buffering,
    /// Kernel stamp → read; `None` without kernel stamps.
    pub read_lag: Option<Percentiles>,
    /// Due, with a slot → first byte written, without connecting.
    pub send_lag: Option<Percentiles>,
    /// The mean time for which the client leaves a slot empty: last chunk → read, and the send lag. `None` without any request.
    pub empty_slot: Option<Nanos>,
    /// The client's use of its machine.
    pub client: ClientUse,
    /// Whether requests had scheduled times (a finite rate, timestamps), which they can miss. Neither a burst without a limit nor
    /// a closed loop has any.
    pub by_schedule: bool,
    /// `--max-concurrency`; `None`: no limit.
    pub max_concurrency: Option<u32>,
    /// The mean latency of the successful requests; `None` without any.
    pub mean_latency: Option<Nanos>,
    /// The run's duration.
    pub duration: Nanos,
    /// Requests that were sent.
    pub sent: u64,
    /// Whether parked turns of conversations filled their memory, so that the lines after them could not be read in time.
    pub input_blocked: bool,
}

/// The values above which a number makes a run suspect or client-bound.
#[derive(Debug, Clone, Copy)]
struct Threshold {
    suspect: f64,
    bound: f64,
}

/// The share of chunks without a kernel stamp, in a run that has them: from here on a p99 begins to change.
const UNSTAMPED: Threshold = Threshold { suspect: 0.01, bound: f64::INFINITY };
/// A p99 of the read lag at which the socket buffer may fill and slow the server down.
const READ_LAG_SECONDS: Threshold = Threshold { suspect: 1.0, bound: f64::INFINITY };

/// The busiest reader thread, if it also stamps. In a queue at 70 % load, items wait about twice their service time; near 90 %
/// they wait nine times that, and so do user-space stamps.
const BUSY: Threshold = Threshold { suspect: 0.7, bound: 0.9 };
/// The same if the kernel stamps: a fully used thread distorts nothing yet, but has no capacity left.
const BUSY_KERNEL: Threshold = Threshold { suspect: 0.9, bound: f64::INFINITY };
/// Waiting for a core. User-space stamps are late for that share of the time.
const RUN_QUEUE: Threshold = Threshold { suspect: 0.05, bound: 0.25 };
/// The same if the kernel stamps: then only its consequences matter, but half of the run is not normal.
const RUN_QUEUE_KERNEL: Threshold = Threshold { suspect: 0.5, bound: f64::INFINITY };
/// How late a timer of the reader thread fires (p99), if it also stamps: reads are as late. A gap between tokens is about 10 to
/// 50 ms.
const WAKE_LAG_SECONDS: Threshold = Threshold { suspect: 0.005, bound: 0.025 };
/// The share of the run in which a reader thread was away for long pauses. The server waits for requests as long, so that the
/// throughput of a closed loop is too low by that share, and requests of a schedule are late; medians do not show it.
const AWAY: Threshold = Threshold { suspect: 0.03, bound: 0.2 };
/// In a shorter run, shares of the time mostly measure the start.
const MIN_DURATION: Nanos = Nanos(SECOND);

/// Lateness against a schedule: for a TTFT of 100 ms from the scheduled time, these are 5 % and 50 %.
const SEND_LAG_SECONDS: Threshold = Threshold { suspect: 0.005, bound: 0.05 };
/// With fewer requests than this, a p99 is one accident; the median is used instead.
const MIN_SENT: u64 = 100;
/// The time to refill a slot, as a share of the mean latency: the throughput of a closed loop is too low by that share. The
/// median, because at the start all slots are free at once and the last of them must wait for the others.
const REFILL_TIME: Threshold = Threshold { suspect: 0.02, bound: 0.05 };
/// Noticing the end of a response late also leaves its slot empty. But servers that work in steps end many responses at once and
/// do not take new requests until the next step, so these limits are higher.
const END_NOTICE_LAG: Threshold = Threshold { suspect: 0.05, bound: 0.2 };
/// With at least this number of requests per slot, the median is one of reused slots.
const REQUESTS_PER_SLOT: u64 = 2;
/// A shorter time to refill a slot is as fast as a machine can be.
const MIN_REFILL_TIME: Nanos = Nanos(1_000_000);

/// The same with the mean, which shows long pauses too.
const EMPTY_SLOT: Threshold = END_NOTICE_LAG;

/// Retransmitted TCP segments per request. A lost segment costs at least 200 ms, and one in a thousand requests reaches a p99.9.
const RETRANSMITS: Threshold = Threshold { suspect: 0.001, bound: f64::INFINITY };
/// A single loss is an accident.
const ACCEPTED_RETRANSMITS: u64 = 1;

/// What most chunks of a run were stamped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamper {
    /// Their packets: exact, however late they are read.
    Packets,
    /// The kernel: exact, unless chunks wait in a socket together.
    Kernel,
    /// The client: as late as it reads.
    Client,
}

const ANY: &[Stamper] = &[Stamper::Packets, Stamper::Kernel, Stamper::Client];
/// From a client that reads late, nothing follows for the stamps of packets.
const BY_READS: &[Stamper] = &[Stamper::Kernel, Stamper::Client];

/// A verdict and the reason for it.
type Finding = (Verdict, String);

/// One rule.
struct Rule {
    check: fn(&Evidence) -> Option<Finding>,
    /// The stamps with which what it looks at can make numbers wrong.
    stampers: &'static [Stamper],
    /// Whether it judges shares of the run's time.
    needs_time: bool,
}

const fn rule(check: fn(&Evidence) -> Option<Finding>, stampers: &'static [Stamper]) -> Rule {
    Rule { check, stampers, needs_time: false }
}

const fn rule_of_shares(check: fn(&Evidence) -> Option<Finding>, stampers: &'static [Stamper]) -> Rule {
    Rule { check, stampers, needs_time: true }
}

const RULES: &[Rule] = &[
    // Stamps, chunk by chunk.
    rule(check_lost_stamps, ANY),
    rule(check_unstamped, ANY),
    // What reading late can do to stamps.
    rule_of_shares(check_away, BY_READS),
    rule_of_shares(check_run_queue, BY_READS),
    rule_of_shares(check_busy_thread, BY_READS),
    rule_of_shares(check_wake_lag, &[Stamper::Client]),
    // What it does to the load. Only packets show when the last chunk of each response arrived.
    rule(check_read_lag, ANY),
    rule(check_end_notice, BY_READS),
    rule(check_empty_slots, &[Stamper::Packets]),
    // Sending late, the network, and the input.
    rule(check_send_lag, ANY),
    rule(check_refill_time, ANY),
    rule(check_retransmits, ANY),
    rule(check_input_blocked, ANY),
];

/// Returns the verdict and its reasons, the most serious first. Each reason is one line with the number and the cure.
#[must_use]
pub fn judge_run(evidence: &Evidence) -> (Verdict, Vec<String>) {
    let stamper = evidence.stamper();
    let judged =
        |rule: &&Rule| rule.stampers.contains(&stamper) && (!rule.needs_time || evidence.duration >= MIN_DURATION);
    let mut found: Vec<Finding> = RULES.iter().filter(judged).filter_map(|rule| (rule.check)(evidence)).collect();
    let bound = found.iter().any(|(verdict, _)| *verdict == Verdict::ClientBound);
    if !evidence.may_have_joined_chunks(bound) {
        found.extend(check_buffering(&evidence.buffering));
    }
    found.sort_by_key(|(verdict, _)| Reverse(*verdict));
    let verdict = found.first().map_or(Verdict::Clean, |(verdict, _)| *verdict);
    (verdict, found.into_iter().map(|(_, reason)| reason).collect())
}

impl Evidence {
    /// What most chunks were stamped by. A few whose packets were missed are judged by their bounds.
    #[must_use]
    pub fn stamper(&self) -> Stamper {
        let Stamps { chunks, packets, .. } = self.stamps;
        let missed = share_of(chunks.saturating_sub(packets), chunks);
        if packets > 0 && UNSTAMPED.classify(missed).is_none() {
            Stamper::Packets
        } else if self.kernel && self.user_share() <= 0.5 {
            Stamper::Kernel
        } else {
            Stamper::Client
        }
    }

    fn user_share(&self) -> f64 {
        share_of(self.stamps.user, self.stamps.chunks)
    }

    /// Whether chunks that seem to come in bursts may have been joined by the client: by one that is `bound`, if it stamps their reads.
    #[must_use]
    pub fn may_have_joined_chunks(&self, bound: bool) -> bool {
        bound && self.stamper() != Stamper::Packets
    }
}

impl Threshold {
    /// Classifies `value`; `None`: it is below both limits.
    fn classify(self, value: f64) -> Option<Verdict> {
        if value > self.bound { Some(Verdict::ClientBound) } else { (value > self.suspect).then_some(Verdict::Suspect) }
    }
}

fn share_of(part: u64, total: u64) -> f64 {
    part as f64 / (total as f64).max(1.0)
}

fn format_percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn check_lost_stamps(evidence: &Evidence) -> Option<Finding> {
    check_bounds(evidence.bounds.as_ref()?, evidence.read_lag.unwrap_or_default().p99, evidence.may_capture)
}

fn check_unstamped(evidence: &Evidence) -> Option<Finding> {
    let user = if evidence.kernel { evidence.user_share() } else { 0.0 };
    let share = format_percent(user);
    Some((
        UNSTAMPED.classify(user)?,
        format!(
            "{share} of the chunks have no kernel stamp and were stamped in user space, so their times may be late: check \
             whether the clock was stepped or the connection is of a kind without stamps"
        ),
    ))
}

fn check_read_lag(evidence: &Evidence) -> Option<Finding> {
    let lag = evidence.read_lag?.p99;
    Some((
        READ_LAG_SECONDS.classify(lag.as_secs_f64())?,
        format!(
            "the client read so late (read lag p99 {lag}) that full buffers may have slowed the server down: give it a \
             free core, or use more --threads"
        ),
    ))
}

/// A time as a share of the mean latency; `None` if it is negligible or slots were not reused in a closed loop.
fn share_of_latency(evidence: &Evidence, time: Nanos) -> Option<f64> {
    let latency = evidence.mean_latency.filter(|latency| latency.0 > 0)?;
    let closed =
        !evidence.by_schedule && evidence.sent >= REQUESTS_PER_SLOT.saturating_mul(evidence.max_concurrency?.into());
    (closed && time > MIN_REFILL_TIME).then(|| time.as_secs_f64() / latency.as_secs_f64())
}

fn check_end_notice(evidence: &Evidence) -> Option<Finding> {
    let lag = evidence.read_lag?.p50;
    let share = share_of_latency(evidence, lag)?;
    Some((
        END_NOTICE_LAG.classify(share)?,
        format!(
            "the client notices the end of a response {lag} late (read lag p50), {} of the mean latency, so the server had \
             fewer requests than --max-concurrency: give it a free core, or use more --threads",
            format_percent(share)
        ),
    ))
}

fn check_empty_slots(evidence: &Evidence) -> Option<Finding> {
    let empty = evidence.empty_slot?;
    let share = share_of_latency(evidence, empty)?;
    Some((
        EMPTY_SLOT.classify(share)?,
        format!(
            "the client notices the end of a response and sends the next request {empty} late (mean), {} of the mean latency, so the \
             server had fewer requests than --max-concurrency (the latencies are right): give it a free core, or use more --threads",
            format_percent(share)
        ),
    ))
}

fn check_refill_time(evidence: &Evidence) -> Option<Finding> {
    let lag = evidence.send_lag?.p50;
    let share = share_of_latency(evidence, lag)?;
    Some((
        REFILL_TIME.classify(share)?,
        format!(
            "the client takes {lag} to send the next request (send lag p50), {} of the mean latency, so it limits the \
             throughput: give it a free core, or use more --threads",
            format_percent(share)
        ),
    ))
}

fn check_send_lag(evidence: &Evidence) -> Option<Finding> {
    let lag = evidence.send_lag.filter(|_| evidence.by_schedule)?;
    let (name, lag) = if evidence.sent < MIN_SENT { ("p50", lag.p50) } else { ("p99", lag.p99) };
    Some((
        SEND_LAG_SECONDS.classify(lag.as_secs_f64())?,
        format!(
            "the client sent late against the schedule (send lag {name} {lag}), so the load was not as requested: give it \
             a free core, use more --threads, or a lower --request-rate"
        ),
    ))
}

fn check_away(evidence: &Evidence) -> Option<Finding> {
    let away = evidence.client.away?;
    let share = format_percent(away);
    Some((
        AWAY.classify(away)?,
        format!(
            "the client was away for {share} of the run, in pauses of 30 ms or longer: it was stopped, its virtual machine was paused, or \
             it had no core; keep it running, and give it a free core"
        ),
    ))
}

fn check_run_queue(evidence: &Evidence) -> Option<Finding> {
    let waited = evidence.client.run_queue?;
    let limit = if evidence.stamper() == Stamper::Client { RUN_QUEUE } else { RUN_QUEUE_KERNEL };
    let waited_share = format_percent(waited);
    Some((
        limit.classify(waited)?,
        format!(
            "a thread of the client was ready but had no core for {waited_share} of the run: stop other programs on this \
             machine, or raise the client's CPU quota"
        ),
    ))
}

fn check_busy_thread(evidence: &Evidence) -> Option<Finding> {
    let busy = evidence.client.busiest_thread;
    let (limit, effect) = match evidence.stamper() {
        Stamper::Client => (BUSY, "so it stamps late"),
        _ => (BUSY_KERNEL, "so it has no capacity left"),
    };
    let busy_share = format_percent(busy);
    Some((
        limit.classify(busy)?,
        format!("the busiest reader thread is {busy_share} busy, {effect}: use more --threads"),
    ))
}

fn check_wake_lag(evidence: &Evidence) -> Option<Finding> {
    let lag = evidence.client.wake_lag?.p99;
    Some((
        WAKE_LAG_SECONDS.classify(lag.as_secs_f64())?,
        format!(
            "the client wakes late (wake lag p99 {lag}), and without kernel stamps its times are as late: give it a \
             free core, or use more --threads"
        ),
    ))
}

fn check_retransmits(evidence: &Evidence) -> Option<Finding> {
    let count = evidence.client.retransmits.filter(|count| *count > ACCEPTED_RETRANSMITS)?;
    Some((
        RETRANSMITS.classify(share_of(count, evidence.sent))?,
        format!(
            "{count} TCP segments of {} requests had to be retransmitted: the network loses packets, which adds to some \
             latencies; check the path to the server",
            evidence.sent
        ),
    ))
}

fn check_input_blocked(evidence: &Evidence) -> Option<Finding> {
    let what = "waiting turns of conversations filled their buffer (1 GiB), so that the conversations after them began late: make \
                conversations shorter, or divide them among several clients";
    evidence.input_blocked.then(|| (Verdict::Suspect, what.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::PercentileBounds;

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
            bounds: None,
            may_capture: false,
            buffering: Buffering { compared: 1000, ..Buffering::default() },
            read_lag: Some(Percentiles { p50: Nanos(40_000), p99: Nanos(MS), max: Nanos(5 * MS) }),
            send_lag: Some(Percentiles { p50: Nanos(50_000), p99: Nanos(2 * MS), max: Nanos(9 * MS) }),
            empty_slot: Some(Nanos(90_000)),
            client: ClientUse { cpu: 0.2, busiest_thread: 0.2, run_queue: Some(0.01), ..ClientUse::default() },
            by_schedule: false,
            max_concurrency: Some(64),
            mean_latency: Some(Nanos(2 * SECOND)),
            duration: Nanos(60 * SECOND),
            sent: 1000,
            input_blocked: false,
        }
    }

    #[test]
    fn conversations_that_began_late_are_reported() {
        let (verdict, reasons) = judge_run(&Evidence { input_blocked: true, ..kernel() });
        assert!(verdict == Verdict::Suspect && reasons[0].contains("began late"), "{reasons:?}");
    }

    /// The same without kernel stamps.
    fn user() -> Evidence {
        let client = ClientUse { wake_lag: Some(all(1.1)), retransmits: None, ..kernel().client };
        let stamps = Stamps { chunks: 100_000, user: 100_000, ..Stamps::default() };
        Evidence { kernel: false, stamps, read_lag: None, client, ..kernel() }
    }

    /// The same with the arrivals of packets, in a closed loop.
    fn packets() -> Evidence {
        Evidence { stamps: Stamps { packets: 100_000, ..kernel().stamps }, ..kernel() }
    }

    /// Changes one value: to one that is still clean, one that is suspect, and, if it exists, one that is client-bound. There is
    /// one reason, which contains `says`.
    fn steps(
        base: fn() -> Evidence,
        change: impl Fn(&mut Evidence, f64),
        values: [f64; 2],
        bound: Option<f64>,
        says: &str,
    ) {
        let judged = |value: f64| {
            let mut evidence = base();
            change(&mut evidence, value);
            judge_run(&evidence)
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
            assert_eq!(judge_run(&evidence), (Verdict::Clean, vec![]));
        }
    }

    #[test]
    fn chunks_that_lost_their_stamps_count_by_what_they_move() {
        let ms = |n: f64| Nanos::from_secs_f64(n / 1e3);
        let bounds = |low: f64| {
            let bounds = PercentileBounds { p99: Some([ms(low), ms(50.0)]), ..PercentileBounds::default() };
            Some(TimeBounds { chunks: 418, ttft: Some(bounds), ..TimeBounds::default() })
        };
        let lost = |evidence: &mut Evidence, low: f64| evidence.bounds = bounds(low);
        steps(kernel, lost, [49.6, 49.4], Some(44.9), "418 chunks waited for the client");
        let evidence = Evidence { bounds: bounds(43.0), read_lag: Some(all(22.0)), ..kernel() };
        assert_eq!(
            judge_run(&evidence).1,
            [
                "418 chunks waited for the client and lost their own stamps (read lag p99 22.0 ms), so these are known only to lie \
                 within: TTFT p99 43.0 ms to 50.0 ms: give the client a free core, or use more --threads"
            ]
        );
        let evidence = Evidence { may_capture: true, ..evidence };
        assert!(judge_run(&evidence).1[0].ends_with("use more --threads, or use --stamps packets"));
    }

    #[test]
    fn a_burst_in_step_that_is_read_late_but_whole_is_clean() {
        // 2,048 streams every 50 ms: the last chunk of a step is read about 20 ms after its arrival, with its own stamp.
        let mut evidence = kernel();
        evidence.stamps.late = 95_000;
        evidence.read_lag = Some(Percentiles { p50: Nanos(9 * MS), p99: Nanos(20 * MS), max: Nanos(30 * MS) });
        evidence.client.busiest_thread = 0.45;
        assert_eq!(judge_run(&evidence), (Verdict::Clean, vec![]));
    }

    #[test]
    fn user_space_stamps_among_kernel_stamps_are_suspect() {
        let unstamped = |evidence: &mut Evidence, share: f64| evidence.stamps.user = chunks(share);
        steps(kernel, unstamped, [0.0099, 0.0101], None, "stamped in user space");
    }

    #[test]
    fn without_any_kernel_stamp_the_rules_of_user_space_apply() {
        let mut evidence = Evidence { kernel: true, ..user() };
        evidence.client.run_queue = Some(0.3);
        let (verdict, reasons) = judge_run(&evidence);
        assert_eq!((verdict, reasons.len()), (Verdict::ClientBound, 2), "{reasons:?}");
        assert!(reasons[0].contains("had no core") && reasons[1].contains("no kernel stamp"));
    }

    #[test]
    fn a_busy_thread_that_stamps_is_late() {
        let busy = |evidence: &mut Evidence, share: f64| evidence.client.busiest_thread = share;
        steps(user, busy, [0.699, 0.701], Some(0.901), "busy, so it stamps late: use more --threads");
        steps(kernel, busy, [0.899, 0.901], None, "so it has no capacity left: use more --threads");
    }

    #[test]
    fn pauses_of_the_client_count_by_their_share_of_the_run() {
        let away = |evidence: &mut Evidence, share: f64| evidence.client.away = Some(share);
        for base in [kernel, user] {
            steps(base, away, [0.029, 0.031], Some(0.201), "the client was away for");
        }
    }

    #[test]
    fn responses_that_were_held_back_are_suspect_unless_the_client_was_late() {
        let held_back = |evidence: &mut Evidence, share: f64| {
            evidence.buffering.buffered = Nanos::from_secs_f64(share * 1000.0 / 1e9).0;
        };
        steps(kernel, held_back, [0.2, 0.9], None, "responses arrived at once or in bursts");
        let mut evidence = user();
        held_back(&mut evidence, 0.9);
        evidence.client.wake_lag = Some(all(500.0));
        let (verdict, reasons) = judge_run(&evidence);
        assert!(verdict == Verdict::ClientBound && reasons.len() == 1, "{reasons:?}");
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
        assert_eq!(judge_run(&evidence).0, Verdict::Clean);
    }

    #[test]
    fn a_late_reader_does_not_make_packets_late() {
        let mut evidence = packets();
        evidence.read_lag = Some(all(900.0));
        evidence.client = ClientUse {
            busiest_thread: 1.0,
            run_queue: Some(0.9),
            away: Some(0.9),
            wake_lag: Some(all(90.0)),
            ..evidence.client
        };
        (evidence.stamps.late, evidence.stamps.coalesced) = (90_000, 90_000);
        assert_eq!(judge_run(&evidence), (Verdict::Clean, vec![]));
        // Up to a hundredth of the chunks may have missed their packets.
        evidence.stamps.packets = 99_000;
        assert_eq!(judge_run(&evidence).0, Verdict::Clean);
        evidence.stamps.packets = 98_999;
        assert_eq!((judge_run(&evidence).0, judge_run(&evidence).1.len()), (Verdict::ClientBound, 4));
        // A proxy that holds chunks back is seen, however late the client reads.
        evidence = packets();
        evidence.buffering = Buffering { buffered: 900, ..evidence.buffering };
        evidence.empty_slot = Some(Nanos(SECOND));
        assert_eq!(judge_run(&evidence).1.len(), 2);
    }

    #[test]
    fn what_the_client_does_to_the_load_counts_with_packets_too() {
        let empty = |evidence: &mut Evidence, ms: f64| evidence.empty_slot = Some(all(ms).p50);
        steps(packets, empty, [99.0, 101.0], Some(401.0), "(the latencies are right)");
        let late = |evidence: &mut Evidence, ms: f64| evidence.read_lag = Some(all(ms));
        steps(packets, late, [999.0, 1001.0], None, "slowed the server down");
        let send = |evidence: &mut Evidence, ms: f64| evidence.send_lag = Some(all(ms));
        steps(packets, send, [39.9, 40.1], Some(100.1), "to send the next request");
        let open = || Evidence { by_schedule: true, empty_slot: Some(Nanos(SECOND)), ..packets() };
        steps(open, send, [4.9, 5.1], Some(50.1), "sent late against the schedule (send lag p99");
        let again = |evidence: &mut Evidence, count: f64| {
            evidence.client.retransmits = Some(Nanos::from_secs_f64(count / 1e9).0);
        };
        steps(packets, again, [1.0, 2.0], None, "2 TCP segments");
        let bounds = PercentileBounds { p99: Some([Nanos(20 * MS), Nanos(50 * MS)]), ..PercentileBounds::default() };
        let missed = Some(TimeBounds { chunks: 900, ttft: Some(bounds), ..TimeBounds::default() });
        assert_eq!(judge_run(&Evidence { bounds: missed, ..packets() }).0, Verdict::ClientBound);
        assert_eq!(judge_run(&Evidence { input_blocked: true, ..packets() }).0, Verdict::Suspect);
    }

    #[test]
    fn shares_of_a_moment_are_not_judged() {
        let mut evidence = user();
        evidence.client.run_queue = Some(0.9);
        evidence.client.wake_lag = Some(all(100.0));
        evidence.duration = Nanos(SECOND - 1);
        assert_eq!(judge_run(&evidence).0, Verdict::Clean);
        evidence.duration = Nanos(SECOND);
        assert_eq!(judge_run(&evidence).0, Verdict::ClientBound);
    }

    #[test]
    fn an_open_loop_must_send_on_time() {
        let open = || Evidence { by_schedule: true, ..kernel() };
        let late = |evidence: &mut Evidence, ms: f64| {
            evidence.send_lag = Some(Percentiles { p99: all(ms).p99, ..evidence.send_lag.unwrap() });
        };
        steps(open, late, [4.9, 5.1], Some(50.1), "sent late against the schedule (send lag p99");
        // The maximum of few values is an accident.
        let mut evidence = Evidence { sent: 99, ..open() };
        late(&mut evidence, 100.0);
        assert_eq!(judge_run(&evidence).0, Verdict::Clean);
        evidence.send_lag = Some(all(100.0));
        assert_eq!(judge_run(&evidence).0, Verdict::ClientBound);
    }

    #[test]
    fn a_closed_loop_must_refill_slots_fast_against_the_latency() {
        // The mean latency is 2 s.
        let lag = |evidence: &mut Evidence, ms: f64| evidence.send_lag = Some(all(ms));
        steps(kernel, lag, [39.9, 40.1], Some(100.1), "to send the next request");
        // All slots are free at the start, and the last one waits for the others.
        let mut evidence = kernel();
        evidence.send_lag = Some(Percentiles { p50: Nanos(60_000), p99: Nanos(300 * MS), max: Nanos(900 * MS) });
        assert_eq!(judge_run(&evidence).0, Verdict::Clean);
        // A load that consists of its start only is not judged either.
        let burst = Evidence { send_lag: Some(all(300.0)), max_concurrency: None, ..kernel() };
        assert_eq!(judge_run(&burst).0, Verdict::Clean);
        assert_eq!(judge_run(&Evidence { max_concurrency: Some(501), ..burst.clone() }).0, Verdict::Clean);
        assert_eq!(judge_run(&Evidence { max_concurrency: Some(500), ..burst }).0, Verdict::ClientBound);
        // Short requests are not judged by microseconds.
        let short = Evidence { mean_latency: Some(Nanos(5 * MS)), send_lag: Some(all(0.99)), ..kernel() };
        assert_eq!(judge_run(&short).0, Verdict::Clean);
        assert_eq!(judge_run(&Evidence { send_lag: Some(all(1.01)), ..short.clone() }).0, Verdict::ClientBound);
        assert_eq!(judge_run(&Evidence { mean_latency: None, send_lag: Some(all(900.0)), ..short }).0, Verdict::Clean);
    }

    #[test]
    fn ends_that_are_noticed_late_leave_slots_empty_in_a_closed_loop_only() {
        let lag = |evidence: &mut Evidence, ms: f64| evidence.read_lag = Some(all(ms));
        steps(kernel, lag, [99.0, 101.0], Some(401.0), "notices the end of a response");
        assert_eq!(
            judge_run(&Evidence { by_schedule: true, read_lag: Some(all(401.0)), ..kernel() }).0,
            Verdict::Clean
        );
    }

    #[test]
    fn reads_seconds_late_may_hold_the_server_back() {
        let open = || Evidence { by_schedule: true, ..kernel() };
        let lag = |evidence: &mut Evidence, ms: f64| evidence.read_lag = Some(all(ms));
        steps(open, lag, [999.0, 1001.0], None, "slowed the server down");
    }

    #[test]
    fn retransmitted_segments_point_to_the_network() {
        let again = |evidence: &mut Evidence, count: f64| {
            evidence.sent = 2000;
            evidence.client.retransmits = Some(Nanos::from_secs_f64(count / 1e9).0);
        };
        steps(kernel, again, [2.0, 3.0], None, "3 TCP segments of 2000 requests had to be retransmitted");
        let mut one = kernel();
        (one.sent, one.client.retransmits) = (10, Some(1));
        assert_eq!(judge_run(&one).0, Verdict::Clean);
    }

    #[test]
    fn the_most_serious_reason_comes_first() {
        let mut evidence = user();
        evidence.client.busiest_thread = 0.8;
        evidence.send_lag = Some(all(1000.0));
        let (verdict, reasons) = judge_run(&evidence);
        assert_eq!(verdict, Verdict::ClientBound);
        assert!(reasons[0].contains("send lag") && reasons[1].contains("80.0 % busy"), "{reasons:?}");
    }
}
