//! Which adapter a request asks for, where it does not say so itself: a mix of several, as many users of one server make it.

use std::collections::HashMap;

use crate::rng::{self, WeightedIndex};

/// How adapters are given out. The first two names are vLLM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Assignment {
    /// Each as often.
    Random,
    /// In turn.
    RoundRobin,
    /// The first most often: the k-th in proportion to 1/k^alpha.
    Zipf,
}

/// Gives adapters out, by the seed. A conversation keeps its own.
#[derive(Debug, Clone)]
pub struct Mix {
    names: Vec<String>,
    /// How often each comes; `None`: in turn.
    shares: Option<WeightedIndex>,
    seed: u64,
    count: usize,
    sessions: HashMap<String, usize>,
}

impl Mix {
    /// Of these adapters; `None`: there is none.
    #[must_use]
    pub fn new(names: &[String], assignment: Assignment, alpha: f64, seed: u64) -> Option<Self> {
        let shares = match assignment {
            Assignment::RoundRobin => None,
            Assignment::Random => Some(WeightedIndex::new(names.iter().map(|_| 1.0))),
            Assignment::Zipf => {
                Some(WeightedIndex::from_zipf(1, u32::try_from(names.len()).unwrap_or(u32::MAX), alpha))
            }
        };
        let mix = Mix { names: names.to_vec(), shares, seed, count: 0, sessions: HashMap::new() };
        (!names.is_empty()).then_some(mix)
    }

    /// The adapter of the next request, which is a turn of `session`.
    pub fn next(&mut self, session: Option<&str>) -> &str {
        let known = session.and_then(|session| self.sessions.get(session).copied());
        let place = known.unwrap_or_else(|| self.draw());
        if let Some(session) = session.filter(|_| known.is_none()) {
            self.sessions.insert(session.to_owned(), place);
        }
        &self.names[place]
    }

    fn draw(&mut self) -> usize {
        self.count += 1;
        match &self.shares {
            None => (self.count - 1) % self.names.len(),
            Some(shares) => shares.draw_index(&mut rng::random_stream(self.seed, "lora", self.count as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(assignment: Assignment, n: usize) -> Vec<usize> {
        let names = ["a", "b", "c"].map(String::from);
        let mut mix = Mix::new(&names, assignment, 1.0, 7).unwrap();
        let drawn: Vec<String> = (0..n).map(|_| mix.next(None).to_owned()).collect();
        names.iter().map(|name| drawn.iter().filter(|d| *d == name).count()).collect()
    }

    #[test]
    fn shares_are_those_that_were_asked_for() {
        assert_eq!(counts(Assignment::RoundRobin, 10), [4, 3, 3]);
        assert!(counts(Assignment::Random, 9000).iter().all(|n| n.abs_diff(3000) < 200));
        // 1, 1/2 and 1/3 of 11/6.
        for (n, want) in counts(Assignment::Zipf, 11_000).iter().zip([6000, 3000, 2000_usize]) {
            assert!(n.abs_diff(want) < 250, "{n} and {want}");
        }
        assert!(Mix::new(&[], Assignment::Random, 1.0, 0).is_none());
    }

    #[test]
    fn a_conversation_keeps_its_adapter() {
        let names = ["a", "b"].map(String::from);
        let mut mix = Mix::new(&names, Assignment::RoundRobin, 1.0, 0).unwrap();
        let drawn = ["s", "t", "s", "u", "t"].map(|session| mix.next(Some(session)).to_owned());
        assert_eq!(drawn, ["a", "b", "a", "a", "b"]);
    }
}
