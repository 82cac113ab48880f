//! Requests from the rows of a dataset file: shuffled, filtered, and repeated if there are too few. Rows that are not used are
//! counted by their reasons.

use std::collections::HashMap;

use crate::{
    data::{Row, Rows},
    error::Error,
    generate::{
        common::Common,
        ordered::{Demand, NextItem, make_in_order},
        print_warning,
        session::SessionRequests,
        writer::{PromptLen, RequestWriter},
    },
    record::SampleRequest,
    rng,
};

/// A request and the length of its prompt, or why the dataset's rules exclude the row.
pub type KeptRow = Result<(SampleRequest, PromptLen), LeftOut>;

/// Why a row is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut(pub &'static str);

/// What a row became.
enum MadeRequests {
    Request(Box<(SampleRequest, PromptLen)>),
    SessionRequests(SessionRequests),
}

/// Result of reading a row.
enum RowOutcome {
    KeptRow(MadeRequests),
    LeftOut(LeftOut),
    /// With `--lenient`: the error and, without its place, the reason.
    Bad(Error, String),
}

/// How many rows were not used, by reason.
#[derive(Debug, Default)]
pub struct ReasonCounts(HashMap<String, u64>);

impl ReasonCounts {
    /// The most reasons that are counted separately.
    const MAX_REASONS: usize = 50;

    /// Counts a row.
    pub fn add(&mut self, reason: &str) {
        let known = self.0.len() < Self::MAX_REASONS || self.0.contains_key(reason);
        *self.0.entry(if known { reason } else { "other reasons" }.to_owned()).or_default() += 1;
    }

    /// The number of rows.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// `3 rows: no prompt; 1 row: too long`, the most frequent first; empty without any.
    #[must_use]
    pub fn describe(&self) -> String {
        const MAX_SHOWN: usize = 5;
        let mut counts: Vec<(&String, u64)> = self.0.iter().map(|(reason, count)| (reason, *count)).collect();
        counts.sort_unstable_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        let others: u64 = counts.iter().skip(MAX_SHOWN).map(|(_, count)| count).sum();
        let rows = |count: u64| if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
        let shown = counts.iter().take(MAX_SHOWN).map(|(reason, count)| format!("{}: {reason}", rows(*count)));
        let rest = (others > 0).then(|| format!("{}: other reasons", rows(others)));
        shown.chain(rest).collect::<Vec<_>>().join("; ")
    }
}

/// Counts rows that `--lenient` skips, and prints the first.
#[derive(Debug, Default)]
pub struct BadRows(ReasonCounts);

impl BadRows {
    /// Counts a row.
    pub fn add(&mut self, error: &Error, place: &str) {
        self.add_reason(error, &reason_of_error(error, place));
    }

    fn add_reason(&mut self, error: &Error, reason: &str) {
        if self.0.total() == 0 {
            print_warning(format!("{error}; skipped"));
        }
        self.0.add(reason);
    }

    /// Prints how many there were.
    pub fn report(&self) {
        if self.0.total() > 1 {
            print_warning(format!("skipped {} bad rows ({})", self.0.total(), self.0.describe()));
        }
    }
}

/// The message of an error without the place of its row and the value: `file:3:17: invalid type: integer `7`, expected …`.
fn reason_of_error(error: &Error, place: &str) -> String {
    let text = error.to_string();
    let rest = text.strip_prefix(place).unwrap_or(&text).trim_start_matches(|c: char| c == ':' || c.is_ascii_digit());
    match rest.split_once(", expected ") {
        Some((value, expected)) => {
            let key = value.split("invalid ").next().unwrap_or_default();
            format!("{}expected {expected}", key.trim_start())
        }
        None => rest.trim_start().to_owned(),
    }
}

/// Writes `--num-prompts` requests from `rows`, or one for each row.
pub fn write_requests(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<KeptRow, Error> + Sync,
) -> Result<(), Error> {
    write_rows(common, rows, writer, true, |row| Ok(make(row)?.map(|kept| MadeRequests::Request(Box::new(kept)))))
}

/// Like [`write_requests`], in the order of the file and each row at most once, for rows that depend on those before them.
pub fn write_in_order(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<KeptRow, Error> + Sync,
) -> Result<(), Error> {
    write_rows(common, rows, writer, false, |row| Ok(make(row)?.map(|kept| MadeRequests::Request(Box::new(kept)))))
}

/// Like [`write_requests`], with a conversation per row.
pub fn write_sessions(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<Result<SessionRequests, LeftOut>, Error> + Sync,
) -> Result<(), Error> {
    write_rows(common, rows, writer, true, |row| Ok(make(row)?.map(MadeRequests::SessionRequests)))
}

fn write_rows(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    any_order: bool,
    make: impl Fn(&Row) -> Result<Result<MadeRequests, LeftOut>, Error> + Sync,
) -> Result<(), Error> {
    let mut order: Vec<usize> = (0..rows.count()).collect();
    if common.shuffle && any_order {
        rng::shuffle_list(&mut order, &mut rng::random_stream(common.seed, "rows", 0));
    }
    let make = |row: usize| -> Result<RowOutcome, Error> {
        let Some(row) = rows.read(row)? else { return Ok(RowOutcome::LeftOut(LeftOut("the file was shortened"))) };
        if row.is_null() {
            return Ok(RowOutcome::LeftOut(LeftOut("null")));
        }
        match make(&row) {
            Ok(Ok(requests)) => Ok(RowOutcome::KeptRow(requests)),
            Ok(Err(reason)) => Ok(RowOutcome::LeftOut(reason)),
            Err(e @ Error::Input(_)) if common.lenient => {
                let reason = reason_of_error(&e, &row.place);
                Ok(RowOutcome::Bad(e, reason))
            }
            Err(e) => Err(e),
        }
    };
    let (kept, unused) = write_once(common, &order, writer, &make)?;
    if kept.is_empty() {
        let reasons = if unused.total() > 0 { format!(": {}", unused.describe()) } else { String::new() };
        return Err(Error::Input(format!("none of the {} rows is usable{reasons}", rows.count())));
    }
    let Some(missing) = common.missing_count(writer) else { return Ok(()) };
    let reasons = if unused.total() > 0 { format!(" ({})", unused.describe()) } else { String::new() };
    let there = if kept.len() == rows.count() {
        format!("the dataset has only {} rows", rows.count())
    } else {
        format!("only {} of the {} rows can be used{reasons}", kept.len(), rows.count())
    };
    if !common.oversample || !any_order {
        print_warning(format!("{there}: wrote only those"));
        return Ok(());
    }
    print_warning(format!(
        "{there}: {missing} requests repeat a row, which the server's prefix cache will have; \
         --no-oversample writes each row at most once"
    ));
    oversample(common, &kept, writer, &make)
}

/// Writes the rows in this order until there are enough. Returns those that were used, and why others were not.
fn write_once(
    common: &Common,
    order: &[usize],
    writer: &mut RequestWriter,
    make: &(impl Fn(usize) -> Result<RowOutcome, Error> + Sync),
) -> Result<(Vec<usize>, ReasonCounts), Error> {
    let (mut kept, mut bad, mut unused, mut seen) =
        (Vec::new(), BadRows::default(), ReasonCounts::default(), order.iter());
    make_in_order(
        writer.read_ahead(),
        |item| usize::try_from(item).ok().and_then(|item| order.get(item)).map(|row| make(*row)),
        |turn| {
            let NextItem::Item(outcome) = turn else { return writer.flush().map(|()| Demand::Yes) };
            let row = seen.next();
            match outcome? {
                RowOutcome::LeftOut(LeftOut(reason)) => unused.add(reason),
                RowOutcome::Bad(e, reason) => {
                    bad.add_reason(&e, &reason);
                    unused.add(&reason);
                }
                RowOutcome::KeptRow(requests) => {
                    write_made(common, requests, writer)?;
                    kept.extend(row);
                }
            }
            Ok(if common.is_complete(writer) { Demand::No } else { Demand::Yes })
        },
    )?;
    bad.report();
    Ok((kept, unused))
}

/// Writes rows drawn from those that were used, until there are enough.
fn oversample(
    common: &Common,
    kept: &[usize],
    writer: &mut RequestWriter,
    make: &(impl Fn(usize) -> Result<RowOutcome, Error> + Sync),
) -> Result<(), Error> {
    let draw = |item| kept[rng::sample_index(&mut rng::random_stream(common.seed, "oversample", item), kept.len())];
    make_in_order(
        writer.read_ahead(),
        |item| Some(make(draw(item))),
        |turn| {
            match turn {
                NextItem::Wait => writer.flush()?,
                NextItem::Item(outcome) => {
                    if let RowOutcome::KeptRow(mut requests) = outcome? {
                        // The text is repeated; the id must be unique.
                        if let MadeRequests::Request(request) = &mut requests {
                            request.0.request_id = None;
                        }
                        write_made(common, requests, writer)?;
                    }
                }
            }
            Ok(if common.is_complete(writer) { Demand::No } else { Demand::Yes })
        },
    )
}

fn write_made(common: &Common, made: MadeRequests, writer: &mut RequestWriter) -> Result<(), Error> {
    match made {
        MadeRequests::Request(request) => writer.write_measured(request.0, request.1),
        MadeRequests::SessionRequests(session) => common.write_session(&session, writer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_the_most_frequent_comes_first() {
        let mut counts = ReasonCounts::default();
        assert_eq!(counts.describe(), "");
        for reason in ["too long", "no prompt", "too long"] {
            counts.add(reason);
        }
        assert_eq!(counts.describe(), "2 rows: too long; 1 row: no prompt");
        (0..100).for_each(|i| counts.add(&format!("reason {i}")));
        assert_eq!(counts.total(), 103);
        assert!(
            counts.describe().ends_with("; 47 rows: other reasons") || counts.describe().ends_with("other reasons")
        );
    }

    #[test]
    fn a_reason_has_no_place() {
        for (text, place) in [
            ("f:3:17: expected value", "f:3"),
            ("f:3: expected value", "f:3"),
            ("f: byte 7: expected value", "f: byte 7"),
        ] {
            assert_eq!(reason_of_error(&Error::Input(text.into()), place), "expected value");
        }
        let reason = |what: &str| reason_of_error(&Error::Input(format!("f:3:17: {what}")), "f:3");
        assert_eq!(reason("invalid type: integer `7`, expected a map"), "expected a map");
        assert_eq!(reason("`tags`: invalid type: string \"a, b\", expected a map"), "`tags`: expected a map");
    }
}
