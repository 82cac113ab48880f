//! Chats for endpoints that take text: the model's template is applied here, as the server of a chat would apply it.

use serde_json::{Value, json};

use crate::{
    data::Row,
    error::Error,
    generate::{common::Common, exact::Framed, media},
    record::{Prompt, SampleRequest},
    tokens::ChatInput,
};

/// What of a chat's body the template has used up, and a completion does not know.
const USED: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// The request as this run's endpoint takes it, and the length of its prompt if it became text here.
///
/// With `--apply-chat-template` a text is a chat of one message. Without a template messages stay what they are: `vb-fire` says
/// what to do if it is to send them as text. Text has no place for images and sound, so messages with these are no text.
pub fn ready(
    row: &Row,
    mut request: SampleRequest,
    common: &Common,
    framed: Framed,
) -> Result<(SampleRequest, Option<usize>), Error> {
    if common.chat {
        return Ok((request, None));
    }
    let media = request.messages.as_deref().and_then(media::beside_text);
    if let Some(kind) = &media
        && (!common.takes_media || common.apply_chat_template)
    {
        return Err(row.wrong(&format!(
            "a message has a part of type `{kind}`, for which text has no place: images and sound need an API that takes them, \
             as --backend openai-chat"
        )));
    }
    if common.apply_chat_template
        && let Some(Prompt::Text(text)) = &request.prompt
    {
        request.messages = Some(chat_of(text));
        request.prompt = None;
    }
    let unasked = !common.apply_chat_template && !framed.tokenizer.has_template();
    if request.messages.is_none() || request.prompt.is_some() || unasked || media.is_some() {
        return Ok((request, None));
    }
    measured(request, framed).map(|(request, len)| (request, Some(len)))
}

/// The request with its messages made into a prompt, and the length of that: it has all special tokens already.
fn measured(request: SampleRequest, framed: Framed) -> Result<(SampleRequest, usize), Error> {
    let request = flattened(request, framed)?;
    let len = match &request.prompt {
        Some(Prompt::Text(text)) => framed.tokenizer.count(text)?,
        _ => 0,
    };
    Ok((request, len))
}

/// A text as it is, or in the model's template; and its length.
pub fn of_text(text: String, apply_template: bool, framed: Framed) -> Result<(SampleRequest, usize), Error> {
    if apply_template {
        return measured(SampleRequest { messages: Some(chat_of(&text)), ..SampleRequest::default() }, framed);
    }
    let len = framed.count(&text)?;
    Ok((SampleRequest { prompt: Some(Prompt::Text(text)), ..SampleRequest::default() }, len))
}

fn chat_of(text: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": text})]
}

/// The request with its messages made into a prompt.
pub fn flattened(mut request: SampleRequest, framed: Framed) -> Result<SampleRequest, Error> {
    let messages = request.messages.take().unwrap_or_default();
    let text = framed.tokenizer.render_chat(ChatInput { messages: &messages, body: request.body.as_ref() })?;
    if let Some(body) = &mut request.body {
        body.retain(|key, _| !USED.contains(&key.as_str()));
    }
    if framed.overhead()? > 0 {
        // The template has written them already; without this the model would get them twice.
        request.body.get_or_insert_default().insert("add_special_tokens".into(), false.into());
    }
    request.body = request.body.filter(|body| !body.is_empty());
    request.prompt = Some(Prompt::Text(text));
    Ok(request)
}
