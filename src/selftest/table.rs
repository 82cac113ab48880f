//! The result as a table for people.

use super::{
    errors::LatencyErrors,
    record::SelftestRecord,
    search::{RateSearch, SearchLimit, SearchRun},
};
use crate::{
    printout::{Cell, Look, Printout, Tone},
    record::{Percentiles, Verdict},
    units::Nanos,
};

/// The width of the names of times.
const NAME_WIDTH: usize = 26;

/// The width of a column of times.
const TIME_WIDTH: usize = 11;

/// Formats the whole table.
#[must_use]
pub fn format_table(record: &SelftestRecord, look: Look) -> Printout {
    let errors = [("kernel stamps", record.errors.kernel), ("user stamps", record.errors.user)];
    let lags = [
        ("send to server read", record.send_to_read),
        ("schedule lag", record.schedule_lag),
        ("send lag", record.send_lag),
        ("read lag", record.read_lag),
    ];
    let mut out = Printout::new(look);
    add_load(&mut out, record);
    out.add_blank();
    add_row(&mut out, "milliseconds", ["p50", "p99", "max"].map(str::to_owned));
    for (stamps, errors) in errors.into_iter().filter_map(|(stamps, errors)| Some((stamps, errors?))) {
        add_errors(&mut out, stamps, &errors);
    }
    lags.into_iter()
        .filter_map(|(label, lag)| Some((label, lag?)))
        .for_each(|(label, lag)| add_lag(&mut out, label, &lag));
    out.add_blank();
    out.add_line(rate_line(record));
    let verdict = Cell::left(verdict_name(record.verdict)).toned(verdict_tone(record.verdict));
    out.add_cells(&[Cell::left("verdict"), Cell::left(": "), verdict]);
    record.reasons.iter().for_each(|reason| add_reason(&mut out, reason));
    if !record.server.kept {
        let what = "vb-sim did not keep its step: this machine is too slow for both programs at this load";
        out.add_wrapped(&[Cell::left(what).toned(Tone::Doubtful)], 2);
    }
    if let Some(search) = &record.search {
        out.add_wrapped(&[Cell::left(search_line(search))], 2);
        let reasons =
            search.turns_at.iter().filter(|_| search.limit == SearchLimit::Verdict).flat_map(|point| &point.reasons);
        reasons.for_each(|reason| add_reason(&mut out, reason));
    }
    out
}

fn add_load(out: &mut Printout, record: &SelftestRecord) {
    let field = |name: &str, value: Option<String>| value.map_or_else(String::new, |value| format!(", {name} {value}"));
    let transport = field("transport", record.transport.clone());
    let threads = field("threads", record.threads.map(|n| n.to_string()));
    out.add_cells(&[Cell::verbatim(format!("{} on {}", record.tool, record.host)), Cell::left(transport + &threads)]);
    out.add_line(format!(
        "{} of {} requests joined, {} chunks, {:.0} chunks/s, a token every {}, {} coalesced",
        record.joined, record.requests, record.chunks, record.chunks_per_s, record.settings.step, record.coalesced,
    ));
}

fn add_errors(out: &mut Printout, stamps: &str, errors: &LatencyErrors) {
    for (metric, error) in [("TTFT", &errors.ttft), ("ITL", &errors.itl), ("E2EL", &errors.e2el)] {
        add_lag(out, &format!("{metric} error, {stamps}"), error);
    }
}

fn add_lag(out: &mut Printout, label: &str, lag: &Percentiles) {
    add_row(out, label, [lag.p50, lag.p99, lag.max].map(|time: Nanos| format!("{:.3}", time.as_secs_f64() * 1e3)));
}

fn add_row(out: &mut Printout, label: &str, values: [String; 3]) {
    let values = values.map(|value| (Cell::right(value), TIME_WIDTH));
    let label = (Cell::left(label), NAME_WIDTH);
    out.add_fields(&std::iter::once(label).chain(values).collect::<Vec<_>>());
}

fn add_reason(out: &mut Printout, reason: &str) {
    out.add_wrapped(&[Cell::left("  "), Cell::left(reason)], 2);
}

fn rate_line(record: &SelftestRecord) -> String {
    let shown = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.2}/s"));
    let asked = record.rate.asked.map_or_else(String::new, |rate| format!("{rate:.2}/s requested, "));
    format!("requests: {asked}{} due, {} sent", shown(record.rate.scheduled), shown(record.rate.realised))
}

fn verdict_name(verdict: Option<Verdict>) -> &'static str {
    verdict.map_or("unknown", Verdict::name)
}

fn verdict_tone(verdict: Option<Verdict>) -> Tone {
    match verdict {
        Some(Verdict::Clean) => Tone::Good,
        Some(Verdict::ClientBound) => Tone::Bad,
        Some(Verdict::Suspect) | None => Tone::Doubtful,
    }
}

/// What the search found: `clean up to 6400 chunks/s; …`.
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
        (SearchLimit::Verdict, Some(point)) => at(point),
        (SearchLimit::Server, _) => "vb-sim, on the same machine, reached its limit".into(),
        _ => "no time for higher rates".into(),
    };
    format!("{clean}; {limit}")
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;
    use crate::{lang::Language, selftest::record::StampErrors, units::SECOND};

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
                "clean up to 800 chunks/s; suspect at 1600 chunks/s (8 streams, a token every 5.0 ms)",
            ),
            (
                search(SearchLimit::Server, Some(point)),
                "clean up to 800 chunks/s; vb-sim, on the same machine, reached its limit",
            ),
            (search(SearchLimit::Time, None), "clean up to 800 chunks/s; no time for higher rates"),
            (RateSearch::default(), "not clean at any tried rate; no time for higher rates"),
        ] {
            assert_eq!(search_line(&search), line);
        }
    }

    #[test]
    fn unknown_values_have_no_row() {
        let out = format_table(&SelftestRecord::default(), Look::default());
        let text = out.as_str();
        assert!(text.contains("verdict: unknown") && !text.contains("stamps") && !text.contains("lag"), "{text}");
    }

    #[test]
    fn the_table_is_in_chinese_and_coloured() {
        let point = SearchRun {
            streams: 8,
            verdict: Some(Verdict::Suspect),
            reasons: vec!["the busiest reader thread is 80 % busy, so it stamps late: use more --threads".into()],
            ..SearchRun::default()
        };
        let turns = RateSearch { limit: SearchLimit::Verdict, turns_at: Some(point), ..RateSearch::default() };
        let lag = Some(Percentiles::default());
        let errors = StampErrors { kernel: Some(LatencyErrors::default()), user: None };
        let record = SelftestRecord {
            transport: Some("stamped".into()),
            threads: Some(2),
            errors,
            send_lag: lag,
            read_lag: lag,
            schedule_lag: lag,
            send_to_read: lag,
            verdict: Some(Verdict::Suspect),
            search: Some(turns),
            ..SelftestRecord::default()
        };
        let look = Look { language: Language::Zh, colored: true, width: None };
        let text = format_table(&record, look).as_str().to_owned();
        let english = text.lines().filter(|line| line.len() > 5 && line.is_ascii()).collect::<Vec<_>>();
        assert!(english.is_empty(), "{english:#?}");
        assert!(text.contains("\n结论: \u{1b}[33m存疑（suspect）\u{1b}[0m\n"), "{text}");
        let widths = text.lines().filter(|line| line.ends_with("0.000")).map(UnicodeWidthStr::width);
        assert!(widths.clone().all(|width| width == NAME_WIDTH + 3 * TIME_WIDTH) && widths.count() == 7, "{text}");
    }
}
