//! Which of several servers a request goes to.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// So long a failure counts as a request in flight: a server that fails at once would else seem idle, and get them all.
const LINGERING: Duration = Duration::from_secs(1);

/// `--balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// To the one with the fewest of our requests in flight; of several such to the first.
    LeastLoaded,
}

/// Gives requests to servers. A conversation stays with its server, whose cache knows it.
#[derive(Debug)]
pub struct Balancer {
    balance: Balance,
    /// Requests in flight at each.
    loads: Vec<Arc<AtomicU64>>,
    count: usize,
    sessions: HashMap<String, usize>,
}

/// A request in flight at a server. It is none any more when this is dropped.
#[derive(Debug)]
pub struct Share(Arc<AtomicU64>);

impl Share {
    /// Its request has failed: it is one in flight for a while yet.
    pub fn linger(self) {
        tokio::spawn(async move {
            tokio::time::sleep(LINGERING).await;
            drop(self);
        });
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Balancer {
    /// For so many servers.
    #[must_use]
    pub fn new(balance: Balance, servers: usize) -> Self {
        let loads = (0..servers.max(1)).map(|_| Arc::default()).collect();
        Balancer { balance, loads, count: 0, sessions: HashMap::new() }
    }

    /// The server of the next request, a turn of `session` perhaps; `None` in place of a share: there is one server only.
    pub fn next(&mut self, session: Option<&str>) -> (usize, Option<Share>) {
        if self.loads.len() == 1 {
            return (0, None);
        }
        let known = session.and_then(|session| self.sessions.get(session).copied());
        let place = known.unwrap_or_else(|| self.choose());
        if let Some(session) = session.filter(|_| known.is_none()) {
            self.sessions.insert(session.to_owned(), place);
        }
        self.loads[place].fetch_add(1, Relaxed);
        (place, Some(Share(Arc::clone(&self.loads[place]))))
    }

    fn choose(&mut self) -> usize {
        self.count += 1;
        match self.balance {
            Balance::RoundRobin => (self.count - 1) % self.loads.len(),
            Balance::LeastLoaded => {
                let load = |place: &usize| self.loads[*place].load(Relaxed);
                (0..self.loads.len()).min_by_key(load).unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_where_there_are_fewest_or_in_turn() {
        let mut turn = Balancer::new(Balance::RoundRobin, 3);
        let places: Vec<usize> = (0..5).map(|_| turn.next(None).0).collect();
        assert_eq!(places, [0, 1, 2, 0, 1]);

        let mut least = Balancer::new(Balance::LeastLoaded, 2);
        let (a, first) = least.next(None);
        let (b, second) = least.next(None);
        assert_eq!((a, b), (0, 1));
        drop(second);
        let (c, _third) = least.next(None);
        drop(first);
        assert_eq!((c, least.next(None).0), (1, 0));
        assert!(Balancer::new(Balance::LeastLoaded, 1).next(None).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_at_once_does_not_seem_idle() {
        let mut least = Balancer::new(Balance::LeastLoaded, 2);
        let (_, failed) = least.next(None);
        failed.unwrap().linger();
        tokio::task::yield_now().await;
        assert_eq!(least.next(None).0, 1);
        tokio::time::sleep(LINGERING * 2).await;
        assert_eq!(least.next(None).0, 0);
    }

    #[test]
    fn a_conversation_stays_with_its_server() {
        let mut turn = Balancer::new(Balance::RoundRobin, 2);
        let places = ["s", "t", "s", "t", "s"].map(|session| turn.next(Some(session)).0);
        assert_eq!(places, [0, 1, 0, 1, 0]);
    }
}
