//! Who counts: the requests that shares are taken of.

use std::iter::Sum;

use super::RecordedRequest;

/// How many requests there were, and how they ended. Every share of requests is a share of [`counted`](Population::counted):
/// requests that the client cancelled on purpose are neither successes nor failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Population {
    /// Requests that were due, sent or not.
    pub offered: u64,
    /// Those that the client cancelled on purpose.
    pub abandoned: u64,
    /// Those whose whole response arrived.
    pub succeeded: u64,
}

impl Population {
    /// Counts these requests.
    pub fn from_requests<'a>(requests: impl IntoIterator<Item = &'a RecordedRequest>) -> Self {
        let mut population = Population::default();
        for request in requests {
            population.offered += 1;
            population.abandoned += u64::from(!request.counts());
            population.succeeded += u64::from(request.success);
        }
        population
    }

    /// Requests that can succeed or fail. One that was due and never sent has failed.
    #[must_use]
    pub fn counted(self) -> u64 {
        self.offered.saturating_sub(self.abandoned)
    }

    /// Requests that should have succeeded and did not, for any reason.
    #[must_use]
    pub fn failed(self) -> u64 {
        self.counted().saturating_sub(self.succeeded)
    }

    /// `part` as a share of the requests that count; `None` if none does.
    #[must_use]
    pub fn share(self, part: u64) -> Option<f64> {
        let counted = self.counted();
        (counted > 0).then(|| part as f64 / counted as f64)
    }

    /// The share that succeeded; `None` if no request counts.
    #[must_use]
    pub fn success_share(self) -> Option<f64> {
        self.share(self.succeeded)
    }

    /// The share that failed; `None` if no request counts.
    #[must_use]
    pub fn failure_share(self) -> Option<f64> {
        self.share(self.failed())
    }
}

impl Sum for Population {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        // A file may have any numbers.
        all.fold(Population::default(), |a, b| Population {
            offered: a.offered.saturating_add(b.offered),
            abandoned: a.abandoned.saturating_add(b.abandoned),
            succeeded: a.succeeded.saturating_add(b.succeeded),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_cancelled_on_purpose_is_in_no_share() {
        let request = |success, abandoned| RecordedRequest { success, abandoned, ..RecordedRequest::default() };
        let requests = [request(true, false), request(false, true), request(false, false), request(false, true)];
        let population = Population::from_requests(&requests);
        assert_eq!(population, Population { offered: 4, abandoned: 2, succeeded: 1 });
        assert_eq!((population.counted(), population.failed()), (2, 1));
        assert_eq!((population.success_share(), population.failure_share()), (Some(0.5), Some(0.5)));
        let left = Population::from_requests(&requests[1..2]);
        assert_eq!((left.failed(), left.success_share()), (0, None));
        assert_eq!([population, left].into_iter().sum::<Population>().counted(), 2);
    }
}
