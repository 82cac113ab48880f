//! The KV cache: blocks of tokens, and the prefixes they hold.

use std::collections::{BTreeMap, HashMap};

/// The number of a block.
pub type BlockId = u32;

/// The hash of some tokens that come after tokens with the hash `before`; 0 when nothing comes before.
///
/// So a block's hash stands for the whole prefix up to its end. Our own few lines, because the standard library's
/// hashers may change from one version to the next, and seeds are promised to last.
#[must_use]
pub fn chain(before: u64, tokens: &[u32]) -> u64 {
    tokens.iter().fold(before ^ 0x9e37_79b9_7f4a_7c15, |hash, token| {
        let mixed = (hash ^ u64::from(*token)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed ^ (mixed >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
    })
}

/// All blocks of the cache. A block without users is free, yet keeps its prefix until it is taken for another.
#[derive(Debug)]
pub struct Blocks {
    all: Vec<Block>,
    /// Blocks without users, by the time they became so: the first is the next to be taken.
    free: BTreeMap<u64, BlockId>,
    /// Where each known prefix ends.
    prefixes: HashMap<u64, BlockId>,
    /// Counts releases: the "time" in `free`.
    tick: u64,
}

#[derive(Debug, Clone, Default)]
struct Block {
    users: u32,
    prefix: Option<u64>,
    freed: u64,
}

impl Blocks {
    /// A cache of `count` empty blocks.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let all = (0..count).map(|id| Block { freed: u64::from(id), ..Block::default() }).collect();
        let free = (0..count).map(|id| (u64::from(id), id)).collect();
        Blocks { all, free, prefixes: HashMap::new(), tick: u64::from(count) }
    }

    /// How many blocks have no user.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// How many blocks there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.all.len()
    }

    /// The blocks that hold the longest known prefix among `hashes`, which lists the prefixes of one text from the
    /// shortest up.
    #[must_use]
    pub fn longest_prefix(&self, hashes: &[u64]) -> Vec<BlockId> {
        hashes.iter().map_while(|hash| self.prefixes.get(hash).copied()).collect()
    }

    /// Adds a user to blocks that hold a known prefix and takes `fresh` free ones, appended; all of it or nothing.
    pub fn take(&mut self, known: Vec<BlockId>, fresh: usize) -> Option<Vec<BlockId>> {
        let revived = known.iter().filter(|id| self.all[**id as usize].users == 0).count();
        if self.available() < revived + fresh {
            return None;
        }
        for id in &known {
            let block = &mut self.all[*id as usize];
            if block.users == 0 {
                self.free.remove(&block.freed);
            }
            block.users += 1;
        }
        let mut taken = known;
        for _ in 0..fresh {
            let (_, id) = self.free.pop_first()?;
            let block = &mut self.all[id as usize];
            block.users = 1;
            if let Some(prefix) = block.prefix.take() {
                self.prefixes.remove(&prefix);
            }
            taken.push(id);
        }
        Some(taken)
    }

    /// Notes that a block now holds the end of this prefix. The first block to hold a prefix keeps it.
    pub fn remember(&mut self, id: BlockId, prefix: u64) {
        let block = &mut self.all[id as usize];
        if block.prefix.is_none() && !self.prefixes.contains_key(&prefix) {
            block.prefix = Some(prefix);
            self.prefixes.insert(prefix, id);
        }
    }

    /// Takes one user from each of a request's blocks. The last becomes free first, since a prefix is worth more the
    /// shorter it is.
    pub fn release(&mut self, ids: &[BlockId]) {
        for id in ids.iter().rev() {
            let block = &mut self.all[*id as usize];
            block.users -= 1;
            if block.users == 0 {
                block.freed = self.tick;
                self.free.insert(self.tick, *id);
                self.tick += 1;
            }
        }
    }

    /// Forgets every prefix, unless a block is in use; says whether it did.
    pub fn forget(&mut self) -> bool {
        if self.available() < self.total() {
            return false;
        }
        self.prefixes.clear();
        self.all.iter_mut().for_each(|block| block.prefix = None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_prefix_depends_on_every_token_and_its_place() {
        assert_ne!(chain(0, &[1, 2]), chain(0, &[2, 1]));
        assert_ne!(chain(chain(0, &[1]), &[2]), chain(chain(0, &[3]), &[2]));
        // A promise to seeds, which pick texts by it.
        assert_eq!(chain(0, &[1, 2, 3]), PINNED, "{}", chain(0, &[1, 2, 3]));
    }
    const PINNED: u64 = 4_251_990_767_336_912_724;

    #[test]
    fn a_free_block_keeps_its_prefix_until_it_is_taken() {
        let mut blocks = Blocks::new(3);
        let first = blocks.take(vec![], 2).unwrap();
        blocks.remember(first[0], 10);
        blocks.remember(first[1], 20);
        blocks.release(&first);
        assert_eq!(blocks.longest_prefix(&[10, 20, 30]), first);
        // The one that was never used goes first, then the tail of the prefix.
        assert_eq!(blocks.take(vec![], 2).unwrap(), [2, first[1]]);
        assert_eq!(blocks.longest_prefix(&[10, 20]), [first[0]]);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut blocks = Blocks::new(2);
        let held = blocks.take(vec![], 1).unwrap();
        blocks.remember(held[0], 10);
        blocks.release(&held);
        // Reviving the known block uses up one of the two free ones.
        assert_eq!(blocks.take(vec![held[0]], 2), None);
        assert_eq!(blocks.available(), 2);
        assert_eq!(blocks.take(vec![held[0]], 1).unwrap().len(), 2);
        assert!(!blocks.forget());
    }
}
