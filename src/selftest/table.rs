//! The result as a table for people.

use super::{
    errors::Errors,
    record::SelftestRecord,
    search::{Limit, Point, Search},
};
use crate::{
    record::{Percentiles, Verdict},
    units::Nanos,
};

/// The whole table.
#[must_use]
pub fn table(record: &SelftestRecord) -> String {
    let errors = [("kernel stamps", record.errors.kernel), ("user stamps", record.errors.user)];
    let lags = [
        ("send to server read", record.send_to_read),
        ("schedule lag", record.schedule_lag),
        ("send lag", record.send_lag),
        ("read lag", record.read_lag),
    ];
    let mut lines = vec![load(record), format!("\n{:<26}{:>11}{:>11}{:>11}\n", "milliseconds", "p50", "p99", "max")];
    lines.extend(errors.into_iter().filter_map(|(stamps, errors)| Some(rows(stamps, &errors?))));
    lines.extend(lags.into_iter().filter_map(|(label, lag)| Some(row(label, &lag?))));
    lines.extend(["\n".into(), rate(record), format!("verdict: {}\n", verdict(record.verdict))]);
    lines.extend(record.reasons.iter().map(|reason| format!("  {reason}\n")));
    if !record.server.kept {
        lines.push("vb-sim did not keep its step: this machine is too slow for both programs at this load\n".into());
    }
    lines.extend(record.search.as_ref().map(searched));
    lines.concat()
}

fn load(record: &SelftestRecord) -> String {
    let told = |name: &str, value: Option<String>| value.map_or_else(String::new, |value| format!(", {name} {value}"));
    let requests = format!("{} of {} requests joined", record.joined, record.requests);
    format!(
        "{} on {}{}{}\n{requests}, {} chunks, {:.0} chunks/s, a token every {}, {} coalesced\n",
        record.tool,
        record.host,
        told("transport", record.transport.clone()),
        told("threads", record.threads.map(|n| n.to_string())),
        record.chunks,
        record.chunks_per_s,
        record.settings.step,
        record.coalesced,
    )
}

fn rows(stamps: &str, errors: &Errors) -> String {
    let each = [("TTFT", &errors.ttft), ("ITL", &errors.itl), ("E2EL", &errors.e2el)];
    each.map(|(metric, error)| row(&format!("{metric} error, {stamps}"), error)).concat()
}

fn row(label: &str, lag: &Percentiles) -> String {
    let ms = |time: Nanos| time.as_secs_f64() * 1e3;
    format!("{label:<26}{:>11.3}{:>11.3}{:>11.3}\n", ms(lag.p50), ms(lag.p99), ms(lag.max))
}

fn rate(record: &SelftestRecord) -> String {
    let shown = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.2}/s"));
    let asked = record.rate.asked.map_or_else(String::new, |rate| format!("{rate:.2}/s asked for, "));
    format!("requests: {asked}{} due, {} sent\n", shown(record.rate.scheduled), shown(record.rate.realised))
}

fn verdict(verdict: Option<Verdict>) -> &'static str {
    verdict.map_or("not known", Verdict::name)
}

/// The last line: `clean up to 6,400 chunks/s, …`.
fn searched(search: &Search) -> String {
    let clean = match search.clean_up_to {
        Some(rate) => format!("clean up to {rate:.0} chunks/s"),
        None => "clean at no rate that was tried".into(),
    };
    let at = |point: &Point| {
        let (verdict, rate) = (verdict(point.verdict), point.chunks_per_s);
        let server = if point.server_kept { "" } else { "; vb-sim did not keep that step either" };
        format!("{verdict} at {rate:.0} chunks/s ({} streams, a token every {}{server})", point.streams, point.step)
    };
    let rest = match (search.limit, &search.turns_at) {
        (Limit::Verdict, Some(point)) => {
            let reasons = point.reasons.iter().map(|reason| format!("\n  {reason}"));
            at(point) + &reasons.collect::<String>()
        }
        (Limit::Server, _) => "vb-sim, on the same machine, sends no more".into(),
        _ => "there was no time for more".into(),
    };
    format!("{clean}; {rest}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SECOND;

    #[test]
    fn the_last_line_says_how_far_the_client_is_clean() {
        let point = Point {
            streams: 8,
            step: Nanos(SECOND / 200),
            chunks_per_s: 1600.4,
            verdict: Some(Verdict::Suspect),
            server_kept: true,
            reasons: vec!["why".into()],
        };
        let search = |limit, turns_at| Search { clean_up_to: Some(800.0), turns_at, limit, runs: vec![] };
        for (search, line) in [
            (
                search(Limit::Verdict, Some(point.clone())),
                "clean up to 800 chunks/s; suspect at 1600 chunks/s (8 streams, a token every 5.0 ms)\n  why\n",
            ),
            (
                search(Limit::Server, Some(point)),
                "clean up to 800 chunks/s; vb-sim, on the same machine, sends no more\n",
            ),
            (search(Limit::Time, None), "clean up to 800 chunks/s; there was no time for more\n"),
            (Search::default(), "clean at no rate that was tried; there was no time for more\n"),
        ] {
            assert_eq!(searched(&search), line);
        }
    }

    #[test]
    fn what_is_not_known_has_no_row() {
        let text = table(&SelftestRecord::default());
        assert!(text.contains("verdict: not known") && !text.contains("stamps") && !text.contains("lag"), "{text}");
    }
}
