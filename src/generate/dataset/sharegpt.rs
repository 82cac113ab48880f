//! `--dataset-name sharegpt`: the first question of real conversations, and as many tokens as its answer; with
//! `--multi-turn` all of their questions, turn by turn.

use std::sync::Once;

use clap::Args as _;
use serde::{Deserialize, de::IgnoredAny};

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    data::{Row, Rows},
    error::Error,
    generate::{
        chat_text,
        common::Common,
        conversation::{ChatMessage, Conversation},
        exact::{OutputLen, PromptCounter},
        print_warning,
        rows::{self, KeptRow},
        session::{SessionFlags, SessionRequests, check_optional_turns},
        writer::{PromptLen, RequestWriter},
    },
    record::SampleRequest,
};

pub const DATASET: Dataset = Dataset {
    name: "sharegpt",
    aliases: &[],
    about: "Real conversations: the first question, and the length of its answer",
    reads: Reads::File,
    lengths: "its prompts have their own lengths",
    output: OutputTokens::Answer,
    apis: Apis::Text,
    takes: &["apply_chat_template"],
    flags: &[SessionFlags::augment_args],
    check: Some(check_optional_turns),
    run,
};

/// The keys of a conversation that are used.
#[derive(Deserialize)]
struct ShareGptOpening {
    #[serde(default, alias = "conversation")]
    conversations: Vec<ShareGptTurn>,
    image: Option<IgnoredAny>,
}

/// The keys of a turn that are used.
#[derive(Deserialize)]
struct ShareGptTurn {
    #[serde(default)]
    value: Option<String>,
}

/// vLLM's limits: shortest prompt and answer,
const MIN_LEN: usize = 4;
/// longest prompt,
const MAX_PROMPT_LEN: usize = 1024;
/// and longest prompt and answer together.
const MAX_TOTAL_LEN: usize = 2048;

/// Writes `--num-prompts` conversations.
fn run(common: &Common, _: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let path = common.require_file()?;
    let (rows, cut) = Rows::from_list(path, common.lenient)?;
    if let Some(cut) = cut {
        print_warning(cut);
    }
    let counter = common.prompt_counter()?;
    if common.sessions.multi_turn {
        return rows::write_sessions(common, &rows, writer, |row| row_session(row, common, counter));
    }
    rows::write_requests(common, &rows, writer, |row| {
        row_request(row, common.apply_chat_template, counter, common.output_len)
    })
}

/// The key of a conversation that is used with `--multi-turn`.
#[derive(Deserialize)]
struct ShareGptMessages {
    #[serde(default, alias = "conversation")]
    conversations: Vec<ChatMessage>,
}

fn row_session(row: &Row, common: &Common, counter: PromptCounter) -> Result<SessionRequests, Error> {
    let ShareGptMessages { conversations } = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
    Conversation::from_messages(conversations).into_session(common, counter)
}

fn row_request(
    row: &Row,
    template: bool,
    counter: PromptCounter,
    output_len: Option<OutputLen>,
) -> Result<KeptRow, Error> {
    static WARNED: Once = Once::new();
    let conversation: ShareGptOpening = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
    if conversation.image.is_some() {
        WARNED.call_once(|| {
            print_warning(format!(
                "{}: `image` is not sent: use --dataset-name hf --hf-column image=image to send it",
                row.place
            ));
        });
    }
    let mut turns = conversation.conversations.into_iter().map(|turn| turn.value);
    let (Some(Some(question)), Some(Some(answer))) = (turns.next(), turns.next()) else { return Ok(None) };
    let (request, prompt_len) = chat_text::request_from_text(question, template, counter)?;
    if !(MIN_LEN..=MAX_PROMPT_LEN).contains(&prompt_len) {
        return Ok(None);
    }
    let answer_len = match output_len {
        Some(OutputLen::Tokens(n)) => n,
        // The answer is generated, so it has no special tokens in front.
        _ => u32::try_from(counter.tokenizer.count(&answer)?).unwrap_or(u32::MAX),
    };
    let too_short = output_len.is_none() && (answer_len as usize) < MIN_LEN;
    if too_short || prompt_len + answer_len as usize > MAX_TOTAL_LEN {
        return Ok(None);
    }
    let request = SampleRequest { expected_output_len: Some(answer_len), ..request };
    Ok(Some((request, PromptLen::exact(prompt_len))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokens::Tokenizer;

    /// Prompt and answer length of a conversation with these numbers of words, if it is used.
    fn kept(question: usize, answer: usize, output_len: Option<OutputLen>) -> Option<(usize, u32)> {
        let tokenizer = Tokenizer::builtin().unwrap();
        let text = |n| format!("0{}", " love".repeat(n - 1));
        let turns =
            json!({"id": 1, "conversations": [{"from": "human", "value": text(question)}, {"value": text(answer)}]});
        let row = Row { json: turns.to_string().into(), place: String::new() };
        let made = row_request(&row, false, PromptCounter::new(&tokenizer, false).unwrap(), output_len).unwrap();
        made.map(|(request, fitted)| (fitted.got, request.expected_output_len.unwrap()))
    }

    #[test]
    fn vllms_limits_hold_at_their_edges() {
        assert_eq!(kept(4, 4, None), Some((4, 4)));
        assert_eq!(kept(3, 9, None), None);
        assert_eq!(kept(9, 3, None), None);
        assert_eq!(kept(1024, 1024, None), Some((1024, 1024)));
        assert_eq!(kept(1025, 4, None), None);
        assert_eq!(kept(1024, 1025, None), None);
    }

    #[test]
    fn a_given_answer_length_may_be_short() {
        assert_eq!(kept(9, 3, Some(OutputLen::Tokens(2))), Some((9, 2)));
        assert_eq!(kept(9, 3, Some(OutputLen::Tokens(2040))), None);
    }

    #[test]
    fn a_conversation_without_an_answer_is_left_out() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let counter = PromptCounter::new(&tokenizer, false).unwrap();
        let made =
            |json: &str| row_request(&Row { json: json.into(), place: String::new() }, false, counter, None).unwrap();
        for json in [
            r#"{"conversations":[{"value":"a b c d e"}]}"#,
            r#"{"conversations":[{"value":"a b c d e"},{"value":null}]}"#,
            r#"{"conversations":[{},{"value":"a b c d e"}]}"#,
            "{}",
        ] {
            assert_eq!(made(json), None);
        }
        let later = r#"{"conversations":[{"value":"a b c d e"},{"value":"a b c d e"},{"value":null},{}]}"#;
        assert!(made(later).is_some(), "later turns are not used");
    }
}
