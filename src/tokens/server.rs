//! A running server's own tokenizer, over its `/tokenize` and `/detokenize`.

use reqwest::blocking::{Client, Response};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::chat::Chat;
use crate::{
    error::Error,
    http::{
        client::{failure_reason, server_client},
        connection::{parse_base_url, server_root},
        exchange::{error_message, status_line},
    },
};

/// Where to ask, and as whom.
#[derive(Clone)]
pub struct Server {
    client: Client,
    /// Without a slash at the end.
    base: String,
    model: Option<String>,
    api_key: Option<String>,
}

/// By hand: the key must not end up in a message.
impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("base", &self.base).field("model", &self.model).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Tokens {
    count: usize,
    #[serde(default)]
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Text {
    prompt: String,
}

impl Server {
    /// The server at `base_url`; `model` is the name it is asked by, and `api_key` goes with each request.
    pub fn new(base_url: &str, model: Option<String>, api_key: Option<String>) -> Result<Self, Error> {
        let base = server_root(&parse_base_url(base_url)?).to_owned();
        Ok(Server { client: server_client()?, base, model, api_key })
    }

    /// The token ids of a text.
    pub(super) fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let tokens: Tokens = self.ask("/tokenize", json!({"prompt": text, "add_special_tokens": special}))?;
        Ok(tokens.tokens)
    }

    /// The length of a chat, template included.
    pub(super) fn count_chat(&self, chat: Chat) -> Result<usize, Error> {
        Ok(self.ask_about_chat(chat)?.count)
    }

    /// The token ids of a chat, template included.
    pub(super) fn tokenize_chat(&self, chat: Chat) -> Result<Vec<u32>, Error> {
        Ok(self.ask_about_chat(chat)?.tokens)
    }

    fn ask_about_chat(&self, chat: Chat) -> Result<Tokens, Error> {
        let mut question = json!({"messages": chat.messages, "add_generation_prompt": true});
        for key in ["tools", "chat_template_kwargs"] {
            if let Some(value) = chat.value(key) {
                question[key] = value.clone();
            }
        }
        self.ask("/tokenize", question)
    }

    /// The text of these ids.
    pub(super) fn detokenize(&self, ids: &[u32]) -> Result<String, Error> {
        let text: Text = self.ask("/detokenize", json!({"tokens": ids}))?;
        Ok(text.prompt)
    }

    fn ask<T: DeserializeOwned>(&self, path: &str, mut question: Value) -> Result<T, Error> {
        if let Some(model) = &self.model {
            question["model"] = json!(model);
        }
        let mut request = self.client.post(format!("{}{path}", self.base)).json(&question);
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let failed = |what: String| {
            let cure = "give --tokenizer a tokenizer.json, its folder or an id on the hub instead";
            Error::Setup(format!("cannot tokenize at {}: {what}; {cure}", format_args!("{}{path}", self.base)))
        };
        let answer = request.send().map_err(|e| failed(failure_reason(&e)))?;
        if !answer.status().is_success() {
            return Err(failed(refusal(answer)));
        }
        answer.json().map_err(|e| failed(failure_reason(&e)))
    }
}

/// The status, and the server's own words where it gives any.
fn refusal(answer: Response) -> String {
    let status = status_line(answer.status());
    match answer.bytes().map(|body| error_message(&body)) {
        Ok(said) if !said.is_empty() => format!("HTTP {status}: {said}"),
        _ => format!("HTTP {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_or_without_the_version() {
        for base in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(Server::new(base, None, None).unwrap().base, "http://h:1");
        }
        for base in ["", "sim", "127.0.0.1:8000", "ftp://h", "http://me:secret@h:1", "http://h/?key=secret"] {
            assert_eq!(Server::new(base, None, None).unwrap_err().exit_code(), 2, "{base}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let server = Server::new("http://h:1", None, Some("sk-secret".into())).unwrap();
        assert!(!format!("{server:?}").contains("secret"));
        for base in ["http://me:secret@h:1", "http://h/?key=secret", "h?key=secret"] {
            assert!(!Server::new(base, None, None).unwrap_err().to_string().contains("secret"));
        }
    }
}
