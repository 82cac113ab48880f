//! Checks before and after the load: whether the server can be reached, and which models it has.

use reqwest::{Client, StatusCode, Url};
use serde_json::Value;
use tokio::time::sleep;

use super::{headers::Headers, stop::StopReason, tally::FrequentError};
use crate::{
    backend::Backend,
    clock::Clock,
    error::Error,
    http::{
        client::{self, BodyError},
        connection::{HTTP_2_ONLY, ServerAddress, join_url},
        exchange::{BodyFormat, COMPRESSED, RequestFailure, error_message, status_line},
        portable,
    },
    record::ErrorKind,
    units::{Nanos, SECOND},
};

/// Time between two attempts of the ready check.
const RETRY_INTERVAL: Nanos = Nanos(SECOND / 2);

/// The longest list of models that is read, in bytes.
const MAX_MODEL_LIST: usize = 4 << 20;

/// Queries a server.
#[derive(Debug)]
pub struct Preflight {
    client: Client,
    base: Url,
    headers: Headers,
}

/// Why a query failed.
enum PreflightError {
    /// It may succeed later: the connection failed, or the server is starting.
    Retry(String),
    /// It will not succeed later either.
    Fatal(String),
}

impl Preflight {
    /// Sends `headers` with each query. `proxies`: use the proxy of the environment.
    pub fn new(base: &Url, headers: &Headers, insecure: bool, timeout: Nanos, proxies: bool) -> Result<Self, Error> {
        let client = client::async_client(base, headers.map.clone(), insecure, timeout, proxies)?;
        Ok(Preflight { client, base: base.clone(), headers: headers.clone() })
    }

    /// Connects once, so that an unreachable server is reported once and not by every request. Any response is fine.
    pub async fn check_reachable(&self) -> Result<(), Error> {
        match self.client.get(join_url(&self.base, "/v1/models")).send().await {
            Err(e) if e.is_connect() => Err(unreachable_error(&portable::failure_before_head(&e))),
            _ => Ok(()),
        }
    }

    /// Waits until the server responds, for at most `limit`.
    pub async fn wait_until_ready(&self, limit: Nanos) -> Result<(), Error> {
        let clock = Clock::start();
        loop {
            match self.list_models().await {
                Ok(_) => return Ok(()),
                Err(PreflightError::Fatal(why)) => return Err(Error::Setup(why)),
                Err(PreflightError::Retry(why)) if clock.now() + RETRY_INTERVAL > limit => {
                    return Err(Error::Setup(format!(
                        "the server was not ready within {limit} (--ready-check): {why}"
                    )));
                }
                Err(PreflightError::Retry(_)) => sleep(RETRY_INTERVAL.to_duration()).await,
            }
        }
    }

    /// The first model that the server lists, for users who do not name one.
    pub async fn first_model(&self) -> Result<String, Error> {
        match self.list_models().await {
            Ok(models) => models
                .into_iter()
                .next()
                .ok_or_else(|| Error::Usage(format!("{} lists no models at /v1/models: use --model", self.base))),
            Err(PreflightError::Retry(why) | PreflightError::Fatal(why)) => {
                Err(Error::Setup(format!("no --model was given, and querying the server for one failed: {why}")))
            }
        }
    }

    /// The models that the server lists; empty if it does not respond to the query.
    pub async fn known_models(&self) -> Vec<String> {
        self.list_models().await.unwrap_or_default()
    }

    async fn list_models(&self) -> Result<Vec<String>, PreflightError> {
        let url = join_url(&self.base, "/v1/models");
        let response =
            self.client.get(&url).send().await.map_err(|e| PreflightError::Retry(no_response_text(&url, &e)))?;
        let status = response.status();
        let body = client::read_body(response, MAX_MODEL_LIST).await.map_err(|e| match e {
            BodyError::TooLong(_) => PreflightError::Fatal(format!("{url}: {e}: is --base-url right?")),
            _ => PreflightError::Retry(format!("{url} does not respond ({e})")),
        })?;
        let describe = || {
            let status = status_line(status);
            self.headers.scrub_text(format!("{url} responded with HTTP {status}: {}", error_message(&body)))
        };
        match status {
            StatusCode::OK => {
                let list: Value = serde_json::from_slice(&body).unwrap_or_default();
                let Some(models) = list.get("data").and_then(Value::as_array) else {
                    return Err(PreflightError::Fatal(format!(
                        "{url} did not respond with a list of models: is --base-url right?"
                    )));
                };
                Ok(models.iter().filter_map(|m| m.get("id")?.as_str()).map(str::to_owned).collect())
            }
            // The server responds, but does not have this endpoint.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(vec![]),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(PreflightError::Fatal(format!("{}; {KEY_CURE}", describe())))
            }
            status if status.is_redirection() => Err(PreflightError::Fatal(format!("{}; {REDIRECT_CURE}", describe()))),
            _ => Err(PreflightError::Retry(describe())),
        }
    }
}

const KEY_CURE: &str = "set OPENAI_API_KEY, or use --header Authorization='Bearer KEY'";

const REDIRECT_CURE: &str = "redirects are not followed: use the final address as --base-url";

fn no_response_text(url: &str, e: &reqwest::Error) -> String {
    format!("{url} does not respond ({})", client::failure_reason(e))
}

/// Opens one connection, so that an unreachable server is reported once and not by every request.
pub async fn check_connection(url: &Url, insecure: bool, timeout: Nanos) -> Result<ServerAddress, Error> {
    let mut server =
        ServerAddress::resolve(url, insecure, timeout).await.map_err(|failure| unreachable_error(&failure))?;
    let connection = server.connect(Clock::start()).await.map_err(|failure| unreachable_error(&failure))?;
    server.prefer_address(connection.address);
    Ok(server)
}

fn unreachable_error(failure: &RequestFailure) -> Error {
    Error::Setup(format!("{}; {}", failure.message, failure_cure(failure.kind, &failure.message, None)))
}

/// What the user can do about the most frequent error of requests to `backend`. `models`: the models of the server, if known.
#[must_use]
pub fn error_cure(most: &FrequentError, backend: &Backend, models: &[String]) -> String {
    let not_streamed = format!("the server answered {}, not ", BodyFormat::Json.media_type().0);
    match (most.kind, most.status) {
        (ErrorKind::HttpStatus, Some(404)) if !models.is_empty() => {
            format!("the server has: {}; check --model and --endpoint", models.join(", "))
        }
        (ErrorKind::Protocol, _) if most.message.starts_with(COMPRESSED) => {
            "turn compression off at the server or its proxy; unless --header sets accept-encoding, vb-fire asks for none"
                .into()
        }
        (kind @ ErrorKind::Protocol, status) if most.message.starts_with(HTTP_2_ONLY) => {
            failure_cure(kind, &most.message, status).into()
        }
        (ErrorKind::Protocol, _) if most.message.starts_with(&not_streamed) => {
            "if it does not stream, use --no-stream; otherwise see its message".into()
        }
        (ErrorKind::Protocol, _) => {
            format!("does --base-url speak the API of --backend {}, and is --endpoint its path?", backend.name)
        }
        (kind, status) => failure_cure(kind, &most.message, status).into(),
    }
}

/// What the user can do about a failure.
#[must_use]
pub fn failure_cure(kind: ErrorKind, message: &str, status: Option<u16>) -> &'static str {
    match (kind, status) {
        (ErrorKind::Connect, _) if message.contains("open files") => "raise `ulimit -n`, or set --max-concurrency",
        (ErrorKind::Connect, _) => "is the server running, and is --base-url right? (--ready-check 60s waits for it)",
        (ErrorKind::Dns, _) => "check the name in --base-url",
        (ErrorKind::Tls | ErrorKind::Protocol, _) if message.contains(HTTP_2_ONLY) => {
            "the default transport speaks HTTP/1.1, which has exact timestamps"
        }
        (ErrorKind::Tls, _) => "check the server's certificate; --insecure accepts any, http:// uses none",
        (ErrorKind::TimeoutConnect, _) => "is the address right, or does a firewall drop the packets?",
        (ErrorKind::TimeoutFirstToken | ErrorKind::TimeoutStall | ErrorKind::TimeoutTotal, _) => {
            "look at the server, lower the load, or raise the limit"
        }
        (ErrorKind::HttpStatus, Some(401 | 403)) => KEY_CURE,
        (ErrorKind::HttpStatus, Some(404)) => "check --model, --endpoint and the path of --base-url",
        (ErrorKind::HttpStatus, Some(429)) => "the server limits its load: lower --request-rate or --max-concurrency",
        (ErrorKind::HttpStatus, Some(300..400)) => REDIRECT_CURE,
        (ErrorKind::HttpStatus, Some(400..500)) => "the server rejects these requests: see its message",
        (ErrorKind::Reset, _) => {
            "look at the server's log; if it closes connections after each response, use --no-keep-alive"
        }
        (ErrorKind::NotSent, _) if message.ends_with(StopReason::EarlierTurn.reason_text()) => {
            "look at the turns that failed: the others depended on them"
        }
        (ErrorKind::NotSent, _) if message.ends_with(StopReason::NoResponse.reason_text()) => {
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
    fn the_cure_of_a_broken_response_fits_what_arrived() {
        let cure = |message: &str| {
            let most =
                FrequentError { kind: ErrorKind::Protocol, status: Some(200), message: message.into(), count: 1 };
            error_cure(&most, Backend::from_name("ollama").unwrap(), &[])
        };
        for (message, want) in [
            ("the server answered text/html, not lines of JSON: x", "--backend ollama"),
            ("the server answered application/json, not an event stream: x", "--no-stream"),
            ("the server compresses its responses (gzip)", "turn compression off"),
        ] {
            assert!(cure(message).contains(want), "{message}");
        }
    }
}
