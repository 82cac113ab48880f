//! Counts the tokens of byte-level BPE segment by segment, each distinct segment once.
//!
//! A byte-level BPE (GPT-2, Llama 3, Qwen, `DeepSeek`, …) splits a text with regular expressions and tokenizes each
//! segment separately. So the token count of a text is the sum over its segments, and a segment need be counted only
//! once. The tokenizers crate does more than a count needs (it tracks the position of every byte in the original
//! through each step), which takes ten times as long.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    AddedToken, Model, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer as Local, models::ModelWrapper, pre_tokenizers::byte_level::ByteLevel, utils::SysRegex,
};

/// The expression that byte-level tokenizers use by default, published with GPT-2.
const GPT2_REGEX: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How many distinct segments are cached, and the length of the longest, in bytes.
const MAX_CACHED_SEGMENTS: usize = 1 << 16;
const MAX_SEGMENT_BYTES: usize = 64;

/// How a tokenizer splits a text, and the token counts of segments so far.
#[derive(Debug)]
pub struct SegmentCounter {
    regexes: Vec<SysRegex>,
    /// Tokens that are found before the text is split.
    added: Vec<String>,
    /// The first bytes of the added tokens.
    first_bytes: [bool; 256],
    /// Whether the text is normalized first, which does not change ASCII.
    normalized: bool,
    counts: RwLock<HashMap<Box<str>, usize>>,
}

/// A pre-tokenizer in `tokenizer.json`.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizerStep {
    Sequence {
        pretokenizers: Vec<PreTokenizerStep>,
    },
    Split {
        pattern: SplitPattern,
        behavior: String,
        invert: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "default_true")]
        use_regex: bool,
    },
}

#[derive(Deserialize)]
enum SplitPattern {
    Regex(String),
}

fn default_true() -> bool {
    true
}

impl SegmentCounter {
    /// `None` if the tokenizer does not work this way, or may not.
    pub fn from_tokenizer(local: &Local) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = local.get_model() else { return None };
        let normalized = match local.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let plain = |t: &AddedToken| !(t.single_word || t.lstrip || t.rstrip || t.normalized || t.content.is_empty());
        let added = local.get_added_tokens_decoder();
        if bpe.dropout.is_some_and(|p| p > 0.0) || !added.values().all(plain) {
            return None;
        }
        let steps = serde_json::to_value(local.get_pre_tokenizer()?).ok()?;
        let regexes = split_regexes(&steps)?.iter().map(|r| SysRegex::new(r)).collect::<Result<_, _>>().ok()?;
        let added: Vec<String> = added.into_values().map(|t| t.content).collect();
        let mut first_bytes = [false; 256];
        added.iter().filter_map(|token| token.bytes().next()).for_each(|byte| first_bytes[usize::from(byte)] = true);
        Some(SegmentCounter { regexes, added, first_bytes, normalized, counts: RwLock::default() })
    }

    /// The number of tokens of `text`, without the special tokens that a post-processor adds; `None` if the tokenizer itself must
    /// count it.
    pub fn count(&self, local: &Local, text: &str) -> Option<usize> {
        if self.normalized && !text.is_ascii() {
            return None;
        }
        let mut total = 0;
        let mut unknown = Vec::new();
        let mut rest = text;
        {
            let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
            let mut each = |segment| match counts.get(segment) {
                Some(count) => total += count,
                None => unknown.push(segment),
            };
            let mut added = 0;
            while let Some((start, len)) = self.first_added(rest) {
                split_text(&self.regexes, &rest[..start], &mut each);
                rest = &rest[start + len..];
                added += 1;
            }
            split_text(&self.regexes, rest, &mut each);
            total += added;
        }
        for segment in unknown {
            total += self.count_segment(local, segment)?;
        }
        Some(total)
    }

    /// The length of the longest added token, in bytes.
    pub fn longest_added(&self) -> usize {
        self.added.iter().map(String::len).max().unwrap_or_default()
    }

    /// The position and length of the first added token: the longest that begins there.
    pub fn first_added(&self, text: &str) -> Option<(usize, usize)> {
        let bytes = text.as_bytes();
        let starts = (0..bytes.len()).filter(|at| self.first_bytes[usize::from(bytes[*at])]);
        let longest = |at: usize| {
            self.added.iter().map(String::as_bytes).filter(|t| bytes[at..].starts_with(t)).map(<[u8]>::len).max()
        };
        starts.map(|at| (at, longest(at))).find_map(|(at, len)| Some((at, len?)))
    }

    /// Counts a segment with the model, and caches the count.
    fn count_segment(&self, local: &Local, segment: &str) -> Option<usize> {
        let mut bytes = PreTokenizedString::from(segment);
        ByteLevel::new(false, false, false).pre_tokenize(&mut bytes).ok()?;
        let splits = bytes.get_splits(OffsetReferential::Original, OffsetType::None);
        let count = splits
            .iter()
            .map(|(text, ..)| local.get_model().tokenize(text).map(|tokens| tokens.len()))
            .sum::<Result<usize, _>>()
            .ok()?;
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        if segment.len() <= MAX_SEGMENT_BYTES && counts.len() < MAX_CACHED_SEGMENTS {
            counts.insert(segment.into(), count);
        }
        Some(count)
    }
}

/// The expressions that split a text, in order; `None` if a step does more than split or convert to bytes.
fn split_regexes(steps: &Value) -> Option<Vec<String>> {
    let steps = match PreTokenizerStep::deserialize(steps).ok()? {
        PreTokenizerStep::Sequence { pretokenizers } => pretokenizers,
        one => vec![one],
    };
    let mut found = Vec::new();
    let last = steps.len().checked_sub(1)?;
    for (i, step) in steps.into_iter().enumerate() {
        match step {
            PreTokenizerStep::Split { pattern: SplitPattern::Regex(regex), behavior, invert: false }
                if behavior == "Isolated" && i < last =>
            {
                found.push(regex);
            }
            PreTokenizerStep::ByteLevel { add_prefix_space: false, use_regex } if i == last => {
                found.extend(use_regex.then(|| GPT2_REGEX.to_owned()));
            }
            _ => return None,
        }
    }
    Some(found)
}

/// Splits `text` with the first expression, and its segments with the others.
fn split_text<'t>(regexes: &[SysRegex], text: &'t str, each: &mut impl FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    let Some((first, others)) = regexes.split_first() else { return each(text) };
    let mut done = 0;
    for (start, end) in first.find_iter(text) {
        split_text(others, &text[done..start], each);
        split_text(others, &text[start..end], each);
        done = end;
    }
    split_text(others, &text[done..], each);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::tokens::BUILTIN;

    /// The built-in vocabulary with another model's pre-tokenizer.
    fn with_pre_tokenizer(pre_tokenizer: Value, normalizer: Value) -> Local {
        let mut json: Value = serde_json::from_str(BUILTIN).unwrap();
        json["pre_tokenizer"] = pre_tokenizer;
        json["normalizer"] = normalizer;
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": false})
        };
        let list = json["added_tokens"].as_array_mut().unwrap();
        list.extend([added(3113, "<|end|>"), added(3114, "<|end|>>"), added(3115, "the")]);
        Local::from_bytes(json.to_string()).unwrap()
    }

    fn split(regex: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
    }

    fn models() -> Vec<Local> {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
        let llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let nfc = json!({"type": "NFC"});
        let sequence = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
        vec![
            Local::from_bytes(BUILTIN).unwrap(),
            with_pre_tokenizer(gpt2, Value::Null),
            with_pre_tokenizer(sequence(&[split(llama), bytes.clone()]), nfc),
            with_pre_tokenizer(
                sequence(&[split(r"\p{N}{1,3}"), split("[a-f]+"), split(llama), bytes.clone()]),
                Value::Null,
            ),
            with_pre_tokenizer(bytes, Value::Null),
        ]
    }

    thread_local! {
        static MODELS: Vec<(Local, SegmentCounter)> =
            models().into_iter().map(|local| (local.clone(), SegmentCounter::from_tokenizer(&local).unwrap())).collect();
    }

    proptest! {
        #[test]
        fn segments_have_as_many_tokens_as_the_text(
            text in r"([a-zA-Z']{0,8}|<\|end\|>{0,2}|the|[ \n\r\t]{1,4}|[0-9.,!?]{1,4}|\PC{0,3}){0,20}",
        ) {
            MODELS.with(|models| {
                for (local, segments) in models {
                    let want = local.encode_fast(text.as_str(), false).unwrap().len();
                    let got = segments.count(local, &text);
                    prop_assert!(got == Some(want) || (got.is_none() && !text.is_ascii()), "{:?} is not {}", got, want);
                }
                Ok(())
            })?;
        }
    }

    #[test]
    fn other_kinds_of_tokenizer_are_not_counted_by_segment() {
        let whitespace = json!({"type": "WhitespaceSplit"});
        let spaced = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        for (pre_tokenizer, normalizer) in
            [(whitespace, Value::Null), (spaced, Value::Null), (split("a"), Value::Null), (Value::Null, Value::Null)]
        {
            assert!(SegmentCounter::from_tokenizer(&with_pre_tokenizer(pre_tokenizer, normalizer)).is_none());
        }
    }
}
