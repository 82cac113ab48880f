//! Slots for requests in flight, and since when each is free.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::units::Nanos;

/// Slots for the requests in flight, and for the requests that wait for their first token.
#[derive(Debug, Clone)]
pub struct RequestSlots(Arc<SharedSlots>);

#[derive(Debug)]
struct SharedSlots {
    /// `None` without a limit: then there is always room.
    free: Option<Mutex<FreeSlots>>,
    /// Wakes the task that waits for a slot.
    news: Arc<Notify>,
}

/// The free slots.
#[derive(Debug)]
struct FreeSlots {
    flight: Option<FreeTimes>,
    prefill: Option<FreeTimes>,
    /// Whether one was asked for while all were taken.
    wanted: bool,
}

/// Since when each free slot of one kind is free.
#[derive(Debug, Default)]
struct FreeTimes {
    /// The number of slots that were never taken.
    unused: u32,
    /// The times of others, the earliest first. A time may be in the future.
    times: BinaryHeap<Reverse<Nanos>>,
    /// The number of slots that were dropped without a time.
    dropped: u32,
}

/// A slot for a request in flight; until its first token it also takes one for the prefill. It is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: RequestSlots,
    holds_flight: bool,
    holds_prefill: bool,
}

impl FreeTimes {
    fn has_free(&self) -> bool {
        self.unused > 0 || self.dropped > 0 || !self.times.is_empty()
    }

    fn take_earliest(&mut self) -> Nanos {
        if self.unused > 0 {
            self.unused -= 1;
            return Nanos(0);
        }
        self.times.pop().map_or_else(
            || {
                self.dropped = self.dropped.saturating_sub(1);
                Nanos(0)
            },
            |Reverse(at)| at,
        )
    }

    fn give_back(&mut self, at: Option<Nanos>) {
        match at {
            Some(at) => self.times.push(Reverse(at)),
            None => self.dropped += 1,
        }
    }
}

impl FreeSlots {
    fn try_take(&mut self) -> Option<Nanos> {
        self.wanted = ![&self.flight, &self.prefill].into_iter().flatten().all(FreeTimes::has_free);
        if self.wanted {
            return None;
        }
        let kinds = [&mut self.flight, &mut self.prefill].into_iter().flatten();
        kinds.map(FreeTimes::take_earliest).max()
    }
}

impl RequestSlots {
    /// `flight` slots for requests in flight, and `prefill` for requests without a token; `None`: no limit.
    #[must_use]
    pub fn new(flight: Option<u32>, prefill: Option<u32>) -> Self {
        let kind = |count: Option<u32>| count.map(|unused| FreeTimes { unused, ..FreeTimes::default() });
        let limited = flight.is_some() || prefill.is_some();
        let free = FreeSlots { flight: kind(flight), prefill: kind(prefill), wanted: false };
        RequestSlots(Arc::new(SharedSlots { free: limited.then(|| Mutex::new(free)), news: Arc::default() }))
    }

    /// Takes a free slot, if there is one. Also returns since when it is free, which may be in the near future.
    pub fn try_take(&self) -> Option<(Slot, Nanos)> {
        let (free_since, holds_flight, holds_prefill) = match self.lock_free() {
            Some(mut free) => (free.try_take()?, free.flight.is_some(), free.prefill.is_some()),
            None => (Nanos(0), false, false),
        };
        Some((Slot { slots: self.clone(), holds_flight, holds_prefill }, free_since))
    }

    /// Waits for a free slot. Also returns since when it is free, which may be in the near future.
    pub async fn take(&self) -> (Slot, Nanos) {
        loop {
            if let Some(taken) = self.try_take() {
                return taken;
            }
            self.0.news.notified().await;
        }
    }

    /// What is notified when a slot that was asked for is free. One task at a time may wait for it.
    #[must_use]
    pub fn news(&self) -> &Arc<Notify> {
        &self.0.news
    }

    fn lock_free(&self) -> Option<MutexGuard<'_, FreeSlots>> {
        Some(self.0.free.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Slot {
    /// Frees the prefill slot: the request has its first token.
    pub fn first_token(&mut self, now: Nanos) {
        if std::mem::take(&mut self.holds_prefill) && self.give_back(Some(now), false, true) {
            self.slots.news().notify_one();
        }
    }

    /// Frees the slot from `at` on, which may be in the near future: the next user of the slot waits for that time.
    pub fn free(self, at: Nanos) {
        let news = Arc::clone(self.slots.news());
        if self.hand_back(at) {
            news.notify_one();
        }
    }

    /// The same, for a thread that can use the slot itself: returns whether it was asked for, and wakes no task.
    pub fn hand_back(mut self, at: Nanos) -> bool {
        let (flight, prefill) = (std::mem::take(&mut self.holds_flight), std::mem::take(&mut self.holds_prefill));
        self.give_back(Some(at), flight, prefill)
    }

    /// Returns whether a slot was asked for while all were taken.
    fn give_back(&self, at: Option<Nanos>, flight: bool, prefill: bool) -> bool {
        let Some(mut free) = self.slots.lock_free().filter(|_| flight || prefill) else { return false };
        if let Some(free) = free.flight.as_mut().filter(|_| flight) {
            free.give_back(at);
        }
        if let Some(free) = free.prefill.as_mut().filter(|_| prefill) {
            free.give_back(at);
        }
        free.wanted
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.give_back(None, self.holds_flight, self.holds_prefill) {
            self.slots.news().notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_was_never_taken_comes_first_and_then_the_one_that_is_free_first() {
        let slots = RequestSlots::new(Some(3), None);
        let take = || slots.try_take().unwrap();
        let ((a, _), (b, _)) = (take(), take());
        a.free(Nanos(9));
        let (c, unused) = take();
        assert_eq!(unused, Nanos(0));
        b.free(Nanos(5));
        // Dropped without a time.
        drop(c);
        let freed: Vec<Nanos> = (0..3).map(|_| take()).map(|(slot, at)| (std::mem::forget(slot), at).1).collect();
        assert_eq!(freed, [Nanos(5), Nanos(9), Nanos(0)]);
        assert!(slots.try_take().is_none());
    }

    #[test]
    fn a_slot_says_whether_another_was_asked_for() {
        let slots = RequestSlots::new(Some(2), Some(1));
        let (mut a, _) = slots.try_take().unwrap();
        assert!(slots.try_take().is_none(), "the one for the prefill is taken");
        a.first_token(Nanos(3));
        let (b, at) = slots.try_take().unwrap();
        assert_eq!(at, Nanos(3));
        assert!(!a.hand_back(Nanos(4)), "nothing was asked for since");
        assert!(slots.try_take().is_none());
        assert!(b.hand_back(Nanos(5)));
        assert_eq!(slots.try_take().unwrap().1, Nanos(5), "the later one of both");
        assert!(RequestSlots::new(None, None).try_take().is_some_and(|(slot, _)| !slot.hand_back(Nanos(1))));
    }
}
