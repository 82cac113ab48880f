//! Chats for endpoints that take text: the model's template is applied here, as the server of a chat would apply it.

use serde_json::{Value, json};

use crate::{
    data::Row,
    error::Error,
    generate::{common::Common, exact::PromptCounter, media},
    record::{Prompt, SampleRequest},
    tokens::ChatInput,
};

/// What of a chat's body the template has used up, and a completion does not know.
const USED: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// The request as this run's endpoint takes it, and the length of its prompt if it became text here.
///
/// With `--apply-chat-template` a text is a chat of one message. Without a template messages stay what they are: `vb-fire` says
/// what to do if it is to send them as text. Text has no place for images and sound, so messages with these are no text.
pub fn prepare_request(
    row: &Row,
    mut request: SampleRequest,
    common: &Common,
    counter: PromptCounter,
) -> Result<(SampleRequest, Option<usize>), Error> {
    if common.chat {
        return Ok((request, None));
    }
    let media = request.messages.as_deref().and_then(media::first_non_text_part);
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
        request.messages = Some(user_chat(text));
        request.prompt = None;
    }
    let unasked = !common.apply_chat_template && !counter.tokenizer.has_template();
    if request.messages.is_none() || request.prompt.is_some() || unasked || media.is_some() {
        return Ok((request, None));
    }
    render_and_count(request, counter).map(|(request, len)| (request, Some(len)))
}

/// The request with its messages made into a prompt, and the length of that: it has all special tokens already.
fn render_and_count(request: SampleRequest, counter: PromptCounter) -> Result<(SampleRequest, usize), Error> {
    let request = render_messages(request, counter)?;
    let len = match &request.prompt {
        Some(Prompt::Text(text)) => counter.tokenizer.count(text)?,
        _ => 0,
    };
    Ok((request, len))
}

/// A text as it is, or in the model's template; and its length.
pub fn request_from_text(
    text: String,
    apply_template: bool,
    counter: PromptCounter,
) -> Result<(SampleRequest, usize), Error> {
    if apply_template {
        return render_and_count(
            SampleRequest { messages: Some(user_chat(&text)), ..SampleRequest::default() },
            counter,
        );
    }
    let len = counter.count(&text)?;
    Ok((SampleRequest { prompt: Some(Prompt::Text(text)), ..SampleRequest::default() }, len))
}

fn user_chat(text: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": text})]
}

/// The request with its messages made into a prompt.
pub fn render_messages(mut request: SampleRequest, counter: PromptCounter) -> Result<SampleRequest, Error> {
    let messages = request.messages.take().unwrap_or_default();
    let text = counter.tokenizer.render_chat(ChatInput { messages: &messages, body: request.body.as_ref() })?;
    if let Some(body) = &mut request.body {
        body.retain(|key, _| !USED.contains(&key.as_str()));
    }
    if counter.added_tokens()? > 0 {
        // The template has written them already; without this the model would get them twice.
        request.body.get_or_insert_default().insert("add_special_tokens".into(), false.into());
    }
    request.body = request.body.filter(|body| !body.is_empty());
    request.prompt = Some(Prompt::Text(text));
    Ok(request)
}
