//! The format that responses of OpenAI completions and chat completions share, as vLLM writes it.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{
    ChoiceDelta, Delta, OutputKind, ReadError, ServerTimings, Usage,
    delta::abort_error,
    lenient::{Content, Count, Filled, FinishReason, List, Nested, NumberValue, Raw, Size, Text, lenient_fields},
    read_fields, read_json,
    tool_calls::{call_text, is_filled, join_texts},
    usage::UsageFields,
};
use crate::http::error_text::error_message;

/// Reads a chunk, or a non-streaming response.
pub fn read_chunk(data: &[u8]) -> Result<Delta<'_>, ReadError> {
    let chunk: OpenaiChunk = read_fields(data)?;
    let (is_error, usage) = (chunk.is_error(), chunk.token_usage());
    if chunk.choices.0.is_none() && !is_error && usage == Usage::default() {
        return Err(ReadError::lacks("choices"));
    }
    let choices: SmallVec<[ChoiceDelta; 1]> = chunk.choices.into_elements().into_iter().map(Into::into).collect();
    let abort_error = || choices.iter().find_map(|choice| abort_error(choice.finish.as_deref()?));
    let error = if is_error { Some(error_message(data)) } else { abort_error() };
    Ok(Delta { choices, usage, metrics: chunk.metrics.0.map(Into::into), error, ..Delta::default() })
}

/// Reads a non-streaming response, which must have an output.
pub fn read_full(data: &[u8]) -> Result<Delta<'_>, ReadError> {
    let delta = read_chunk(data)?;
    if delta.error.is_none() && delta.choices.is_empty() {
        return Err(ReadError::lacks("choices"));
    }
    // It is complete, even without a finish reason.
    Ok(Delta { done: true, ..delta })
}

lenient_fields! {
    /// A chunk, or a non-streaming response.
    struct OpenaiChunk<'a> {
        "choices" => choices: List<OpenaiChoice<'a>>,
        "usage" => usage: UsageFields,
        /// Groq's own field.
        "x_groq" => x_groq: UsageFields,
        /// llama.cpp's own field.
        "timings" => timings: UsageFields,
        "error" => error: Filled,
        "object" => object: Text<'a>,
        "metrics" => metrics: Nested<OpenaiMetrics>,
    }
}

impl OpenaiChunk<'_> {
    /// The token counts: in `usage` of the chunk or of a choice, or in a vendor's own field.
    fn token_usage(&self) -> Usage {
        let in_choice = self.choices.0.iter().flatten().map(|choice| choice.usage);
        let all = in_choice.chain([self.x_groq, self.timings]).map(Usage::from);
        all.fold(self.usage.into(), Usage::or_earlier)
    }

    /// Whether it is an error within a stream: `{"error":…}`, or the older `{"object":"error",…}`.
    fn is_error(&self) -> bool {
        self.error.0 || self.object.as_str() == "error"
    }
}

lenient_fields! {
    /// One of the outputs.
    struct OpenaiChoice<'a> {
        "index" => index: Count,
        /// In completions.
        "text" => text: Text<'a>,
        /// In chats.
        "delta" => delta: Nested<OpenaiMessage<'a>>,
        /// In non-streaming chats; in a stream it repeats what came before.
        "message" => message: Nested<OpenaiMessage<'a>>,
        /// The token ids, if requested (`return_token_ids`).
        "token_ids" => token_ids: Size,
        "finish_reason" => finish_reason: FinishReason<'a>,
        /// Moonshot's place for the token counts.
        "usage" => usage: UsageFields,
    }
}

lenient_fields! {
    /// The new part of a message, or all of it.
    struct OpenaiMessage<'a> {
        "role" => role: Filled,
        "content" => content: Content<'a>,
        /// The text of a refusal.
        "refusal" => refusal: Text<'a>,
        "reasoning" => reasoning: Content<'a>,
        /// The older name, which some servers still use.
        "reasoning_content" => reasoning_content: Content<'a>,
        "reasoning_text" => reasoning_text: Content<'a>,
        "thinking" => thinking: Content<'a>,
        /// The list of parts of `OpenRouter`, usually in addition to `reasoning`.
        "reasoning_details" => reasoning_details: Raw<'a>,
        "tool_calls" => tool_calls: Raw<'a>,
        "function_call" => function_call: Raw<'a>,
        "audio" => audio: Raw<'a>,
    }
}

lenient_fields! {
    /// A part of `reasoning_details`; an encrypted one has no text.
    struct ReasoningPart<'a> {
        "text" | "summary" => text: Text<'a>,
    }
}

lenient_fields! {
    /// The times that vLLM reports.
    struct OpenaiMetrics {
        "queue_time_ms" => queue_time_ms: NumberValue,
        "time_to_first_token_ms" => time_to_first_token_ms: NumberValue,
    }
}

impl From<OpenaiMetrics> for ServerTimings {
    fn from(raw: OpenaiMetrics) -> Self {
        ServerTimings { queue_time_ms: raw.queue_time_ms.0, time_to_first_token_ms: raw.time_to_first_token_ms.0 }
    }
}

impl<'a> From<OpenaiChoice<'a>> for ChoiceDelta<'a> {
    fn from(raw: OpenaiChoice<'a>) -> Self {
        let OpenaiChoice { index, text, delta, message, token_ids, finish_reason, .. } = raw;
        let whole = delta.0.is_none() && message.0.is_some();
        let message = delta.0.or(message.0).unwrap_or_default();
        // Some servers name the role in every chunk.
        let opens = message.role.0 && finish_reason.kind.is_none();
        let mut output = message.into_output();
        if output.text.is_empty() && output.kind == OutputKind::Answer {
            output.text = text.0.unwrap_or_default();
        }
        ChoiceDelta {
            index: index.0.unwrap_or_default(),
            ids: token_ids.0.unwrap_or_default(),
            finish: finish_reason.kind,
            opens,
            whole,
            ..output
        }
    }
}

impl<'a> OpenaiMessage<'a> {
    /// What the model generated. Answer text takes precedence over reasoning in the same message.
    fn into_output(self) -> ChoiceDelta<'a> {
        let filled = |text: Option<Cow<'a, str>>| text.filter(|text| !text.is_empty());
        let answer = filled(self.content.answer).or(self.refusal.filled()).unwrap_or_default();
        let named = [self.reasoning, self.reasoning_content, self.reasoning_text, self.thinking];
        let named = named.into_iter().map(|content| content.answer).chain([self.content.reasoning]);
        let reasoning = named.into_iter().find_map(filled).unwrap_or_else(|| details_text(self.reasoning_details));
        if [self.tool_calls, self.function_call, self.audio].into_iter().any(is_filled) {
            let calls = join_texts(call_text(self.tool_calls), call_text(self.function_call));
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
fn details_text(Raw(details): Raw<'_>) -> Cow<'_, str> {
    let parts = details.and_then(|details| read_json::<List<ReasoningPart>>(details.get().as_bytes()).ok());
    let texts = parts.map(List::into_elements).unwrap_or_default().into_iter().filter_map(|part| part.text.0);
    texts.fold(Cow::default(), join_texts)
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
        for empty in [r#"{"choices":[{}],"error":{}}"#, r#"{"choices":[{}],"error":{"code":null,"message":""}}"#] {
            assert_eq!(read_chunk(empty.as_bytes()).unwrap().error, None, "{empty}");
        }
    }
}
