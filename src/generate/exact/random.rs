//! Prompts of random tokens with exactly the requested length.

use rand::Rng;

use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{PromptCounter, TextDraft, WordList, wrap_index},
        writer::PromptLen,
    },
    record::Prompt,
    rng,
    tokens::Tokenizer,
};

/// Makes random prompts, as text or token ids, that begin with a shared prefix.
#[derive(Debug)]
pub struct RandomPrompts<'a> {
    seed: u64,
    kind: TokenSource<'a>,
    /// Tokens that the server adds to a prompt.
    overhead: usize,
    /// The part of them before the prompt.
    front: usize,
    /// The prefix of all prompts.
    prefix: SharedPrefix,
}

/// A prefix that several prompts share.
#[derive(Debug)]
pub struct SharedPrefix {
    pub prompt: Prompt,
    /// Its tokens, without those that the server adds.
    pub len: usize,
}

#[derive(Debug)]
enum TokenSource<'a> {
    Text { counter: PromptCounter<'a>, words: WordList },
    Ids { ids: Vec<u32>, heads: Vec<u32> },
}

/// Names of the random streams.
const PROMPT: &str = "prompt";
const PREFIX: &str = "prefix";
const BLOCK: &str = "block";

impl<'a> RandomPrompts<'a> {
    /// For text that the server tokenizes.
    pub fn from_words(counter: PromptCounter<'a>, seed: u64, prefix_len: usize) -> Result<Self, Error> {
        let kind = TokenSource::Text { counter, words: WordList::from_tokenizer(counter.tokenizer, seed)? };
        Self::with_prefix(kind, seed, (counter.tokens_in_front()?, counter.added_tokens()?), prefix_len)
    }

    /// For token ids that the server uses unchanged.
    pub fn from_ids(tokenizer: &Tokenizer, seed: u64, prefix_len: usize) -> Result<Self, Error> {
        let ids = usable_ids(tokenizer)?;
        let mut heads = ids.clone();
        rng::shuffle_list(&mut heads, &mut rng::random_stream(seed, "heads", 0));
        Self::with_prefix(TokenSource::Ids { ids, heads }, seed, (0, 0), prefix_len)
    }

    fn with_prefix(
        kind: TokenSource<'a>,
        seed: u64,
        (front, overhead): (usize, usize),
        prefix_len: usize,
    ) -> Result<Self, Error> {
        let none = SharedPrefix { prompt: Prompt::Ids(Vec::new()), len: 0 };
        let mut random = RandomPrompts { seed, kind, overhead, front, prefix: none };
        random.prefix = random.make_prefix(0, prefix_len)?;
        Ok(random)
    }

    /// Text or token ids, as requested by the flags.
    pub fn from_common(common: &'a Common) -> Result<Self, Error> {
        let prefix_len = common.prefix_tokens() as usize;
        if common.prompt_token_ids {
            Self::from_ids(&common.tokenizer, common.seed, prefix_len)
        } else {
            Self::from_words(common.prompt_counter()?, common.seed, prefix_len)
        }
    }

    /// Tokens that every prompt has in addition to its own: the prefix and what the server adds.
    pub fn shared_tokens(&self) -> usize {
        self.overhead + self.prefix.len
    }

    /// Tokens that the server adds.
    pub fn added_tokens(&self) -> usize {
        self.overhead
    }

    /// Tokens that the server adds before the prompt, which all prompts begin with.
    pub fn tokens_in_front(&self) -> usize {
        self.front
    }

    /// Tokens that the server adds after the prompt.
    pub fn tokens_at_end(&self) -> usize {
        self.overhead - self.front
    }

    /// Expected prefix cache hit of prompt `item`: the tokens that all prompts begin with, which the first prompt
    /// brings into the cache.
    pub fn expected_cached(&self, item: u64) -> Option<u32> {
        if item == 0 { Some(0) } else { u32::try_from(self.front + self.prefix.len).ok() }
    }

    /// Makes prompt `item`, with `own` tokens after the shared ones.
    pub fn make_prompt(&self, item: u64, own: usize) -> Result<(Prompt, PromptLen), Error> {
        self.make_prompt_after(&self.prefix, item, own)
    }

    /// Makes a prefix of exactly `len` tokens. Shorter prefixes with the same number are a prefix of it. Texts with
    /// different numbers begin with different words.
    pub fn make_prefix(&self, number: u64, len: usize) -> Result<SharedPrefix, Error> {
        let first = rng::random_stream(self.seed, PREFIX, 0).next_u64();
        let mut rng = rng::random_stream(self.seed, PREFIX, number);
        match &self.kind {
            TokenSource::Ids { ids, .. } => {
                let prefix = (0..len).map(|_| ids[rng::sample_index(&mut rng, ids.len())]).collect();
                Ok(SharedPrefix { prompt: Prompt::Ids(prefix), len })
            }
            TokenSource::Text { counter, words } => {
                let mut draft = TextDraft::default();
                if len > 0 {
                    // Skipped, because the first head is drawn from the same stream.
                    rng.next_u64();
                    draft.push(words.head_word(first.wrapping_add(number), true));
                    (1..len).for_each(|_| draft.push(words.draw_word(&mut rng)));
                }
                let (text, len) =
                    draft.fit_tokens(len, |text| counter.tokenizer.count(text), || words.draw_word(&mut rng))?;
                Ok(SharedPrefix { prompt: Prompt::Text(text), len })
            }
        }
    }

    /// Makes prompt `item`, with `own` tokens after a prefix.
    pub fn make_prompt_after(
        &self,
        prefix: &SharedPrefix,
        item: u64,
        own: usize,
    ) -> Result<(Prompt, PromptLen), Error> {
        let mut rng = rng::random_stream(self.seed, PROMPT, item);
        let want = self.overhead + prefix.len + own;
        match &self.kind {
            TokenSource::Ids { ids, heads } => {
                let mut prompt = Vec::with_capacity(want);
                if let Prompt::Ids(prefix) = &prefix.prompt {
                    prompt.extend_from_slice(prefix);
                }
                prompt.extend((0..own.min(1)).map(|_| heads[wrap_index(item, heads.len())]));
                prompt.extend((1..own).map(|_| ids[rng::sample_index(&mut rng, ids.len())]));
                Ok((Prompt::Ids(prompt), PromptLen { want, got: want }))
            }
            TokenSource::Text { counter, words } => {
                let prefix = if let Prompt::Text(text) = &prefix.prompt { text } else { "" };
                let mut draft = TextDraft::starting_with(prefix);
                if own > 0 {
                    draft.push(words.head_word(item, prefix.is_empty()));
                    (1..own).for_each(|_| draft.push(words.draw_word(&mut rng)));
                }
                let (text, got) = draft.fit_tokens(want, |text| counter.count(text), || words.draw_word(&mut rng))?;
                Ok((Prompt::Text(text), PromptLen { want, got }))
            }
        }
    }

    /// Makes prompt `item` of `want` tokens from `blocks` of `size` tokens. A block has the same tokens in every
    /// prompt. What the server adds before the prompt replaces the first tokens, so that blocks begin where they do in
    /// the trace. Tokens after the last block belong to this prompt only.
    pub fn make_from_blocks(
        &self,
        item: u64,
        blocks: &[u64],
        size: usize,
        want: usize,
    ) -> Result<(Prompt, PromptLen), Error> {
        // The prompt must not be empty, however short the trace's was.
        let own = want.saturating_sub(self.overhead).max(1);
        let parts = split_into_spans(blocks, size, self.front, own, item);
        match &self.kind {
            TokenSource::Ids { ids, heads, .. } => {
                let mut prompt = Vec::with_capacity(own);
                for part in parts {
                    let mut rng = rng::random_stream(self.seed, part.purpose, part.name);
                    prompt.extend(
                        part.head_numbers(self.seed, heads.len()).map(|head| heads[wrap_index(head, heads.len())]),
                    );
                    prompt.extend((2..part.tokens).map(|_| ids[rng::sample_index(&mut rng, ids.len())]));
                }
                Ok((Prompt::Ids(prompt), PromptLen { want, got: own }))
            }
            TokenSource::Text { counter, words, .. } => {
                let mut draft = TextDraft::default();
                for (at, part) in parts.into_iter().enumerate() {
                    let mut rng = rng::random_stream(self.seed, part.purpose, part.name);
                    for (nth, head) in part.head_numbers(self.seed, words.head_count()).enumerate() {
                        draft.push(words.head_word(head, at + nth == 0));
                    }
                    (2..part.tokens).for_each(|_| draft.push(words.draw_word(&mut rng)));
                }
                let mut rng = rng::random_stream(self.seed, PROMPT, item);
                let fitted = want.max(self.overhead + 1);
                let (text, got) = draft.fit_tokens(fitted, |text| counter.count(text), || words.draw_word(&mut rng))?;
                Ok((Prompt::Text(text), PromptLen { want, got }))
            }
        }
    }
}

/// Tokens of a prompt that one random stream generates.
struct PromptSpan {
    purpose: &'static str,
    name: u64,
    tokens: usize,
}

impl PromptSpan {
    /// Numbers of its first two tokens, out of `count` head tokens. Two tokens distinguish more names than a trace has:
    /// names with the same first token have different second tokens, counted from a position that the first token
    /// determines.
    fn head_numbers(&self, seed: u64, count: usize) -> impl Iterator<Item = u64> {
        let (lap, first) = (self.name / count as u64, self.name % count as u64);
        let second = rng::random_stream(seed, "second head", first).next_u64() % count as u64 + lap;
        [first, second].into_iter().take(self.tokens)
    }
}

/// Splits the `own` tokens from position `start` on into blocks; tokens after the last block belong to the item.
fn split_into_spans(blocks: &[u64], size: usize, start: usize, own: usize, item: u64) -> Vec<PromptSpan> {
    let (mut place, end, mut parts) = (start, start + own, Vec::with_capacity(blocks.len() + 1));
    while place < end {
        let block = place.checked_div(size).and_then(|at| blocks.get(at));
        let part = match block {
            Some(name) => PromptSpan { purpose: BLOCK, name: *name, tokens: (size - place % size).min(end - place) },
            None => PromptSpan { purpose: PROMPT, name: item, tokens: end - place },
        };
        place += part.tokens;
        parts.push(part);
    }
    parts
}

/// The ids that prompts may consist of.
fn usable_ids(tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
    let mut ids = tokenizer.ordinary_ids();
    if tokenizer.is_remote() {
        // A server does not list its vocabulary, so use the tokens of the sonnets. Encoded in parts, for servers with a
        // small context.
        let lines: Vec<&str> = crate::data::SONNETS.lines().collect();
        for piece in lines.chunks(64) {
            ids.extend(tokenizer.encode(&piece.join("\n"), false)?);
        }
        ids.sort_unstable();
        ids.dedup();
    }
    if ids.is_empty() {
        return Err(Error::Usage(format!("the tokenizer {} has no ordinary token", tokenizer.name())));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_words(prompt: Prompt) -> String {
        match prompt {
            Prompt::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_prompt_is_exact_and_they_share_the_prefix_only() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let counter = PromptCounter::new(&tokenizer, false).unwrap();
        let random = RandomPrompts::from_words(counter, 1, 7).unwrap();
        let prompts: Vec<Vec<u32>> = (0..60)
            .map(|item| {
                let (prompt, fitted) = random.make_prompt(item, 1 + usize::try_from(item).unwrap()).unwrap();
                assert_eq!(fitted.want, fitted.got);
                tokenizer.encode(&from_words(prompt), true).unwrap()
            })
            .collect();
        for (i, a) in prompts.iter().enumerate() {
            assert_eq!(a.len(), 8 + i);
            for b in &prompts[..i] {
                assert!(a[..7] == b[..7] && a[7] != b[7]);
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(12))]
        /// For any seed and length: exact where prefix and prompt meet, and a shorter prefix is the beginning of a
        /// longer one.
        #[test]
        fn prefixes_of_all_lengths_tokenize_separately(seed: u64, number in 0..50_u64, long in 1..80_usize, own in 1..40_usize) {
            let tokenizer = Tokenizer::builtin().unwrap();
            let counter = PromptCounter::new(&tokenizer, false).unwrap();
            let random = RandomPrompts::from_words(counter, seed, 0).unwrap();
            let ids = |prompt: &Prompt| tokenizer.encode(&from_words(prompt.clone()), true).unwrap();
            let whole = ids(&random.make_prefix(number, long).unwrap().prompt);
            assert_eq!(whole.len(), long);
            for len in [long / 2, long] {
                let prefix = random.make_prefix(number, len).unwrap();
                let (prompt, fitted) = random.make_prompt_after(&prefix, number, own).unwrap();
                let prompt = ids(&prompt);
                assert_eq!((fitted.want, prompt.len()), (fitted.got, len + own));
                assert_eq!(prompt[..len], whole[..len]);
            }
        }
    }

    #[test]
    fn a_block_has_the_same_tokens_wherever_its_name_comes() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let counter = PromptCounter::new(&tokenizer, false).unwrap();
        let both =
            [RandomPrompts::from_words(counter, 1, 0).unwrap(), RandomPrompts::from_ids(&tokenizer, 1, 0).unwrap()];
        for random in both {
            let tokens = |item, blocks: &[u64], want| {
                let (prompt, fitted) = random.make_from_blocks(item, blocks, 16, want).unwrap();
                assert_eq!(fitted, PromptLen { want, got: want });
                match prompt {
                    Prompt::Ids(ids) => ids,
                    Prompt::Text(text) => tokenizer.encode(&text, true).unwrap(),
                    other => panic!("{other:?}"),
                }
            };
            let (a, b) = (tokens(0, &[7, 8, 9], 40), tokens(1, &[7, 8, 10], 41));
            assert_eq!((a.len(), b.len()), (40, 41));
            assert!(a[..32] == b[..32] && a[32] != b[32]);
            let (c, d) = (tokens(2, &[7], 30), tokens(3, &[7], 30));
            assert!(c[..16] == d[..16] && c[16] != d[16], "after the blocks each prompt has its own tokens");
            assert_eq!(tokens(4, &[], 5).len(), 5);
            // These two names have the same first token, and the second one differs.
            let heads = match &random.kind {
                TokenSource::Ids { heads, .. } => heads.len(),
                TokenSource::Text { words, .. } => words.head_count(),
            };
            let [a, b] = [7, 7 + heads as u64].map(|name| tokens(5, &[3, name], 32));
            assert!(a[..17] == b[..17] && a[17] != b[17]);
        }
    }

    #[test]
    fn what_the_server_adds_takes_the_place_of_the_first_tokens() {
        let places = |start, own| {
            split_into_spans(&[7, 8], 16, start, own, 99).into_iter().map(|p| (p.name, p.tokens)).collect()
        };
        let all: Vec<(u64, usize)> = places(1, 39);
        assert_eq!(all, [(7, 15), (8, 16), (99, 8)]);
        let late: Vec<(u64, usize)> = places(20, 4);
        assert_eq!(late, [(8, 4)]);
    }

    #[test]
    fn seeds_share_nothing_to_speak_of() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let counter = PromptCounter::new(&tokenizer, false).unwrap();
        let (a, b) =
            (RandomPrompts::from_words(counter, 1, 0).unwrap(), RandomPrompts::from_words(counter, 2, 0).unwrap());
        for item in 0..200 {
            let [a, b] =
                [&a, &b].map(|r| tokenizer.encode(&from_words(r.make_prompt(item, 8).unwrap().0), true).unwrap());
            assert_ne!(a[..3], b[..3], "prompt {item}");
        }
    }

    #[test]
    fn ids_are_ordinary_and_exact() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let random = RandomPrompts::from_ids(&tokenizer, 1, 2).unwrap();
        let (Prompt::Ids(a), Prompt::Ids(b)) =
            (random.make_prompt(0, 5).unwrap().0, random.make_prompt(1, 5).unwrap().0)
        else {
            panic!("not ids");
        };
        assert!(a.len() == 7 && a[..2] == b[..2] && a[2] != b[2]);
        assert!(a.iter().all(|id| *id > 0 && *id < 3113));
    }
}
