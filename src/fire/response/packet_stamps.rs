//! The arrivals of chunks by their packets, in place of the stamps of the reads that returned them.

use super::{LATE_READ, ReceivedResponse};
use crate::units::Nanos;

/// Two conversions of one kernel stamp differ by less.
const CONVERSION_ERROR: Nanos = Nanos(100_000);

impl ReceivedResponse {
    /// Gives each token-bearing chunk the arrival of the packet that completed it. `arrival_of` looks up when the bytes before a
    /// position of the connection's stream could be read, and is called with positions that grow; `start`: when the request was sent. A
    /// chunk whose packet was missed keeps its stamp.
    pub fn use_packet_times(&mut self, start: Nanos, mut arrival_of: impl FnMut(u64) -> Option<Nanos>) {
        let Some(mut stamp) = self.first.or(self.last) else { return };
        let chunks = self.chunk_ends.len();
        // Chunks without text that were taken as tokens have no positions.
        if chunks != self.itl.len() + 1 || chunks != self.read_lag.len() {
            return;
        }
        let mut found = vec![false; chunks];
        let mut times = Vec::with_capacity(chunks);
        for (at, end) in self.chunk_ends.iter().enumerate() {
            if at > 0 {
                stamp = stamp + self.itl[at - 1];
            }
            // Bytes cannot have arrived after their read, nor before the request. The stamp of the read may be earlier: it is of the last
            // bytes, and earlier bytes may have been delivered later, by another processor.
            let plausible = start.since(CONVERSION_ERROR)..=stamp + self.read_lag[at] + CONVERSION_ERROR;
            let packet = arrival_of(*end).filter(|time| plausible.contains(time));
            found[at] = packet.is_some();
            let earlier = times.last().copied().unwrap_or_default();
            let time = packet.unwrap_or(stamp).max(earlier);
            self.read_lag[at] = (self.read_lag[at] + stamp).since(time);
            times.push(time);
        }
        self.itl = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
        self.first = self.first.map(|_| times[0]);
        self.last = times.last().copied();
        self.first_answer = self.first_answer.map(|_| times[self.chunks_before_answer.min(chunks - 1)]);
        let packets = found.iter().filter(|found| **found).count() as u64;
        let missed = self.stamps.chunks.saturating_sub(packets);
        self.stamps.packets = packets;
        self.stamps.user = self.stamps.user.min(missed);
        self.stamps.late = self.read_lag.iter().filter(|lag| **lag > LATE_READ).count() as u64;
        self.stamps.coalesced = self.stamps.coalesced.min(missed);
        self.stamps.late_coalesced = self.stamps.late_coalesced.min(missed);
        self.stamp_error.retain(|(chunk, _)| !found.get(*chunk as usize).is_some_and(|found| *found));
    }
}
