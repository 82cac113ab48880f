//! The first lines of a table: what makes the run useless, then the verdict and the states of server and client.

use super::super::{
    client::{ClientFigures, Lags},
    result::RunResult,
    vb::VbMetrics,
};
use crate::{
    printout::{Cell, Printout, Tone},
    record::Verdict,
    steadiness::Stability,
};

/// Adds the lines.
pub fn add_head(out: &mut Printout, result: &RunResult) {
    let vb = &result.vb;
    for (what, why) in alarms(result) {
        out.add_wrapped(&[Cell::left(what).toned(Tone::Bad), Cell::left(": "), Cell::left(why)], 2);
    }
    let mut cells = vec![Cell::left("verdict"), Cell::left(": "), verdict_cell(vb)];
    for flaw in [vb.interrupted.then_some("interrupted"), (!vb.complete).then_some("incomplete")].into_iter().flatten()
    {
        cells.extend([Cell::left(", "), Cell::left(flaw).toned(Tone::Bad)]);
    }
    if let Some(steady) = &vb.steady {
        cells.extend([Cell::left(" | "), Cell::left("server"), Cell::left(": ")]);
        cells.push(stability_cell(steady.verdict));
    }
    cells.extend([Cell::left(" | "), Cell::left("client"), Cell::left(": ")]);
    for (i, figure) in client_figures(vb).into_iter().enumerate() {
        cells.extend([Cell::left(if i == 0 { "" } else { ", " }), Cell::left(figure)]);
    }
    out.add_wrapped(&cells, 2);
}

/// Why no latency of the run means what it seems to, each with its reason.
fn alarms(result: &RunResult) -> Vec<(&'static str, String)> {
    let vb = &result.vb;
    let mut alarms = Vec::new();
    if result.completed == 0 {
        alarms.push(("NO SUCCESS", format!("{} of {} requests failed", result.failed, vb.population().counted())));
    }
    if let Some(steady) = vb.steady.as_ref().filter(|steady| steady.verdict == Stability::Overloaded) {
        alarms.push(("OVERLOADED", steady.why.clone()));
    }
    if let (Some(Verdict::ClientBound), Some(reason)) = (vb.verdict, vb.reasons.first()) {
        alarms.push(("CLIENT BOUND", reason.clone()));
    }
    alarms
}

/// The verdict on the client, with its colour.
pub fn verdict_cell(vb: &VbMetrics) -> Cell {
    let tone = match vb.verdict {
        Some(Verdict::Clean) => Tone::Good,
        None | Some(Verdict::Suspect) => Tone::Doubtful,
        Some(Verdict::ClientBound) => Tone::Bad,
    };
    Cell::left(vb.verdict.map_or("unknown", Verdict::name)).toned(tone)
}

/// How the run developed, with its colour.
pub fn stability_cell(stability: Stability) -> Cell {
    let tone = match stability {
        Stability::Steady => Tone::Good,
        Stability::Overloaded => Tone::Bad,
        Stability::DriftingUp | Stability::DriftingDown | Stability::Changing | Stability::TooShort => Tone::Doubtful,
    };
    Cell::left(stability.as_words()).toned(tone)
}

/// What the client reports about itself, in a few words.
fn client_figures(vb: &VbMetrics) -> Vec<String> {
    let Some(client) = &vb.client else { return vec!["nothing is known".to_owned()] };
    let ClientFigures { read_lag_ms, send_lag_ms, .. } = client;
    let figure = |name: &str, lags: &Option<Lags>| Some(format!("{name} {:.2} ms", lags.as_ref()?.p99));
    let figures: Vec<String> =
        [figure("read lag p99", read_lag_ms), figure("send lag p99", send_lag_ms)].into_iter().flatten().collect();
    if figures.is_empty() { vec!["nothing is known".to_owned()] } else { figures }
}
