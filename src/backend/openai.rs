//! The format that responses of OpenAI completions and chat completions share, as vLLM writes it.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{
    BorrowedText, ChoiceDelta, Delta, OutputKind, ServerTimings, Usage,
    delta::abort_error,
    parse,
    tool_calls::{call_text, is_filled, join_texts},
    usage::UsageFields,
};
use crate::http::exchange::error_message;

/// Reads a chunk, or a non-streaming response.
pub fn read_chunk(data: &[u8]) -> Result<Delta<'_>, String> {
    let chunk: OpenaiChunk = parse(data)?;
    let is_error = chunk.is_error();
    let usage = chunk.token_usage();
    let choices: SmallVec<[ChoiceDelta; 1]> = chunk.choices.into_iter().map(Into::into).collect();
    let abort_error = || choices.iter().find_map(|choice| abort_error(choice.finish.as_deref()?));
    let error = if is_error { Some(error_message(data)) } else { abort_error() };
    Ok(Delta { choices, usage, metrics: chunk.metrics, error, ..Delta::default() })
}

/// Reads a non-streaming response, which must have an output.
pub fn read_full(data: &[u8]) -> Result<Delta<'_>, String> {
    let delta = read_chunk(data)?;
    if delta.error.is_none() && delta.choices.is_empty() {
        return Err("it has no `choices`".into());
    }
    // It is complete, even without a finish reason.
    Ok(Delta { done: true, ..delta })
}

#[derive(Debug, Default, Deserialize)]
struct OpenaiChunk<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    choices: SmallVec<[OpenaiChoice<'a>; 1]>,
    #[serde(default)]
    usage: UsageFields,
    /// Groq's own field.
    #[serde(default)]
    x_groq: UsageFields,
    /// llama.cpp's own field.
    #[serde(default)]
    timings: UsageFields,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    object: Option<BorrowedText<'a>>,
    #[serde(default)]
    metrics: Option<ServerTimings>,
}

impl OpenaiChunk<'_> {
    /// The token counts: in `usage` of the chunk or of a choice, or in a vendor's own field.
    fn token_usage(&self) -> Usage {
        let in_choice = self.choices.iter().map(|choice| choice.usage);
        let all = in_choice.chain([self.x_groq, self.timings]).map(Usage::from);
        all.fold(self.usage.into(), Usage::or_earlier)
    }

    /// Whether it is an error within a stream: `{"error":…}`, or the older `{"object":"error",…}`.
    fn is_error(&self) -> bool {
        self.error.is_some() || self.object.as_ref().is_some_and(|o| o.0 == "error")
    }
}

#[derive(Debug, Default, Deserialize)]
struct OpenaiChoice<'a> {
    #[serde(default)]
    index: u32,
    /// In completions.
    #[serde(borrow, default)]
    text: Option<BorrowedText<'a>>,
    /// In chats; `message` in a non-streaming response.
    #[serde(borrow, default, alias = "message")]
    delta: Option<OpenaiMessage<'a>>,
    /// The token ids, if requested (`return_token_ids`).
    #[serde(default)]
    token_ids: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    finish_reason: Option<BorrowedText<'a>>,
    /// Moonshot's place for the token counts.
    #[serde(default)]
    usage: UsageFields,
}

#[derive(Debug, Default, Deserialize)]
struct OpenaiMessage<'a> {
    #[serde(default)]
    role: Option<IgnoredAny>,
    #[serde(borrow, default)]
    content: Option<MessageContent<'a>>,
    /// The text of a refusal.
    #[serde(borrow, default)]
    refusal: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    reasoning: Option<BorrowedText<'a>>,
    /// The older name, which some servers still use.
    #[serde(borrow, default)]
    reasoning_content: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    reasoning_text: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    thinking: Option<BorrowedText<'a>>,
    /// OpenRouter's list of parts, usually in addition to `reasoning`.
    #[serde(borrow, default)]
    reasoning_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow, default)]
    audio: Option<&'a RawValue>,
}

/// A part of `reasoning_details`; an encrypted one has no text.
#[derive(Debug, Default, Deserialize)]
struct ReasoningPart<'a> {
    #[serde(borrow, default, alias = "summary")]
    text: Option<BorrowedText<'a>>,
}

/// A string; for Mistral's reasoning models, a list of parts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MessageContent<'a> {
    Text(#[serde(borrow)] BorrowedText<'a>),
    Parts(#[serde(borrow)] Vec<ContentPart<'a>>),
}

#[derive(Debug, Deserialize)]
struct ContentPart<'a> {
    #[serde(borrow, default)]
    text: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Box<MessageContent<'a>>>,
}

impl<'a> From<OpenaiChoice<'a>> for ChoiceDelta<'a> {
    fn from(raw: OpenaiChoice<'a>) -> Self {
        let opens = raw.delta.as_ref().is_some_and(|d| d.role.is_some());
        let output = match raw.delta {
            Some(message) => message.into_output(),
            None => ChoiceDelta { text: raw.text.map(|text| text.0).unwrap_or_default(), ..ChoiceDelta::default() },
        };
        ChoiceDelta {
            index: raw.index,
            ids: raw.token_ids.map_or(0, |ids| ids.len()),
            // Some servers send an empty one with every chunk.
            finish: raw.finish_reason.map(|reason| reason.0).filter(|reason| !reason.is_empty()),
            opens,
            ..output
        }
    }
}

impl<'a> OpenaiMessage<'a> {
    /// What the model generated. Answer text takes precedence over reasoning in the same message.
    fn into_output(self) -> ChoiceDelta<'a> {
        let first_text = |texts: &mut dyn Iterator<Item = Option<BorrowedText<'a>>>| {
            texts.flatten().map(|text| text.0).find(|text| !text.is_empty()).unwrap_or_default()
        };
        let (content, in_parts) = self.content.map_or((None, None), MessageContent::answer_and_reasoning);
        let answer = first_text(&mut [content, self.refusal].into_iter());
        let named = [self.reasoning, self.reasoning_content, self.reasoning_text, self.thinking, in_parts];
        let details = || self.reasoning_details.map(|details| BorrowedText(details_text(details)));
        let reasoning = first_text(&mut named.into_iter().chain(std::iter::once_with(details)));
        let calls = join_texts(call_text(self.tool_calls), call_text(self.function_call));
        if [self.tool_calls, self.function_call, self.audio].into_iter().any(is_filled) {
            let more = join_texts(reasoning, calls);
            return ChoiceDelta { kind: OutputKind::ToolCall, text: answer, more, ..ChoiceDelta::default() };
        }
        if answer.is_empty() && !reasoning.is_empty() {
            return ChoiceDelta { kind: OutputKind::Reasoning, text: reasoning, ..ChoiceDelta::default() };
        }
        ChoiceDelta { text: answer, more: reasoning, ..ChoiceDelta::default() }
    }
}

/// The texts of `reasoning_details`.
fn details_text(details: &RawValue) -> Cow<'_, str> {
    let parts: Vec<ReasoningPart> = parse(details.get().as_bytes()).unwrap_or_default();
    parts.into_iter().filter_map(|part| Some(part.text?.0)).fold(Cow::default(), join_texts)
}

impl<'a> MessageContent<'a> {
    /// The text of the answer, and the reasoning.
    fn answer_and_reasoning(self) -> (Option<BorrowedText<'a>>, Option<BorrowedText<'a>>) {
        let parts = match self {
            MessageContent::Text(text) => return (Some(text), None),
            MessageContent::Parts(parts) => parts,
        };
        let (mut answer, mut reasoning) = (String::new(), String::new());
        for part in parts {
            answer.extend(part.text.map(|text| text.0));
            let (text, deeper) = part.thinking.map_or((None, None), |thinking| thinking.answer_and_reasoning());
            reasoning.extend(text.or(deeper).map(|text| text.0));
        }
        (Some(BorrowedText(answer.into())), Some(BorrowedText(reasoning.into())))
    }
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_with_tokens_are_recognized() {
        for (choice, bears, answers) in [
            (r#"{"text":"a"}"#, true, true),
            (r#"{"text":""}"#, false, false),
            (r#"{"text":"","token_ids":[7]}"#, true, false),
            (r#"{"text":"","token_ids":[],"finish_reason":"length"}"#, false, false),
            (r#"{"delta":{"role":"assistant","content":""}}"#, false, false),
            (r#"{"delta":{"content":"\u00e9"}}"#, true, true),
            (r#"{"delta":{"content":null,"reasoning":"hm"}}"#, true, false),
            (r#"{"delta":{"reasoning_content":"hm"}}"#, true, false),
            (r#"{"delta":{"tool_calls":[{"index":0}]}}"#, true, true),
            (r#"{"delta":{"content":[{"type":"text","text":"a"}]}}"#, true, true),
            (r#"{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]}]}}"#, true, false),
            (r#"{"delta":{"content":[]}}"#, false, false),
            (r#"{"delta":{"tool_calls":[]}}"#, false, false),
            (r#"{"delta":{},"finish_reason":"stop"}"#, false, false),
            (r#"{"message":{"role":"assistant","content":"a","reasoning":"hm"},"finish_reason":"stop"}"#, true, true),
        ] {
            let data = format!(r#"{{"choices":[{choice}]}}"#);
            let delta = read_chunk(data.as_bytes()).unwrap();
            assert_eq!((delta.choices[0].has_token(), delta.choices[0].has_answer()), (bears, answers), "{choice}");
        }
    }

    #[test]
    fn errors_are_distinguished_from_chunks() {
        for error in [r#"{"error":{"message":"boom"}}"#, r#"{"object":"error","message":"boom"}"#] {
            assert_eq!(read_chunk(error.as_bytes()).unwrap().error.as_deref(), Some("boom"));
            assert!(read_full(error.as_bytes()).is_ok());
        }
        for reason in ["abort", "error"] {
            let data = format!(r#"{{"choices":[{{"index":0,"text":"a","finish_reason":"{reason}"}}]}}"#);
            let want = format!("the server ended the response: {reason}");
            assert_eq!(read_chunk(data.as_bytes()).unwrap().error, Some(want.clone()));
            assert_eq!(
                read_full(data.replace("text", "message").replace(r#""a""#, "{}").as_bytes()).unwrap().error,
                Some(want)
            );
        }
        assert!(read_full(br#"{"id":"x"}"#).is_err() && read_chunk(br#"{"choices":"none"}"#).is_err());
    }
}
