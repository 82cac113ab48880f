//! The clock of a run: monotonic nanoseconds, with one anchor to the wall clock.
//!
//! Nothing else in the crate may ask the system for the time.
#![allow(clippy::disallowed_methods)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::units::{Nanos, UnixNanos};

/// Monotonic time counted from the moment the clock was made.
///
/// A step of the wall clock after that does not bend anything: [`Clock::unix`] adds monotonic time to the anchor.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    anchor: UnixNanos,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        // Read the wall clock between two readings of the monotonic one, and take the tightest of a few tries:
        // a thread that is put to sleep in between would shift every wall-clock instant of the run.
        let mut best = (u128::MAX, Instant::now(), unix_now());
        for _ in 0..5 {
            let (before, anchor, after) = (Instant::now(), unix_now(), Instant::now());
            let width = (after - before).as_nanos();
            if width < best.0 {
                best = (width, before + (after - before) / 2, anchor);
            }
        }
        Clock { start: best.1, anchor: best.2 }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall-clock instant of `time`, which counts from the start.
    #[must_use]
    pub fn unix(&self, time: Nanos) -> UnixNanos {
        self.anchor + time
    }
}

/// The wall clock.
#[must_use]
pub fn unix_now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Moves kernel stamps, which are of the wall clock, to the monotonic clock: by the lag seen at that very read, so that no
/// long-lived offset between the two clocks is ever used.
///
/// A step of the wall clock between the stamp and the read would bend the lag. So the offset of the clocks is compared with
/// that of the read before, and whatever may have been stamped before a step is not trusted: [`WallClock::arrival`] is `None`
/// then. Slewing moves both clocks alike and is no step.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    /// Wall clock − monotonic clock at the last read.
    offset: i128,
    /// Arrivals before this are not known, because the wall clock was stepped.
    trusted_from: Nanos,
    /// Steps seen.
    steps: u32,
}

/// A change of the offset beyond this is a step: reading both clocks takes a thousandth of it.
const STEP: i128 = 50_000;

impl WallClock {
    /// For stamps from now on.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let (now, wall) = both(clock);
        WallClock { offset: offset(now, wall), trusted_from: Nanos(0), steps: 0 }
    }

    /// Steps of the wall clock seen so far.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Now, and when bytes that the kernel stamped with `kernel` arrived; `None`: that cannot be told.
    pub fn arrival(&mut self, clock: &Clock, kernel: UnixNanos) -> (Nanos, Option<Nanos>) {
        let (mut now, mut wall) = (clock.now(), unix_now());
        if (offset(now, wall) - self.offset).abs() > STEP {
            // A step, or this thread was put aside between the two readings.
            (now, wall) = both(clock);
        }
        (now, self.at(now, wall, kernel))
    }

    /// The arithmetic of it: `now` and `wall` are the same instant.
    fn at(&mut self, now: Nanos, wall: UnixNanos, kernel: UnixNanos) -> Option<Nanos> {
        let change = offset(now, wall) - self.offset;
        if change.abs() > STEP {
            // After a step back by `d`, stamps from before it look later by `d`.
            let back = u64::try_from(-change).unwrap_or(0);
            self.trusted_from = (now + Nanos(back)).max(self.trusted_from);
            self.offset += change;
            self.steps += 1;
        }
        let lag = wall.0.checked_sub(kernel.0)?;
        let arrival = Nanos(now.0.checked_sub(lag)?);
        (arrival >= self.trusted_from).then_some(arrival)
    }
}

fn offset(now: Nanos, wall: UnixNanos) -> i128 {
    i128::from(wall.0) - i128::from(now.0)
}

/// Both clocks at the same instant: the tightest of a few tries.
fn both(clock: &Clock) -> (Nanos, UnixNanos) {
    let read = |()| {
        let (before, wall, after) = (clock.now(), unix_now(), clock.now());
        (after.since(before), Nanos(before.0.midpoint(after.0)), wall)
    };
    let tries = [(); 5].map(read);
    let (_, now, wall) = tries.into_iter().min_by_key(|(width, ..)| *width).unwrap_or_else(|| read(()));
    (now, wall)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::SECOND;

    /// 2026, more or less.
    const EPOCH: u64 = 1_790_000_000 * SECOND;

    proptest! {
        /// Bytes arrive and are read late; the wall clock is stepped at any moment, forth and back. An arrival is either told
        /// exactly or not told.
        #[test]
        fn a_stepped_clock_bends_nothing(
            reads in prop::collection::vec((0..50_000_000_u64, 0..50_000_000_u64), 1..60),
            steps in prop::collection::vec((0..2_000_000_000_u64, -3_000_000_000..3_000_000_000_i64), 0..4),
        ) {
            let wall = |t: u64| {
                let stepped: i64 = steps.iter().filter(|(at, _)| *at <= t).map(|(_, by)| *by).sum();
                UnixNanos((EPOCH + t).checked_add_signed(stepped).unwrap())
            };
            let mut clock = WallClock { offset: offset(Nanos(0), wall(0)), trusted_from: Nanos(0), steps: 0 };
            let (mut t, mut told) = (1_000, 0);
            for (gap, lag) in &reads {
                let arrived = t + gap;
                t = arrived + lag;
                // Steps smaller than what counts as one bend by less than that.
                let slack: u64 = steps.iter().map(|(_, by)| by.unsigned_abs()).filter(|by| i128::from(*by) <= STEP).sum();
                if let Some(arrival) = clock.at(Nanos(t), wall(t), wall(arrived)) {
                    prop_assert!(arrival.0.abs_diff(arrived) <= slack, "{arrival:?}, not {arrived}");
                    told += 1;
                }
            }
            prop_assert!(!steps.is_empty() || told == reads.len(), "without a step everything is told");
        }
    }

    #[test]
    fn after_a_step_stamps_are_trusted_again() {
        let mut clock = WallClock { offset: i128::from(EPOCH), trusted_from: Nanos(0), steps: 0 };
        let wall = |t: u64, by: i64| UnixNanos((EPOCH + t).checked_add_signed(by).unwrap());
        assert_eq!(clock.at(Nanos(1_000_000), wall(1_000_000, 0), wall(900_000, 0)), Some(Nanos(900_000)));
        // Stepped forward by a second while the bytes lay in the socket.
        let second = 1_000_000_000;
        assert_eq!(clock.at(Nanos(3_000_000), wall(3_000_000, second), wall(2_000_000, 0)), None);
        assert_eq!(
            clock.at(Nanos(5_000_000), wall(5_000_000, second), wall(4_000_000, second)),
            Some(Nanos(4_000_000))
        );
        assert_eq!(clock.steps(), 1);
        // And back, by so little that an old stamp would look possible.
        let back = second - 2_000_000;
        assert_eq!(clock.at(Nanos(9_000_000), wall(9_000_000, back), wall(6_000_000, second)), None);
        assert_eq!(clock.at(Nanos(9_500_000), wall(9_500_000, back), wall(8_900_000, second)), None);
        assert_eq!(
            clock.at(Nanos(15_000_000), wall(15_000_000, back), wall(14_000_000, back)),
            Some(Nanos(14_000_000))
        );
        assert_eq!(clock.steps(), 2);
    }

    #[test]
    fn a_stamp_of_the_future_is_none() {
        let clock = Clock::start();
        let mut wall = WallClock::new(&clock);
        assert_eq!(wall.arrival(&clock, unix_now() + Nanos(SECOND)).1, None);
        let (now, arrival) = wall.arrival(&clock, unix_now());
        assert!(arrival.is_some_and(|t| t <= now));
    }
}
