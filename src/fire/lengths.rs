//! Notes on prompts and outputs whose lengths are not the requested ones.

use super::tally::{LongOutputs, Tally};
use crate::{backend::Backend, record::PromptLengths};

/// Special tokens that a tokenizer adds to a text, at most.
const MAX_SPECIAL_TOKENS: i64 = 3;

/// What the user should know about the lengths of a run, with the cure. `max_tokens_sent`: `--send-max-tokens` was given.
pub fn length_notes(tally: &Tally, backend: &Backend, max_tokens_sent: bool) -> impl Iterator<Item = String> {
    let long = describe_long_outputs(tally.long_outputs, tally.successes(), backend, max_tokens_sent);
    describe_prompts(&tally.prompt_lengths, backend).into_iter().chain(long)
}

fn describe_prompts(lengths: &PromptLengths, backend: &Backend) -> Option<String> {
    let difference = lengths.describe_difference()?;
    let (cause, cure) = match lengths.constant_extra() {
        Some(extra) if !backend.is_chat() && extra.abs() <= MAX_SPECIAL_TOKENS => {
            ("as when only one side adds a special token (BOS)", "vb-gen --tokenizer server counts as the server does")
        }
        Some(extra) if backend.is_chat() && extra > 0 => {
            ("as the chat template adds", "give --backend to vb-gen too, and the model's --tokenizer (or `server`)")
        }
        _ if backend.is_chat() => (
            "as with another tokenizer, or without the chat template",
            "give vb-gen --backend and the model's --tokenizer (or `server`)",
        ),
        _ => ("as with another tokenizer", "give vb-gen the model's --tokenizer (or `server`)"),
    };
    Some(format!("the server counts {difference}, {cause}: {cure}"))
}

fn describe_long_outputs(
    long: LongOutputs,
    successes: u64,
    backend: &Backend,
    max_tokens_sent: bool,
) -> Option<String> {
    let LongOutputs { number, asked, generated } = long;
    // Few may have a token that the server does not count.
    if number == 0 || number * 2 < successes {
        return None;
    }
    let (asked, generated) = (asked as f64 / number as f64, generated as f64 / number as f64);
    let cure = if !max_tokens_sent && backend.max_tokens_api().is_ok() {
        "if the server ignores max_completion_tokens, use --send-max-tokens"
    } else {
        "does the server ignore the limit, or leave reasoning out of it?"
    };
    Some(format!(
        "{number} of {successes} outputs are longer than requested: {generated:.1} tokens where {asked:.1} were asked for; {cure}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str) -> &'static Backend {
        Backend::from_name(name).unwrap()
    }

    #[test]
    fn the_cause_of_other_prompt_lengths_is_named() {
        let note = |name: &str, pairs: &[(u32, u32)]| {
            let mut lengths = PromptLengths::default();
            for (asked, counted) in pairs {
                lengths.add(*asked, *counted);
            }
            describe_prompts(&lengths, backend(name))
        };
        assert_eq!(note("openai", &[(100, 100), (90, 90)]), None);
        for (name, pairs, want) in [
            ("openai", [(100, 116), (100, 115)], "another tokenizer: give vb-gen the model's --tokenizer"),
            ("openai", [(100, 101), (500, 501)], "(BOS): vb-gen --tokenizer server"),
            ("openai", [(100, 99), (500, 499)], "(BOS): vb-gen --tokenizer server"),
            ("openai-chat", [(100, 126), (50, 76)], "chat template adds: give --backend to vb-gen too"),
            ("openai-chat", [(100, 126), (50, 60)], "another tokenizer, or without the chat template"),
        ] {
            let note = note(name, &pairs).unwrap();
            assert!(note.contains(want), "{note}");
        }
    }

    #[test]
    fn outputs_beyond_the_limit_have_a_cure() {
        let long = LongOutputs { number: 2, asked: 8, generated: 2048 };
        let note = |name, sent| describe_long_outputs(long, 3, backend(name), sent).unwrap();
        assert!(note("openai-chat", false).ends_with("use --send-max-tokens"), "{}", note("openai-chat", false));
        assert!(
            note("openai-chat", false).contains("2 of 3 outputs are longer than requested: 1024.0 tokens where 4.0")
        );
        assert!(
            note("openai-chat", true).contains("ignore the limit") && note("tgi", false).contains("ignore the limit")
        );
        assert_eq!(describe_long_outputs(long, 5, backend("tgi"), false), None);
    }
}
