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

/// Collects what tells the number of tokens while a response arrives.
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
    /// Chunks without any text, which may bear a token all the same.
    empty_chunks: u64,
}

/// Texts that are tokenized on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextPart {
    Answer,
    Reasoning,
    More,
}

/// What the request and the whole response tell about the counts.
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
    /// Generated tokens; 0 if there are none, or if they are unknown.
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

    /// Counts the tokens. `tokenize` counts those of a text; `None`: there is no tokenizer.
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

    /// Whether a server can have generated so many tokens in this time, unless the text shows them.
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

#[cfg(test)]
mod tests {
    use super::{super::response::ReceivedResponse, *};
    use crate::{
        backend::{Backend, Protocol},
        http::socket::ReadStamp,
        record::RequestFuncOutput,
        units::Nanos,
    };

    /// The output of a response whose chunks arrive 20 ms apart. A tokenizer counts words, if there is one.
    fn output_of(backend: &str, stream: bool, events: &[&str], tokenizer: bool) -> RequestFuncOutput {
        let api = Backend::from_name(backend).unwrap().open_api(None).unwrap();
        let protocol = Protocol { api, stream };
        let mut response = ReceivedResponse::with_capacity(protocol, Some(4), tokenizer);
        for (i, event) in events.iter().enumerate() {
            let arrival = ReadStamp { time: Nanos((i as u64 + 1) * 20_000_000), lag: None, read: i as u64 };
            let bytes = if stream && backend != "ollama" { format!("data: {event}\n\n") } else { format!("{event}\n") };
            response.push(arrival, bytes.as_bytes()).unwrap();
        }
        let mut output =
            RequestFuncOutput { prompt_len: 7, expected_output_len: Some(4), ..RequestFuncOutput::default() };
        let count = |text: &str| tokenizer.then(|| u32::try_from(text.split_whitespace().count()).unwrap());
        response.finish(Nanos(0), None, count, &mut output);
        assert!(output.success, "{events:?}: {output:?}");
        output
    }

    /// Prompt, tokens, source, hidden tokens, and tokens per chunk, of a chat with these deltas and usages.
    fn chat(chunks: &[(&str, &str)]) -> (u32, u32, Option<TokenSource>, u32, Option<Vec<u32>>) {
        let events: Vec<String> = chunks
            .iter()
            .map(|(delta, usage)| {
                let choice =
                    if delta.is_empty() { String::new() } else { format!(r#"{{"index":0,"delta":{{{delta}}}}}"#) };
                let usage = if usage.is_empty() { String::new() } else { format!(r#","usage":{{{usage}}}"#) };
                format!(r#"{{"choices":[{choice}]{usage}}}"#)
            })
            .chain(["[DONE]".to_owned()])
            .collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let output = output_of("openai-chat", true, &events, false);
        (output.prompt_len, output.output_tokens, output.token_source, output.hidden_tokens, output.chunk_tokens)
    }

    const A: &str = r#""content":" word""#;
    const R: &str = r#""reasoning_content":" think""#;
    const USAGE: Option<TokenSource> = Some(TokenSource::Usage);
    const CHUNKS: Option<TokenSource> = Some(TokenSource::Chunks);

    #[test]
    fn a_zero_is_no_count() {
        let zero = r#""prompt_tokens":0,"completion_tokens":0,"total_tokens":0"#;
        let count = r#""prompt_tokens":2,"completion_tokens":2,"total_tokens":4"#;
        assert_eq!(chat(&[(A, zero), (A, zero), ("", zero)]), (7, 2, CHUNKS, 0, None));
        assert_eq!(chat(&[(A, ""), (A, ""), ("", zero)]), (7, 2, CHUNKS, 0, None));
        assert_eq!(chat(&[(A, ""), (A, count), ("", zero)]), (2, 2, USAGE, 0, None), "a later zero");
        let only_total = r#""prompt_tokens":2,"completion_tokens":0,"total_tokens":6"#;
        assert_eq!(chat(&[(A, ""), (A, ""), ("", only_total)]), (2, 4, USAGE, 0, Some(vec![])));
    }

    #[test]
    fn fewer_tokens_than_chunks_are_not_believed() {
        let usage = r#""prompt_tokens":2,"completion_tokens":1,"total_tokens":3"#;
        assert_eq!(chat(&[(A, ""), (A, ""), (A, ""), ("", usage)]), (2, 3, CHUNKS, 0, None));
    }

    #[test]
    fn absurd_counts_are_unknown() {
        for count in ["4294967295", "2147483647", "1000000"] {
            let usage = format!(r#""prompt_tokens":{count},"completion_tokens":{count}"#);
            let (_, tokens, source, ..) = chat(&[(A, ""), (A, ""), ("", &usage)]);
            assert_eq!((tokens, source), (2, CHUNKS), "{count}");
        }
        let usage = r#""prompt_tokens":4294967295,"completion_tokens":2"#;
        assert_eq!(chat(&[(A, ""), (A, ""), ("", usage)]), (7, 2, USAGE, 0, None));
        let usage = r#""prompt_tokens":2,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":99}"#;
        let events = [format!(r#"{{"choices":[{{"delta":{{{A}}}}}],"usage":{{{usage}}}}}"#), "[DONE]".into()];
        let output = output_of("openai-chat", true, &[&events[0], &events[1]], false);
        assert_eq!(output.cached_tokens, None, "more than the prompt");
    }

    #[test]
    fn counts_of_single_chunks_are_added() {
        let each = |n: u32| format!(r#""prompt_tokens":2,"completion_tokens":{n},"total_tokens":{}"#, n + 2);
        let [zero, one, two, six] = [0, 1, 2, 6].map(each);
        assert_eq!(chat(&[(A, &one), (A, &one), (A, &one), ("", &zero)]), (2, 3, USAGE, 0, None));
        let varied = chat(&[(A, &two), (A, &one), (A, &two), ("", "")]);
        assert_eq!(varied, (2, 5, USAGE, 0, Some(vec![2, 1, 2])));
        assert_eq!(chat(&[(A, &one), (A, &one), ("", &one)]), (2, 3, USAGE, 0, None), "with an end of sequence");
        let summary = chat(&[(A, &two), (A, &one), (A, &two), ("", &six)]);
        assert_eq!((summary.1, summary.2), (6, USAGE), "and the sum at the end");
        let cumulative = chat(&[(A, &two), (A, &two), (A, &six), ("", &six)]);
        assert_eq!((cumulative.1, cumulative.4), (6, Some(vec![])), "a token cut in two");
        assert_eq!(chat(&[(A, &two), (A, &six), ("", &six)]), (2, 6, USAGE, 0, Some(vec![2, 4])));
    }

    #[test]
    fn reasoning_that_the_count_leaves_out_is_added() {
        let detail = r#""completion_tokens_details":{"reasoning_tokens":2}"#;
        let excluded = format!(r#""prompt_tokens":2,"completion_tokens":1,"total_tokens":5,{detail}"#);
        let chunks = |usage| [(R, ""), (R, ""), (A, ""), ("", usage)];
        assert_eq!(chat(&chunks(&excluded)), (2, 3, USAGE, 0, None));
        let no_total = format!(r#""prompt_tokens":2,"completion_tokens":1,{detail}"#);
        assert_eq!(chat(&chunks(&no_total)), (2, 3, USAGE, 0, None), "visible from the chunks");
        let included = format!(r#""prompt_tokens":2,"completion_tokens":3,"total_tokens":5,{detail}"#);
        assert_eq!(chat(&chunks(&included)), (2, 3, USAGE, 0, None));
        let cached = r#""prompt_tokens":2,"completion_tokens":2,"total_tokens":10,"cached_tokens":6"#;
        assert_eq!(chat(&[(A, ""), (A, ""), ("", cached)]), (8, 2, USAGE, 0, None), "the cached part of the prompt");
    }

    #[test]
    fn tokens_that_no_chunk_showed_are_hidden() {
        let detail = r#""completion_tokens_details":{"reasoning_tokens":100}"#;
        let usage = format!(r#""prompt_tokens":2,"completion_tokens":104,"total_tokens":106,{detail}"#);
        let four = |usage| [(A, ""), (A, ""), (A, ""), (A, ""), ("", usage)];
        assert_eq!(chat(&four(&usage)), (2, 104, USAGE, 100, None));
        assert_eq!(
            chat(&four(r#""completion_tokens":104"#)),
            (7, 104, USAGE, 100, None),
            "more than the text can have"
        );
        assert_eq!(chat(&four(r#""completion_tokens":12"#)), (7, 12, USAGE, 0, Some(vec![])), "three in each chunk");
        let running =
            |n: u32, total: u32| format!(r#""prompt_tokens":2,"completion_tokens":{n},"total_tokens":{total}"#);
        let [one, two, end] = [running(1, 12), running(2, 13), running(2, 104)];
        assert_eq!(chat(&[(A, &one), (A, &two), ("", &end)]), (2, 102, USAGE, 100, None));
        let [one, two] = [running(1, 9), running(2, 9)];
        assert_eq!(chat(&[(A, &one), (A, &two)]), (2, 2, USAGE, 0, None), "a total that does not grow");
        let tags = [
            (r#""content":"<think>hm""#, ""),
            (A, ""),
            ("", &*usage.replace("104", "9").replace("106", "11").replace("100", "4")),
        ];
        assert_eq!(chat(&tags).3, 0, "the reasoning is in the answer");
    }

    #[test]
    fn a_pace_is_that_of_the_tokens_that_arrived() {
        let one = |delta: &str, usage: &str| format!(r#"{{"choices":[{{"delta":{{{delta}}}}}],"usage":{{{usage}}}}}"#);
        let tpot = |events: &[String]| {
            let events: Vec<&str> = events.iter().map(String::as_str).chain(["[DONE]"]).collect();
            output_of("openai-chat", true, &events, false).tpot
        };
        let hidden = r#""completion_tokens":103,"reasoning_tokens":100"#;
        assert_eq!(tpot(&[one(A, ""), one(A, ""), one(A, hidden)]), Some(Nanos(20_000_000)));
        assert_eq!(tpot(&[one(A, r#""completion_tokens":4"#)]), None, "one chunk");
    }

    #[test]
    fn every_api_is_held_against_its_chunks() {
        let responses = |usage: &str| {
            format!(r#"{{"type":"response.completed","response":{{"status":"completed","usage":{{{usage}}}}}}}"#)
        };
        let text = r#"{"type":"response.output_text.delta","delta":" word"}"#;
        let think = r#"{"type":"response.reasoning_text.delta","delta":" think"}"#;
        let zero = responses(r#""input_tokens":0,"output_tokens":0"#);
        let left_out =
            responses(r#""input_tokens":2,"output_tokens":1,"output_tokens_details":{"reasoning_tokens":2}"#);
        let hidden =
            responses(r#""input_tokens":2,"output_tokens":90,"output_tokens_details":{"reasoning_tokens":88}"#);
        let block =
            |delta: &str, usage: &str| format!(r#"{{"type":"content_block_delta","delta":{{{delta}}}{usage}}}"#);
        let (word, thought) = (block(r#""text":" word""#, ""), block(r#""thinking":" think""#, ""));
        let counted = block(r#""text":" words of two tokens""#, r#","usage":{"input_tokens":2,"output_tokens":2}"#);
        let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":2,"output_tokens":1}}}"#;
        let end = |n: u32| {
            format!(
                r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{"output_tokens":{n}}}}}"#
            )
        };
        let stop = r#"{"type":"message_stop"}"#;
        let line = |text: &str, rest: &str| format!(r#"{{"message":{{"content":"{text}"}}{rest}}}"#);
        let ended = |n: u32| line("", &format!(r#","done":true,"prompt_eval_count":0,"eval_count":{n}"#));
        let generated = |text: &str, n: u32, end: &str| {
            format!(
                r#"{{"text":"{text}","meta_info":{{"prompt_tokens":2,"completion_tokens":{n},"finish_reason":{end}}}}}"#
            )
        };
        let stops = r#"{"type":"stop"}"#;
        let token = |end: &str| format!(r#"{{"token":{{"text":" word"}}{end}}}"#);
        let details =
            r#","generated_text":"word","details":{"finish_reason":"length","generated_tokens":0,"input_length":0}"#;
        let triton = r#"{"text_output":" word"}"#;
        let completion = |usage: &str| format!(r#"{{"choices":[{{"text":" word"}}],"usage":{{{usage}}}}}"#);
        let owned = |events: &[&str]| events.iter().map(|event| (*event).to_owned()).collect::<Vec<String>>();
        let rows = [
            ("openai", owned(&[&completion(r#""completion_tokens":0"#), &completion(""), "[DONE]"]), (7, 2, 0)),
            ("openai-responses", owned(&[text, text, &zero]), (7, 2, 0)),
            ("openai-responses", owned(&[think, think, text, &left_out]), (2, 3, 0)),
            ("openai-responses", owned(&[text, text, &hidden]), (2, 90, 88)),
            ("anthropic", owned(&[start, &word, &word, &end(0), stop]), (2, 2, 0)),
            ("anthropic", owned(&[start, &word, &word, &end(2), &end(0), stop]), (2, 2, 0)),
            ("anthropic", owned(&[&counted, &counted, stop]), (2, 4, 0)),
            ("anthropic", owned(&[start, &thought, &word, &end(500), stop]), (2, 500, 498)),
            ("ollama", owned(&[&line(" word", ""), &line(" word", ""), &ended(0)]), (7, 2, 0)),
            ("ollama", owned(&[&line(" word", ""), &line(" word", ""), &ended(9)]), (7, 9, 0)),
            ("sglang", owned(&[&generated(" a", 0, "null"), &generated(" a b", 0, stops), "[DONE]"]), (2, 2, 0)),
            ("sglang", owned(&[&generated(" a", 1, "null"), &generated(" a b", 4, stops), "[DONE]"]), (2, 4, 0)),
            ("tgi", owned(&[&token(""), &token(details)]), (7, 2, 0)),
            ("tensorrt-llm", owned(&[triton, triton]), (7, 2, 0)),
            ("openai-audio", owned(&[&completion(r#""completion_tokens":0"#), &completion(""), "[DONE]"]), (7, 2, 0)),
        ];
        for (backend, events, want) in rows {
            let parts: Vec<&str> = events.iter().map(String::as_str).collect();
            let output = output_of(backend, true, &parts, false);
            assert_eq!((output.prompt_len, output.output_tokens, output.hidden_tokens), want, "{backend} {events:?}");
        }
    }

    #[test]
    fn a_tokenizer_counts_all_that_was_generated() {
        let call = r#""tool_calls":[{"index":0,"function":{"name":"find","arguments":" the city"}}]"#;
        let delta = |index: u32, delta: &str| format!(r#"{{"choices":[{{"index":{index},"delta":{{{delta}}}}}]}}"#);
        let count = |backend: &str, stream: bool, events: &[&str]| {
            let output = output_of(backend, stream, events, true);
            (output.output_tokens, output.token_source.unwrap())
        };
        let events = [delta(0, R), delta(0, A), delta(0, call), delta(1, r#""content":" three more words""#)];
        let mut events: Vec<&str> = events.iter().map(String::as_str).collect();
        events.push("[DONE]");
        assert_eq!(count("openai-chat", true, &events), (8, TokenSource::Tokenizer));
        let cut = [&*delta(0, r#""content":"wo""#), &*delta(0, r#""content":"rd""#), "[DONE]"];
        assert_eq!(count("openai-chat", true, &cut), (2, TokenSource::Tokenizer), "never fewer than chunks");
        for (backend, body) in [
            (
                "openai",
                r#"{"choices":[{"index":0,"text":"one two"},{"index":1,"text":"three"}],"usage":{"completion_tokens":0}}"#,
            ),
            (
                "openai-chat",
                r#"{"choices":[{"message":{"content":"one","reasoning":"two","tool_calls":[{"function":{"name":" f","arguments":"{}"}}]}}]}"#,
            ),
            (
                "openai-responses",
                r#"{"status":"completed","output":[{"type":"reasoning","content":[{"type":"reasoning_text","text":"one"}]},
                    {"type":"message","content":[{"type":"output_text","text":"two"}]},
                    {"type":"function_call","name":" f","arguments":""}]}"#,
            ),
            (
                "anthropic",
                r#"{"content":[{"type":"thinking","thinking":"one"},{"type":"text","text":"two"},
                    {"type":"tool_use","name":" f","input":{}}]}"#,
            ),
            ("ollama", r#"{"message":{"content":"one two","thinking":"three"},"done":true}"#),
            (
                "sglang",
                r#"{"text":"one two three","meta_info":{"finish_reason":{"type":"stop"},"completion_tokens":0}}"#,
            ),
            ("tgi", r#"{"generated_text":"one two three","details":{"finish_reason":"length","generated_tokens":0}}"#),
            ("tensorrt-llm", r#"{"text_output":["one two","three"],"num_output_tokens":0}"#),
            ("openai-audio", r#"{"text":"one two three"}"#),
        ] {
            assert_eq!(count(backend, false, &[body]), (3, TokenSource::Tokenizer), "{backend}");
            let unknown = output_of(backend, false, &[body], false);
            assert_eq!((unknown.output_tokens, unknown.token_source), (0, None), "{backend}");
        }
    }
}
