//! The clock of a run: monotonic nanoseconds, with one anchor to the wall clock.
//!
//! No other module may read the system's clocks.
#![allow(clippy::disallowed_methods)]

use crate::units::{Nanos, UnixNanos};

/// Monotonic time since the clock was created.
///
/// Later steps of the wall clock have no effect: [`Clock::to_unix`] adds monotonic time to the anchor.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// On the system's monotonic clock.
    start: Nanos,
    anchor: UnixNanos,
}

impl Clock {
    /// Creates a clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        // Read the wall clock between two readings of the monotonic clock, and keep the try with the smallest gap:
        // a thread that is preempted in between would shift every wall-clock instant of the run.
        let read = |()| {
            let (before, anchor, after) = (monotonic_now(), unix_now(), monotonic_now());
            (after.since(before), Nanos(before.0.midpoint(after.0)), anchor)
        };
        let tries = [(); 5].map(read);
        let (_, start, anchor) = tries.into_iter().min_by_key(|(width, ..)| *width).unwrap_or_else(|| read(()));
        Clock { start, anchor }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> Nanos {
        monotonic_now().since(self.start)
    }

    /// The wall-clock instant of `time`, which counts from the start.
    #[must_use]
    pub fn to_unix(&self, time: Nanos) -> UnixNanos {
        self.anchor + time
    }
}

/// Reads the wall clock.
#[must_use]
pub fn unix_now() -> UnixNanos {
    UnixNanos(os::read_clock(os::WALL).0)
}

/// Reads the monotonic clock.
fn monotonic_now() -> Nanos {
    os::read_clock(os::MONOTONIC)
}

/// How long the system has been suspended since it started, which monotonic time leaves out; 0 where it is not known.
#[must_use]
pub fn suspended_time() -> Nanos {
    os::suspended_time()
}

#[cfg(target_os = "linux")]
mod os {
    //! Directly, since the standard library's instants cost five times as much: each chunk takes several.

    use rustix::time::{ClockId, clock_gettime};

    use crate::units::{Nanos, SECOND};

    pub const WALL: ClockId = ClockId::Realtime;
    pub const MONOTONIC: ClockId = ClockId::Monotonic;

    pub fn read_clock(clock: ClockId) -> Nanos {
        let time = clock_gettime(clock);
        let part = |part: i64| u64::try_from(part).unwrap_or_default();
        Nanos(part(time.tv_sec) * SECOND + part(time.tv_nsec))
    }

    pub fn suspended_time() -> Nanos {
        let monotonic = read_clock(MONOTONIC);
        read_clock(ClockId::Boottime).since(monotonic)
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    //! With the standard library, whose clock leaves out suspended time.

    use std::{
        sync::LazyLock,
        time::{Instant, SystemTime, UNIX_EPOCH},
    };

    use crate::units::Nanos;

    #[derive(Debug, Clone, Copy)]
    pub enum ClockId {
        Wall,
        Monotonic,
    }

    pub const WALL: ClockId = ClockId::Wall;
    pub const MONOTONIC: ClockId = ClockId::Monotonic;

    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

    pub fn read_clock(clock: ClockId) -> Nanos {
        let time = match clock {
            ClockId::Wall => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            ClockId::Monotonic => BEGIN.elapsed(),
        };
        Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn suspended_time() -> Nanos {
        Nanos(0)
    }
}

/// Converts kernel stamps, which are wall-clock times, to the monotonic clock. It uses the lag measured at the same read, so
/// no stored offset between the two clocks can go stale.
///
/// A step of the wall clock between the stamp and the read would distort the lag. So the offset between the clocks is
/// compared with the offset at the previous read, and bytes that may have been stamped before a step are not trusted:
/// [`WallClock::arrival_time`] is then `None`. Slewing moves both clocks alike and is not a step.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    /// Wall clock − monotonic clock at the last read.
    offset: i128,
    /// Arrivals before this time are unknown, because the wall clock was stepped.
    trusted_from: Nanos,
    /// Steps seen.
    steps: u32,
}

/// A larger change of the offset is a step, in nanoseconds: reading both clocks takes a thousandth of it.
const MIN_STEP: i128 = 50_000;

impl WallClock {
    /// Creates a converter for stamps made after this call.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let (now, wall) = read_both_clocks(clock);
        WallClock { offset: clock_offset(now, wall), trusted_from: Nanos(0), steps: 0 }
    }

    /// Steps of the wall clock seen so far.
    #[must_use]
    pub fn step_count(&self) -> u32 {
        self.steps
    }

    /// The current time, and the time at which bytes with the kernel stamp `kernel` arrived; `None`: unknown.
    pub fn arrival_time(&mut self, clock: &Clock, kernel: UnixNanos) -> (Nanos, Option<Nanos>) {
        let (mut now, mut wall) = (clock.now(), unix_now());
        if (clock_offset(now, wall) - self.offset).abs() > MIN_STEP {
            // A step, or this thread was preempted between the two readings.
            (now, wall) = read_both_clocks(clock);
        }
        (now, self.convert_stamp(now, wall, kernel))
    }

    /// Reads both clocks, to convert many stamps at once.
    #[must_use]
    pub fn read_clocks(&self, clock: &Clock) -> ClockReading {
        let (now, wall) = read_both_clocks(clock);
        ClockReading { now, wall }
    }

    /// As [`WallClock::arrival_time`], by a reading of the clocks after the arrival.
    pub fn arrival_by(&mut self, reading: ClockReading, kernel: UnixNanos) -> Option<Nanos> {
        self.convert_stamp(reading.now, reading.wall, kernel)
    }

    /// Converts `kernel`, given the readings `now` and `wall` of the same instant.
    fn convert_stamp(&mut self, now: Nanos, wall: UnixNanos, kernel: UnixNanos) -> Option<Nanos> {
        let change = clock_offset(now, wall) - self.offset;
        if change.abs() > MIN_STEP {
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

/// Both clocks at one instant.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    now: Nanos,
    wall: UnixNanos,
}

impl ClockReading {
    /// Whether it was taken before `time`.
    #[must_use]
    pub fn is_before(self, time: UnixNanos) -> bool {
        self.wall < time
    }

    /// The time on the monotonic clock.
    #[must_use]
    pub fn now(self) -> Nanos {
        self.now
    }
}

fn clock_offset(now: Nanos, wall: UnixNanos) -> i128 {
    i128::from(wall.0) - i128::from(now.0)
}

/// Reads both clocks at the same instant: the try with the smallest gap out of five.
fn read_both_clocks(clock: &Clock) -> (Nanos, UnixNanos) {
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

    /// About the year 2026.
    const EPOCH: u64 = 1_790_000_000 * SECOND;

    proptest! {
        /// Bytes arrive and are read late, and the wall clock is stepped forward and back at any time. An arrival is either
        /// exact or unknown.
        #[test]
        fn a_stepped_clock_distorts_no_arrival(
            reads in prop::collection::vec((0..50_000_000_u64, 0..50_000_000_u64), 1..60),
            steps in prop::collection::vec((0..2_000_000_000_u64, -3_000_000_000..3_000_000_000_i64), 0..4),
        ) {
            let wall = |t: u64| {
                let stepped: i64 = steps.iter().filter(|(at, _)| *at <= t).map(|(_, by)| *by).sum();
                UnixNanos((EPOCH + t).checked_add_signed(stepped).unwrap())
            };
            let mut clock = WallClock { offset: clock_offset(Nanos(0), wall(0)), trusted_from: Nanos(0), steps: 0 };
            let (mut t, mut known) = (1_000, 0);
            for (gap, lag) in &reads {
                let arrived = t + gap;
                t = arrived + lag;
                // Steps below the threshold distort an arrival by less than the threshold.
                let slack: u64 = steps.iter().map(|(_, by)| by.unsigned_abs()).filter(|by| i128::from(*by) <= MIN_STEP).sum();
                if let Some(arrival) = clock.convert_stamp(Nanos(t), wall(t), wall(arrived)) {
                    prop_assert!(arrival.0.abs_diff(arrived) <= slack, "{arrival:?}, not {arrived}");
                    known += 1;
                }
            }
            prop_assert!(!steps.is_empty() || known == reads.len(), "without a step every arrival is known");
        }
    }

    #[test]
    fn after_a_step_stamps_are_trusted_again() {
        let mut clock = WallClock { offset: i128::from(EPOCH), trusted_from: Nanos(0), steps: 0 };
        let wall = |t: u64, by: i64| UnixNanos((EPOCH + t).checked_add_signed(by).unwrap());
        assert_eq!(clock.convert_stamp(Nanos(1_000_000), wall(1_000_000, 0), wall(900_000, 0)), Some(Nanos(900_000)));
        // Stepped forward by a second while the bytes were in the socket buffer.
        let second = 1_000_000_000;
        assert_eq!(clock.convert_stamp(Nanos(3_000_000), wall(3_000_000, second), wall(2_000_000, 0)), None);
        assert_eq!(
            clock.convert_stamp(Nanos(5_000_000), wall(5_000_000, second), wall(4_000_000, second)),
            Some(Nanos(4_000_000))
        );
        assert_eq!(clock.step_count(), 1);
        // Stepped back by so little that an old stamp would look plausible.
        let back = second - 2_000_000;
        assert_eq!(clock.convert_stamp(Nanos(9_000_000), wall(9_000_000, back), wall(6_000_000, second)), None);
        assert_eq!(clock.convert_stamp(Nanos(9_500_000), wall(9_500_000, back), wall(8_900_000, second)), None);
        assert_eq!(
            clock.convert_stamp(Nanos(15_000_000), wall(15_000_000, back), wall(14_000_000, back)),
            Some(Nanos(14_000_000))
        );
        assert_eq!(clock.step_count(), 2);
    }

    #[test]
    fn a_stamp_in_the_future_is_unknown() {
        let clock = Clock::start();
        let mut wall = WallClock::new(&clock);
        assert_eq!(wall.arrival_time(&clock, unix_now() + Nanos(SECOND)).1, None);
        let (now, arrival) = wall.arrival_time(&clock, unix_now());
        assert!(arrival.is_some_and(|t| t <= now));
    }
}
