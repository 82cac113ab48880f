//! Places for requests in flight, and since when each is free.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::Nanos;

/// Places of one kind, and since when each free one has been free.
#[derive(Debug, Clone)]
struct Places {
    free: Arc<Semaphore>,
    /// `None` without a limit: then there was always room.
    freed: Option<Arc<Mutex<Freed>>>,
}

/// Since when each free place of a limited number is free.
#[derive(Debug, Default)]
struct Freed {
    /// So many were never taken.
    unused: u32,
    /// The others, the earliest first. A moment may be to come.
    at: BinaryHeap<Reverse<Nanos>>,
}

/// One of them. It is free again when this is dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    _permit: OwnedSemaphorePermit,
}

/// Places for the requests in flight, and for those that wait for their first token.
#[derive(Debug, Clone)]
pub struct Slots {
    flight: Places,
    prefill: Option<Places>,
}

/// A place among the requests in flight, and first among those without a token.
#[derive(Debug)]
pub struct Slot {
    flight: Place,
    prefill: Option<Place>,
}

impl Places {
    fn new(count: Option<u32>) -> Self {
        let free = Arc::new(Semaphore::new(count.map_or(Semaphore::MAX_PERMITS, |n| n as usize)));
        let freed = count.map(|unused| Arc::new(Mutex::new(Freed { unused, ..Freed::default() })));
        Places { free, freed }
    }

    fn try_take(&self) -> Option<(Place, Nanos)> {
        Some(self.taken(Arc::clone(&self.free).try_acquire_owned().ok()?))
    }

    async fn take(&self) -> Option<(Place, Nanos)> {
        Some(self.taken(Arc::clone(&self.free).acquire_owned().await.ok()?))
    }

    fn taken(&self, permit: OwnedSemaphorePermit) -> (Place, Nanos) {
        let freed = self.freed().map_or(Nanos(0), |mut freed| freed.take());
        (Place { places: self.clone(), _permit: permit }, freed)
    }

    fn freed(&self) -> Option<MutexGuard<'_, Freed>> {
        Some(self.freed.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Freed {
    fn take(&mut self) -> Nanos {
        if self.unused > 0 {
            self.unused -= 1;
            return Nanos(0);
        }
        // One that its holder gave up without a word has none.
        self.at.pop().map_or(Nanos(0), |Reverse(at)| at)
    }
}

impl Place {
    /// Frees the place, from `at` on.
    fn free(self, at: Nanos) {
        if let Some(mut freed) = self.places.freed() {
            freed.at.push(Reverse(at));
        }
    }
}

impl Slots {
    /// So many in flight, and of these so many without a token; `None`: no limit.
    #[must_use]
    pub fn new(flight: Option<u32>, prefill: Option<u32>) -> Self {
        Slots { flight: Places::new(flight), prefill: prefill.map(|count| Places::new(Some(count))) }
    }

    /// A place that is free now or at that moment, which may be to come.
    pub fn try_take(&self) -> Option<(Slot, Nanos)> {
        let prefill = match &self.prefill {
            Some(places) => Some(places.try_take()?),
            None => None,
        };
        Some(Slot::of(self.flight.try_take()?, prefill))
    }

    /// Waits for a free place; also gives the moment from which on it is free, which may be to come.
    pub async fn take(&self) -> Option<(Slot, Nanos)> {
        let flight = self.flight.take().await?;
        let prefill = match &self.prefill {
            Some(places) => Some(places.take().await?),
            None => None,
        };
        Some(Slot::of(flight, prefill))
    }
}

impl Slot {
    fn of((flight, freed): (Place, Nanos), prefill: Option<(Place, Nanos)>) -> (Slot, Nanos) {
        let freed = prefill.as_ref().map_or(freed, |(_, at)| freed.max(*at));
        (Slot { flight, prefill: prefill.map(|(place, _)| place) }, freed)
    }

    /// The request has its first token: another may begin its own.
    pub fn first_token(&mut self, now: Nanos) {
        if let Some(place) = self.prefill.take() {
            place.free(now);
        }
    }

    /// Frees the place, from `at` on, which may be to come a little later: whoever takes it waits for that.
    pub fn free(mut self, at: Nanos) {
        self.first_token(at);
        self.flight.free(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_never_taken_comes_first_and_then_the_one_that_is_free_first() {
        let slots = Slots::new(Some(3), None);
        let take = || slots.try_take().unwrap();
        let ((a, _), (b, _)) = (take(), take());
        a.free(Nanos(9));
        let (c, unused) = take();
        assert_eq!(unused, Nanos(0));
        b.free(Nanos(5));
        // Given up without a word.
        drop(c);
        let freed: Vec<Nanos> = (0..3).map(|_| take()).map(|(slot, at)| (std::mem::forget(slot), at).1).collect();
        assert_eq!(freed, [Nanos(5), Nanos(9), Nanos(0)]);
        assert!(slots.try_take().is_none());
    }
}
