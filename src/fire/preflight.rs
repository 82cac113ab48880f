//! Checks before and after the load: whether the server can be reached, and which models it has.

use reqwest::{Client, StatusCode, Url};
use tokio::time::sleep;

use super::{added_keys::added_key_cure, headers::Headers, models::ModelList, stop::StopReason, tally::FrequentError};
use crate::{
    backend::Backend,
    clock::Clock,
    error::Error,
    http::{
        body::BodyFormat,
        client::{self, BodyError},
        connection::{HTTP_2_ONLY, ServerAddress, join_url, server_root},
        error_text::error_message,
        exchange::{COMPRESSED, RequestFailure, status_line},
        portable,
    },
    record::ErrorKind,
    units::{Nanos, SECOND},
};

/// Time between two attempts of the ready check.
const RETRY_INTERVAL: Nanos = Nanos(SECOND / 2);

/// The longest list of models that is read, in bytes.
const MAX_MODEL_LIST: usize = 4 << 20;

/// A name in a list of models that is not the name of a model.
const UNKNOWN_MODEL: &str = "unknown";

const NO_MODEL: &str = "no --model was given, and querying the server for one failed";

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
        let client = client::async_client(base, &headers.map, insecure, timeout, proxies)?;
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
            match self.check_ready().await {
                Ok(()) => return Ok(()),
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

    /// Lists the models, and then looks at `/health`: some servers list a model that they are still loading.
    async fn check_ready(&self) -> Result<(), PreflightError> {
        self.list_models().await?;
        let url = format!("{}/health", server_root(&self.base));
        match self.client.get(&url).send().await {
            Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Err(PreflightError::Retry(format!("{url} responded with HTTP {}", status_line(response.status()))))
            }
            _ => Ok(()),
        }
    }

    /// The first model that the server lists, for users who do not name one.
    pub async fn first_model(&self) -> Result<String, Error> {
        match self.list_models().await {
            Ok(models) => match models.names.into_iter().next() {
                // A router writes this before it knows what its servers have.
                Some(model) if model == UNKNOWN_MODEL => Err(Error::Usage(format!(
                    "{} lists a model named `{UNKNOWN_MODEL}`, which is probably none: use --model",
                    self.base
                ))),
                Some(model) => Ok(model),
                None => {
                    let (url, missing) = (join_url(&self.base, "/v1/models"), models.missing);
                    Err(Error::Usage(format!("{url} lists no model ({missing}): use --model")))
                }
            },
            Err(PreflightError::Fatal(why)) => Err(Error::Setup(format!("{NO_MODEL}: {why}"))),
            Err(PreflightError::Retry(why)) => {
                Err(Error::Setup(format!("{NO_MODEL}: {why}; use --model, or {STARTING_CURE}")))
            }
        }
    }

    /// The models that the server lists; empty if it does not respond to the query.
    pub async fn known_models(&self) -> Vec<String> {
        let mut models = self.list_models().await.unwrap_or_default().names;
        models.retain(|model| model != UNKNOWN_MODEL);
        models
    }

    async fn list_models(&self) -> Result<ModelList, PreflightError> {
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
            self.headers.scrub_text(&format!("{url} responded with HTTP {status}: {}", error_message(&body)))
        };
        match status {
            status if status.is_success() => ModelList::parse(&body).ok_or_else(|| {
                PreflightError::Fatal(format!("{url} did not respond with a list of models: is --base-url right?"))
            }),
            // The server responds, but does not have this endpoint, or fails there although it serves requests.
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::NOT_IMPLEMENTED => Ok(ModelList::empty(format!("HTTP {}", status_line(status)))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let cure = if self.headers.has_key() { SENT_KEY_CURE } else { KEY_CURE };
                Err(PreflightError::Fatal(format!("{}; {cure}", describe())))
            }
            status if status.is_redirection() => Err(PreflightError::Fatal(format!("{}; {REDIRECT_CURE}", describe()))),
            _ => Err(PreflightError::Retry(describe())),
        }
    }
}

const KEY_CURE: &str = "set OPENAI_API_KEY, or use --header Authorization='Bearer KEY'";

const SENT_KEY_CURE: &str = "the server refuses the key that was sent: check OPENAI_API_KEY, or the key in --header";

const STARTING_CURE: &str = "if it is still starting, --ready-check 60s waits for it";

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

/// What is known about a run when its requests fail.
#[derive(Debug)]
pub struct FailureContext<'a> {
    /// The API that the requests used.
    pub backend: &'static Backend,
    /// Where they went.
    pub endpoint: &'a str,
    /// The model that they asked for.
    pub model: &'a str,
    /// Whether a key was sent.
    pub has_key: bool,
    /// The models of the server; empty if unknown.
    pub models: Vec<String>,
}

/// Whether a failure may be due to the model, so that the models of the server help: there is no such path, or the message says
/// that the model is missing. (Others name the model too: "This model's maximum context length is …".)
#[must_use]
pub fn concerns_model(most: &FrequentError) -> bool {
    let message = most.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    let missing = says(&["model"])
        && (says(&[
            "not found",
            "not_found",
            "not exist",
            "unknown",
            "no such",
            "invalid model",
            "not served",
            "not available",
        ]) || says(&["not support"]) && says(&["api"]));
    most.status.is_some_and(|status| status == 404 || (400..500).contains(&status) && missing)
}

/// What the user can do about the most frequent error of requests.
#[must_use]
pub fn error_cure(most: &FrequentError, context: &FailureContext<'_>) -> String {
    let FailureContext { backend, endpoint, model, has_key, models } = context;
    let not_streamed = format!("the server answered {}, not ", BodyFormat::Json.media_type().1);
    let streamed = format!("the server answered {}, not ", BodyFormat::Events.media_type().1);
    match (most.kind, most.status) {
        (ErrorKind::HttpStatus, Some(400..500)) if let Some(cure) = added_key_cure(&most.message) => cure,
        (ErrorKind::HttpStatus, Some(_)) if concerns_model(most) && models.iter().any(|known| known == model) => {
            format!(
                "the server has the model {model}: does it offer {endpoint} for it? try another --backend than {}, or \
                 --endpoint",
                backend.name
            )
        }
        (ErrorKind::HttpStatus, Some(_)) if concerns_model(most) && !models.is_empty() => {
            format!("the server has no model {model}; use --model with one of: {}", list_names(models))
        }
        (ErrorKind::HttpStatus, Some(404)) => {
            format!("the server may not have {endpoint}: check --backend, --endpoint, --model and the path of --base-url")
        }
        (ErrorKind::HttpStatus, Some(401 | 403)) if *has_key => SENT_KEY_CURE.into(),
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
        (ErrorKind::Protocol, _) if most.message.starts_with(&streamed) => {
            "it streams although --no-stream was given: leave --no-stream out".into()
        }
        (ErrorKind::Protocol, _) => {
            format!("does --base-url speak the API of --backend {}, and is --endpoint its path?", backend.name)
        }
        (kind, status) => failure_cure(kind, &most.message, status).into(),
    }
}

/// The most names that a message lists.
const MAX_LISTED: usize = 10;

fn list_names(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_LISTED);
    let listed = names[..names.len() - more].join(", ");
    if more > 0 { format!("{listed} and {more} more") } else { listed }
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
        (ErrorKind::HttpStatus, Some(503)) => STARTING_CURE,
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

    fn context(model: &str, has_key: bool, models: &[&str]) -> FailureContext<'static> {
        FailureContext {
            backend: Backend::from_name("ollama").unwrap(),
            endpoint: "/api/chat",
            model: model.to_owned().leak(),
            has_key,
            models: models.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn the_cure_of_a_status_fits_what_is_known() {
        for (status, message, context, want) in [
            (404, "Not Found", context("m", false, &["m", "n"]), "has the model m: does it offer /api/chat for it?"),
            (404, "model not found", context("m", false, &["n", "o"]), "has no model m; use --model with one of: n, o"),
            (400, "Request for unknown model: 'm'", context("m", false, &["n"]), "has no model m"),
            (400, "The model does not support Chat Completions API", context("m", false, &["m"]), "has the model m"),
            (400, "This model's maximum context length is 8 tokens", context("m", false, &["m"]), "rejects these"),
            (400, "too long", context("m", false, &["n"]), "rejects these requests"),
            (404, "Not Found", context("m", false, &[]), "may not have /api/chat"),
            (401, "no", context("m", true, &[]), "refuses the key that was sent"),
            (401, "no", context("m", false, &[]), "set OPENAI_API_KEY"),
            (503, "Loading model", context("m", false, &[]), "--ready-check 60s"),
        ] {
            let most =
                FrequentError { kind: ErrorKind::HttpStatus, status: Some(status), message: message.into(), count: 1 };
            let cure = error_cure(&most, &context);
            assert!(cure.contains(want), "{status} {message}: {cure}");
        }
        let many: Vec<String> = (0..30).map(|i| i.to_string()).collect();
        assert_eq!(list_names(&many), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more");
    }

    #[test]
    fn the_cure_of_a_broken_response_fits_what_arrived() {
        let cure = |message: &str| {
            let most =
                FrequentError { kind: ErrorKind::Protocol, status: Some(200), message: message.into(), count: 1 };
            error_cure(&most, &context("m", false, &[]))
        };
        for (message, want) in [
            ("the response is not lines of JSON: x", "--backend ollama"),
            ("the server answered JSON, not an event stream: x", "use --no-stream"),
            ("the server answered an event stream, not JSON: x", "leave --no-stream out"),
            ("the server compresses its responses (gzip)", "turn compression off"),
        ] {
            assert!(cure(message).contains(want), "{message}");
        }
    }
}
