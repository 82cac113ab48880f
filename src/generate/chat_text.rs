//! Chats for endpoints that take text: the model's template is applied here, as the server of a chat would apply it.

use serde_json::json;

use super::{Plan, fit::Framed};
use crate::{
    error::Error,
    record::{Prompt, SampleRequest},
    tokens::Chat,
};

/// What of a chat's body the template has used up, and a completion does not know.
const USED: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// The request as this run's endpoint takes it, and the length of its prompt if it became text here.
///
/// With `--apply-chat-template` a text is a chat of one message. Without a template messages stay what they are: `vb-fire` says
/// what to do if it is to send them as text.
pub fn ready(mut request: SampleRequest, plan: &Plan, framed: Framed) -> Result<(SampleRequest, Option<usize>), Error> {
    if plan.chat {
        return Ok((request, None));
    }
    if plan.apply_chat_template
        && let Some(Prompt::Text(text)) = &request.prompt
    {
        request.messages = Some(vec![json!({"role": "user", "content": text})]);
        request.prompt = None;
    }
    let unasked = !plan.apply_chat_template && !framed.tokenizer.has_template();
    if request.messages.is_none() || request.prompt.is_some() || unasked {
        return Ok((request, None));
    }
    let request = flattened(request, framed)?;
    let len = measured(&request, framed)?;
    Ok((request, Some(len)))
}

/// The length of a prompt that the template made: it has all special tokens already.
fn measured(request: &SampleRequest, framed: Framed) -> Result<usize, Error> {
    let Some(Prompt::Text(text)) = &request.prompt else { return Ok(0) };
    framed.tokenizer.count(text)
}

/// The request with its messages made into a prompt.
pub fn flattened(mut request: SampleRequest, framed: Framed) -> Result<SampleRequest, Error> {
    let messages = request.messages.take().unwrap_or_default();
    let text = framed.tokenizer.render_chat(Chat { messages: &messages, body: request.body.as_ref() })?;
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
