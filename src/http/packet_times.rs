//! When each byte of a TCP stream could be read, from the packets that carried it. No socket, no clock.
//!
//! A byte can be read once all bytes before it have arrived. Packets may come twice, out of order, cut otherwise than they were
//! written, and a capture may have missed some: the times of the bytes in those are unknown.

use std::collections::{BTreeMap, VecDeque};

use crate::units::Nanos;

/// Bytes of a stream in one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number of the first byte; of the handshake itself if `opens`.
    pub sequence: u32,
    /// The number of bytes.
    pub len: u32,
    /// Whether it opens the connection (SYN).
    pub opens: bool,
}

/// The arrivals of the bytes of one direction of a connection. A position is a number of bytes since the connection was opened.
#[derive(Debug, Default)]
pub struct ByteArrivals {
    /// Sequence number of the byte at `top`; `None`: the packet that opens the connection has not been seen.
    top_sequence: Option<u32>,
    /// The end of the furthest byte that has arrived.
    top: u64,
    /// All bytes before this position have arrived.
    complete: u64,
    /// When the bytes up to each position could be read; a byte belongs to the first position that is not before it. `None`: unknown.
    steps: VecDeque<(u64, Option<Nanos>)>,
    /// The time of the last step with one.
    latest: Nanos,
    /// Bytes after a hole: start → end and arrival.
    ahead: BTreeMap<u64, (u64, Option<Nanos>)>,
}

/// Segments further from the last one than this are not of this connection, or nonsense.
const MAX_DISTANCE: u32 = 1 << 30;

impl ByteArrivals {
    /// The arrivals of a connection that begins with this packet.
    #[must_use]
    pub fn opened_by(segment: Segment) -> Self {
        ByteArrivals { top_sequence: Some(segment.sequence.wrapping_add(1)), ..ByteArrivals::default() }
    }

    /// Whether this packet opens the same connection: servers repeat it if it gets lost.
    #[must_use]
    pub fn is_opened_by(&self, segment: Segment) -> bool {
        self.top == 0 && self.top_sequence == Some(segment.sequence.wrapping_add(1))
    }

    /// Whether a packet opened it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.top_sequence.is_some()
    }

    /// Whether all bytes before `position` have arrived.
    #[must_use]
    pub fn has_arrived(&self, position: u64) -> bool {
        self.complete >= position
    }

    /// Forgets all times: later ones are of another clock.
    pub fn forget_times(&mut self) {
        self.steps.clear();
        self.latest = Nanos(0);
        self.ahead.values_mut().for_each(|(_, time)| *time = None);
    }

    /// Takes the next packet. `time` is its arrival; `None`: unknown.
    pub fn add_segment(&mut self, segment: Segment, time: Option<Nanos>) {
        let Some((start, end)) = self.place_segment(segment) else { return };
        if end <= self.complete {
            return;
        }
        if start > self.complete {
            self.hold(start, end, time);
            return;
        }
        self.complete = end;
        // All of them can be read now. Times of packets that came by different processors may be in another order than the packets.
        let mut latest = time;
        while let Some((end, held)) = self.take_held() {
            self.complete = self.complete.max(end);
            latest = latest.zip(held).map(|(latest, held)| latest.max(held));
        }
        self.push_step(self.complete, latest);
    }

    /// Keeps bytes after a hole. Of bytes that arrive twice the first arrival counts, but the second packet may reach further.
    fn hold(&mut self, mut start: u64, end: u64, time: Option<Nanos>) {
        while start < end {
            let (held, _) = *self.ahead.entry(start).or_insert((end, time));
            start = held;
        }
    }

    /// The next bytes that were held and are after no hole any more: their end and arrival.
    fn take_held(&mut self) -> Option<(u64, Option<Nanos>)> {
        Some(self.ahead.first_entry().filter(|first| *first.key() <= self.complete)?.remove())
    }

    /// The bytes up to `end` could be read at `time`, but not before those before them.
    fn push_step(&mut self, end: u64, time: Option<Nanos>) {
        self.latest = self.latest.max(time.unwrap_or_default());
        self.steps.push_back((end, time.map(|time| time.max(self.latest))));
    }

    /// The positions of the first byte and of the end.
    fn place_segment(&mut self, segment: Segment) -> Option<(u64, u64)> {
        let sequence = self.top_sequence?;
        let ahead = segment.sequence.wrapping_sub(sequence);
        let back = ahead.wrapping_neg();
        let len = u64::from(segment.len);
        let (start, end) = if ahead < MAX_DISTANCE {
            let start = self.top + u64::from(ahead);
            (start, start + len)
        } else if back < MAX_DISTANCE {
            // Bytes before the start of the stream, as of an old connection, are cut off.
            let end = (self.top + len).checked_sub(back.into())?;
            (self.top.saturating_sub(back.into()), end)
        } else {
            return None;
        };
        if end > self.top {
            self.top_sequence = Some(sequence.wrapping_add(u32::try_from(end - self.top).ok()?));
            self.top = end;
        }
        (len > 0).then_some((start, end))
    }

    /// Notes that the reader has read up to `position`, so that all bytes before it have arrived. The capture has missed what is still
    /// missing of them; what came after that has its own times.
    pub fn assume_arrived(&mut self, position: u64) {
        while self.complete < position {
            let next = self.ahead.first_key_value().map_or(position, |(start, _)| (*start).min(position));
            if next > self.complete {
                self.complete = next;
                self.push_step(next, None);
            }
            while let Some((end, time)) = self.take_held() {
                if end > self.complete {
                    self.complete = end;
                    self.push_step(end, time);
                }
            }
        }
        if self.top < self.complete {
            // The missed bytes were the last ones.
            let missed = u32::try_from(self.complete - self.top).unwrap_or(u32::MAX);
            self.top_sequence = self.top_sequence.map(|sequence| sequence.wrapping_add(missed));
            self.top = self.complete;
        }
    }

    /// When the bytes before `position` could be read; `None`: unknown. Positions must not decrease from call to call, because what was
    /// asked for is forgotten.
    pub fn take_arrival(&mut self, position: u64) -> Option<Nanos> {
        while self.steps.front().is_some_and(|(end, _)| *end < position) {
            self.steps.pop_front();
        }
        self.steps.front()?.1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A stream whose parts have these lengths, in packets with the sequence number and the length of each.
    fn packets(isn: u32, lens: &[u32]) -> Vec<Segment> {
        let mut at = isn.wrapping_add(1);
        lens.iter()
            .map(|len| {
                let segment = Segment { sequence: at, len: *len, opens: false };
                at = at.wrapping_add(*len);
                segment
            })
            .collect()
    }

    fn opened(isn: u32) -> ByteArrivals {
        ByteArrivals::opened_by(Segment { sequence: isn, len: 0, opens: true })
    }

    /// When each byte can be read, found without any of the above: packet `n` arrives at time `n`.
    fn readable_times(isn: u32, arriving: &[Segment], total: usize) -> Vec<Option<Nanos>> {
        let mut arrival = vec![None; total];
        for (n, segment) in arriving.iter().enumerate() {
            let start = segment.sequence.wrapping_sub(isn.wrapping_add(1)) as usize;
            for time in &mut arrival[start..start + segment.len as usize] {
                time.get_or_insert(Nanos(n as u64));
            }
        }
        let mut latest = Some(Nanos(0));
        arrival
            .into_iter()
            .map(|time| {
                latest = latest.and_then(|latest| Some(latest.max(time?)));
                latest
            })
            .collect()
    }

    fn cut_again(segment: Segment, at: u32) -> Vec<Segment> {
        let at = at % segment.len.max(1);
        let rest = Segment { sequence: segment.sequence.wrapping_add(at), len: segment.len - at, ..segment };
        vec![Segment { len: at, ..segment }, rest]
    }

    proptest! {
        /// Packets come in any order, some twice, some cut in two, and the numbers wrap.
        #[test]
        fn a_byte_is_readable_when_all_before_it_have_arrived(
            isn in prop_oneof![any::<u32>(), (u32::MAX - 2000)..=u32::MAX],
            lens in prop::collection::vec(1..200_u32, 1..40),
            moves in prop::collection::vec((any::<prop::sample::Index>(), 0..5_usize), 0..20),
            copies in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..200_u32), 0..10),
        ) {
            let total: u32 = lens.iter().sum();
            let mut arriving = packets(isn, &lens);
            for (at, by) in moves {
                let at = at.index(arriving.len());
                let to = (at + by).min(arriving.len() - 1);
                let moved = arriving.remove(at);
                arriving.insert(to, moved);
            }
            for (which, to, cut) in copies {
                let parts = cut_again(arriving[which.index(arriving.len())], cut);
                let to = to.index(arriving.len());
                arriving.splice(to..to, parts);
            }
            let want = readable_times(isn, &arriving, total as usize);
            let mut got = opened(isn);
            for (n, segment) in arriving.iter().enumerate() {
                got.add_segment(*segment, Some(Nanos(n as u64)));
            }
            prop_assert_eq!(got.complete, u64::from(total));
            prop_assert!(got.ahead.is_empty());
            for position in 1..=total {
                prop_assert_eq!(got.take_arrival(position.into()), want[position as usize - 1], "position {}", position);
            }
        }

        /// The capture misses packets: their bytes have no time, and all others keep theirs.
        #[test]
        fn what_was_missed_is_unknown_and_nothing_else(
            isn in any::<u32>(),
            lens in prop::collection::vec(1..200_u32, 1..40),
            missed in prop::collection::vec(any::<bool>(), 40),
            asked in prop::collection::vec(1..40_usize, 0..6),
        ) {
            let arriving = packets(isn, &lens);
            let (mut got, mut position, mut results) = (opened(isn), 0, Vec::new());
            for (n, segment) in arriving.iter().enumerate() {
                position += u64::from(segment.len);
                if !missed[n] {
                    got.add_segment(*segment, Some(Nanos(n as u64)));
                }
                results.push((position, (!missed[n]).then_some(Nanos(n as u64))));
                // A response ends here, and its times are asked for.
                if asked.contains(&n) {
                    got.assume_arrived(position);
                    for (position, want) in results.drain(..) {
                        prop_assert_eq!(got.take_arrival(position), want);
                    }
                }
            }
            got.assume_arrived(position);
            for (position, want) in results {
                prop_assert_eq!(got.take_arrival(position), want);
            }
            prop_assert!(got.ahead.is_empty());
        }
    }

    #[test]
    fn times_of_an_earlier_clock_do_not_hold_later_ones_back() {
        let mut got = opened(7);
        let segment = |sequence| Segment { sequence, len: 10, opens: false };
        got.add_segment(segment(8), Some(Nanos(900)));
        got.add_segment(segment(28), Some(Nanos(950)));
        got.forget_times();
        got.add_segment(segment(18), Some(Nanos(5)));
        got.add_segment(segment(38), Some(Nanos(6)));
        assert_eq!([10, 30, 40].map(|at| got.take_arrival(at)), [None, None, Some(Nanos(6))]);
    }

    #[test]
    fn a_packet_longer_than_a_chunk_has_one_time() {
        let mut got = opened(7);
        got.add_segment(Segment { sequence: 8, len: 60_000, opens: false }, Some(Nanos(5)));
        assert_eq!([1, 30_000, 60_000].map(|at| got.take_arrival(at)), [Some(Nanos(5)); 3]);
        assert_eq!(got.take_arrival(60_001), None);
    }

    #[test]
    fn what_is_not_of_the_stream_is_ignored() {
        let mut got = ByteArrivals::default();
        got.add_segment(Segment { sequence: 8, len: 10, opens: false }, Some(Nanos(1)));
        assert!(!got.is_open() && got.take_arrival(1).is_none(), "nothing opened it");
        let mut got = opened(100);
        for (sequence, len) in [(90, 5), (101, 0), (100 + (1 << 31), 20)] {
            got.add_segment(Segment { sequence, len, opens: false }, Some(Nanos(1)));
        }
        assert_eq!((got.complete, got.steps.len(), got.ahead.len()), (0, 0, 0));
        assert!(got.is_opened_by(Segment { sequence: 100, len: 0, opens: true }));
        got.add_segment(Segment { sequence: 101, len: 1, opens: false }, Some(Nanos(2)));
        assert!(!got.is_opened_by(Segment { sequence: 100, len: 0, opens: true }));
    }
}
