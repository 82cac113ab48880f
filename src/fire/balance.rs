//! Which of several servers a request goes to.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long a failed request still counts as in flight. Otherwise a server that fails at once would seem idle and get all requests.
const FAILURE_HOLD: Duration = Duration::from_secs(1);

/// `--balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Balance {
    /// One after the other, in turn.
    RoundRobin,
    /// The server with the fewest requests of this client in flight; the first one if several have the same.
    LeastLoaded,
}

/// Assigns requests to servers. A conversation stays with its server, whose cache has its prefix.
#[derive(Debug)]
pub struct Balancer {
    balance: Balance,
    /// Requests in flight at each server.
    loads: Vec<Arc<AtomicU64>>,
    count: usize,
    sessions: HashMap<String, usize>,
}

/// Counts a request as in flight at a server until it is dropped.
#[derive(Debug)]
pub struct LoadGuard(Arc<AtomicU64>);

impl LoadGuard {
    /// Keeps a failed request counted for a while.
    pub fn release_later(self) {
        tokio::spawn(async move {
            tokio::time::sleep(FAILURE_HOLD).await;
            drop(self);
        });
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Balancer {
    /// A balancer for this number of servers.
    #[must_use]
    pub fn new(balance: Balance, servers: usize) -> Self {
        let loads = (0..servers.max(1)).map(|_| Arc::default()).collect();
        Balancer { balance, loads, count: 0, sessions: HashMap::new() }
    }

    /// Picks the server of the next request, which may be a turn of `session`. With only one server, no guard is needed.
    pub fn pick_server(&mut self, session: Option<&str>) -> (usize, Option<LoadGuard>) {
        if self.loads.len() == 1 {
            return (0, None);
        }
        let known = session.and_then(|session| self.sessions.get(session).copied());
        let index = known.unwrap_or_else(|| self.choose_server());
        if let Some(session) = session.filter(|_| known.is_none()) {
            self.sessions.insert(session.to_owned(), index);
        }
        self.loads[index].fetch_add(1, Relaxed);
        (index, Some(LoadGuard(Arc::clone(&self.loads[index]))))
    }

    fn choose_server(&mut self) -> usize {
        self.count += 1;
        match self.balance {
            Balance::RoundRobin => (self.count - 1) % self.loads.len(),
            Balance::LeastLoaded => {
                let load = |index: &usize| self.loads[*index].load(Relaxed);
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
        let places: Vec<usize> = (0..5).map(|_| turn.pick_server(None).0).collect();
        assert_eq!(places, [0, 1, 2, 0, 1]);

        let mut least = Balancer::new(Balance::LeastLoaded, 2);
        let (a, first) = least.pick_server(None);
        let (b, second) = least.pick_server(None);
        assert_eq!((a, b), (0, 1));
        drop(second);
        let (c, _third) = least.pick_server(None);
        drop(first);
        assert_eq!((c, least.pick_server(None).0), (1, 0));
        assert!(Balancer::new(Balance::LeastLoaded, 1).pick_server(None).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_at_once_does_not_seem_idle() {
        let mut least = Balancer::new(Balance::LeastLoaded, 2);
        let (_, failed) = least.pick_server(None);
        failed.unwrap().release_later();
        tokio::task::yield_now().await;
        assert_eq!(least.pick_server(None).0, 1);
        tokio::time::sleep(FAILURE_HOLD * 2).await;
        assert_eq!(least.pick_server(None).0, 0);
    }

    #[test]
    fn a_conversation_stays_with_its_server() {
        let mut turn = Balancer::new(Balance::RoundRobin, 2);
        let places = ["s", "t", "s", "t", "s"].map(|session| turn.pick_server(Some(session)).0);
        assert_eq!(places, [0, 1, 0, 1, 0]);
    }
}
