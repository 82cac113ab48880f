//! `--dataset-name sharegpt`: the first question of real conversations, and as many tokens as its answer; with
//! `--multi-turn` all of their questions, turn by turn.

use std::sync::Once;

use clap::Args as _;
use serde_json::Value;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    data::{Row, Rows},
    error::Error,
    generate::{
        chat_text,
        common::Common,
        conversation::{CONVERSATION_KEYS, ChatMessage, Conversation, read_messages},
        exact::{OutputLen, PromptCounter},
        print_warning,
        rows::{self, KeptRow, LeftOut},
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

/// vLLM's limits: shortest prompt and answer,
const MIN_LEN: usize = 4;
/// longest prompt,
const MAX_PROMPT_LEN: usize = 1024;
/// and longest prompt and answer together.
const MAX_TOTAL_LEN: usize = 2048;

/// Writes `--num-prompts` conversations.
fn run(common: &Common, _: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let path = common.require_file()?;
    let (rows, cut) = Rows::from_json(path, common.lenient)?;
    cut.into_iter().for_each(print_warning);
    let counter = common.prompt_counter()?;
    if common.sessions.multi_turn {
        return rows::write_sessions(common, &rows, writer, |row| row_session(row, common, counter));
    }
    rows::write_requests(common, &rows, writer, |row| {
        row_request(row, common.apply_chat_template, counter, common.output_len)
    })
}

/// Reads the conversation of a row.
fn read_conversation(row: &Row) -> Result<Result<Vec<ChatMessage>, LeftOut>, Error> {
    static WARNED: Once = Once::new();
    let mut columns = row.parse_columns()?;
    if columns.get("image").is_some_and(|image| !image.is_null()) {
        WARNED.call_once(|| {
            print_warning(format!(
                "{}: `image` is not sent: use --dataset-name hf --hf-column image=image to send it",
                row.place
            ));
        });
    }
    let found = CONVERSATION_KEYS.iter().find_map(|key| Some((key, columns.remove(*key)?)));
    match found {
        None => Ok(Err(LeftOut("no key `conversations`, `conversation` or `messages`"))),
        Some((_, Value::Null)) => Ok(Err(LeftOut("the conversation is null"))),
        Some((key, list)) => read_messages(list).map(Ok).map_err(|what| row.wrong(&format!("`{key}`: {what}"))),
    }
}

fn row_session(row: &Row, common: &Common, counter: PromptCounter) -> Result<Result<SessionRequests, LeftOut>, Error> {
    match read_conversation(row)? {
        Ok(messages) => Conversation::from_messages(messages).into_session(common, counter),
        Err(reason) => Ok(Err(reason)),
    }
}

fn row_request(
    row: &Row,
    template: bool,
    counter: PromptCounter,
    output_len: Option<OutputLen>,
) -> Result<KeptRow, Error> {
    let messages = match read_conversation(row)? {
        Ok(messages) => messages,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut turns = messages.into_iter().skip_while(ChatMessage::is_system).map(ChatMessage::into_text);
    let (question, answer) = match (turns.next(), turns.next()) {
        (Some(Some(question)), Some(Some(answer))) => (question, answer),
        (_, None) => return Ok(Err(LeftOut("fewer than 2 turns"))),
        _ => return Ok(Err(LeftOut("the first or the second turn has no text"))),
    };
    let (request, prompt_len) = chat_text::request_from_text(question, template, counter)?;
    let left_out = |reason| Ok(Err(LeftOut(reason)));
    match prompt_len {
        ..MIN_LEN => return left_out("the prompt has fewer than 4 tokens"),
        MIN_LEN..=MAX_PROMPT_LEN => {}
        _ => return left_out("the prompt has more than 1024 tokens"),
    }
    let answer_len = match output_len {
        Some(OutputLen::Tokens(n)) => n,
        // The answer is generated, so it has no special tokens in front.
        _ => u32::try_from(counter.tokenizer.count(&answer)?).unwrap_or(u32::MAX),
    };
    if output_len.is_none() && (answer_len as usize) < MIN_LEN {
        return left_out("the answer has fewer than 4 tokens");
    }
    if prompt_len + answer_len as usize > MAX_TOTAL_LEN {
        return left_out("prompt and answer have more than 2048 tokens");
    }
    let request = SampleRequest { expected_output_len: Some(answer_len), ..request };
    Ok(Ok((request, PromptLen::exact(prompt_len))))
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
        let row = Row::new(turns.to_string().into(), String::new());
        let made = row_request(&row, false, PromptCounter::new(&tokenizer, false).unwrap(), output_len).unwrap();
        made.ok().map(|(request, fitted)| (fitted.got, request.expected_output_len.unwrap()))
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
        let made = |json: &str| row_request(&Row::new(json.into(), String::new()), false, counter, None).unwrap();
        for (json, reason) in [
            (r#"{"conversations":[{"value":"a b c d e"}]}"#, "fewer than 2 turns"),
            (r#"{"conversations":[{"value":"a b c d e"},{"value":null}]}"#, "the first or the second turn has no text"),
            (r#"{"conversations":[{},{"value":"a b c d e"}]}"#, "the first or the second turn has no text"),
            (r#"{"conversations":null}"#, "the conversation is null"),
            (r#"{"conversations":NaN}"#, "the conversation is null"),
            ("{}", "no key `conversations`, `conversation` or `messages`"),
        ] {
            assert_eq!(made(json), Err(LeftOut(reason)), "{json}");
        }
        let later = r#"{"conversations":[{"value":"a b c d e"},{"value":"a b c d e"},{"value":null},{}]}"#;
        assert!(made(later).is_ok(), "later turns are not used");
    }

    #[test]
    fn conversations_are_read_in_every_form() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let counter = PromptCounter::new(&tokenizer, false).unwrap();
        let (a, b) = ("a b c d e", "f g h i j");
        for json in [
            json!({"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]}),
            json!({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": a}, {"role": "assistant", "content": b}]}),
            json!({"conversation": [null, {"role": "user", "content": [{"type": "text", "text": a}]}, {"content": b}]}),
            json!([{"from": "human", "value": a}, {"from": "gpt", "value": b}]),
            json!([a, b]),
            json!({"conversations": [[{"role": "user", "content": a}, {"role": "assistant", "content": b}]]}),
        ] {
            let row = Row::new(json.to_string().into(), String::new());
            let (request, _) = row_request(&row, false, counter, None).unwrap().unwrap();
            assert_eq!(request.prompt, Some(crate::record::Prompt::Text(a.into())), "{json}");
        }
        let row = Row::new(r#"{"conversations":"a"}"#.into(), "f:1".into());
        let error = row_request(&row, false, counter, None).unwrap_err().to_string();
        assert_eq!(error, "f:1: `conversations`: it is not a list of messages");
    }
}
