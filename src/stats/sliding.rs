//! The most tokens within any second, `(t − 1 s, t]`: exact, without sorting all arrivals.
//!
//! Counts in fine slots bound the tokens of each second from above and the best second from below. Only the seconds in between are
//! examined, the most promising first, and only their slots at both
//! ends.

use std::ops::RangeInclusive;

use crate::units::SECOND;

/// Passes the arrivals of each response, in order of time, to a function: times in nanoseconds, and the tokens of each if that is
/// not one.
pub type EachResponse<'a> = dyn Fn(&mut TakeResponse<'_>) + 'a;

/// Takes the times of the chunks of a response, and their tokens if they do not all have one.
pub type TakeResponse<'a> = dyn FnMut(&[u64], Option<&[u32]>) + 'a;

/// With wider slots (of half a second), all arrivals are sorted.
const MAX_SHIFT: u32 = 29;

/// Counts the tokens of the fullest second. Slots are at least `width` long, and arrivals from `horizon` on are left out.
#[must_use]
pub fn most_within_second(each: &EachResponse, width: u64, horizon: u64) -> u64 {
    let shift = width.next_power_of_two().trailing_zeros();
    if shift > MAX_SHIFT {
        return slide_over_all(each, horizon);
    }
    let slots = TimeSlots::count(each, shift, horizon);
    let least = slots.fullest_aligned_second();
    let promising = slots.ends_above(least);
    if slots.are_tokens {
        slots.examine::<u64>(each, promising, least)
    } else {
        slots.examine::<u32>(each, promising, least)
    }
}

/// Calls `take` with the time and the tokens of each arrival before `horizon`.
fn for_each_arrival(each: &EachResponse, horizon: u64, mut take: impl FnMut(u64, u32)) {
    each(&mut |times, tokens| {
        let times = times.iter().copied().take_while(|time| *time < horizon);
        match tokens {
            None => times.for_each(|time| take(time, 1)),
            Some(tokens) => times.zip(tokens).for_each(|(time, tokens)| take(time, *tokens)),
        }
    });
}

fn slide_over_all(each: &EachResponse, horizon: u64) -> u64 {
    let mut arrivals: Vec<(u64, u32)> = Vec::new();
    for_each_arrival(each, horizon, |time, tokens| arrivals.push((time, tokens)));
    arrivals.sort_unstable();
    let (mut oldest, mut within, mut most) = (0, 0, 0);
    for (time, tokens) in &arrivals {
        within += u64::from(*tokens);
        while time - arrivals[oldest].0 >= SECOND {
            within -= u64::from(arrivals[oldest].1);
            oldest += 1;
        }
        most = most.max(within);
    }
    most
}

/// An arrival within its slot; it orders by time.
trait Arrival: Copy + Ord + Default {
    fn new(offset: u32, tokens: u32) -> Self;
    fn offset(self) -> u64;
    fn tokens(self) -> u64;
}

/// Of one token.
impl Arrival for u32 {
    fn new(offset: u32, _: u32) -> u32 {
        offset
    }
    fn offset(self) -> u64 {
        u64::from(self)
    }
    fn tokens(self) -> u64 {
        1
    }
}

/// Of any number of tokens.
impl Arrival for u64 {
    fn new(offset: u32, tokens: u32) -> u64 {
        u64::from(offset) << 32 | u64::from(tokens)
    }
    fn offset(self) -> u64 {
        self >> 32
    }
    fn tokens(self) -> u64 {
        self & u64::from(u32::MAX)
    }
}

/// Tokens by the time slot of their arrival.
struct TimeSlots {
    /// A slot has 2^`shift` nanoseconds, which is less than a second.
    shift: u32,
    horizon: u64,
    /// The arrivals in each slot.
    arrivals: Vec<u32>,
    /// The tokens before slot 0, 1, …, and after the last.
    before: Vec<u64>,
    /// Whether some arrivals have other than one token.
    are_tokens: bool,
}

impl TimeSlots {
    fn count(each: &EachResponse, shift: u32, horizon: u64) -> Self {
        let (mut arrivals, mut counts, mut are_tokens) = (Vec::new(), Vec::new(), false);
        let place = |time: u64| usize::try_from(time >> shift).unwrap_or(usize::MAX);
        each(&mut |times, tokens| {
            let Some(last) = times.iter().rev().find(|time| **time < horizon) else { return };
            if place(*last) >= arrivals.len() {
                arrivals.resize(place(*last) + 1, 0);
            }
            for time in times.iter().take_while(|time| **time < horizon) {
                arrivals[place(*time)] += 1;
            }
            if let Some(tokens) = tokens {
                are_tokens = true;
                counts.resize(arrivals.len(), 0_u64);
                for (time, n) in times.iter().take_while(|time| **time < horizon).zip(tokens) {
                    // Less the one that is in `arrivals`.
                    counts[place(*time)] = counts[place(*time)].wrapping_add(u64::from(*n).wrapping_sub(1));
                }
            }
        });
        counts.resize(arrivals.len(), 0);
        let mut sum = 0_u64;
        let mut before: Vec<u64> = counts;
        for (before, arrivals) in before.iter_mut().zip(&arrivals) {
            let tokens = before.wrapping_add(u64::from(*arrivals));
            *before = sum;
            sum = sum.wrapping_add(tokens);
        }
        before.push(sum);
        TimeSlots { shift, horizon, arrivals, before, are_tokens }
    }

    /// The most tokens in a second that is aligned to slots, or a little less: a lower bound.
    fn fullest_aligned_second(&self) -> u64 {
        let whole = usize::try_from(SECOND >> self.shift).unwrap_or(usize::MAX);
        (1..self.before.len())
            .map(|end| self.before[end] - self.before[end.saturating_sub(whole)])
            .max()
            .unwrap_or_default()
    }

    /// The slots in which the second before an arrival in `slot` begins; `None`: before the first slot.
    fn begins_of_second(&self, slot: usize) -> Option<RangeInclusive<usize>> {
        let (first, end) = ((slot as u64) << self.shift, (slot as u64 + 1) << self.shift);
        let index = |time: u64| usize::try_from(time >> self.shift).unwrap_or(usize::MAX);
        let last = (end - 1).checked_sub(SECOND)?;
        Some(index(first.saturating_sub(SECOND))..=index(last))
    }

    /// The most tokens that a second may have that ends in `slot`.
    fn most_at(&self, slot: usize) -> u64 {
        let begin = self.begins_of_second(slot).map_or(0, |begins| *begins.start());
        self.before[slot + 1] - self.before[begin]
    }

    /// The slots in which a second with more than `least` tokens may end, each with the most tokens of such a second, which come
    /// first.
    fn ends_above(&self, least: u64) -> Vec<(u64, u32)> {
        let ends = (0_u32..).zip(&self.arrivals).filter(|(_, arrivals)| **arrivals > 0);
        let mut ends: Vec<(u64, u32)> =
            ends.map(|(slot, _)| (self.most_at(slot as usize), slot)).filter(|(most, _)| *most > least).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends
    }

    /// The tokens of the fullest second, if that ends in one of these slots; else `least`.
    fn examine<A: Arrival>(&self, each: &EachResponse, ends: Vec<(u64, u32)>, least: u64) -> u64 {
        if ends.is_empty() {
            return least;
        }
        let mut kept = KeptSlots::<A>::collect(self, each, &ends);
        let mut most = least;
        for (bound, slot) in ends {
            if bound <= most {
                break;
            }
            most = most.max(kept.fullest_second_at(slot as usize));
        }
        most
    }
}

/// The arrivals in some of the slots.
struct KeptSlots<'s, A> {
    slots: &'s TimeSlots,
    arrivals: Vec<A>,
    /// The end of each slot in `arrivals`; [`NOT_KEPT`] for others.
    ends: Vec<u32>,
    is_sorted: Vec<bool>,
}

const NOT_KEPT: u32 = u32::MAX;

impl<'s, A: Arrival> KeptSlots<'s, A> {
    /// Keeps the arrivals at both ends of the seconds that end in these slots.
    fn collect(slots: &'s TimeSlots, each: &EachResponse, ends_of_seconds: &[(u64, u32)]) -> Self {
        let mut is_kept = vec![false; slots.arrivals.len()];
        for (_, slot) in ends_of_seconds {
            is_kept[*slot as usize] = true;
            if let Some(begins) = slots.begins_of_second(*slot as usize) {
                is_kept[begins].fill(true);
            }
        }
        let mut next = 0;
        let begin = |(arrivals, kept): (&u32, &bool)| {
            let begin = next;
            next += if *kept { *arrivals } else { 0 };
            if *kept { begin } else { NOT_KEPT }
        };
        let mut ends: Vec<u32> = slots.arrivals.iter().zip(&is_kept).map(begin).collect();
        let mut arrivals = vec![A::default(); next as usize];
        let mask = (1 << slots.shift) - 1;
        for_each_arrival(each, slots.horizon, |time, tokens| {
            let end = &mut ends[usize::try_from(time >> slots.shift).unwrap_or(usize::MAX)];
            if *end != NOT_KEPT {
                arrivals[*end as usize] = A::new(u32::try_from(time & mask).unwrap_or(u32::MAX), tokens);
                *end += 1;
            }
        });
        KeptSlots { slots, arrivals, ends, is_sorted: vec![false; slots.arrivals.len()] }
    }

    /// The arrivals in a slot, in order of time.
    fn sort_slot(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.is_sorted[slot], true) {
            let end = self.ends[slot] as usize;
            self.arrivals[end - self.slots.arrivals[slot] as usize..end].sort_unstable();
        }
    }

    /// The arrivals in a slot, each with its time and its tokens.
    fn arrivals_in(&self, slot: usize) -> impl Iterator<Item = (u64, u64)> {
        let end = self.ends[slot] as usize;
        let begin = (slot as u64) << self.slots.shift;
        let inside = &self.arrivals[end - self.slots.arrivals[slot] as usize..end];
        inside.iter().map(move |arrival| (begin + arrival.offset(), arrival.tokens()))
    }

    /// The most tokens in a second that ends in `slot`.
    fn fullest_second_at(&mut self, slot: usize) -> u64 {
        let begins = self.slots.begins_of_second(slot);
        for slot in begins.clone().into_iter().flatten().chain([slot]) {
            self.sort_slot(slot);
        }
        let first = begins.as_ref().map_or(0, |begins| *begins.start());
        let mut within = self.slots.before[slot] - self.slots.before[first];
        let mut oldest = begins.into_iter().flatten().flat_map(|slot| self.arrivals_in(slot)).peekable();
        let mut most = 0;
        for (time, tokens) in self.arrivals_in(slot) {
            within += tokens;
            while let Some((_, gone)) = oldest.next_if(|(old, _)| time - old >= SECOND) {
                within -= gone;
            }
            most = most.max(within);
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn arrivals() -> impl Strategy<Value = Vec<Vec<(u64, u32)>>> {
        // Some waves in step, some at any time.
        let time =
            prop_oneof![0..30_u64, 0..3_000_000_000_u64].prop_map(|t| if t < 30 { t * 100 * MILLISECOND } else { t });
        let response = prop::collection::vec((time, prop_oneof![Just(1), 0..5_u32]), 0..30);
        prop::collection::vec(response, 0..20)
    }

    proptest! {
        #[test]
        fn slots_find_the_second_that_sorting_finds(
            responses in arrivals(), with_tokens in any::<bool>(), width in prop_oneof![Just(MILLISECOND), 1..1_u64 << 31],
            horizon in prop_oneof![Just(u64::MAX), 0..3_000_000_000_u64]
        ) {
            let mut responses = responses;
            for response in &mut responses {
                response.sort_unstable();
            }
            let width = width.max(1 << 12);
            let each = |take: &mut TakeResponse<'_>| {
                for (i, response) in responses.iter().enumerate() {
                    let (times, tokens): (Vec<u64>, Vec<u32>) = response.iter().copied().unzip();
                    take(&times, Some(tokens.as_slice()).filter(|_| with_tokens && i % 2 == 0));
                }
            };
            prop_assert_eq!(most_within_second(&each, width, horizon), slide_over_all(&each, horizon));
        }
    }
}
