//! The KV cache: blocks of tokens and the prefixes that they hold.

use std::collections::{BTreeMap, HashMap};

/// The index of a block.
pub type BlockId = u32;

/// Hashes tokens that follow other tokens with the hash `before`; `before` is 0 at the start of a text.
///
/// A block's hash therefore identifies the whole prefix up to its end. We do not use the standard library's hashers: they may
/// change between versions, and a seed must give the same outputs forever.
#[must_use]
pub fn chain_hash(before: u64, tokens: &[u32]) -> u64 {
    tokens.iter().fold(before ^ 0x9e37_79b9_7f4a_7c15, |hash, token| {
        let mixed = (hash ^ u64::from(*token)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed ^ (mixed >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
    })
}

/// All blocks of the cache. A block without users is free but keeps its prefix until it is allocated again.
#[derive(Debug)]
pub struct BlockPool {
    all: Vec<KvBlock>,
    /// Blocks without users, by the time of their release: the first is the next to be allocated.
    free: BTreeMap<u64, BlockId>,
    /// The block at the end of each known prefix.
    prefixes: HashMap<u64, BlockId>,
    /// Counts releases; the time in `free`.
    release_count: u64,
}

#[derive(Debug, Clone, Default)]
struct KvBlock {
    users: u32,
    prefix: Option<u64>,
    /// The key in `free` while the block has no users.
    released_at: u64,
}

impl BlockPool {
    /// A cache of `count` empty blocks.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let all = (0..count).map(|id| KvBlock { released_at: u64::from(id), ..KvBlock::default() }).collect();
        let free = (0..count).map(|id| (u64::from(id), id)).collect();
        BlockPool { all, free, prefixes: HashMap::new(), release_count: u64::from(count) }
    }

    /// The number of blocks without users.
    #[must_use]
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// The number of all blocks.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.all.len()
    }

    /// The blocks of the longest known prefix among `hashes`, which are the prefixes of one text in order of length.
    #[must_use]
    pub fn longest_prefix(&self, hashes: &[u64]) -> Vec<BlockId> {
        hashes.iter().map_while(|hash| self.prefixes.get(hash).copied()).collect()
    }

    /// Adds a user to the blocks of a known prefix, and allocates and appends `fresh` free blocks. If there are too few free
    /// blocks, nothing changes.
    pub fn allocate(&mut self, known: Vec<BlockId>, fresh: usize) -> Option<Vec<BlockId>> {
        let revived = known.iter().filter(|id| self.all[**id as usize].users == 0).count();
        if self.num_free() < revived + fresh {
            return None;
        }
        for id in &known {
            let block = &mut self.all[*id as usize];
            if block.users == 0 {
                self.free.remove(&block.released_at);
            }
            block.users += 1;
        }
        let mut allocated = known;
        for _ in 0..fresh {
            let (_, id) = self.free.pop_first()?;
            let block = &mut self.all[id as usize];
            block.users = 1;
            if let Some(prefix) = block.prefix.take() {
                self.prefixes.remove(&prefix);
            }
            allocated.push(id);
        }
        Some(allocated)
    }

    /// Records that a block holds the end of this prefix. If another block already does, that one stays recorded.
    pub fn record_prefix(&mut self, id: BlockId, prefix: u64) {
        let block = &mut self.all[id as usize];
        if block.prefix.is_none() && !self.prefixes.contains_key(&prefix) {
            block.prefix = Some(prefix);
            self.prefixes.insert(prefix, id);
        }
    }

    /// Removes one user from each of a request's blocks. The last block becomes free first, because a shorter prefix is useful
    /// to more requests.
    pub fn release_blocks(&mut self, ids: &[BlockId]) {
        for id in ids.iter().rev() {
            let block = &mut self.all[*id as usize];
            block.users -= 1;
            if block.users == 0 {
                block.released_at = self.release_count;
                self.free.insert(self.release_count, *id);
                self.release_count += 1;
            }
        }
    }

    /// Forgets all prefixes unless a block is in use; returns whether it did.
    pub fn clear_prefixes(&mut self) -> bool {
        if self.num_free() < self.num_blocks() {
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
        assert_ne!(chain_hash(0, &[1, 2]), chain_hash(0, &[2, 1]));
        assert_ne!(chain_hash(chain_hash(0, &[1]), &[2]), chain_hash(chain_hash(0, &[3]), &[2]));
        // Pinned, because seeds select outputs by this hash.
        assert_eq!(chain_hash(0, &[1, 2, 3]), PINNED, "{}", chain_hash(0, &[1, 2, 3]));
    }
    const PINNED: u64 = 4_251_990_767_336_912_724;

    #[test]
    fn a_free_block_keeps_its_prefix_until_it_is_allocated() {
        let mut blocks = BlockPool::new(3);
        let first = blocks.allocate(vec![], 2).unwrap();
        blocks.record_prefix(first[0], 10);
        blocks.record_prefix(first[1], 20);
        blocks.release_blocks(&first);
        assert_eq!(blocks.longest_prefix(&[10, 20, 30]), first);
        // The block that was never used is allocated first, then the end of the prefix.
        assert_eq!(blocks.allocate(vec![], 2).unwrap(), [2, first[1]]);
        assert_eq!(blocks.longest_prefix(&[10, 20]), [first[0]]);
    }

    #[test]
    fn an_allocation_that_does_not_fit_changes_nothing() {
        let mut blocks = BlockPool::new(2);
        let held = blocks.allocate(vec![], 1).unwrap();
        blocks.record_prefix(held[0], 10);
        blocks.release_blocks(&held);
        // Using the known block again takes one of the two free ones.
        assert_eq!(blocks.allocate(vec![held[0]], 2), None);
        assert_eq!(blocks.num_free(), 2);
        assert_eq!(blocks.allocate(vec![held[0]], 1).unwrap().len(), 2);
        assert!(!blocks.clear_prefixes());
    }
}
