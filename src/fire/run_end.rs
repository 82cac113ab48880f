//! The end of a run: what is known of it by then, its last record, and its exit code.

use std::io::{self, Write};

use super::{
    args::{Args, StampSource, TransportKind},
    capture::describe_missed,
    dispatch::DispatchEnd,
    lengths,
    preflight::{self, FailureContext, Preflight},
    sink::SinkResult,
    stop::StopReason,
    verdict::Evidence,
};
use crate::{
    cli,
    error::Error,
    http::packets::PacketCapture,
    load::arrivals::{ArrivalSummary, LateRequests},
    ndjson,
    record::{self, ClientUse, EndRecord, GapTest, LateCounts, NotSent, Verdict},
    secrets,
    units::Nanos,
};

/// A finished run.
pub struct RunEnd {
    /// What the sink wrote.
    pub written: SinkResult,
    /// Requests that were sent. Each must have a record.
    pub started: u64,
    /// How the input ended.
    pub input: Result<(), Error>,
    /// Why the run was stopped; `None`: all requests were sent.
    pub reason: Option<StopReason>,
    /// Whether packets were captured.
    pub captured: bool,
    /// The last record.
    pub record: EndRecord,
}

/// Collects what the client measured about itself.
pub fn collect_evidence(
    args: &Args,
    written: &SinkResult,
    client: ClientUse,
    by_schedule: bool,
    duration: Nanos,
    dispatched: DispatchEnd,
) -> Evidence {
    let tally = &written.tally;
    let kernel = args.transport != TransportKind::Portable && cfg!(target_os = "linux");
    let bounds = tally.times.percentile_bounds();
    Evidence {
        kernel,
        stamps: tally.stamps,
        bounds,
        may_capture: kernel && bounds.is_some() && args.stamps == StampSource::Kernel && PacketCapture::is_allowed(),
        buffering: tally.buffering.clone(),
        read_lag: tally.read_lag(),
        send_lag: tally.send_lag(),
        empty_slot: tally.mean_empty_slot(),
        client: ClientUse { retransmits: tally.retransmits, ..client },
        by_schedule,
        max_concurrency: args.max_concurrency,
        mean_latency: tally.mean_latency(),
        duration,
        sent: tally.population.offered - tally.not_sent(),
        input_blocked: dispatched.input_blocked,
    }
}

/// The last record, with what the sink and the client measured.
pub fn end_record(
    written: &SinkResult,
    evidence: &Evidence,
    not_due: u64,
    reason: Option<StopReason>,
    input: &Result<(), Error>,
) -> EndRecord {
    let tally = &written.tally;
    let why = match (reason, input) {
        (Some(reason), _) => Some(reason.reason_text().to_owned()),
        (None, Err(e)) => Some(secrets::hide_remembered(&e.to_string()).into_owned()),
        (None, Ok(())) => tally.why_not_sent().map(str::to_owned),
    };
    EndRecord {
        offered: tally.population.offered,
        outcomes: tally.outcomes.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        not_sent: NotSent { count: tally.not_sent() + not_due, why },
        interrupted: matches!(
            reason,
            Some(StopReason::Interrupted | StopReason::OutputLost | StopReason::OutputStalled)
        ),
        schedule_lag: tally.schedule_lag(),
        send_lag: evidence.send_lag,
        read_lag: evidence.read_lag,
        stamps: Some(evidence.stamps),
        bounds: evidence.bounds,
        client: Some(evidence.client),
        resent: tally.resent,
        ..EndRecord::default()
    }
}

/// The error that decides the exit code, the most serious first.
pub async fn exit_result(
    args: &Args,
    preflight: &Preflight,
    context: FailureContext<'_>,
    end: RunEnd,
) -> Result<(), Error> {
    if let Some(e) = &end.written.error {
        let lost = end.written.lost;
        return Err(Error::Setup(match e.kind() {
            io::ErrorKind::BrokenPipe => {
                format!("the reader of the records closed its end, so the load was stopped; {lost} outcomes are lost")
            }
            _ => format!("cannot write stdout: {e}; the load was stopped, {lost} outcomes are lost"),
        }));
    }
    let verdict = end.record.verdict.unwrap_or(Verdict::Clean);
    // The line of a cell has the verdict.
    for reason in end.record.reasons.iter().filter(|_| cli::sweep_cell().is_none()) {
        cli::print_warning("vb-fire", format_args!("{}: {reason}", verdict.name()));
    }
    let tally = &end.written.tally;
    if end.captured
        && let Some(missed) = describe_missed(tally.stamps)
    {
        cli::print_warning("vb-fire", missed);
    }
    if end.record.reuse_ended {
        let resent = match tally.resent {
            0 => String::new(),
            count => format!("; {count} requests met such a close and were sent again"),
        };
        let what =
            "the server closes connections after a response without announcing it, so each request opened its own";
        cli::print_warning("vb-fire", format_args!("{what}{resent}; --no-keep-alive does that from the start"));
    }
    let unrecorded = end.started.saturating_sub(tally.population.offered - tally.not_sent());
    if unrecorded > 0 {
        return Err(Error::Invalid(format!(
            "{unrecorded} requests were sent and have no record, because their tasks failed (see above): please report this bug"
        )));
    }
    for note in lengths::length_notes(tally, args.backend, args.send_max_tokens) {
        cli::print_warning("vb-fire", note);
    }
    let population = tally.population;
    let share = population.failure_share().unwrap_or_default();
    let failed = match tally.most_frequent() {
        Some(most) if share > args.fail_above || population.succeeded == 0 => {
            let models = if preflight::concerns_model(&most) { preflight.known_models().await } else { vec![] };
            let context = FailureContext { models, ..context };
            let cure = preflight::error_cure(&most, &context);
            Some(format!(
                "{} of {} requests failed; most often ({}) {}: {}; {cure}",
                population.failed(),
                population.counted(),
                most.count,
                most.kind,
                most.message
            ))
        }
        _ => None,
    };
    if end.reason == Some(StopReason::OutputStalled) {
        return Err(Error::Setup(
            "the reader of the records was too slow, so the load was stopped at --max-buffer; all outcomes were written"
                .into(),
        ));
    }
    match (end.input, end.reason, failed) {
        (Err(e), _, failed) => {
            if let Some(text) = failed {
                cli::print_warning("vb-fire", text);
            }
            Err(e)
        }
        (Ok(()), Some(StopReason::Interrupted), _) => Err(Error::Interrupted),
        (Ok(()), _, Some(text)) => Err(Error::Check(text)),
        _ if args.strict && verdict == Verdict::ClientBound => Err(Error::Invalid(
            "the measurement is invalid (--strict): the client, not the server, set some of the numbers".into(),
        )),
        _ => Ok(()),
    }
}

/// How the arrivals kept to the schedule, for the last record.
#[must_use]
pub fn arrivals_record(arrivals: ArrivalSummary) -> record::Arrivals {
    let LateRequests { no_slot, input, client } = arrivals.late;
    record::Arrivals {
        planned: arrivals.planned,
        distance: arrivals.distance,
        p: arrivals.p,
        gaps: arrivals.gaps.map(|(distance, p)| GapTest { distance, p }),
        late: LateCounts { no_slot, input, client },
    }
}

/// Writes the last record, after everything that the sink wrote.
pub fn write_end(end: &EndRecord) -> Result<(), Error> {
    let mut out = cli::buffered_stdout();
    ndjson::write_record(&mut out, end)?;
    out.flush().map_err(Error::write_stdout)
}
