//! The notes below a table: what to know about its numbers, and what to do.

use super::{
    super::{arrivals, result::RunResult, steady::Steady, vb::UNCOUNTED, vb::VbMetrics},
    is_hidden,
};
use crate::{
    printout::{Cell, Printout, Tone},
    record::{Arrivals, Buffering, TokenSource, Verdict},
    recording::metric::Metric,
    steadiness::{Stability, stall::Stall},
};

/// The most reasons of a verdict in a table.
const MAX_REASONS: usize = 2;

/// What a note is about, its text, and how serious it is.
pub struct Note {
    about: &'static str,
    text: String,
    tone: Tone,
}

impl Note {
    fn doubtful(about: &'static str, text: impl Into<String>) -> Self {
        Note { about, text: text.into(), tone: Tone::Doubtful }
    }

    /// Adds it below a table.
    pub fn print(&self, out: &mut Printout) {
        out.add_wrapped(
            &[Cell::left(self.about).toned(self.tone), Cell::left(": "), Cell::left(self.text.as_str())],
            self.about.len() + 2,
        );
    }
}

/// All notes, the most serious ones first.
#[must_use]
pub fn collect_notes(result: &RunResult) -> Vec<Note> {
    let vb = &result.vb;
    let mut notes = client_notes(vb);
    if let Some(steady) = &vb.steady {
        notes.extend(server_notes(steady));
    }
    if is_hidden(result, Metric::Ttft)
        && let Some(Buffering { buffered, compared, .. }) =
            vb.client.as_ref().and_then(|client| client.buffering.as_ref())
    {
        let what = format!(
            "{buffered} of {compared} responses were held back on their way: TTFT, TPOT and ITL are not the model's"
        );
        notes.push(Note::doubtful("proxy", what));
    }
    notes.extend(stream_notes(vb));
    // A longer run of an overloaded server has longer latencies.
    let is_overloaded = vb.steady.as_ref().is_some_and(|steady| steady.verdict == Stability::Overloaded);
    if let Some(advice) = vb.run_length.as_ref().filter(|_| !is_overloaded).and_then(|length| length.advice.as_ref()) {
        notes.push(Note::doubtful("length", advice));
    }
    notes.extend(token_notes(result));
    if vb.percentile_error > 0.0 {
        let text = format!("percentiles are from histograms: within {:.2} %", vb.percentile_error * 100.0);
        notes.push(Note { tone: Tone::Faint, ..Note::doubtful("precision", text) });
    }
    notes.extend(vb.server_doubts().map(|doubt| Note::doubtful("server", doubt)));
    notes
}

/// Why the verdict is not `clean`; the alarms have the first reason of `client_bound` already.
fn client_notes(vb: &VbMetrics) -> Vec<Note> {
    let shown = usize::from(vb.verdict == Some(Verdict::ClientBound));
    let reasons = vb.reasons.iter().skip(shown);
    let mut notes: Vec<Note> = reasons.take(MAX_REASONS).map(|reason| Note::doubtful("client", reason)).collect();
    let more = vb.reasons.len().saturating_sub(shown + MAX_REASONS);
    if more > 0 {
        notes.push(Note::doubtful("client", format!("{more} more reasons are in vb.reasons of the result")));
    }
    if let Some(planned) = vb.arrivals.as_ref().filter(|planned| was_late(planned)) {
        let text = arrivals::describe_arrivals(planned);
        notes.push(Note::doubtful("arrivals", text.trim_start_matches("arrivals: ")));
    }
    notes
}

/// Whether requests were not sent as planned.
pub fn was_late(planned: &Arrivals) -> bool {
    let late = planned.late;
    late.no_slot + late.input + late.client > 0 || planned.p < 0.01
}

fn server_notes(steady: &Steady) -> Vec<Note> {
    let mut notes = Vec::new();
    if !matches!(steady.verdict, Stability::Steady | Stability::Overloaded) {
        notes.push(Note::doubtful("server", format!("{}: {}", steady.verdict.as_words(), steady.why)));
    }
    notes.extend(describe_stalls(steady).map(|text| Note::doubtful("server", text)));
    notes.extend(describe_lock_step(steady).map(|text| Note::doubtful("load", text)));
    notes
}

/// The longest time in which no stream received anything.
pub fn describe_stalls(steady: &Steady) -> Option<String> {
    let Stall { at_s, seconds, streams } = steady.stalls.longest.first()?;
    let all = match steady.stalls.count {
        1 => String::new(),
        count => format!(" ({count} stalls, {:.1} s in all)", steady.stalls.seconds),
    };
    Some(format!("{streams} streams received nothing for {seconds:.1} s at {at_s:.1} s{all}"))
}

/// Requests that start together again and again.
pub fn describe_lock_step(steady: &Steady) -> Option<String> {
    let together = steady.lock_step?;
    Some(format!(
        "about {together:.0} requests start at once, repeatedly, as requests of one length do in a closed loop; vary the lengths"
    ))
}

/// What the stream of records lacks.
fn stream_notes(vb: &VbMetrics) -> Vec<Note> {
    let mut notes = Vec::new();
    if !vb.complete {
        notes.push(Note::doubtful("records", "the stream was truncated or filtered, or has not ended"));
    }
    if vb.interrupted {
        notes.push(Note::doubtful("records", "a signal ended the run early"));
    }
    if vb.bad_lines > 0 {
        notes.push(Note::doubtful("records", format!("{} bad lines were skipped", vb.bad_lines)));
    }
    notes
}

/// What is known about the numbers of tokens.
fn token_notes(result: &RunResult) -> Vec<Note> {
    let vb = &result.vb;
    let mut notes = Vec::new();
    for (outputs, how) in [(vb.shortfall.short, "shorter"), (vb.shortfall.long, "longer")] {
        if outputs > 0 {
            notes
                .push(Note::doubtful("outputs", format!("{outputs} of {} are {how} than requested", result.completed)));
        }
    }
    if let Some(difference) = vb.prompt_lengths.and_then(|lengths| lengths.describe_difference()) {
        notes.push(Note::doubtful("prompts", format!("the server counts {difference}")));
    }
    let number_of = |source: &str| vb.token_sources.get(source).and_then(serde_json::Value::as_u64).unwrap_or_default();
    for (source, what) in [
        (UNCOUNTED, "have no token count"),
        (TokenSource::Chunks.name(), "have at least as many tokens as counted, one for each chunk"),
    ] {
        let responses = number_of(source);
        if responses > 0 {
            notes.push(Note::doubtful("tokens", format!("{responses} of {} responses {what}", result.completed)));
        }
    }
    if vb.hidden_tokens > 0 {
        let text =
            format!("{} hidden tokens, as reasoning that is not sent, are not in TPOT and ITL", vb.hidden_tokens);
        notes.push(Note { tone: Tone::Faint, ..Note::doubtful("tokens", text) });
    }
    notes
}
