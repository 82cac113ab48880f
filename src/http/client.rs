//! HTTP that is not measured: requests about the server under test, and to the Hugging Face hub.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Url, blocking, header::HeaderMap};

use super::tls;
use crate::{
    error::{Error, root_cause},
    units::Nanos,
};

/// A blocking client for the server under test; never uses a proxy.
pub fn server_client() -> Result<blocking::Client, Error> {
    blocking_builder().no_proxy().build().map_err(|e| setup_error(&e))
}

/// A blocking client for the Hugging Face hub; uses the proxy of the environment, if there is one.
pub fn hub_client() -> Result<blocking::Client, Error> {
    blocking_builder().build().map_err(|e| setup_error(&e))
}

fn blocking_builder() -> blocking::ClientBuilder {
    tls::install_provider();
    blocking::Client::builder().connect_timeout(Duration::from_secs(10)).timeout(Duration::from_mins(5))
}

/// An async client that sends `headers` with each request to `base`, sends each request once and does not follow redirects. With
/// `proxies` it uses the proxy of the environment, if there is one.
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
            // Reading the system's certificates takes longer than everything else before the first request.
            client = client.tls_certs_only([]);
        }
    }
    client.build().map_err(|e| setup_error(&e))
}

/// An async client for streamed responses; uses the proxy of the environment, if there is one.
pub fn streaming_client(keep_alive: bool, insecure: bool, connect: Nanos) -> Result<Client, Error> {
    async_builder(insecure, connect)
        .pool_max_idle_per_host(if keep_alive { usize::MAX } else { 0 })
        .pool_idle_timeout(Duration::from_secs(4))
        .tcp_nodelay(true)
        .build()
        .map_err(|e| setup_error(&e))
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
