//! Requests from the rows of a dataset file: shuffled, filtered, and drawn again when there are too few.

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

/// A request and its measured prompt, or `None` for a row that the dataset's rule leaves out.
pub type KeptRow = Option<(SampleRequest, PromptLen)>;

/// What a row became.
enum MadeRequests {
    Request(Box<(SampleRequest, PromptLen)>),
    SessionRequests(SessionRequests),
}

/// What became of a row.
enum RowOutcome {
    KeptRow(MadeRequests),
    LeftOut,
    /// With `--lenient`.
    Bad(Error),
}

/// Writes `--num-prompts` requests made of `rows`, or of all of them.
pub fn write_requests(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<KeptRow, Error> + Sync,
) -> Result<(), Error> {
    write_rows(common, rows, writer, |row| Ok(make(row)?.map(|kept| MadeRequests::Request(Box::new(kept)))))
}

/// As [`run`], with a conversation of each row; `make` gives none for a row that is left out.
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
        return Err(Error::Input(format!("none of the {} rows is a usable request", rows.count())));
    }
    let Some(missing) = common.missing_count(writer) else { return Ok(()) };
    let there = format!("only {} of the {} rows are usable requests", kept.len(), rows.count());
    if !common.oversample {
        print_warning(format!("{there}: wrote those"));
        return Ok(());
    }
    print_warning(format!(
        "{there}: {missing} are written a second time, which the server's prefix cache will notice; \
         --no-oversample stops at what there is"
    ));
    oversample(common, &kept, writer, &make)
}

/// Writes the rows in this order until there are enough; gives those that were kept.
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
                    // One is shown, the rest are counted.
                    if bad == 1 {
                        print_warning(format!("{e}; left out"));
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
        print_warning(format!("{bad} bad rows were left out"));
    }
    Ok(kept)
}

/// Writes more until there are enough, each drawn from the rows that were kept.
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
                        // The id, unlike the text, must be its own.
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
