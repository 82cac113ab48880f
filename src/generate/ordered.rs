//! Makes items in several threads and takes them in order, with a bounded number waiting.

use std::{
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread,
};

use crate::error::Error;

/// Finished items that may wait per thread: enough to keep all threads busy, few enough to need little memory.
pub const AHEAD: usize = 16;
/// The same for large items: conversations, images and audio.
pub const FEW: usize = 1;

/// What the consumer gets.
pub enum NextItem<T> {
    /// The next item.
    Item(T),
    /// The next item is not ready: a good moment to flush.
    Wait,
}

/// Whether the consumer wants more items.
#[derive(PartialEq, Eq)]
pub enum Demand {
    Yes,
    No,
}

/// Makes items 0, 1, 2, … until `make` returns `None`, and passes them to `take` in this order until it has enough.
///
/// Thread `t` of `n` makes the items `t`, `t + n`, …, at most `ahead` of the consumer. The result does not depend on
/// the number of threads.
pub fn make_in_order<T: Send>(
    ahead: usize,
    make: impl Fn(u64) -> Option<T> + Sync,
    mut take: impl FnMut(NextItem<T>) -> Result<Demand, Error>,
) -> Result<(), Error> {
    let threads = thread_count();
    thread::scope(|scope| {
        let make = &make;
        let lanes = (0..threads).map(|lane| {
            let (sender, receiver) = sync_channel(ahead);
            scope.spawn(move || {
                // Sending fails once the consumer has stopped, for any reason.
                (lane as u64..).step_by(threads).map_while(make).try_for_each(|item| sender.send(item))
            });
            receiver
        });
        take_in_turn(&lanes.collect::<Vec<_>>(), &mut take)
    })
}

/// Like [`make_in_order`], with items from an iterator that one thread advances.
pub fn make_in_order_from<I: Send, T: Send>(
    mut items: impl Iterator<Item = I> + Send,
    make: impl Fn(I) -> T + Sync,
    mut take: impl FnMut(NextItem<T>) -> Result<Demand, Error>,
) -> Result<(), Error> {
    thread::scope(|scope| {
        let make = &make;
        let (inputs, lanes): (Vec<SyncSender<I>>, Vec<Receiver<T>>) = (0..thread_count())
            .map(|_| {
                let (input, given) = sync_channel(AHEAD);
                let (sender, receiver) = sync_channel(AHEAD);
                scope.spawn(move || given.into_iter().map(make).try_for_each(|item| sender.send(item)));
                (input, receiver)
            })
            .unzip();
        scope.spawn(move || inputs.iter().cycle().try_for_each(|input| input.send(items.next()?).ok()));
        let taken = take_in_turn(&lanes, &mut take);
        drop(lanes);
        taken
    })
}

fn thread_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Takes one item of each thread in turn.
fn take_in_turn<T>(
    lanes: &[Receiver<T>],
    take: &mut impl FnMut(NextItem<T>) -> Result<Demand, Error>,
) -> Result<(), Error> {
    for lane in lanes.iter().cycle() {
        let item = match lane.try_recv() {
            Ok(item) => Some(item),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                take(NextItem::Wait)?;
                lane.recv().ok()
            }
        };
        let Some(item) = item else { break };
        if take(NextItem::Item(item))? == Demand::No {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(make: impl Fn(u64) -> Option<u64> + Sync, most: usize) -> Vec<u64> {
        let mut got = Vec::new();
        make_in_order(AHEAD, make, |turn| {
            if let NextItem::Item(item) = turn {
                got.push(item);
            }
            Ok(if got.len() < most { Demand::Yes } else { Demand::No })
        })
        .unwrap();
        got
    }

    #[test]
    fn items_come_in_order_however_long_each_takes() {
        let slow = |i: u64| {
            std::hint::black_box((0..i % 7 * 1000).map(std::hint::black_box).sum::<u64>());
            (i < 500).then_some(i)
        };
        assert_eq!(collect(slow, usize::MAX), (0..500).collect::<Vec<u64>>());
    }

    #[test]
    fn what_one_thread_asks_for_comes_in_order_and_ends_with_the_taker() {
        for most in [1, 3, 500, usize::MAX] {
            let mut got = Vec::new();
            let items = (0..500_u64).chain((most < 501).then_some(500..u64::MAX).into_iter().flatten());
            make_in_order_from(
                items,
                |i| i * 2,
                |turn| {
                    if let NextItem::Item(item) = turn {
                        got.push(item);
                    }
                    Ok(if got.len() < most { Demand::Yes } else { Demand::No })
                },
            )
            .unwrap();
            assert_eq!(got, (0..most.min(500) as u64).map(|i| i * 2).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn a_taker_that_has_enough_ends_an_endless_supply() {
        assert_eq!(collect(Some, 3), [0, 1, 2]);
        assert!(collect(|_| None, 3).is_empty());
    }

    #[test]
    fn the_takers_error_ends_it() {
        let done = make_in_order(AHEAD, Some, |turn| match turn {
            NextItem::Item(_) => Err(Error::Check("enough".into())),
            NextItem::Wait => Ok(Demand::Yes),
        });
        assert_eq!(done.unwrap_err().to_string(), "enough");
    }
}
