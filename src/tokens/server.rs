//! The tokenizer of a running server, through its `/tokenize` and `/detokenize` endpoints.

use hyper::header::HeaderMap;
use reqwest::{
    StatusCode,
    blocking::{Client, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::chat::ChatInput;
use crate::{
    error::{Error, strip_location},
    http::{
        client::{failure_reason, read_blocking_body, server_client},
        connection::{parse_base_url, server_root},
        error_text::error_message,
        exchange::status_line,
    },
};

/// The longest response that is read, in bytes: some million token ids, each with its text.
const MAX_TOKENS_BODY: usize = 64 << 20;

/// The longest error that is read, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;

/// What a server without vLLM's endpoints is.
const OTHER_KIND: &str = "the server is of another kind, without vLLM's tokenizer endpoints";

/// The address of the server, and a client that sends the headers of the user.
#[derive(Clone)]
pub struct TokenizerServer {
    client: Client,
    /// Without a trailing slash.
    base: String,
    model: Option<String>,
}

/// Not derived: a key in the headers must not appear in a message.
impl std::fmt::Debug for TokenizerServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenizerServer").field("base", &self.base).field("model", &self.model).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct TokenizeResponse {
    count: usize,
    #[serde(default)]
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct DetokenizeResponse {
    prompt: String,
}

impl TokenizerServer {
    /// The server at `base_url`. `model` is the name sent to it; `headers` are sent with each request. With `insecure` its TLS
    /// certificate is not checked.
    pub fn new(base_url: &str, model: Option<String>, headers: &HeaderMap, insecure: bool) -> Result<Self, Error> {
        let url = parse_base_url(base_url)?;
        let client = server_client(&url, headers, insecure)?;
        Ok(TokenizerServer { client, base: server_root(&url).to_owned(), model })
    }

    /// The token ids of a text.
    pub(super) fn tokenize_text(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let tokens: TokenizeResponse =
            self.post_json("/tokenize", json!({"prompt": text, "add_special_tokens": special}))?;
        Ok(tokens.tokens)
    }

    /// The number of tokens of a chat, template included.
    pub(super) fn count_chat(&self, chat: ChatInput) -> Result<usize, Error> {
        Ok(self.request_chat(chat)?.count)
    }

    /// The token ids of a chat, template included.
    pub(super) fn tokenize_chat(&self, chat: ChatInput) -> Result<Vec<u32>, Error> {
        Ok(self.request_chat(chat)?.tokens)
    }

    fn request_chat(&self, chat: ChatInput) -> Result<TokenizeResponse, Error> {
        let mut body = json!({"messages": chat.messages, "add_generation_prompt": true});
        for key in ["tools", "chat_template_kwargs"] {
            if let Some(value) = chat.body_value(key) {
                body[key] = value.clone();
            }
        }
        self.post_json("/tokenize", body)
    }

    /// The text of token ids.
    pub(super) fn detokenize_ids(&self, ids: &[u32]) -> Result<String, Error> {
        let text: DetokenizeResponse = self.post_json("/detokenize", json!({"tokens": ids}))?;
        Ok(text.prompt)
    }

    fn post_json<T: DeserializeOwned>(&self, path: &str, mut body: Value) -> Result<T, Error> {
        if let Some(model) = &self.model {
            body["model"] = json!(model);
        }
        let request = self.client.post(format!("{}{path}", self.base)).json(&body);
        let failed = |what: String| {
            let cure = "set --tokenizer to a tokenizer.json, its folder, or an id on the hub instead";
            Error::Setup(format!("cannot tokenize at {}: {what}; {cure}", format_args!("{}{path}", self.base)))
        };
        let response = request.send().map_err(|e| failed(failure_reason(&e)))?;
        if !response.status().is_success() {
            return Err(failed(describe_failure(response)));
        }
        let body = read_blocking_body(response, MAX_TOKENS_BODY).map_err(|e| failed(e.to_string()))?;
        let unexpected = |e| format!("this is not vLLM's response ({}): {OTHER_KIND}", strip_location(&e));
        serde_json::from_slice(&body).map_err(|e| failed(unexpected(e)))
    }
}

/// The status, and the server's error message if there is one.
fn describe_failure(response: Response) -> String {
    let code = response.status();
    let status = status_line(code);
    let missing = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(&code);
    match read_blocking_body(response, MAX_ERROR_BODY).map(|body| error_message(&body)) {
        // vLLM has no such model; other servers have no such page.
        Ok(message) if !message.is_empty() && (!missing || message.contains("model")) => {
            format!("HTTP {status}: {message}")
        }
        _ if missing => format!("HTTP {status}: {OTHER_KIND}"),
        _ => format!("HTTP {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::flags_or_key;

    #[test]
    fn an_address_is_taken_with_or_without_the_version() {
        for base in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(TokenizerServer::new(base, None, &HeaderMap::new(), false).unwrap().base, "http://h:1");
        }
        for base in ["", "sim", "127.0.0.1:8000", "ftp://h", "http://me:secret@h:1", "http://h/?key=secret"] {
            assert_eq!(
                TokenizerServer::new(base, None, &HeaderMap::new(), false).unwrap_err().exit_code(),
                2,
                "{base}"
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let headers = flags_or_key(&[], Some("sk-secret".into())).unwrap();
        let server = TokenizerServer::new("http://h:1", None, &headers, false).unwrap();
        assert!(!format!("{server:?}").contains("secret"));
        for base in ["http://me:secret@h:1", "http://h/?key=secret", "h?key=secret"] {
            assert!(
                !TokenizerServer::new(base, None, &HeaderMap::new(), false).unwrap_err().to_string().contains("secret")
            );
        }
    }
}
