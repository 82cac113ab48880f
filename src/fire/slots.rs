//! Places for requests in flight, and since when each is free.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::Nanos;

/// Places of one kind, and since when each free one has been free.
#[derive(Debug, Clone)]
struct Places {
    free: Arc<Semaphore>,
    /// Empty without a limit: then there was always room.
    freed: Arc<Mutex<VecDeque<Nanos>>>,
    limited: bool,
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
        Places { free, freed: Arc::default(), limited: count.is_some() }
    }

    fn try_take(&self) -> Option<(Place, Nanos)> {
        Some(self.taken(Arc::clone(&self.free).try_acquire_owned().ok()?))
    }

    async fn take(&self) -> Option<(Place, Nanos)> {
        Some(self.taken(Arc::clone(&self.free).acquire_owned().await.ok()?))
    }

    fn taken(&self, permit: OwnedSemaphorePermit) -> (Place, Nanos) {
        // At the start all are free, and none was ever freed.
        let freed = self.freed().pop_front().unwrap_or_default();
        (Place { places: self.clone(), _permit: permit }, freed)
    }

    fn freed(&self) -> MutexGuard<'_, VecDeque<Nanos>> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Frees the place, and notes that it happened `now`.
    fn free(self, now: Nanos) {
        if self.places.limited {
            self.places.freed().push_back(now);
        }
    }
}

impl Slots {
    /// So many in flight, and of these so many without a token; `None`: no limit.
    #[must_use]
    pub fn new(flight: Option<u32>, prefill: Option<u32>) -> Self {
        Slots { flight: Places::new(flight), prefill: prefill.map(|count| Places::new(Some(count))) }
    }

    /// A place that is free now, and since when.
    pub fn try_take(&self) -> Option<(Slot, Nanos)> {
        let prefill = match &self.prefill {
            Some(places) => Some(places.try_take()?),
            None => None,
        };
        Some(Slot::of(self.flight.try_take()?, prefill))
    }

    /// Waits for a free place; also gives the moment when it had become free.
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

    /// Frees the place, and notes that it happened `now`.
    pub fn free(mut self, now: Nanos) {
        self.first_token(now);
        self.flight.free(now);
    }
}
