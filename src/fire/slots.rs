//! Slots for requests in flight, and since when each is free.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::Nanos;

/// Slots of one kind, and since when each free one has been free.
#[derive(Debug, Clone)]
struct SlotPool {
    permits: Arc<Semaphore>,
    /// `None` without a limit: then there was always room.
    free_times: Option<Arc<Mutex<FreeTimes>>>,
}

/// Since when each free slot of a limited number is free.
#[derive(Debug, Default)]
struct FreeTimes {
    /// The number of slots that were never taken.
    unused: u32,
    /// The times of the others, the earliest first. A time may be in the future.
    times: BinaryHeap<Reverse<Nanos>>,
}

/// A slot of one kind. It is free again when this is dropped.
#[derive(Debug)]
struct SlotPermit {
    pool: SlotPool,
    _permit: OwnedSemaphorePermit,
}

/// Slots for the requests in flight, and for the requests that wait for their first token.
#[derive(Debug, Clone)]
pub struct RequestSlots {
    flight: SlotPool,
    prefill: Option<SlotPool>,
}

/// A slot for a request in flight; until its first token it also takes one for the prefill.
#[derive(Debug)]
pub struct Slot {
    flight: SlotPermit,
    prefill: Option<SlotPermit>,
}

impl SlotPool {
    fn new(count: Option<u32>) -> Self {
        let permits = Arc::new(Semaphore::new(count.map_or(Semaphore::MAX_PERMITS, |n| n as usize)));
        let free_times = count.map(|unused| Arc::new(Mutex::new(FreeTimes { unused, ..FreeTimes::default() })));
        SlotPool { permits, free_times }
    }

    fn try_take(&self) -> Option<(SlotPermit, Nanos)> {
        Some(self.take_free_time(Arc::clone(&self.permits).try_acquire_owned().ok()?))
    }

    async fn take(&self) -> Option<(SlotPermit, Nanos)> {
        Some(self.take_free_time(Arc::clone(&self.permits).acquire_owned().await.ok()?))
    }

    fn take_free_time(&self, permit: OwnedSemaphorePermit) -> (SlotPermit, Nanos) {
        let free_since = self.lock_free_times().map_or(Nanos(0), |mut times| times.take_earliest());
        (SlotPermit { pool: self.clone(), _permit: permit }, free_since)
    }

    fn lock_free_times(&self) -> Option<MutexGuard<'_, FreeTimes>> {
        Some(self.free_times.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl FreeTimes {
    fn take_earliest(&mut self) -> Nanos {
        if self.unused > 0 {
            self.unused -= 1;
            return Nanos(0);
        }
        // A slot dropped without `free()` has no time.
        self.times.pop().map_or(Nanos(0), |Reverse(at)| at)
    }
}

impl SlotPermit {
    /// Frees the slot from `at` on.
    fn free_at(self, at: Nanos) {
        if let Some(mut free) = self.pool.lock_free_times() {
            free.times.push(Reverse(at));
        }
    }
}

impl RequestSlots {
    /// `flight` slots for requests in flight, and `prefill` for requests without a token; `None`: no limit.
    #[must_use]
    pub fn new(flight: Option<u32>, prefill: Option<u32>) -> Self {
        RequestSlots { flight: SlotPool::new(flight), prefill: prefill.map(|count| SlotPool::new(Some(count))) }
    }

    /// Takes a free slot, if there is one. Also returns since when it is free, which may be in the near future.
    pub fn try_take(&self) -> Option<(Slot, Nanos)> {
        let prefill = match &self.prefill {
            Some(pool) => Some(pool.try_take()?),
            None => None,
        };
        Some(Slot::from_permits(self.flight.try_take()?, prefill))
    }

    /// Waits for a free slot. Also returns since when it is free, which may be in the near future.
    pub async fn take(&self) -> Option<(Slot, Nanos)> {
        let flight = self.flight.take().await?;
        let prefill = match &self.prefill {
            Some(pool) => Some(pool.take().await?),
            None => None,
        };
        Some(Slot::from_permits(flight, prefill))
    }
}

impl Slot {
    fn from_permits((flight, freed): (SlotPermit, Nanos), prefill: Option<(SlotPermit, Nanos)>) -> (Slot, Nanos) {
        let freed = prefill.as_ref().map_or(freed, |(_, at)| freed.max(*at));
        (Slot { flight, prefill: prefill.map(|(permit, _)| permit) }, freed)
    }

    /// Frees the prefill slot: the request has its first token.
    pub fn first_token(&mut self, now: Nanos) {
        if let Some(permit) = self.prefill.take() {
            permit.free_at(now);
        }
    }

    /// Frees the slot from `at` on, which may be in the near future: the next user of the slot waits for that time.
    pub fn free(mut self, at: Nanos) {
        self.first_token(at);
        self.flight.free_at(at);
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
}
