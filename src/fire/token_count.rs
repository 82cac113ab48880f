//! How many tokens a response has: what the server reports, held against what its chunks show.
//!
//! Servers send counts that are zero, missing, of one chunk instead of all, without the reasoning, or absurd. A count that the
//! chunks contradict is not used.

use crate::{
    backend::{ChoiceDelta, OutputKind, Usage},
    record::TokenSource,
};

/// No model reads or writes this many tokens.
const MAX_TOKENS: u32 = 100_000_000;

/// No server generates tokens faster than this in one response, in tokens per second.
const MAX_TOKEN_RATE: f64 = 100_000.0;

/// Tokens that may be hidden in any response, however fast it is.
const MIN_ALLOWANCE: u32 = 4096;

/// A token has more bytes of text than this in nearly all texts.
const USUAL_TOKEN_BYTES: u64 = 3;

/// Tokens without text that a response may have: an end of sequence, and one before it.
const SILENT_TOKENS: u64 = 2;

/// Collects the evidence for the number of tokens while a response arrives.
#[derive(Debug, Default)]
pub struct TokenCounter {
    /// For each token-bearing chunk: its token ids, or the server's count as reported with it; 0: neither.
    per_chunk: Vec<u32>,
    /// The chunks among them with token ids.
    with_ids: usize,
    /// Token-bearing choices, summed over the chunks: there are at least as many tokens.
    least: u64,
    reports: CountReports,
    usage: Usage,
    /// The total did not grow while the count did, so it means something else.
    total_is_stuck: bool,
    shown: ShownText,
    /// The texts that the transcript does not have, to be tokenized; `None`: nothing will be.
    texts: Option<Vec<((u32, TextPart), String)>>,
    tokens_so_far: u64,
}

/// The server's running counts.
#[derive(Debug, Default)]
struct CountReports {
    /// With token-bearing chunks: how many, the last one, and their sum.
    number: u64,
    last: u32,
    sum: u64,
    /// Whether one was larger, and whether one was smaller than the one before.
    grew: bool,
    fell: bool,
    /// With other chunks: the sum, and the last one since the last token.
    others: u64,
    tail: u32,
}

/// How much text the chunks showed.
#[derive(Debug, Default)]
struct ShownText {
    bytes: u64,
    reasoning_bytes: u64,
    reasoning_chunks: u64,
    /// Chunks without any text, which may still bear a token.
    empty_chunks: u64,
}

/// Texts that are tokenized on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextPart {
    Answer,
    Reasoning,
    More,
}

/// What is known of the request and the whole response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseFacts<'a> {
    /// The answer of the first choice.
    pub answer: &'a str,
    /// Tokens that were asked for.
    pub asked: Option<u32>,
    /// From the start of the request to the last byte.
    pub seconds: f64,
    /// Whether its tokens have times.
    pub streamed: bool,
}

/// The counts of a response.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TokenCount {
    /// Generated tokens; 0 without any, or if their number is unknown.
    pub tokens: u32,
    /// Where the number comes from; `None` without tokens.
    pub source: Option<TokenSource>,
    /// The tokens among them that no chunk showed.
    pub hidden: u32,
    /// Tokens in each chunk; `None`: one each. Empty: unknown.
    pub per_chunk: Option<Vec<u32>>,
    /// Prompt tokens; `None`: the server did not count them.
    pub prompt: Option<u32>,
    /// Prompt tokens that were prefix cache hits.
    pub cached: Option<u32>,
    /// Tokens that were reasoning.
    pub reasoning: Option<u32>,
}

impl TokenCounter {
    /// Reserves room for this number of chunks. `keep_texts`: a tokenizer may have to count.
    pub fn with_capacity(chunks: usize, keep_texts: bool) -> Self {
        TokenCounter {
            per_chunk: Vec::with_capacity(chunks),
            texts: keep_texts.then(Vec::new),
            ..TokenCounter::default()
        }
    }

    /// The number of token-bearing chunks.
    pub fn chunk_count(&self) -> usize {
        self.per_chunk.len()
    }

    /// Whether the server counts any tokens so far.
    pub fn has_usage(&self) -> bool {
        self.usage.completion_tokens > Some(0)
    }

    /// The tokens that have arrived; a chunk without a count counts as one.
    pub fn tokens_so_far(&self) -> u64 {
        self.tokens_so_far
    }

    /// Approximate size on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let texts = self.texts.iter().flatten().map(|(_, text)| text.capacity());
        self.per_chunk.capacity() * size_of::<u32>() + texts.sum::<usize>()
    }

    /// Whether a chunk with this count bears tokens, although it has no text: the server has counted with each chunk so far, and
    /// this count is larger.
    pub fn has_counted_more(&self, count: Option<u32>) -> bool {
        count > Some(self.reports.last) && self.per_chunk.last().is_none_or(|tokens| *tokens > 0)
    }

    /// Takes the counts of a chunk.
    pub fn add_usage(&mut self, usage: Usage) {
        let (earlier, grows) = (self.usage, |now: Option<u32>, then: Option<u32>| now > then && then > Some(0));
        let same_total = usage.total_tokens > Some(0) && usage.total_tokens == earlier.total_tokens;
        self.total_is_stuck |= same_total && grows(usage.completion_tokens, earlier.completion_tokens);
        self.usage = usage.or_earlier(earlier);
    }

    /// Takes the texts of a choice.
    pub fn add_texts(&mut self, choice: &ChoiceDelta<'_>) {
        let part = if choice.kind == OutputKind::Reasoning { TextPart::Reasoning } else { TextPart::Answer };
        self.add_text(choice.index, part, &choice.text);
        self.add_text(choice.index, TextPart::More, &choice.more);
    }

    /// Takes the text of the first choice, if it is all that a chunk holds.
    pub fn add_plain_text(&mut self, kind: OutputKind, text: &str) {
        self.add_text(0, if kind == OutputKind::Reasoning { TextPart::Reasoning } else { TextPart::Answer }, text);
    }

    fn add_text(&mut self, index: u32, part: TextPart, text: &str) {
        if text.is_empty() {
            return;
        }
        self.shown.bytes += text.len() as u64;
        if part == TextPart::Reasoning {
            self.shown.reasoning_bytes += text.len() as u64;
            self.shown.reasoning_chunks += 1;
        }
        // The transcript has the answer of the first choice.
        let Some(texts) = self.texts.as_mut().filter(|_| (index, part) != (0, TextPart::Answer)) else { return };
        match texts.iter_mut().find(|(key, _)| *key == (index, part)) {
            Some((_, known)) => known.push_str(text),
            None => texts.push(((index, part), text.to_owned())),
        }
    }

    /// Takes a token-bearing chunk: how many of its choices bear tokens, its token ids, and the server's count so far.
    pub fn add_chunk(&mut self, choices: usize, ids: usize, count: Option<u32>) {
        let (ids, report) = (u32::try_from(ids).unwrap_or(u32::MAX), count.unwrap_or(0));
        self.with_ids += usize::from(ids > 0);
        self.per_chunk.push(if ids > 0 { ids } else { report });
        self.least += choices.max(1) as u64;
        let new = if ids > 0 { ids } else { report.saturating_sub(self.reports.last) };
        self.tokens_so_far += u64::from(new.max(1));
        if report > 0 {
            let reports = &mut self.reports;
            reports.grew |= reports.number > 0 && report > reports.last;
            reports.fell |= report < reports.last;
            reports.number += 1;
            reports.sum += u64::from(report);
            (reports.last, reports.tail) = (report, 0);
        }
    }

    /// Takes a chunk without tokens. `is_empty`: it could hold text, and has none.
    pub fn add_other(&mut self, count: Option<u32>, is_empty: bool) {
        self.shown.empty_chunks += u64::from(is_empty);
        if let Some(report) = count.filter(|n| *n > 0) {
            self.reports.others += u64::from(report);
            self.reports.tail = report;
        }
    }

    /// Takes chunks whose tokens are known only from the count of all.
    pub fn set_unknown_chunks(&mut self, number: usize) {
        self.per_chunk = vec![0; number];
        self.least = 1;
    }

    /// Takes the tokens of a response that is not streamed.
    pub fn add_untimed_tokens(&mut self, choices: usize) {
        self.least += choices.max(1) as u64;
        self.tokens_so_far += u64::from(self.usage.completion_tokens.unwrap_or(0));
    }

    /// Counts the tokens. `tokenize` counts the tokens of a text; `None`: there is no tokenizer.
    pub fn count(&self, facts: ResponseFacts<'_>, tokenize: impl Fn(&str) -> Option<u32>) -> TokenCount {
        let usage = self.usage;
        let prompt = usage.prompt_tokens.filter(|n| (1..=MAX_TOKENS).contains(n));
        let incremental = self.is_incremental();
        // A total that leaves out the cached part of the prompt, or adds reasoning that the count leaves out.
        let total = usage.total_tokens.filter(|n| !incremental && !self.total_is_stuck && *n <= MAX_TOKENS);
        let counted = self.last_count().unwrap_or(0);
        let excess =
            total.zip(prompt).map_or(0, |(total, prompt)| total.saturating_sub(prompt).saturating_sub(counted));
        let cached_apart =
            excess > 0 && counted > 0 && usage.cached_tokens == Some(excess) && usage.reasoning_tokens.is_none();
        let (prompt, excess) = if cached_apart { (prompt.map(|n| n + excess), 0) } else { (prompt, excess) };
        let least = self.least_tokens();
        let reported = self.reported_tokens(excess, least).filter(|n| self.is_plausible(*n, &facts));
        let tokenized = || {
            let texts = self.texts.iter().flatten().map(|(_, text)| text.as_str()).chain([facts.answer]);
            texts.map(&tokenize).try_fold(0, |sum: u32, n| Some(sum.saturating_add(n?)))
        };
        let (tokens, source) = if least == 0 && reported.is_none() {
            (0, None)
        } else if let Some(tokens) = reported {
            (tokens, Some(TokenSource::Usage))
        } else if let Some(tokens) = self.ids_of_chunks() {
            (tokens, Some(TokenSource::TokenIds))
        } else if let Some(tokens) = tokenized() {
            (tokens.max(least), Some(TokenSource::Tokenizer))
        } else if facts.streamed {
            (least, Some(TokenSource::Chunks))
        } else {
            // A response that is not streamed has no chunks to count.
            (0, None)
        };
        let reasoning = usage.reasoning_tokens.filter(|n| *n <= tokens);
        let mut count = TokenCount { tokens, source, prompt, reasoning, ..TokenCount::default() };
        count.cached = usage.cached_tokens.filter(|n| prompt.is_none_or(|prompt| *n <= prompt));
        if facts.streamed && source == Some(TokenSource::Usage) && !self.per_chunk.is_empty() {
            count.hidden = self.hidden_tokens(&count, excess, &facts, || tokenized().unwrap_or(least));
        }
        count.per_chunk = self.tokens_per_chunk(&count, incremental, facts.streamed);
        count
    }

    /// The server's count: the last one that is not zero.
    fn last_count(&self) -> Option<u32> {
        self.usage.completion_tokens.filter(|n| *n > 0)
    }

    /// The fewest tokens that the chunks allow.
    fn least_tokens(&self) -> u32 {
        let ids = self.ids_of_chunks().unwrap_or(0);
        u32::try_from(self.least).unwrap_or(u32::MAX).max(ids)
    }

    /// The token ids of all chunks; `None` unless each has some.
    fn ids_of_chunks(&self) -> Option<u32> {
        let known = self.with_ids > 0 && self.with_ids == self.per_chunk.len();
        known.then(|| self.per_chunk.iter().copied().fold(0, u32::saturating_add))
    }

    /// Whether each count is of one chunk instead of all so far: it falls, or never grows.
    fn is_incremental(&self) -> bool {
        let CountReports { number, last, sum, grew, fell, tail, .. } = self.reports;
        let is_summary = u64::from(tail) >= sum;
        // A server may also send the final count with each chunk.
        let bytes_per_token = if fell || u64::from(last) < self.least { 1 } else { USUAL_TOKEN_BYTES };
        let has_text = self.sum_of_counts() * bytes_per_token <= self.shown.bytes + self.shown.empty_chunks;
        number > 1 && !is_summary && (fell || !grew) && has_text
    }

    fn sum_of_counts(&self) -> u64 {
        self.reports.sum + self.reports.others
    }

    /// The tokens that the server reports, with the reasoning that its count leaves out; `None`: unknown, or fewer than `least`.
    fn reported_tokens(&self, excess: u32, least: u32) -> Option<u32> {
        if self.is_incremental() {
            return u32::try_from(self.sum_of_counts()).ok().filter(|n| *n >= least);
        }
        let counted = self.last_count().unwrap_or(0);
        let reasoning = self.usage.reasoning_tokens.unwrap_or(0);
        let left_out = if excess > 0 {
            excess
        } else if counted > 0 && (reasoning > counted || counted < least) {
            reasoning
        } else {
            0
        };
        Some(counted.saturating_add(left_out)).filter(|n| *n > 0 && *n >= least)
    }

    /// Whether a server can have generated this number of tokens in this time, unless the text shows them.
    fn is_plausible(&self, tokens: u32, facts: &ResponseFacts<'_>) -> bool {
        let allowed = f64::from(facts.asked.unwrap_or(0).max(MIN_ALLOWANCE)) + facts.seconds * MAX_TOKEN_RATE;
        let shown = (self.shown.bytes + self.shown.empty_chunks) as f64;
        tokens <= MAX_TOKENS && f64::from(tokens) <= shown + allowed
    }

    /// The tokens that no chunk showed: reasoning that is not sent, or more tokens than the text can have.
    fn hidden_tokens(
        &self,
        count: &TokenCount,
        excess: u32,
        facts: &ResponseFacts<'_>,
        visible: impl FnOnce() -> u32,
    ) -> u32 {
        let (shown, least) = (&self.shown, self.least_tokens());
        let reasoning = count.reasoning.unwrap_or(0);
        let in_answer = facts.answer.trim_start().starts_with("<think");
        let unsent = if shown.reasoning_chunks == 0 && !in_answer {
            reasoning.max(excess)
        } else if shown.reasoning_chunks > 0 && shown.reasoning_bytes < u64::from(reasoning) {
            // A summary.
            reasoning.saturating_sub(u32::try_from(shown.reasoning_chunks).unwrap_or(u32::MAX))
        } else {
            0
        };
        let hidden = if count.tokens.saturating_sub(unsent) >= least { unsent } else { 0 };
        if u64::from(count.tokens - hidden) > shown.bytes + shown.empty_chunks + SILENT_TOKENS {
            return count.tokens.saturating_sub(visible().max(least));
        }
        hidden
    }

    /// The tokens in each chunk, as [`TokenCount::per_chunk`] has them.
    fn tokens_per_chunk(&self, count: &TokenCount, incremental: bool, streamed: bool) -> Option<Vec<u32>> {
        let (chunks, visible) = (self.per_chunk.len() as u64, u64::from(count.tokens - count.hidden));
        let known = (chunks > 0).then(|| self.known_tokens_per_chunk(count.hidden, incremental)).flatten();
        match known.filter(|known| known.iter().map(|n| u64::from(*n)).sum::<u64>() <= visible) {
            Some(known) => known.iter().any(|n| *n > 1).then_some(known),
            None => (visible != chunks || !streamed && self.least > 0).then(Vec::new),
        }
    }

    /// The tokens in each chunk by its token ids or by the server's counts; `None` if they are not known for each.
    fn known_tokens_per_chunk(&self, hidden: u32, incremental: bool) -> Option<Vec<u32>> {
        let by_ids = self.with_ids == self.per_chunk.len();
        if self.per_chunk.contains(&0) || self.with_ids > 0 && !by_ids {
            return None;
        }
        if by_ids || incremental {
            return Some(self.per_chunk.clone());
        }
        let before = [0].into_iter().chain(self.per_chunk.iter().copied());
        let mut new: Vec<u32> =
            before.zip(&self.per_chunk).map(|(before, count)| count.saturating_sub(before)).collect();
        // Reasoning that is not sent comes before the first chunk.
        if let Some(first) = new.first_mut().filter(|first| **first > hidden) {
            *first -= hidden;
        }
        (!new.contains(&0)).then_some(new)
    }
}
