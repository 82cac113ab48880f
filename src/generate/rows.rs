//! Requests from the rows of a dataset file: shuffled, filtered, and repeated if there are too few.

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

/// A request and the length of its prompt, or `None` for a row that the dataset's rules exclude.
pub type KeptRow = Option<(SampleRequest, PromptLen)>;

/// What a row became.
enum MadeRequests {
    Request(Box<(SampleRequest, PromptLen)>),
    SessionRequests(SessionRequests),
}

/// Result of reading a row.
enum RowOutcome {
    KeptRow(MadeRequests),
    LeftOut,
    /// With `--lenient`.
    Bad(Error),
}

/// Writes `--num-prompts` requests from `rows`, or one for each row.
pub fn write_requests(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<KeptRow, Error> + Sync,
) -> Result<(), Error> {
    write_rows(common, rows, writer, |row| Ok(make(row)?.map(|kept| MadeRequests::Request(Box::new(kept)))))
}

/// Like [`write_requests`], with a conversation per row; rows for which it is empty are excluded.
pub fn write_sessions(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<SessionRequests, Error> + Sync,
) -> Result<(), Error> {
    write_rows(common, rows, writer, |row| {
        Ok(Some(make(row)?).filter(|session| !session.is_empty()).map(MadeRequests::SessionRequests))
    })
}

fn write_rows(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<Option<MadeRequests>, Error> + Sync,
) -> Result<(), Error> {
    let mut order: Vec<usize> = (0..rows.count()).collect();
    if common.shuffle {
        rng::shuffle_list(&mut order, &mut rng::random_stream(common.seed, "rows", 0));
    }
    let make = |row: usize| -> Result<RowOutcome, Error> {
        let Some(row) = rows.read(row)? else { return Ok(RowOutcome::LeftOut) };
        match make(&row) {
            Ok(Some(requests)) => Ok(RowOutcome::KeptRow(requests)),
            Ok(None) => Ok(RowOutcome::LeftOut),
            Err(e @ Error::Input(_)) if common.lenient => Ok(RowOutcome::Bad(e)),
            Err(e) => Err(e),
        }
    };
    let kept = write_once(common, &order, writer, &make)?;
    if kept.is_empty() {
        return Err(Error::Input(format!("none of the {} rows is usable", rows.count())));
    }
    let Some(missing) = common.missing_count(writer) else { return Ok(()) };
    let there = format!("only {} of the {} rows are usable", kept.len(), rows.count());
    if !common.oversample {
        print_warning(format!("{there}: wrote only those"));
        return Ok(());
    }
    print_warning(format!(
        "{there}: {missing} requests repeat a row, which the server's prefix cache will have; \
         --no-oversample writes each row at most once"
    ));
    oversample(common, &kept, writer, &make)
}

/// Writes the rows in this order until there are enough, and returns those that were used.
fn write_once(
    common: &Common,
    order: &[usize],
    writer: &mut RequestWriter,
    make: &(impl Fn(usize) -> Result<RowOutcome, Error> + Sync),
) -> Result<Vec<usize>, Error> {
    let (mut kept, mut bad, mut seen) = (Vec::new(), 0_u64, order.iter());
    make_in_order(
        writer.read_ahead(),
        |item| usize::try_from(item).ok().and_then(|item| order.get(item)).map(|row| make(*row)),
        |turn| {
            let NextItem::Item(outcome) = turn else { return writer.flush().map(|()| Demand::Yes) };
            let row = seen.next();
            match outcome? {
                RowOutcome::LeftOut => {}
                RowOutcome::Bad(e) => {
                    bad += 1;
                    // Show the first, count the others.
                    if bad == 1 {
                        print_warning(format!("{e}; skipped"));
                    }
                }
                RowOutcome::KeptRow(requests) => {
                    write_made(common, requests, writer)?;
                    kept.extend(row);
                }
            }
            Ok(if common.is_complete(writer) { Demand::No } else { Demand::Yes })
        },
    )?;
    if bad > 1 {
        print_warning(format!("skipped {bad} bad rows"));
    }
    Ok(kept)
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
