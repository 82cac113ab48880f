//! HTTP that is not measured: requests about the server under test, and to the Hugging Face hub.

use std::{fmt, io::Read, time::Duration};

use reqwest::{Client, ClientBuilder, Response, Url, blocking, header::HeaderMap};

use super::tls;
use crate::{
    clock::Clock,
    error::{Error, root_cause},
    units::{Nanos, SECOND},
};

/// The longest time for a response to a blocking client.
const BLOCKING_TIMEOUT: Nanos = Nanos(300 * SECOND);

/// A blocking client for the server under test at `base`; never uses a proxy.
pub fn server_client(base: &Url, headers: &HeaderMap, insecure: bool) -> Result<blocking::Client, Error> {
    let make = || blocking_builder().no_proxy().default_headers(headers.clone()).danger_accept_invalid_certs(insecure);
    build_client(base, || make().build(), || make().tls_certs_only([]).build())
}

/// Whether requests to `base` need no certificates: the system may have none, as in a small container.
fn is_plain(base: &Url) -> bool {
    base.scheme() == "http"
}

/// A blocking client for the Hugging Face hub; uses the proxy of the environment, if there is one.
pub fn hub_client() -> Result<blocking::Client, Error> {
    blocking_builder().build().map_err(|e| setup_error(&e))
}

fn blocking_builder() -> blocking::ClientBuilder {
    tls::install_provider();
    blocking::Client::builder().connect_timeout(Duration::from_secs(10)).timeout(BLOCKING_TIMEOUT.to_duration())
}

/// An async client that sends `headers` with each request to `base`, sends each request once and does not follow redirects. It keeps
/// no connection: a server that answers one connection at a time would not answer others. With `proxies` it uses the proxy of the environment, if there is one.
pub fn async_client(
    base: &Url,
    headers: &HeaderMap,
    insecure: bool,
    timeout: Nanos,
    proxies: bool,
) -> Result<Client, Error> {
    let make = || {
        let client = async_builder(insecure, timeout)
            .default_headers(headers.clone())
            .timeout(timeout.to_duration())
            .pool_max_idle_per_host(0);
        if proxies { client } else { client.no_proxy() }
    };
    if !proxies && is_plain(base) {
        // Reading the system's certificates takes longer than everything else before the first request.
        return make().tls_certs_only([]).build().map_err(|e| setup_error(&e));
    }
    build_client(base, || make().build(), || make().tls_certs_only([]).build())
}

/// An async client for streamed responses from `base`; uses the proxy of the environment, if there is one.
pub fn streaming_client(base: &Url, keep_alive: bool, insecure: bool, connect: Nanos) -> Result<Client, Error> {
    let make = || {
        async_builder(insecure, connect)
            .pool_max_idle_per_host(if keep_alive { usize::MAX } else { 0 })
            .pool_idle_timeout(Duration::from_secs(4))
            .tcp_nodelay(true)
    };
    build_client(base, || make().build(), || make().tls_certs_only([]).build())
}

/// A client with the system's certificates; without any if the system has none and `base` needs none.
fn build_client<C>(
    base: &Url,
    with_certificates: impl FnOnce() -> reqwest::Result<C>,
    without: impl FnOnce() -> reqwest::Result<C>,
) -> Result<C, Error> {
    let client = with_certificates().or_else(|e| if is_plain(base) { without() } else { Err(e) });
    client.map_err(|e| setup_error(&e))
}

/// The common settings of async clients: no retries and no redirects.
fn async_builder(insecure: bool, connect: Nanos) -> ClientBuilder {
    tls::install_provider();
    Client::builder()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .danger_accept_invalid_certs(insecure)
        .connect_timeout(connect.to_duration())
}

/// Why a body was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// It is longer than this limit, in bytes.
    TooLong(usize),
    /// The time limit passed.
    TimedOut,
    /// The connection failed: the reason.
    Failed(String),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::TooLong(limit) => write!(f, "the response is longer than {} KiB", limit >> 10),
            BodyError::TimedOut => f.write_str("the response took too long"),
            BodyError::Failed(reason) => f.write_str(reason),
        }
    }
}

impl From<reqwest::Error> for BodyError {
    fn from(e: reqwest::Error) -> Self {
        if e.is_timeout() { BodyError::TimedOut } else { BodyError::Failed(failure_reason(&e)) }
    }
}

/// Reads a body of at most `limit` bytes: without a limit, a server decides how much memory this machine needs.
///
/// # Errors
/// The body is longer, or reading it failed.
pub async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        append_bytes(&mut body, &bytes, limit)?;
    }
    Ok(body)
}

/// Like [`read_body`], for a blocking client, whose own time limit starts again with each read.
///
/// # Errors
/// The body is longer, or reading it failed.
pub fn read_blocking_body(mut response: blocking::Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLong(limit));
    }
    let clock = Clock::start();
    let (mut body, mut bytes) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match response.read(&mut bytes) {
            Ok(0) => return Ok(body),
            Ok(n) => append_bytes(&mut body, &bytes[..n], limit)?,
            Err(e) => return Err(BodyError::Failed(root_cause(&e))),
        }
        if clock.now() > BLOCKING_TIMEOUT {
            return Err(BodyError::TimedOut);
        }
    }
}

fn append_bytes(body: &mut Vec<u8>, bytes: &[u8], limit: usize) -> Result<(), BodyError> {
    if bytes.len() > limit.saturating_sub(body.len()) {
        return Err(BodyError::TooLong(limit));
    }
    body.extend_from_slice(bytes);
    Ok(())
}

fn setup_error(e: &reqwest::Error) -> Error {
    Error::Setup(format!("cannot set up HTTP: {}", failure_reason(e)))
}

/// Why a request got no response. Never includes the URL, which may hold a password.
#[must_use]
pub fn failure_reason(e: &reqwest::Error) -> String {
    if std::error::Error::source(e).is_none() {
        return "the request failed".into();
    }
    root_cause(e)
}
