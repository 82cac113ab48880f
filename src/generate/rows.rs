//! Requests from the rows of a dataset file: shuffled, filtered, and drawn again when there are too few.

use crate::{
    data::{Row, Rows},
    error::Error,
    generate::{
        common::Common,
        ordered::{More, Turn, ordered},
        session::Session,
        warn,
        writer::{Fitted, RequestWriter},
    },
    record::SampleRequest,
    rng,
};

/// A request and its measured prompt, or `None` for a row that the dataset's rule leaves out.
pub type Kept = Option<(SampleRequest, Fitted)>;

/// What a row became.
enum Made {
    Request(Box<(SampleRequest, Fitted)>),
    Session(Session),
}

/// What became of a row.
enum Outcome {
    Kept(Made),
    LeftOut,
    /// With `--lenient`.
    Bad(Error),
}

/// Writes `--num-prompts` requests made of `rows`, or of all of them.
pub fn run(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<Kept, Error> + Sync,
) -> Result<(), Error> {
    run_each(common, rows, writer, |row| Ok(make(row)?.map(|kept| Made::Request(Box::new(kept)))))
}

/// As [`run`], with a conversation of each row; `make` gives none for a row that is left out.
pub fn run_sessions(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<Session, Error> + Sync,
) -> Result<(), Error> {
    run_each(common, rows, writer, |row| Ok(Some(make(row)?).filter(|session| !session.is_empty()).map(Made::Session)))
}

fn run_each(
    common: &Common,
    rows: &Rows,
    writer: &mut RequestWriter,
    make: impl Fn(&Row) -> Result<Option<Made>, Error> + Sync,
) -> Result<(), Error> {
    let mut order: Vec<usize> = (0..rows.count()).collect();
    if common.shuffle {
        rng::shuffle_list(&mut order, &mut rng::random_stream(common.seed, "rows", 0));
    }
    let make = |row: usize| -> Result<Outcome, Error> {
        let Some(row) = rows.read(row)? else { return Ok(Outcome::LeftOut) };
        match make(&row) {
            Ok(Some(requests)) => Ok(Outcome::Kept(requests)),
            Ok(None) => Ok(Outcome::LeftOut),
            Err(e @ Error::Input(_)) if common.lenient => Ok(Outcome::Bad(e)),
            Err(e) => Err(e),
        }
    };
    let kept = once_through(common, &order, writer, &make)?;
    if kept.is_empty() {
        return Err(Error::Input(format!("none of the {} rows is a usable request", rows.count())));
    }
    let Some(missing) = common.missing(writer) else { return Ok(()) };
    let there = format!("only {} of the {} rows are usable requests", kept.len(), rows.count());
    if !common.oversample {
        warn(format!("{there}: wrote those"));
        return Ok(());
    }
    warn(format!(
        "{there}: {missing} are written a second time, which the server's prefix cache will notice; \
         --no-oversample stops at what there is"
    ));
    again(common, &kept, writer, &make)
}

/// Writes the rows in this order until there are enough; gives those that were kept.
fn once_through(
    common: &Common,
    order: &[usize],
    writer: &mut RequestWriter,
    make: &(impl Fn(usize) -> Result<Outcome, Error> + Sync),
) -> Result<Vec<usize>, Error> {
    let (mut kept, mut bad, mut seen) = (Vec::new(), 0_u64, order.iter());
    ordered(
        writer.ahead(),
        |item| usize::try_from(item).ok().and_then(|item| order.get(item)).map(|row| make(*row)),
        |turn| {
            let Turn::Item(outcome) = turn else { return writer.flush().map(|()| More::Yes) };
            let row = seen.next();
            match outcome? {
                Outcome::LeftOut => {}
                Outcome::Bad(e) => {
                    bad += 1;
                    // One is shown, the rest are counted.
                    if bad == 1 {
                        warn(format!("{e}; left out"));
                    }
                }
                Outcome::Kept(requests) => {
                    write(common, requests, writer)?;
                    kept.extend(row);
                }
            }
            Ok(if common.has_enough(writer) { More::No } else { More::Yes })
        },
    )?;
    if bad > 1 {
        warn(format!("{bad} bad rows were left out"));
    }
    Ok(kept)
}

/// Writes more until there are enough, each drawn from the rows that were kept.
fn again(
    common: &Common,
    kept: &[usize],
    writer: &mut RequestWriter,
    make: &(impl Fn(usize) -> Result<Outcome, Error> + Sync),
) -> Result<(), Error> {
    let draw = |item| kept[rng::sample_index(&mut rng::random_stream(common.seed, "oversample", item), kept.len())];
    ordered(
        writer.ahead(),
        |item| Some(make(draw(item))),
        |turn| {
            match turn {
                Turn::Wait => writer.flush()?,
                Turn::Item(outcome) => {
                    if let Outcome::Kept(mut requests) = outcome? {
                        // The id, unlike the text, must be its own.
                        if let Made::Request(request) = &mut requests {
                            request.0.request_id = None;
                        }
                        write(common, requests, writer)?;
                    }
                }
            }
            Ok(if common.has_enough(writer) { More::No } else { More::Yes })
        },
    )
}

fn write(common: &Common, made: Made, writer: &mut RequestWriter) -> Result<(), Error> {
    match made {
        Made::Request(request) => writer.write_fitted(request.0, request.1),
        Made::Session(session) => common.write_session(&session, writer),
    }
}
