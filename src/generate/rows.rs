//! Requests from the rows of a dataset file: shuffled, filtered, and drawn again when there are too few.

use super::{
    Plan,
    ordered::{More, Turn, ordered},
    warn,
    writer::{Fitted, Writer},
};
use crate::{
    data::{Row, Rows},
    error::Error,
    record::SampleRequest,
    rng,
};

/// A request and its measured prompt, or `None` for a row that the dataset's rule leaves out.
pub type Kept = Option<(SampleRequest, Fitted)>;

/// What became of a row.
enum Outcome {
    Kept(Box<(SampleRequest, Fitted)>),
    LeftOut,
    /// With `--lenient`.
    Bad(Error),
}

/// Writes `--num-prompts` requests made of `rows`, or of all of them.
pub fn run(
    plan: &Plan,
    rows: &Rows,
    writer: &mut Writer,
    make: impl Fn(&Row) -> Result<Kept, Error> + Sync,
) -> Result<(), Error> {
    let mut order: Vec<usize> = (0..rows.count()).collect();
    if plan.shuffle {
        rng::shuffle(&mut order, &mut rng::stream(plan.seed, "rows", 0));
    }
    let most = if plan.num_prompts == 0 { u64::MAX } else { plan.num_prompts };
    let make = |row: usize| -> Result<Outcome, Error> {
        let Some(row) = rows.read(row)? else { return Ok(Outcome::LeftOut) };
        match make(&row) {
            Ok(Some(kept)) => Ok(Outcome::Kept(Box::new(kept))),
            Ok(None) => Ok(Outcome::LeftOut),
            Err(e @ Error::Input(_)) if plan.lenient => Ok(Outcome::Bad(e)),
            Err(e) => Err(e),
        }
    };
    let kept = once_through(&order, most, writer, &make)?;
    if kept.is_empty() {
        return Err(Error::Input(format!("none of the {} rows is a usable request", rows.count())));
    }
    if most == u64::MAX || kept.len() as u64 == most {
        return Ok(());
    }
    let missing = most - kept.len() as u64;
    let there = format!("only {} of the {} rows are usable requests", kept.len(), rows.count());
    if !plan.oversample {
        warn(format!("{there}: wrote those"));
        return Ok(());
    }
    warn(format!(
        "{there}: {missing} are written a second time, which the server's prefix cache will notice; \
         --no-oversample stops at what there is"
    ));
    again(plan.seed, &kept, missing, writer, &make)
}

/// Writes the rows in this order until there are enough; gives those that were kept.
fn once_through(
    order: &[usize],
    most: u64,
    writer: &mut Writer,
    make: &(impl Fn(usize) -> Result<Outcome, Error> + Sync),
) -> Result<Vec<usize>, Error> {
    let (mut kept, mut bad, mut seen) = (Vec::new(), 0_u64, order.iter());
    ordered(
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
                Outcome::Kept(request) => {
                    writer.write_fitted(request.0, request.1)?;
                    kept.extend(row);
                }
            }
            Ok(if kept.len() as u64 == most { More::No } else { More::Yes })
        },
    )?;
    if bad > 1 {
        warn(format!("{bad} bad rows were left out"));
    }
    Ok(kept)
}

/// Writes `missing` more, each drawn from those that were kept.
fn again(
    seed: u64,
    kept: &[usize],
    missing: u64,
    writer: &mut Writer,
    make: &(impl Fn(usize) -> Result<Outcome, Error> + Sync),
) -> Result<(), Error> {
    let draw = |item| kept[rng::index(&mut rng::stream(seed, "oversample", item), kept.len())];
    ordered(
        |item| (item < missing).then(|| make(draw(item))),
        |turn| {
            match turn {
                Turn::Wait => writer.flush()?,
                Turn::Item(outcome) => {
                    if let Outcome::Kept(request) = outcome? {
                        let mut request = *request;
                        // The id, unlike the text, must be its own.
                        request.0.request_id = None;
                        writer.write_fitted(request.0, request.1)?;
                    }
                }
            }
            Ok(More::Yes)
        },
    )
}
