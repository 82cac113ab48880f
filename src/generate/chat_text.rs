//! Chat messages for APIs that take text: applies the model's chat template here, as the server of a chat API would.

use serde_json::{Value, json};

use crate::{
    data::Row,
    error::Error,
    generate::{common::Common, exact::PromptCounter, media},
    record::{Prompt, SampleRequest},
    tokens::ChatInput,
};

/// Keys of the body that the template has used, and that a completions API does not know.
const USED: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// Prepares a request for the API of this run; also returns the prompt length if messages became text.
///
/// With `--apply-chat-template` a text becomes a chat of one message. Without a template, messages stay messages:
/// `vb-fire` reports an error if it has to send them as text. Messages with images or audio stay messages too.
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
            "a message has a part of type `{kind}`, which cannot be sent as text: images and audio need an API that takes them, \
             such as --backend openai-chat"
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

/// Renders the messages as a prompt and counts it. The template has already added all special tokens.
fn render_and_count(request: SampleRequest, counter: PromptCounter) -> Result<(SampleRequest, usize), Error> {
    let request = render_messages(request, counter)?;
    let len = match &request.prompt {
        Some(Prompt::Text(text)) => counter.tokenizer.count(text)?,
        _ => 0,
    };
    Ok((request, len))
}

/// Makes a request from a text, through the chat template if `apply_template`, and counts its tokens.
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

/// Renders the messages of a request as its prompt.
pub fn render_messages(mut request: SampleRequest, counter: PromptCounter) -> Result<SampleRequest, Error> {
    let messages = request.messages.take().unwrap_or_default();
    let text = counter.tokenizer.render_chat(ChatInput { messages: &messages, body: request.body.as_ref() })?;
    if let Some(body) = &mut request.body {
        body.retain(|key, _| !USED.contains(&key.as_str()));
    }
    if counter.added_tokens()? > 0 {
        // The template has already written the special tokens; without this the model would get them twice.
        request.body.get_or_insert_default().insert("add_special_tokens".into(), false.into());
    }
    request.body = request.body.filter(|body| !body.is_empty());
    request.prompt = Some(Prompt::Text(text));
    Ok(request)
}
