//! HTTP off the stopwatch: questions to a server about itself, and to the hub.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Url, blocking, header::HeaderMap};

use super::tls;
use crate::{
    error::{Error, root_cause},
    units::Nanos,
};

/// A client for code that may wait, which asks the server under test: never through a proxy.
pub fn server_client() -> Result<blocking::Client, Error> {
    blocking_builder().no_proxy().build().map_err(|e| setup_error(&e))
}

/// A client for code that may wait, which asks the hub: through the proxy of the environment, if there is one.
pub fn hub_client() -> Result<blocking::Client, Error> {
    blocking_builder().build().map_err(|e| setup_error(&e))
}

fn blocking_builder() -> blocking::ClientBuilder {
    tls::install_provider();
    blocking::Client::builder().connect_timeout(Duration::from_secs(10)).timeout(Duration::from_mins(5))
}

/// A client for tasks of a runtime, which sends `headers` with each question to `base`, asks only once and follows no
/// redirect; with `proxies` through that of the environment, if there is one.
pub fn async_client(
    base: &Url,
    headers: HeaderMap,
    insecure: bool,
    timeout: Nanos,
    proxies: bool,
) -> Result<Client, Error> {
    let mut client = async_builder(insecure, timeout).default_headers(headers).timeout(timeout.to_duration());
    if !proxies {
        client = client.no_proxy();
        if base.scheme() == "http" {
            // To read the system's certificates takes longer than all else that is done before the first request.
            client = client.tls_certs_only([]);
        }
    }
    client.build().map_err(|e| setup_error(&e))
}

/// A client for answers that are read as they come: through the proxy of the environment, if there is one.
pub fn streaming_client(keep_alive: bool, insecure: bool, connect: Nanos) -> Result<Client, Error> {
    async_builder(insecure, connect)
        .pool_max_idle_per_host(if keep_alive { usize::MAX } else { 0 })
        .pool_idle_timeout(Duration::from_secs(4))
        .tcp_nodelay(true)
        .build()
        .map_err(|e| setup_error(&e))
}

/// What clients for tasks of a runtime have in common: nothing is asked twice, or elsewhere.
fn async_builder(insecure: bool, connect: Nanos) -> ClientBuilder {
    tls::install_provider();
    Client::builder()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .danger_accept_invalid_certs(insecure)
        .connect_timeout(connect.to_duration())
}

fn setup_error(e: &reqwest::Error) -> Error {
    Error::Setup(format!("cannot set up HTTP: {}", failure_reason(e)))
}

/// Why a question has no answer. Never the address, in which a password may stand.
#[must_use]
pub fn failure_reason(e: &reqwest::Error) -> String {
    if std::error::Error::source(e).is_none() {
        return "the request failed".into();
    }
    root_cause(e)
}
