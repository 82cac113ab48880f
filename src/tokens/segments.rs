//! Counting the tokens of byte-level BPE segment by segment, each kind of segment once.
//!
//! A byte-level BPE (GPT-2, Llama 3, Qwen, `DeepSeek`, …) cuts a text with regular expressions and tokenizes each
//! segment by itself. So a text has as many tokens as its segments have, and a segment that was counted before need
//! not be again. The tokenizers crate does more than is needed for a count (it keeps every byte's place in the
//! original through each step), which takes ten times as long.

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

/// The expression that byte-level tokenizers use unless they bring their own, published with GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How many kinds of segment are remembered, and how long the longest is in bytes.
const MOST: usize = 1 << 16;
const LONGEST: usize = 64;

/// How a tokenizer cuts a text, and what it has counted so far.
#[derive(Debug)]
pub struct Segments {
    cuts: Vec<SysRegex>,
    /// Tokens that are looked for before anything is cut.
    added: Vec<String>,
    /// The bytes that one of those begins with.
    first_bytes: [bool; 256],
    /// Whether the text is normalized first, which leaves ASCII alone.
    normalized: bool,
    counts: RwLock<HashMap<Box<str>, usize>>,
}

/// A step of cutting, as `tokenizer.json` writes it.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Step {
    Sequence {
        pretokenizers: Vec<Step>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        invert: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
}

#[derive(Deserialize)]
enum Pattern {
    Regex(String),
}

fn yes() -> bool {
    true
}

impl Segments {
    /// `None` for a tokenizer that does not work this way, or of which we cannot be sure.
    pub fn of(local: &Local) -> Option<Self> {
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
        let cuts = regexes(&steps)?.iter().map(|r| SysRegex::new(r)).collect::<Result<_, _>>().ok()?;
        let added: Vec<String> = added.into_values().map(|t| t.content).collect();
        let mut first_bytes = [false; 256];
        added.iter().filter_map(|token| token.bytes().next()).for_each(|byte| first_bytes[usize::from(byte)] = true);
        Some(Segments { cuts, added, first_bytes, normalized, counts: RwLock::default() })
    }

    /// The number of tokens of `text` without special ones that a template would add; `None` if it must be counted
    /// in the long way.
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
                cut(&self.cuts, &rest[..start], &mut each);
                rest = &rest[start + len..];
                added += 1;
            }
            cut(&self.cuts, rest, &mut each);
            total += added;
        }
        for segment in unknown {
            total += self.learn(local, segment)?;
        }
        Some(total)
    }

    /// The bytes of the longest added token.
    pub fn longest_added(&self) -> usize {
        self.added.iter().map(String::len).max().unwrap_or_default()
    }

    /// Where the first added token is, and how long: the longest of those that begin there.
    pub fn first_added(&self, text: &str) -> Option<(usize, usize)> {
        let bytes = text.as_bytes();
        let starts = (0..bytes.len()).filter(|at| self.first_bytes[usize::from(bytes[*at])]);
        let longest = |at: usize| {
            self.added.iter().map(String::as_bytes).filter(|t| bytes[at..].starts_with(t)).map(<[u8]>::len).max()
        };
        starts.map(|at| (at, longest(at))).find_map(|(at, len)| Some((at, len?)))
    }

    /// Counts a segment with the model itself.
    fn learn(&self, local: &Local, segment: &str) -> Option<usize> {
        let mut bytes = PreTokenizedString::from(segment);
        ByteLevel::new(false, false, false).pre_tokenize(&mut bytes).ok()?;
        let splits = bytes.get_splits(OffsetReferential::Original, OffsetType::None);
        let count = splits
            .iter()
            .map(|(text, ..)| local.get_model().tokenize(text).map(|tokens| tokens.len()))
            .sum::<Result<usize, _>>()
            .ok()?;
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        if segment.len() <= LONGEST && counts.len() < MOST {
            counts.insert(segment.into(), count);
        }
        Some(count)
    }
}

/// The expressions that a text is cut with, in turn; `None` if it is not only cut and turned into bytes.
fn regexes(steps: &Value) -> Option<Vec<String>> {
    let steps = match Step::deserialize(steps).ok()? {
        Step::Sequence { pretokenizers } => pretokenizers,
        one => vec![one],
    };
    let mut found = Vec::new();
    let last = steps.len().checked_sub(1)?;
    for (i, step) in steps.into_iter().enumerate() {
        match step {
            Step::Split { pattern: Pattern::Regex(regex), behavior, invert: false }
                if behavior == "Isolated" && i < last =>
            {
                found.push(regex);
            }
            Step::ByteLevel { add_prefix_space: false, use_regex } if i == last => {
                found.extend(use_regex.then(|| GPT2.to_owned()));
            }
            _ => return None,
        }
    }
    Some(found)
}

/// Cuts `text` with the first expression, and its segments with the others.
fn cut<'t>(cuts: &[SysRegex], text: &'t str, each: &mut impl FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    let Some((first, others)) = cuts.split_first() else { return each(text) };
    let mut done = 0;
    for (start, end) in first.find_iter(text) {
        cut(others, &text[done..start], each);
        cut(others, &text[start..end], each);
        done = end;
    }
    cut(others, &text[done..], each);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::tokens::BUILTIN;

    /// The built-in vocabulary behind another model's way of cutting.
    fn like(pre_tokenizer: Value, normalizer: Value) -> Local {
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
            like(gpt2, Value::Null),
            like(sequence(&[split(llama), bytes.clone()]), nfc),
            like(sequence(&[split(r"\p{N}{1,3}"), split("[a-f]+"), split(llama), bytes.clone()]), Value::Null),
            like(bytes, Value::Null),
        ]
    }

    thread_local! {
        static MODELS: Vec<(Local, Segments)> =
            models().into_iter().map(|local| (local.clone(), Segments::of(&local).unwrap())).collect();
    }

    proptest! {
        #[test]
        fn the_short_way_counts_what_the_long_way_counts(
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
    fn other_kinds_of_tokenizer_are_left_alone() {
        let whitespace = json!({"type": "WhitespaceSplit"});
        let spaced = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        for (pre_tokenizer, normalizer) in
            [(whitespace, Value::Null), (spaced, Value::Null), (split("a"), Value::Null), (Value::Null, Value::Null)]
        {
            assert!(Segments::of(&like(pre_tokenizer, normalizer)).is_none());
        }
    }
}
