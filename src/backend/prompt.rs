//! Reads the prompt of a request in the form that an API takes.

use serde_json::{Value, json};

use crate::record::{Prompt, SampleRequest};

/// Rejects images and audio for an API that does not take them: they would be dropped silently.
pub fn reject_media(request: &SampleRequest) -> Result<(), String> {
    match request.multi_modal_data {
        Some(_) => Err("`multi_modal_data` needs a chat: use --backend openai-chat".into()),
        None => Ok(()),
    }
}

/// A single prompt: text or token ids.
pub fn single_prompt(request: &SampleRequest) -> Result<&Prompt, String> {
    reject_media(request)?;
    match &request.prompt {
        Some(Prompt::Texts(_) | Prompt::IdLists(_)) => {
            Err("a list of prompts cannot be timed as one stream: send one prompt per line".into())
        }
        Some(prompt) => Ok(prompt),
        None if request.messages.is_some() => {
            Err("the request has `messages`, not `prompt`: use --backend openai-chat".into())
        }
        None => Err("the request has no `prompt`".into()),
    }
}

/// A single prompt, as text.
pub fn single_text<'a>(request: &'a SampleRequest, backend: &str) -> Result<&'a str, String> {
    match single_prompt(request)? {
        Prompt::Text(text) => Ok(text),
        _ => Err(format!("token ids cannot be sent to --backend {backend}: send text")),
    }
}

/// A prompt or a list of prompts, as JSON.
pub fn any_prompt(request: &SampleRequest) -> Result<Value, String> {
    reject_media(request)?;
    let prompt = request.prompt.as_ref().ok_or("the request has no `prompt`")?;
    serde_json::to_value(prompt).map_err(|e| e.to_string())
}

/// The messages of a chat; text becomes a user message, and `multi_modal_data` is appended to the last message.
pub fn chat_messages(request: &SampleRequest) -> Result<Vec<Value>, String> {
    let mut messages = match (&request.messages, &request.prompt) {
        (Some(messages), _) => messages.clone(),
        (None, Some(Prompt::Text(text))) => vec![json!({"role": "user", "content": text})],
        (None, Some(_)) => return Err("token ids cannot be sent as a chat: use --backend openai".into()),
        // A request may consist of an image or audio only.
        (None, None) if request.multi_modal_data.is_some() => vec![json!({"role": "user", "content": []})],
        (None, None) => return Err("the request has neither `messages` nor `prompt`".into()),
    };
    if let Some(parts) = &request.multi_modal_data {
        append_parts(&mut messages, parts)?;
    }
    Ok(messages)
}

/// Appends content parts to the last message.
fn append_parts(messages: &mut [Value], parts: &Value) -> Result<(), String> {
    let content = messages
        .last_mut()
        .and_then(|m| m.get_mut("content"))
        .ok_or("`multi_modal_data` needs a message with `content`")?;
    let mut all = match content.take() {
        Value::Array(list) => list,
        text => vec![json!({"type": "text", "text": text})],
    };
    all.extend(content_parts(parts).cloned());
    *content = all.into();
    Ok(())
}

/// Rejects tool calls and tool results in OpenAI format, for an API with another format.
pub fn reject_tool_calls(messages: &[Value], backend: &str) -> Result<(), String> {
    let calls = |message: &Value| message["role"] == "tool" || message.get("tool_calls").is_some_and(|c| !c.is_null());
    if messages.iter().any(calls) {
        return Err(format!("--backend {backend} has another format for tool calls: use --backend openai-chat"));
    }
    Ok(())
}

/// The content parts of a value that is one part or a list of parts.
pub fn content_parts(parts: &Value) -> impl Iterator<Item = &Value> {
    match parts {
        Value::Array(list) => list.iter(),
        part => std::slice::from_ref(part).iter(),
    }
}

/// Replaces each content part of the messages; content that is a string is left unchanged.
pub fn map_parts(messages: &mut [Value], mut change: impl FnMut(&Value) -> Value) {
    for content in messages.iter_mut().filter_map(|m| m.get_mut("content")) {
        if let Value::Array(list) = content {
            for part in list {
                *part = change(part);
            }
        }
    }
}

/// The URL in an `image_url` part in OpenAI format.
pub fn image_url(part: &Value) -> Option<&str> {
    let url = part.get("image_url")?;
    url.as_str().or_else(|| url.get("url")?.as_str())
}

/// The media type and the base64 data of a `data:` URL.
pub fn data_url(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("data:")?.split_once(";base64,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_appended_to_the_last_message() {
        let request: SampleRequest =
            serde_json::from_str(r#"{"prompt":"hi","multi_modal_data":{"type":"image_url"}}"#).unwrap();
        let want = json!([{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url"}]}]);
        assert_eq!(Value::from(chat_messages(&request).unwrap()), want);
        let alone: SampleRequest = serde_json::from_str(r#"{"multi_modal_data":{"type":"input_audio"}}"#).unwrap();
        let want = json!([{"role": "user", "content": [{"type": "input_audio"}]}]);
        assert_eq!(Value::from(chat_messages(&alone).unwrap()), want);
        let wrong: SampleRequest = serde_json::from_str(r#"{"messages":[],"multi_modal_data":{}}"#).unwrap();
        assert!(chat_messages(&wrong).unwrap_err().contains("a message with `content`"));
        assert!(single_text(&request, "tgi").unwrap_err().contains("needs a chat"));
        assert!(any_prompt(&request).unwrap_err().contains("needs a chat"));
    }

    #[test]
    fn data_urls_are_parsed() {
        assert_eq!(data_url("data:image/jpeg;base64,QUJD"), Some(("image/jpeg", "QUJD")));
        assert_eq!(data_url("https://h/a.jpg"), None);
        assert_eq!(image_url(&json!({"image_url": {"url": "u"}})), Some("u"));
        assert_eq!(image_url(&json!({"image_url": "u"})), Some("u"));
    }
}
