//! The result as a table for people.

use super::{
    errors::LatencyErrors,
    record::SelftestRecord,
    search::{RateSearch, SearchLimit, SearchRun},
};
use crate::{
    record::{Percentiles, Verdict},
    units::Nanos,
};

/// Formats the whole table.
#[must_use]
pub fn format_table(record: &SelftestRecord) -> String {
    let errors = [("kernel stamps", record.errors.kernel), ("user stamps", record.errors.user)];
    let lags = [
        ("send to server read", record.send_to_read),
        ("schedule lag", record.schedule_lag),
        ("send lag", record.send_lag),
        ("read lag", record.read_lag),
    ];
    let mut lines =
        vec![load_lines(record), format!("\n{:<26}{:>11}{:>11}{:>11}\n", "milliseconds", "p50", "p99", "max")];
    lines.extend(errors.into_iter().filter_map(|(stamps, errors)| Some(error_rows(stamps, &errors?))));
    lines.extend(lags.into_iter().filter_map(|(label, lag)| Some(lag_row(label, &lag?))));
    lines.extend(["\n".into(), rate_line(record), format!("verdict: {}\n", verdict_name(record.verdict))]);
    lines.extend(record.reasons.iter().map(|reason| format!("  {reason}\n")));
    if !record.server.kept {
        lines.push("vb-sim did not keep its step: this machine is too slow for both programs at this load\n".into());
    }
    lines.extend(record.search.as_ref().map(search_line));
    lines.concat()
}

fn load_lines(record: &SelftestRecord) -> String {
    let field = |name: &str, value: Option<String>| value.map_or_else(String::new, |value| format!(", {name} {value}"));
    let requests = format!("{} of {} requests joined", record.joined, record.requests);
    format!(
        "{} on {}{}{}\n{requests}, {} chunks, {:.0} chunks/s, a token every {}, {} coalesced\n",
        record.tool,
        record.host,
        field("transport", record.transport.clone()),
        field("threads", record.threads.map(|n| n.to_string())),
        record.chunks,
        record.chunks_per_s,
        record.settings.step,
        record.coalesced,
    )
}

fn error_rows(stamps: &str, errors: &LatencyErrors) -> String {
    let each = [("TTFT", &errors.ttft), ("ITL", &errors.itl), ("E2EL", &errors.e2el)];
    each.map(|(metric, error)| lag_row(&format!("{metric} error, {stamps}"), error)).concat()
}

fn lag_row(label: &str, lag: &Percentiles) -> String {
    let ms = |time: Nanos| time.as_secs_f64() * 1e3;
    format!("{label:<26}{:>11.3}{:>11.3}{:>11.3}\n", ms(lag.p50), ms(lag.p99), ms(lag.max))
}

fn rate_line(record: &SelftestRecord) -> String {
    let shown = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.2}/s"));
    let asked = record.rate.asked.map_or_else(String::new, |rate| format!("{rate:.2}/s requested, "));
    format!("requests: {asked}{} due, {} sent\n", shown(record.rate.scheduled), shown(record.rate.realised))
}

fn verdict_name(verdict: Option<Verdict>) -> &'static str {
    verdict.map_or("unknown", Verdict::name)
}

/// The last line: `clean up to 6400 chunks/s; …`.
fn search_line(search: &RateSearch) -> String {
    let clean = match search.clean_up_to {
        Some(rate) => format!("clean up to {rate:.0} chunks/s"),
        None => "not clean at any tried rate".into(),
    };
    let at = |point: &SearchRun| {
        let (verdict, rate) = (verdict_name(point.verdict), point.chunks_per_s);
        let server = if point.server_kept { "" } else { "; vb-sim did not keep that step either" };
        format!("{verdict} at {rate:.0} chunks/s ({} streams, a token every {}{server})", point.streams, point.step)
    };
    let limit = match (search.limit, &search.turns_at) {
        (SearchLimit::Verdict, Some(point)) => {
            let reasons = point.reasons.iter().map(|reason| format!("\n  {reason}"));
            at(point) + &reasons.collect::<String>()
        }
        (SearchLimit::Server, _) => "vb-sim, on the same machine, reached its limit".into(),
        _ => "no time for higher rates".into(),
    };
    format!("{clean}; {limit}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SECOND;

    #[test]
    fn the_last_line_has_the_highest_clean_rate() {
        let point = SearchRun {
            streams: 8,
            step: Nanos(SECOND / 200),
            chunks_per_s: 1600.4,
            verdict: Some(Verdict::Suspect),
            server_kept: true,
            reasons: vec!["why".into()],
        };
        let search = |limit, turns_at| RateSearch { clean_up_to: Some(800.0), turns_at, limit, runs: vec![] };
        for (search, line) in [
            (
                search(SearchLimit::Verdict, Some(point.clone())),
                "clean up to 800 chunks/s; suspect at 1600 chunks/s (8 streams, a token every 5.0 ms)\n  why\n",
            ),
            (
                search(SearchLimit::Server, Some(point)),
                "clean up to 800 chunks/s; vb-sim, on the same machine, reached its limit\n",
            ),
            (search(SearchLimit::Time, None), "clean up to 800 chunks/s; no time for higher rates\n"),
            (RateSearch::default(), "not clean at any tried rate; no time for higher rates\n"),
        ] {
            assert_eq!(search_line(&search), line);
        }
    }

    #[test]
    fn unknown_values_have_no_row() {
        let text = format_table(&SelftestRecord::default());
        assert!(text.contains("verdict: unknown") && !text.contains("stamps") && !text.contains("lag"), "{text}");
    }
}
