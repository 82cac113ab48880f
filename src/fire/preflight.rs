//! What is asked of the server before and after the load: is it there, and which models has it?

use reqwest::{Client, StatusCode, Url};
use serde_json::Value;
use tokio::time::sleep;

use super::{headers::Headers, stop::Why, tally::Frequent};
use crate::{
    backend::Backend,
    clock::Clock,
    error::Error,
    http::{
        client,
        connection::{ServerAddress, join_url},
        exchange::{BodyFormat, COMPRESSED, RequestFailure, error_message, status_line},
        portable,
    },
    record::ErrorKind,
    units::{Nanos, SECOND},
};

/// Between two tries of the ready check.
const PAUSE: Nanos = Nanos(SECOND / 2);

/// Asks a server about itself.
#[derive(Debug)]
pub struct Preflight {
    client: Client,
    base: Url,
    scrub: Headers,
}

/// How an answer to a question went wrong.
enum Trouble {
    /// It may be well later: no connection, or the server is starting.
    Later(String),
    /// It will not be better later.
    Final(String),
}

impl Preflight {
    /// Will send `headers` with each question, with `proxies` through that of the environment.
    pub fn new(base: &Url, headers: &Headers, insecure: bool, timeout: Nanos, proxies: bool) -> Result<Self, Error> {
        let client = client::async_client(base, headers.map.clone(), insecure, timeout, proxies)?;
        Ok(Preflight { client, base: base.clone(), scrub: headers.clone() })
    }

    /// Asks once, so that a server that is not there is told once and not by every request. Any answer will do.
    pub async fn reachable(&self) -> Result<(), Error> {
        match self.client.get(join_url(&self.base, "/v1/models")).send().await {
            Err(e) if e.is_connect() => Err(not_there(&portable::failure_before_head(&e))),
            _ => Ok(()),
        }
    }

    /// Waits until the server answers, for at most `limit`.
    pub async fn ready(&self, limit: Nanos) -> Result<(), Error> {
        let clock = Clock::start();
        loop {
            match self.models().await {
                Ok(_) => return Ok(()),
                Err(Trouble::Final(why)) => return Err(Error::Setup(why)),
                Err(Trouble::Later(why)) if clock.now() + PAUSE > limit => {
                    return Err(Error::Setup(format!(
                        "the server was not ready within {limit} (--ready-check): {why}"
                    )));
                }
                Err(Trouble::Later(_)) => sleep(PAUSE.to_duration()).await,
            }
        }
    }

    /// The first model that the server names, when the user names none.
    pub async fn model(&self) -> Result<String, Error> {
        match self.models().await {
            Ok(models) => models
                .into_iter()
                .next()
                .ok_or_else(|| Error::Usage(format!("{} names no model at /v1/models: give --model", self.base))),
            Err(Trouble::Later(why) | Trouble::Final(why)) => {
                Err(Error::Setup(format!("no --model was given, and asking the server for one failed: {why}")))
            }
        }
    }

    /// The models that the server names; none if it does not answer the question.
    pub async fn known_models(&self) -> Vec<String> {
        self.models().await.unwrap_or_default()
    }

    async fn models(&self) -> Result<Vec<String>, Trouble> {
        let url = join_url(&self.base, "/v1/models");
        let response = self.client.get(&url).send().await.map_err(|e| Trouble::Later(no_answer(&url, &e)))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|e| Trouble::Later(no_answer(&url, &e)))?;
        let said = || {
            let status = status_line(status);
            self.scrub.scrub(format!("{url} answered HTTP {status}: {}", error_message(&body)))
        };
        match status {
            StatusCode::OK => {
                let list: Value = serde_json::from_slice(&body).unwrap_or_default();
                let Some(models) = list.get("data").and_then(Value::as_array) else {
                    return Err(Trouble::Final(format!("{url} answered no list of models: is --base-url right?")));
                };
                Ok(models.iter().filter_map(|m| m.get("id")?.as_str()).map(str::to_owned).collect())
            }
            // It answers, it only has no such page.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(vec![]),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Trouble::Final(format!("{}; {KEY}", said()))),
            status if status.is_redirection() => Err(Trouble::Final(format!("{}; {MOVED}", said()))),
            _ => Err(Trouble::Later(said())),
        }
    }
}

const KEY: &str = "set OPENAI_API_KEY, or give --header Authorization='Bearer KEY'";

const MOVED: &str = "redirects are not followed: give the final address as --base-url";

fn no_answer(url: &str, e: &reqwest::Error) -> String {
    format!("{url} does not answer ({})", client::failure_reason(e))
}

/// Opens one connection, so that a server that is not there is told once and not by every request.
pub async fn connect(url: &Url, insecure: bool, timeout: Nanos) -> Result<ServerAddress, Error> {
    let mut server = ServerAddress::resolve(url, insecure, timeout).await.map_err(|failure| not_there(&failure))?;
    let connection = server.connect(Clock::start()).await.map_err(|failure| not_there(&failure))?;
    server.prefer_address(connection.address);
    Ok(server)
}

fn not_there(failure: &RequestFailure) -> Error {
    Error::Setup(format!("{}; {}", failure.message, cure(failure.kind, &failure.message, None)))
}

/// What the user may do about the failure of requests to `backend`. `models`: those that the server has, where it was asked.
#[must_use]
pub fn cure_of(most: &Frequent, backend: &Backend, models: &[String]) -> String {
    let in_one_piece = format!("the server answered {}, not ", BodyFormat::Json.media_type().0);
    match (most.kind, most.status) {
        (ErrorKind::HttpStatus, Some(404)) if !models.is_empty() => {
            format!("the server has: {}; check --model and --endpoint", models.join(", "))
        }
        (ErrorKind::Protocol, _) if most.message.starts_with(COMPRESSED) => {
            "turn that off at the server or at the proxy before it; without --header accept-encoding it is asked not to"
                .into()
        }
        (ErrorKind::Protocol, _) if most.message.starts_with(&in_one_piece) => {
            "if it does not stream, give --no-stream; else see its message".into()
        }
        (ErrorKind::Protocol, _) => {
            format!("does --base-url speak the API of --backend {}, and is --endpoint its path?", backend.name)
        }
        (kind, status) => cure(kind, &most.message, status).into(),
    }
}

/// What the user may do about a failure.
#[must_use]
pub fn cure(kind: ErrorKind, message: &str, status: Option<u16>) -> &'static str {
    match (kind, status) {
        (ErrorKind::Connect, _) if message.contains("open files") => "raise `ulimit -n`, or give --max-concurrency",
        (ErrorKind::Connect, _) => "is the server running, and is --base-url right? (--ready-check 60s waits for it)",
        (ErrorKind::Dns, _) => "check the name in --base-url",
        (ErrorKind::Tls, _) => "check the server's certificate; --insecure accepts any, http:// uses none",
        (ErrorKind::TimeoutConnect, _) => "is the address right, or does a firewall drop the packets?",
        (ErrorKind::TimeoutFirstToken | ErrorKind::TimeoutStall | ErrorKind::TimeoutTotal, _) => {
            "look at the server, lower the load, or raise the limit"
        }
        (ErrorKind::HttpStatus, Some(401 | 403)) => KEY,
        (ErrorKind::HttpStatus, Some(404)) => "check --model, --endpoint and the path of --base-url",
        (ErrorKind::HttpStatus, Some(429)) => "the server limits its load: lower --request-rate or --max-concurrency",
        (ErrorKind::HttpStatus, Some(300..400)) => MOVED,
        (ErrorKind::HttpStatus, Some(400..500)) => "the server does not take these requests: see its message",
        (ErrorKind::Reset, _) => {
            "look at the server's log; for one that closes connections after each answer, give --no-keep-alive"
        }
        (ErrorKind::NotSent, _) if message.ends_with(Why::EarlierTurn.words()) => {
            "look at the turns that failed: the others were theirs to lead to"
        }
        (ErrorKind::NotSent, _) if message.ends_with(Why::NoReply.words()) => {
            "were the first lines of these conversations cut off?"
        }
        (ErrorKind::Cancelled | ErrorKind::NotSent, _) => "the run was ended early",
        _ => "look at the server's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_of_a_broken_answer_fits_what_came() {
        let cure = |message: &str| {
            let most = Frequent { kind: ErrorKind::Protocol, status: Some(200), message: message.into(), count: 1 };
            cure_of(&most, Backend::from_name("ollama").unwrap(), &[])
        };
        for (message, want) in [
            ("the server answered text/html, not lines of JSON: x", "--backend ollama"),
            ("the server answered application/json, not an event stream: x", "--no-stream"),
            ("the server compresses its replies (gzip)", "turn that off"),
        ] {
            assert!(cure(message).contains(want), "{message}");
        }
    }
}
