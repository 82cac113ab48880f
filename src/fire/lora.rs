//! Which LoRA adapter a request uses if it does not name one: a mix, as many users of one server would cause.

use std::collections::HashMap;

use crate::rng::{self, WeightedIndex};

/// `--lora-assignment`. The first two names are vLLM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LoraAssignment {
    /// Each adapter is equally likely.
    Random,
    /// One after the other, in turn.
    RoundRobin,
    /// The first is the most likely: the k-th in proportion to 1/k^alpha.
    Zipf,
}

/// Assigns adapters by the seed. A conversation keeps its adapter.
#[derive(Debug, Clone)]
pub struct AdapterMix {
    names: Vec<String>,
    /// How likely each is; `None`: in turn.
    shares: Option<WeightedIndex>,
    seed: u64,
    count: usize,
    sessions: HashMap<String, usize>,
}

impl AdapterMix {
    /// A mix of these adapters; `None` without names.
    #[must_use]
    pub fn new(names: &[String], assignment: LoraAssignment, alpha: f64, seed: u64) -> Option<Self> {
        let shares = match assignment {
            LoraAssignment::RoundRobin => None,
            LoraAssignment::Random => Some(WeightedIndex::new(names.iter().map(|_| 1.0))),
            LoraAssignment::Zipf => {
                Some(WeightedIndex::from_zipf(1, u32::try_from(names.len()).unwrap_or(u32::MAX), alpha))
            }
        };
        let mix = AdapterMix { names: names.to_vec(), shares, seed, count: 0, sessions: HashMap::new() };
        (!names.is_empty()).then_some(mix)
    }

    /// Picks the adapter of the next request, which may be a turn of `session`.
    pub fn pick_adapter(&mut self, session: Option<&str>) -> &str {
        let known = session.and_then(|session| self.sessions.get(session).copied());
        let index = known.unwrap_or_else(|| self.draw_adapter());
        if let Some(session) = session.filter(|_| known.is_none()) {
            self.sessions.insert(session.to_owned(), index);
        }
        &self.names[index]
    }

    fn draw_adapter(&mut self) -> usize {
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

    fn counts(assignment: LoraAssignment, n: usize) -> Vec<usize> {
        let names = ["a", "b", "c"].map(String::from);
        let mut mix = AdapterMix::new(&names, assignment, 1.0, 7).unwrap();
        let drawn: Vec<String> = (0..n).map(|_| mix.pick_adapter(None).to_owned()).collect();
        names.iter().map(|name| drawn.iter().filter(|d| *d == name).count()).collect()
    }

    #[test]
    fn shares_are_as_configured() {
        assert_eq!(counts(LoraAssignment::RoundRobin, 10), [4, 3, 3]);
        assert!(counts(LoraAssignment::Random, 9000).iter().all(|n| n.abs_diff(3000) < 200));
        // 1, 1/2 and 1/3 of 11/6.
        for (n, want) in counts(LoraAssignment::Zipf, 11_000).iter().zip([6000, 3000, 2000_usize]) {
            assert!(n.abs_diff(want) < 250, "{n} and {want}");
        }
        assert!(AdapterMix::new(&[], LoraAssignment::Random, 1.0, 0).is_none());
    }

    #[test]
    fn a_conversation_keeps_its_adapter() {
        let names = ["a", "b"].map(String::from);
        let mut mix = AdapterMix::new(&names, LoraAssignment::RoundRobin, 1.0, 0).unwrap();
        let drawn = ["s", "t", "s", "u", "t"].map(|session| mix.pick_adapter(Some(session)).to_owned());
        assert_eq!(drawn, ["a", "b", "a", "a", "b"]);
    }
}
