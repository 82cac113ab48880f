//! Connections to one server: opened, used again, and watched by [`Stamps`].

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    stamp::{Stamped, Stamps},
    tls,
};
use crate::{
    clock::Clock,
    error::{Error, root_cause},
    record::ErrorKind,
    units::{Nanos, SECOND},
};

/// An idle connection older than this is not used again: uvicorn, under vLLM, closes after five seconds, and a request
/// that meets the closing would fail without the server's fault.
const IDLE_LIMIT: Nanos = Nanos(4 * SECOND);

/// A failure of one request: its kind and a line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed.
    pub kind: ErrorKind,
    /// In words.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }
}

/// The server, with its name resolved once: a look-up is no part of a request's time.
#[derive(Debug, Clone)]
pub struct Server {
    url: Url,
    addresses: Vec<SocketAddr>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    connect_timeout: Nanos,
    /// Whether a connection is used again.
    pub keep_alive: bool,
}

/// Parses `--base-url`.
///
/// # Errors
/// Says what is wrong with it; a password in it is not repeated.
pub fn parse_base_url(text: &str) -> Result<Url, Error> {
    let wrong = |what: &str| Error::Usage(format!("--base-url {what}, as in http://127.0.0.1:8000"));
    if text == "sim" {
        return Err(wrong("`sim` is for scripts/sweep.sh, which starts vb-sim by itself; here give vb-sim's URL"));
    }
    let url = Url::parse(text).map_err(|e| wrong(&format!("`{text}` is not a URL ({e}): give one")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong(&format!("`{text}` is not a server: begin it with http:// or https://")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds a user or password: use --header Authorization=… and give the URL without them"));
    }
    Ok(url)
}

/// `base` and `endpoint` as one URL; a `/v1` at the end of the one and the start of the other is the same.
#[must_use]
pub fn join(base: &Url, endpoint: &str) -> String {
    let base = base.as_str().split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let endpoint = format!("/{}", endpoint.trim_start_matches('/'));
    match base.strip_suffix("/v1") {
        Some(root) if endpoint.starts_with("/v1/") => format!("{root}{endpoint}"),
        _ => format!("{base}{endpoint}"),
    }
}

impl Server {
    /// Looks the host's name up.
    pub async fn resolve(url: &Url, insecure: bool, connect_timeout: Nanos) -> Result<Self, Failure> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let no_address = |e: String| Failure::new(ErrorKind::Dns, format!("the name {host} has no address: {e}"));
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host.as_str(), port)).await.map_err(|e| no_address(e.to_string()))?.collect();
        if addresses.is_empty() {
            return Err(no_address("none found".into()));
        }
        let tls = if url.scheme() == "https" {
            let failed = |e: String| Failure::new(ErrorKind::Tls, e);
            let name = ServerName::try_from(host.clone()).map_err(|e| failed(e.to_string()))?;
            Some((tls::client_config(insecure).map_err(|e| failed(e.to_string()))?, name))
        } else {
            None
        };
        Ok(Server { url: url.clone(), addresses, tls, connect_timeout, keep_alive: true })
    }

    /// Tries this address first from now on: a name may have one that does not answer, and trying it costs time.
    pub fn prefer(&mut self, address: SocketAddr) {
        self.addresses.sort_by_key(|other| *other != address);
    }

    /// Host and port, for people.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.url.authority()
    }

    /// Opens a connection.
    pub async fn connect(&self, clock: Clock) -> Result<Connection, Failure> {
        let begun = clock.now();
        let limit = self.connect_timeout.duration();
        let (tcp, address) = self.connect_tcp(limit).await?;
        let connected = clock.now();
        let stamps = Stamps::new(clock);
        let io = Stamped::new(tcp, Arc::clone(&stamps));
        let Some((config, name)) = &self.tls else {
            let sender = drive(io).await?;
            let connect = connected.since(begun);
            return Ok(Connection { sender, stamps, address, connect, tls: None, idle_since: connected });
        };
        let left = limit.saturating_sub(connected.since(begun).duration());
        let handshake = TlsConnector::from(Arc::clone(config)).connect(name.clone(), io);
        let io = timeout(left.max(Duration::from_millis(1)), handshake)
            .await
            .map_err(|_| self.too_slow("TLS handshake"))?
            .map_err(|e| Failure::new(ErrorKind::Tls, format!("TLS with {}: {e}", self.authority())))?;
        let secured = clock.now();
        let sender = drive(io).await?;
        let tls = Some(secured.since(connected));
        Ok(Connection { sender, stamps, address, connect: connected.since(begun), tls, idle_since: secured })
    }

    /// The first address that answers; each has its share of `limit`, so that one that is silent leaves time for others.
    async fn connect_tcp(&self, limit: Duration) -> Result<(TcpStream, SocketAddr), Failure> {
        let share = limit / u32::try_from(self.addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut failure = self.too_slow("connection");
        for address in &self.addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => {
                    // Without it the kernel may hold the end of a request back for a round trip.
                    let _ = tcp.set_nodelay(true);
                    return Ok((tcp, *address));
                }
                Ok(Err(e)) => {
                    let message = format!("connecting to {}: {}", self.authority(), root_cause(&e));
                    failure = Failure::new(ErrorKind::Connect, message);
                }
                Err(_) => failure = self.too_slow("connection"),
            }
        }
        Err(failure)
    }

    fn too_slow(&self, what: &str) -> Failure {
        let message = format!("no {what} to {} within {}", self.authority(), self.connect_timeout);
        Failure::new(ErrorKind::TimeoutConnect, message)
    }
}

/// Starts the task that drives a connection.
async fn drive<T>(io: T) -> Result<SendRequest<Full<Bytes>>, Failure>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|e| Failure::new(ErrorKind::Connect, format!("HTTP/1.1 set-up: {e}")))?;
    // An error of the connection reaches the request in flight as well, which reports it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// An open connection, carrying one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Its moments.
    pub stamps: Arc<Stamps>,
    /// The server's address.
    pub address: SocketAddr,
    /// How long the TCP connection took.
    pub connect: Nanos,
    /// How long the TLS handshake took.
    pub tls: Option<Nanos>,
    idle_since: Nanos,
}

impl Connection {
    /// Sends a request and waits for the head of the answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.stamps.begin();
        self.sender.send_request(request).await
    }
}

/// The idle connections to one server.
#[derive(Debug)]
pub struct Pool {
    /// Where to.
    pub server: Server,
    clock: Clock,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// Without a connection yet.
    #[must_use]
    pub fn new(server: Server, clock: Clock) -> Self {
        Pool { server, clock, idle: Mutex::default() }
    }

    /// A connection, and whether it was used before.
    pub async fn take(&self) -> Result<(Connection, bool), Failure> {
        let now = self.clock.now();
        loop {
            let Some(mut connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() else { break };
            // `ready` tells at once, by an error, whether the server has closed it meanwhile.
            let fresh = now.since(connection.idle_since) < IDLE_LIMIT && !connection.sender.is_closed();
            if fresh && connection.sender.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        Ok((self.server.connect(self.clock).await?, false))
    }

    /// Gives a connection back whose answer was read to its end.
    pub fn put(&self, mut connection: Connection) {
        if self.server.keep_alive && !connection.sender.is_closed() {
            connection.idle_since = self.clock.now();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        for (base, endpoint, want) in [
            ("http://h:1", "/v1/completions", "http://h:1/v1/completions"),
            ("http://h:1/", "v1/completions", "http://h:1/v1/completions"),
            ("http://h:1/v1", "/v1/completions", "http://h:1/v1/completions"),
            ("https://h/api/v1/", "/v1/completions", "https://h/api/v1/completions"),
            ("https://h/api", "/generate", "https://h/api/generate"),
        ] {
            assert_eq!(join(&parse_base_url(base).unwrap(), endpoint), want);
        }
        for bad in ["localhost:8000", "", "ftp://h", "http://", "sim", "http://u:secret@h"] {
            let error = parse_base_url(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
