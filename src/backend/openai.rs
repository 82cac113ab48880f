//! What the chunks and replies of OpenAI's completions and chats have in common, as vLLM writes them.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{Choice, Delta, Metrics, Part, Text, Usage, delta::given_up, parse};
use crate::http::exchange::error_message;

/// Reads a chunk of a stream, or a reply in one piece.
pub fn read(data: &[u8]) -> Result<Delta<'_>, String> {
    let chunk: Chunk = parse(data)?;
    let is_error = chunk.is_error();
    let choices: SmallVec<[Choice; 1]> = chunk.choices.into_iter().map(Into::into).collect();
    let given_up = || choices.iter().find_map(|choice| given_up(choice.finish.as_deref()?));
    let error = if is_error { Some(error_message(data)) } else { given_up() };
    Ok(Delta {
        choices,
        usage: chunk.usage.map_or_else(Usage::default, Into::into),
        metrics: chunk.metrics,
        error,
        ..Delta::default()
    })
}

/// Reads a reply in one piece, which must have an answer.
pub fn whole(data: &[u8]) -> Result<Delta<'_>, String> {
    let delta = read(data)?;
    if delta.error.is_none() && delta.choices.is_empty() {
        return Err("it has no `choices`".into());
    }
    // There is nothing to come, even where no reason for the end is told.
    Ok(Delta { done: true, ..delta })
}

#[derive(Debug, Default, Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    choices: SmallVec<[RawChoice<'a>; 1]>,
    #[serde(default)]
    usage: Option<RawUsage>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    object: Option<Text<'a>>,
    #[serde(default)]
    metrics: Option<Metrics>,
}

impl Chunk<'_> {
    /// Whether it is an error inside a stream that began well: `{"error":…}`, or the older `{"object":"error",…}`.
    fn is_error(&self) -> bool {
        self.error.is_some() || self.object.as_ref().is_some_and(|o| o.0 == "error")
    }
}

#[derive(Debug, Default, Deserialize)]
struct RawChoice<'a> {
    #[serde(default)]
    index: u32,
    /// Of a completion.
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    /// Of a chat; a reply in one piece calls it `message`.
    #[serde(borrow, default, alias = "message")]
    delta: Option<Message<'a>>,
    /// The ids of its tokens, where asked for (`return_token_ids`).
    #[serde(default)]
    token_ids: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Message<'a> {
    #[serde(default)]
    role: Option<IgnoredAny>,
    #[serde(borrow, default)]
    content: Option<Content<'a>>,
    /// The answer where the model does not want to give one.
    #[serde(borrow, default)]
    refusal: Option<Text<'a>>,
    #[serde(borrow, default)]
    reasoning: Option<Text<'a>>,
    /// The older name, which other servers still use.
    #[serde(borrow, default)]
    reasoning_content: Option<Text<'a>>,
    #[serde(default)]
    tool_calls: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    function_call: Option<IgnoredAny>,
}

/// A text; of Mistral's models that think, a list of parts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(#[serde(borrow)] Text<'a>),
    Parts(#[serde(borrow)] Vec<ContentPart<'a>>),
}

#[derive(Debug, Deserialize)]
struct ContentPart<'a> {
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Box<Content<'a>>>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct RawUsage {
    #[serde(default)]
    prompt_tokens: Option<u32>,
    #[serde(default)]
    completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u32>,
}

impl From<RawUsage> for Usage {
    fn from(raw: RawUsage) -> Self {
        Usage {
            prompt_tokens: raw.prompt_tokens,
            completion_tokens: raw.completion_tokens,
            cached_tokens: raw.prompt_tokens_details.and_then(|d| d.cached_tokens),
            reasoning_tokens: raw.completion_tokens_details.and_then(|d| d.reasoning_tokens),
        }
    }
}

impl<'a> From<RawChoice<'a>> for Choice<'a> {
    fn from(raw: RawChoice<'a>) -> Self {
        let opens = raw.delta.as_ref().is_some_and(|d| d.role.is_some());
        let (part, text) = match raw.delta {
            Some(message) => message.part(),
            None => (Part::Answer, raw.text),
        };
        Choice {
            index: raw.index,
            text: text.map(|text| text.0).unwrap_or_default(),
            part,
            ids: raw.token_ids.map_or(0, |ids| ids.len()),
            // Servers exist that send an empty one with every chunk; it says nothing.
            finish: raw.finish_reason.map(|reason| reason.0).filter(|reason| !reason.is_empty()),
            opens,
        }
    }
}

impl<'a> Message<'a> {
    /// What kind of text it bears, and the text. Where it has some of the answer, its thoughts say nothing new.
    fn part(self) -> (Part, Option<Text<'a>>) {
        let filled = |text: &Option<Text>| text.as_ref().is_some_and(|t| !t.0.is_empty());
        let (content, thoughts) = self.content.map_or((None, None), Content::parts);
        if self.tool_calls.is_some_and(|calls| !calls.is_empty()) || self.function_call.is_some() {
            return (Part::Call, content);
        }
        if let Some(text) = [content, self.refusal].into_iter().find(filled) {
            return (Part::Answer, text);
        }
        match [self.reasoning, self.reasoning_content, thoughts].into_iter().find(filled) {
            Some(text) => (Part::Reasoning, text),
            None => (Part::Answer, None),
        }
    }
}

impl<'a> Content<'a> {
    /// Its text of the answer, and its thoughts.
    fn parts(self) -> (Option<Text<'a>>, Option<Text<'a>>) {
        let parts = match self {
            Content::Text(text) => return (Some(text), None),
            Content::Parts(parts) => parts,
        };
        let (mut answer, mut thoughts) = (String::new(), String::new());
        for part in parts {
            answer.extend(part.text.map(|text| text.0));
            let (text, deeper) = part.thinking.map_or((None, None), |thinking| thinking.parts());
            thoughts.extend(text.or(deeper).map(|text| text.0));
        }
        (Some(Text(answer.into())), Some(Text(thoughts.into())))
    }
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bears_a_token() {
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
            let delta = read(data.as_bytes()).unwrap();
            assert_eq!((delta.choices[0].bears_token(), delta.choices[0].answers()), (bears, answers), "{choice}");
        }
    }

    #[test]
    fn errors_are_told_from_chunks() {
        for error in [r#"{"error":{"message":"boom"}}"#, r#"{"object":"error","message":"boom"}"#] {
            assert_eq!(read(error.as_bytes()).unwrap().error.as_deref(), Some("boom"));
            assert!(whole(error.as_bytes()).is_ok());
        }
        for reason in ["abort", "error"] {
            let data = format!(r#"{{"choices":[{{"index":0,"text":"a","finish_reason":"{reason}"}}]}}"#);
            let want = format!("the server ended the answer: {reason}");
            assert_eq!(read(data.as_bytes()).unwrap().error, Some(want.clone()));
            assert_eq!(
                whole(data.replace("text", "message").replace(r#""a""#, "{}").as_bytes()).unwrap().error,
                Some(want)
            );
        }
        assert!(whole(br#"{"id":"x"}"#).is_err() && read(br#"{"choices":"none"}"#).is_err());
    }
}
