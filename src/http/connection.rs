//! Connections to one server: opened, reused, and read with timestamps.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use reqwest::Url;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    exchange::RequestFailure,
    packets::{PacketCapture, PacketFlow},
    reuse::Reuse,
    socket::{ReadStamp, Socket},
    tls,
    tls_records::{RecordMap, RecordSocket},
};
use crate::{
    clock::Clock,
    error::{Error, root_cause},
    record::ErrorKind,
    units::{Nanos, SECOND},
};

/// A connection that was idle for longer is not reused: uvicorn, under vLLM, closes after five seconds, and a request sent while
/// it closes would fail through no fault of the server.
const MAX_IDLE: Nanos = Nanos(4 * SECOND);

/// The same for a connection that has not carried a request yet. Servers wait longer for a first request.
const MAX_UNUSED: Nanos = Nanos(20 * SECOND);

/// A connection that is closed sooner after a response was not closed for having been idle.
const PROMPT_CLOSE: Nanos = Nanos(SECOND);

/// How long retransmitted segments may go uncounted: one that is sent again was missed for a while first, mostly for 200 ms.
const COUNT_INTERVAL: Nanos = Nanos(SECOND / 10);

/// Initial size of a connection's buffer: a head, or some chunks of a stream. It grows for a head that does not fit.
const INITIAL_BUFFER: usize = 2 << 10;

/// The largest buffer that is kept for the next connection.
const MAX_SPARE: usize = 64 << 10;

thread_local! {
    /// A buffer for the connection of this thread that reads next. Most wait for a chunk and have read all before it, and then need none: the
    /// chunks of thousands of streams arrive in the same memory, which stays in the cache.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Begins the message about a server that the stamped transport cannot speak to.
pub const HTTP_2_ONLY: &str = "the server speaks HTTP/2 only";

/// The server, with its name resolved once: a DNS lookup must not count in a request's time.
#[derive(Debug, Clone)]
pub struct ServerAddress {
    url: Url,
    addresses: Vec<SocketAddr>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    connect_timeout: Nanos,
    /// Whether connections are reused.
    pub keep_alive: bool,
    /// Captures the packets of all connections, if they have to be.
    pub capture: Option<PacketCapture>,
}

/// Parses `--base-url`.
///
/// # Errors
/// Describes what is wrong with it, without repeating a password in it.
pub fn parse_base_url(text: &str) -> Result<Url, Error> {
    if text == "sim" {
        return Err(wrong_url(
            "--base-url",
            "`sim` is for scripts/sweep.sh, which starts vb-sim automatically; here give vb-sim's URL",
        ));
    }
    let url = parse_url("--base-url", text)?;
    if url.query().is_some() {
        return Err(wrong_url("--base-url", "takes no query, which belongs to the --endpoint: give a server"));
    }
    if let Some((root, path)) = split_endpoint(url.as_str()) {
        return Err(Error::Usage(format!(
            "--base-url ends with the path of an API: use {root} (--backend chooses the path, --endpoint replaces {path})"
        )));
    }
    Ok(url)
}

/// Paths of APIs, which follow the address of a server.
const ENDPOINTS: [&str; 16] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/models",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/rerank",
    "/chat/completions",
    "/api/generate",
    "/api/chat",
    "/generate_stream",
    "/generate",
    "/pooling",
    "/rerank",
];

/// Splits a URL that ends with the path of an API into the server and that path.
fn split_endpoint(url: &str) -> Option<(&str, &str)> {
    let url = url.trim_end_matches('/');
    let path = ENDPOINTS.iter().find(|path| url.ends_with(**path))?;
    Some(url.split_at(url.len() - path.len()))
}

/// Parses the URL of a server given with `flag`.
///
/// # Errors
/// Describes what is wrong with it, without repeating a password in it.
pub fn parse_url(flag: &str, text: &str) -> Result<Url, Error> {
    let wrong = |what: &str| wrong_url(flag, what);
    // A URL with a user may hold a password, and one with a query may hold a key.
    let shown = if text.contains(['@', '?']) { "what was given" } else { &format!("`{text}`") };
    let url = Url::parse(text).map_err(|e| wrong(&format!("{shown} is not a URL ({e}): give one")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong(&format!("{shown} is not a server: begin it with http:// or https://")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds a user or password: use --header Authorization=… and give the URL without them"));
    }
    Ok(url)
}

fn wrong_url(flag: &str, what: &str) -> Error {
    Error::Usage(format!("{flag} {what}, as in http://127.0.0.1:8000"))
}

/// Joins `base` and `endpoint` to one URL. `/v1` at the end of `base` and at the start of `endpoint` is written once.
#[must_use]
pub fn join_url(base: &Url, endpoint: &str) -> String {
    let endpoint = format!("/{}", endpoint.trim_start_matches('/'));
    if endpoint.starts_with("/v1/") {
        format!("{}{endpoint}", server_root(base))
    } else {
        format!("{}{endpoint}", strip_query(base))
    }
}

/// The server of `base` without the `/v1` of its API: its other pages are not below `/v1`.
#[must_use]
pub fn server_root(base: &Url) -> &str {
    let plain = strip_query(base);
    plain.strip_suffix("/v1").unwrap_or(plain)
}

/// The URL without query, fragment and trailing slash.
fn strip_query(base: &Url) -> &str {
    base.as_str().split(['?', '#']).next().unwrap_or_default().trim_end_matches('/')
}

impl ServerAddress {
    /// Resolves the host name.
    pub async fn resolve(url: &Url, insecure: bool, connect_timeout: Nanos) -> Result<Self, RequestFailure> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let no_address =
            |e: String| RequestFailure::new(ErrorKind::Dns, format!("the name {host} has no address: {e}"));
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host.as_str(), port)).await.map_err(|e| no_address(e.to_string()))?.collect();
        if addresses.is_empty() {
            return Err(no_address("none found".into()));
        }
        let tls = if url.scheme() == "https" {
            let failed = |e: String| RequestFailure::new(ErrorKind::Tls, e);
            let name = ServerName::try_from(host.clone()).map_err(|e| failed(e.to_string()))?;
            Some((tls::client_config(insecure).map_err(|e| failed(e.to_string()))?, name))
        } else {
            None
        };
        Ok(ServerAddress { url: url.clone(), addresses, tls, connect_timeout, keep_alive: true, capture: None })
    }

    /// Tries this address first: a name may have one that does not respond, and trying it costs time.
    pub fn prefer_address(&mut self, address: SocketAddr) {
        self.addresses.sort_by_key(|other| *other != address);
    }

    /// The addresses of its name.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn host_and_port(&self) -> &str {
        self.url.authority()
    }

    /// Opens a connection.
    pub async fn connect(&self, clock: Clock) -> Result<Connection, RequestFailure> {
        let begun = clock.now();
        let limit = self.connect_timeout.to_duration();
        let (tcp, address) = self.connect_tcp(limit).await?;
        let connected = clock.now();
        let packets = self.capture.as_ref().and_then(|capture| capture.watch(address, tcp.local_addr().ok()?.port()));
        let socket = Socket::new(tcp, clock);
        let (io, tls) = match &self.tls {
            None => (Io::Plain(socket), None),
            Some((config, name)) => {
                let left = limit.saturating_sub(connected.since(begun).to_duration());
                let socket = RecordSocket::new(socket, packets.is_some());
                let handshake = TlsConnector::from(Arc::clone(config)).connect(name.clone(), socket);
                let stream = timeout(left.max(Duration::from_millis(1)), handshake)
                    .await
                    .map_err(|_| self.timeout_failure("TLS handshake"))?
                    .map_err(|e| self.tls_failure(&e))?;
                (Io::Tls(Box::new(stream)), Some(clock.now().since(connected)))
            }
        };
        let mut connection = Connection {
            io,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            address,
            connect: connected.since(begun),
            tls,
            idle_since: clock.now(),
            requests: 0,
            retransmits: None,
            counted_at: clock.now(),
            records: RecordMap::default(),
            packets,
        };
        connection.retransmits = connection.socket().retransmit_count();
        Ok(connection)
    }

    fn tls_failure(&self, e: &io::Error) -> RequestFailure {
        let refused = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
        let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let what =
            if inner == Some(&refused) { format!("{HTTP_2_ONLY}: use --transport portable") } else { e.to_string() };
        RequestFailure::new(ErrorKind::Tls, format!("TLS with {}: {what}", self.host_and_port()))
    }

    /// Connects to the first address that accepts. Each has its share of `limit`, so that a silent one leaves time for others.
    async fn connect_tcp(&self, limit: Duration) -> Result<(TcpStream, SocketAddr), RequestFailure> {
        let share = limit / u32::try_from(self.addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut failure = self.timeout_failure("connection");
        for address in &self.addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok((tcp, *address)),
                Ok(Err(e)) => {
                    let message = format!("connecting to {}: {}", self.host_and_port(), root_cause(&e));
                    failure = RequestFailure::new(ErrorKind::Connect, message);
                }
                Err(_) => failure = self.timeout_failure("connection"),
            }
        }
        Err(failure)
    }

    fn timeout_failure(&self, what: &str) -> RequestFailure {
        let message = format!("no {what} to {} within {}", self.host_and_port(), self.connect_timeout);
        RequestFailure::new(ErrorKind::TimeoutConnect, message)
    }
}

/// The stream of a connection. TLS is above the socket that takes the timestamps.
#[derive(Debug)]
enum Io {
    Plain(Socket),
    Tls(Box<TlsStream<RecordSocket>>),
}

/// An open connection. It carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    /// Holds the bytes that were read and not yet used, between `start` and `end`. Empty while it waits for more without any.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The server's address.
    pub address: SocketAddr,
    /// How long the TCP connection took.
    pub connect: Nanos,
    /// How long the TLS handshake took.
    pub tls: Option<Nanos>,
    idle_since: Nanos,
    /// How many requests it has carried.
    pub requests: u32,
    /// Segments retransmitted so far, as counted at `counted_at`. Counted when a request ends, because one that is due has no time for
    /// it.
    pub retransmits: Option<u32>,
    counted_at: Nanos,
    /// Which records the bytes under TLS came from, if its packets are captured.
    pub records: RecordMap,
    /// Its packets, if they are captured.
    pub packets: Option<PacketFlow>,
}

impl Connection {
    /// The socket, which holds the timestamps.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        match &self.io {
            Io::Plain(socket) => socket,
            Io::Tls(stream) => &stream.get_ref().0.socket,
        }
    }

    /// The socket, which holds the timestamps.
    pub fn socket_mut(&mut self) -> &mut Socket {
        match &mut self.io {
            Io::Plain(socket) => socket,
            Io::Tls(stream) => &mut stream.get_mut().0.socket,
        }
    }

    fn io_stream(&mut self) -> Pin<&mut (dyn IoStream + '_)> {
        match &mut self.io {
            Io::Plain(socket) => Pin::new(socket),
            Io::Tls(stream) => Pin::new(&mut **stream),
        }
    }

    /// Writes bytes of `head` and then of `body`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
        self.io_stream().poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)])
    }

    /// Writes what TLS has buffered to the kernel.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io_stream().poll_flush(cx)
    }

    /// Reads more bytes after the unused ones; 0 at the end of the connection.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.is_empty() {
            self.buffer = SPARE.take();
            if self.buffer.is_empty() {
                self.buffer.resize(INITIAL_BUFFER, 0);
            }
        } else if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        let polled = self.poll_space(cx);
        if polled.is_pending() && self.end == 0 && self.buffer.len() <= MAX_SPARE {
            SPARE.set(mem::take(&mut self.buffer));
        }
        let read = ready!(polled)?;
        self.end += read;
        Poll::Ready(Ok(read))
    }

    /// Reads into the space after the unused bytes.
    fn poll_space(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let space = &mut self.buffer[self.end..];
        match &mut self.io {
            Io::Plain(socket) => {
                let mut space = ReadBuf::new(space);
                ready!(Pin::new(socket).poll_read(cx, &mut space))?;
                Poll::Ready(Ok(space.filled().len()))
            }
            Io::Tls(stream) => {
                // Of one record: `poll_read` would fill the space from several.
                let bytes = ready!(Pin::new(&mut **stream).poll_fill_buf(cx))?;
                let read = bytes.len().min(space.len());
                space[..read].copy_from_slice(&bytes[..read]);
                Pin::new(&mut **stream).consume(read);
                if self.packets.is_some() {
                    self.records.add_read(read, stream.get_ref().0.handed_out());
                }
                Poll::Ready(Ok(read))
            }
        }
    }

    /// The segments retransmitted since they were last counted; `None` if the system does not report them. Each count is a system
    /// call, so that a later request on the same connection counts for some requests before it. `last`: there will be none.
    pub fn count_retransmits(&mut self, now: Nanos, last: bool) -> Option<u32> {
        let before = self.retransmits?;
        if !last && now.since(self.counted_at) < COUNT_INTERVAL {
            return Some(0);
        }
        let count = self.socket().retransmit_count()?;
        (self.retransmits, self.counted_at) = (Some(count), now);
        Some(count.saturating_sub(before))
    }

    /// How many bytes of HTTP it has received. Under TLS they are only counted if its packets are captured.
    #[must_use]
    pub fn received(&self) -> u64 {
        match &self.io {
            Io::Plain(socket) => socket.received,
            Io::Tls(_) => self.records.plain,
        }
    }

    /// When the bytes of the last read arrived.
    #[must_use]
    pub fn last_stamp(&self) -> ReadStamp {
        self.socket().stamp
    }

    /// The stamp of the bytes before this place in the buffer.
    #[must_use]
    pub fn stamp_before(&self, place: usize) -> ReadStamp {
        let stamp = self.last_stamp();
        if self.packets.is_none() {
            return stamp;
        }
        ReadStamp { end: Some(self.received()), ..stamp }.before_last(self.end - place)
    }

    /// The stamp of the bytes that were used last.
    #[must_use]
    pub fn stamp_of_used(&self) -> ReadStamp {
        self.stamp_before(self.start)
    }

    /// The bytes that were read and not yet used.
    #[must_use]
    pub fn unused_bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Marks the first `count` unused bytes as used. They stay in the buffer until the next read: returns their place for
    /// [`Connection::bytes`].
    pub fn consume_bytes(&mut self, count: usize) -> usize {
        let place = self.start;
        self.start += count;
        place
    }

    /// The bytes at a place in the buffer.
    #[must_use]
    pub fn bytes(&self, place: std::ops::Range<usize>) -> &[u8] {
        &self.buffer[place]
    }

    /// Whether the server has neither closed the connection nor sent anything unasked.
    fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        self.socket_mut().ask_kernel(true);
        let read = self.io_stream().poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        self.socket_mut().ask_kernel(false);
        self.start == self.end && read.is_pending()
    }

    /// Whether it is closed by a server that does not keep connections: right after the first response on it, which did not announce
    /// that. One that is closed later has reached a limit of the server.
    fn is_never_kept(&self, now: Nanos) -> bool {
        self.requests == 1 && now.since(self.idle_since) < PROMPT_CLOSE
    }
}

/// What TCP and TLS streams have in common.
trait IoStream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> IoStream for T {}

/// The idle connections of one reader thread to one server.
#[derive(Debug)]
pub struct ConnectionPool {
    /// The server that new connections go to.
    pub server: ServerAddress,
    idle: Mutex<Idle>,
    reuse: Arc<Reuse>,
}

#[derive(Debug)]
struct Idle {
    clock: Clock,
    connections: Vec<Connection>,
}

impl ConnectionPool {
    /// An empty pool. All pools of a server share `reuse`.
    #[must_use]
    pub fn new(server: ServerAddress, clock: Clock, reuse: Arc<Reuse>) -> Self {
        ConnectionPool { server, idle: Mutex::new(Idle { clock, connections: vec![] }), reuse }
    }

    fn lock_idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock for the timestamps of its connections.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.lock_idle().clock
    }

    /// Uses this clock for all later timestamps, as when the clock of the run starts.
    pub fn set_clock(&self, clock: Clock) {
        let mut idle = self.lock_idle();
        idle.clock = clock;
        for connection in &mut idle.connections {
            (connection.idle_since, connection.counted_at) = (clock.now(), clock.now());
            connection.socket_mut().set_clock(clock);
        }
    }

    /// Takes an idle connection that is still open, if there is one.
    #[must_use]
    pub fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.lock_idle();
        let now = idle.clock.now();
        loop {
            let mut connection = idle.connections.pop()?;
            let limit = if connection.requests > 0 { MAX_IDLE } else { MAX_UNUSED };
            if now.since(connection.idle_since) < limit && self.may_reuse(&connection) {
                if connection.is_idle() {
                    return Some(connection);
                }
                self.note_close(&connection, now);
            }
        }
    }

    fn may_reuse(&self, connection: &Connection) -> bool {
        connection.requests == 0 || self.server.keep_alive && !self.reuse.has_ended()
    }

    /// Takes note that the server has closed an idle connection.
    pub fn note_close(&self, connection: &Connection, now: Nanos) {
        if connection.is_never_kept(now) {
            self.reuse.end();
        }
    }

    /// Closes the idle connections: to a server that answers one connection at a time, no other client could talk.
    pub fn close_idle(&self) {
        self.lock_idle().connections.clear();
    }

    /// Returns a connection whose response was read to its end, or adds a new one.
    pub fn put_back(&self, mut connection: Connection) {
        if self.may_reuse(&connection) {
            let mut idle = self.lock_idle();
            connection.idle_since = idle.clock.now();
            idle.connections.push(connection);
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
            assert_eq!(join_url(&parse_base_url(base).unwrap(), endpoint), want);
        }
        for bad in ["localhost:8000", "", "ftp://h", "http://", "sim", "http://u:secret@h"] {
            let error = parse_base_url(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
