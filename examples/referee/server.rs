//! The server: one thread, one epoll, one clock for all streams.
#![allow(
    clippy::disallowed_methods,
    reason = "it has its own clock, so that it cannot share a fault with the client's"
)]

use std::{
    error::Error,
    fs::File,
    io::{self, BufWriter, IoSliceMut, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::socket::{
    Backlog, ControlMessageOwned, MsgFlags, listen, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use rustix::{buffer::spare_capacity, event::epoll, time::Timespec};
use serde::Deserialize;
use serde_json::value::RawValue;

const SECOND: u64 = 1_000_000_000;

/// The key of the listener; connections have smaller ones.
const LISTENER: u64 = u64::MAX;

/// How often a signal is looked for without any traffic.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The largest request.
const MAX_REQUEST: usize = 64 << 20;

type Failure = Box<dyn Error>;

/// Unix time that no step of the wall clock disturbs.
#[derive(Debug, Clone, Copy)]
struct UnixClock {
    start: Instant,
    anchor: u64,
}

impl UnixClock {
    /// Reads the wall clock between two readings of the monotonic one: the try with the smallest gap.
    fn start() -> Self {
        let read = |_| {
            let (before, wall, after) = (Instant::now(), SystemTime::now(), Instant::now());
            (after - before, before + (after - before) / 2, wall)
        };
        let (_, start, wall) = (0..9).map(read).min_by_key(|(gap, ..)| *gap).unwrap_or_else(|| read(0));
        UnixClock { start, anchor: nanos(wall.duration_since(UNIX_EPOCH).unwrap_or_default()) }
    }

    fn now(&self) -> u64 {
        self.anchor + nanos(self.start.elapsed())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A request and what was sent for it.
#[derive(Debug)]
struct Answer {
    request_id: String,
    arrived: Option<u64>,
    received: u64,
    prompt_tokens: usize,
    tokens: usize,
    sent: Vec<u64>,
    /// The bytes of a token, of the last one, and of what follows it.
    chunk: Vec<u8>,
    last: Vec<u8>,
    tail: Vec<u8>,
}

/// A connection, and the request that it carries.
#[derive(Debug)]
struct Peer {
    socket: TcpStream,
    input: Vec<u8>,
    /// The kernel's time of the last bytes that arrived.
    stamp: Option<u64>,
    /// Bytes that the socket has not accepted yet.
    pending: Vec<u8>,
    answer: Option<Answer>,
}

/// What a request asks for.
#[derive(Deserialize)]
struct Body<'a> {
    max_tokens: Option<usize>,
    #[serde(default)]
    stream: bool,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    clock: UnixClock,
    step: u64,
    listener: TcpListener,
    epoll: OwnedFd,
    stopped: Arc<AtomicBool>,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    /// The connections that carry a request, in the order in which the requests arrived.
    active: Vec<usize>,
    ended: Vec<Answer>,
    /// Steps that began too late, and writes that a full socket held up: the log is then not of the load that was asked for.
    late: u64,
    held: u64,
}

impl Server {
    /// Opens the port. `step` is in nanoseconds.
    pub fn bind(port: u16, step: u64) -> Result<Self, Failure> {
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&stopped))?;
        }
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        // The standard library's queue of 128 is too short for a client that connects at once.
        listen(&listener, Backlog::new(4096)?)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Server {
            clock: UnixClock::start(),
            step: step.max(1),
            listener,
            epoll,
            stopped,
            peers: vec![],
            free: vec![],
            active: vec![],
            ended: vec![],
            late: 0,
            held: 0,
        })
    }

    /// Its address.
    pub fn url(&self) -> io::Result<String> {
        Ok(format!("http://{}", self.listener.local_addr()?))
    }

    /// Serves until a signal arrives.
    pub fn serve(&mut self) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(1024);
        let mut due = self.clock.now();
        while !self.stopped.load(Relaxed) {
            let now = self.clock.now();
            if now >= due {
                self.send_tokens();
                self.late += u64::from(now - due > self.step && !self.active.is_empty());
                due += self.step * ((now - due) / self.step + 1);
            }
            let wait = Duration::from_nanos(due.saturating_sub(self.clock.now())).min(MAX_WAIT);
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    key => self.serve_peer(usize::try_from(key)?),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<(), Failure> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            setsockopt(&socket, ReceiveTimestampns, &true)?;
            let key = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(key as u64), epoll::EventFlags::IN)?;
            let input = Vec::with_capacity(4096);
            self.peers[key] = Some(Peer { socket, input, stamp: None, pending: vec![], answer: None });
        }
    }

    /// Gives every request in flight its next token.
    fn send_tokens(&mut self) {
        let mut active = std::mem::take(&mut self.active);
        active.retain(|key| self.send_token(*key));
        self.active = active;
    }

    /// Returns whether more tokens follow.
    fn send_token(&mut self, key: usize) -> bool {
        let Some(peer) = &mut self.peers[key] else { return false };
        let Some(answer) = &mut peer.answer else { return false };
        let is_last = answer.sent.len() + 1 == answer.tokens;
        let bytes = if is_last { &answer.last } else { &answer.chunk };
        answer.sent.push(self.clock.now());
        let mut written = write_all(&peer.socket, &mut peer.pending, bytes);
        if is_last && written.is_ok() {
            written = write_all(&peer.socket, &mut peer.pending, &answer.tail);
        }
        if is_last || written.is_err() {
            self.ended.extend(peer.answer.take());
        }
        match written {
            Err(_) => self.close(key),
            Ok(()) => self.watch(key),
        }
        !is_last && self.peers[key].is_some()
    }

    /// Waits for room in a socket that is full.
    fn watch(&mut self, key: usize) {
        let Some(peer) = &self.peers[key] else { return };
        if !peer.pending.is_empty() {
            self.held += 1;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
            let _ = epoll::modify(&self.epoll, &peer.socket, epoll::EventData::new_u64(key as u64), flags);
        }
    }

    fn close(&mut self, key: usize) {
        if let Some(peer) = self.peers[key].take() {
            self.ended.extend(peer.answer);
            self.free.push(key);
        }
        self.active.retain(|other| *other != key);
    }

    /// Reads what has arrived on a connection and writes what waits for it.
    fn serve_peer(&mut self, key: usize) {
        let Some(peer) = &mut self.peers[key] else { return };
        if !peer.pending.is_empty() {
            let pending = std::mem::take(&mut peer.pending);
            let written = write_all(&peer.socket, &mut peer.pending, &pending);
            if written.is_ok() && peer.pending.is_empty() {
                let data = epoll::EventData::new_u64(key as u64);
                let _ = epoll::modify(&self.epoll, &peer.socket, data, epoll::EventFlags::IN);
            }
        }
        if !matches!(read_available(peer), Ok(true)) || self.answer_request(key).is_err() {
            self.close(key);
        }
    }

    /// Takes a request that has arrived whole.
    fn answer_request(&mut self, key: usize) -> Result<(), Failure> {
        let received = self.clock.now();
        let number = self.ended.len() + self.active.len();
        let Some(peer) = &mut self.peers[key] else { return Ok(()) };
        let Some(head_len) = peer.input.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) else {
            return Ok(());
        };
        let head = std::str::from_utf8(&peer.input[..head_len])?;
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let body_len = header("content-length").unwrap_or("0").parse::<usize>()?;
        if body_len > MAX_REQUEST {
            return Err("too large".into());
        }
        if peer.input.len() < head_len + body_len {
            return Ok(());
        }
        let request_id = header("x-request-id").map_or_else(|| format!("referee-{number}"), str::to_owned);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let body = &peer.input[head_len..head_len + body_len];
        if path == "/v1/completions" {
            match Answer::new(body, request_id, peer.stamp, received) {
                Ok(answer) => {
                    write_all(&peer.socket, &mut peer.pending, STREAM_HEAD)?;
                    peer.answer = Some(answer);
                    self.active.push(key);
                }
                Err(e) => write_document(peer, "400 Bad Request", &format!("{{\"error\":\"{e}\"}}"))?,
            }
        } else if path == "/v1/models" {
            write_document(peer, "200 OK", r#"{"object":"list","data":[{"id":"referee","object":"model"}]}"#)?;
        } else {
            write_document(peer, "404 Not Found", r#"{"error":"there is /v1/completions and /v1/models"}"#)?;
        }
        peer.input.drain(..head_len + body_len);
        self.watch(key);
        Ok(())
    }

    /// Writes a line for each request.
    pub fn write_log(mut self, path: &Path) -> Result<(), Failure> {
        let open: Vec<Answer> = self.peers.iter_mut().flatten().filter_map(|peer| peer.answer.take()).collect();
        let mut file = BufWriter::new(File::create(path)?);
        for answer in self.ended.iter().chain(&open) {
            answer.write_line(&mut file)?;
        }
        file.flush()?;
        if self.late + self.held > 0 {
            let (late, held) = (self.late, self.held);
            let text = format!("referee: too slow for the load: {late} steps were late, {held} writes waited for room");
            writeln!(io::stderr(), "{text}")?;
        }
        Ok(())
    }
}

const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nserver: referee\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
    transfer-encoding: chunked\r\n\r\n";

impl Answer {
    fn new(body: &[u8], request_id: String, arrived: Option<u64>, received: u64) -> Result<Self, &'static str> {
        let body: Body<'_> = serde_json::from_slice(body).map_err(|_| "the body is not a request")?;
        if !body.stream {
            return Err("only streams are served");
        }
        let prompt = body.prompt.map_or("", RawValue::get);
        // The tokens of a text are unknown: 0.
        let ids = prompt.starts_with('[').then(|| prompt.bytes().filter(|byte| *byte == b',').count() + 1);
        let prompt_tokens = ids.unwrap_or(0);
        let tokens = body.max_tokens.unwrap_or(16).max(1);
        let id = serde_json::to_string(&format!("cmpl-{request_id}")).map_err(|_| "the id cannot be repeated")?;
        let head = format!(
            "{{\"id\":{id},\"object\":\"text_completion\",\"created\":{},\"model\":\"referee\",\"choices\":",
            received / SECOND
        );
        let event = |rest: &str| {
            let data = format!("data: {head}{rest}}}\n\n");
            format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
        };
        let token = |finish: &str| {
            event(&format!(
                r#"[{{"index":0,"text":" token","logprobs":null,"finish_reason":{finish},"stop_reason":null}}]"#
            ))
        };
        let total = prompt_tokens + tokens;
        let usage = format!(
            r#"[],"usage":{{"prompt_tokens":{prompt_tokens},"total_tokens":{total},"completion_tokens":{tokens}}}"#
        );
        let mut tail = event(&usage);
        tail.extend_from_slice(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
        let (chunk, last) = (token("null"), token("\"length\""));
        let sent = Vec::with_capacity(tokens);
        Ok(Answer { request_id, arrived, received, prompt_tokens, tokens, sent, chunk, last, tail })
    }

    fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        let time = |time: u64| format!("{}.{:09}", time / SECOND, time % SECOND);
        let list = |items: Vec<String>| items.join(",");
        let count = self.sent.len();
        writeln!(
            out,
            "{{\"request_id\":{},\"arrived\":{},\"received\":{},\"status\":200,\"sent\":[{}],\"tokens\":[{}],\"queue_time\":null,\
             \"prompt_tokens\":{},\"cached_tokens\":0,\"output_tokens\":{count},\"finish_reason\":{},\"fault\":null}}",
            serde_json::to_string(&self.request_id)?,
            self.arrived.map_or("null".into(), time),
            time(self.received),
            list(self.sent.iter().copied().map(time).collect()),
            list(vec!["1".into(); count]),
            self.prompt_tokens,
            if count == self.tokens { "\"length\"" } else { "null" },
        )
    }
}

/// Writes bytes after those that wait, and keeps what does not fit.
fn write_all(mut socket: &TcpStream, pending: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let written = if pending.is_empty() {
        match socket.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            written => written?,
        }
    } else {
        0
    };
    pending.extend_from_slice(&bytes[written..]);
    Ok(())
}

fn write_document(peer: &mut Peer, status: &str, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    write_all(&peer.socket, &mut peer.pending, (head + body).as_bytes())
}

/// Reads what is there; false at the end of the connection.
fn read_available(peer: &mut Peer) -> io::Result<bool> {
    let mut control = nix::cmsg_space!([u64; 2]);
    loop {
        let mut buffer = [0; 1 << 14];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let (read, stamp) =
            match recvmsg::<()>(peer.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
                Err(nix::errno::Errno::EAGAIN) => return Ok(true),
                Err(e) => return Err(e.into()),
                Ok(got) => {
                    let stamp = got.cmsgs()?.find_map(|message| match message {
                        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                        _ => None,
                    });
                    (got.bytes, stamp)
                }
            };
        if read == 0 {
            return Ok(false);
        }
        peer.stamp = stamp.map(nanos).filter(|time| *time > 0).or(peer.stamp);
        peer.input.extend_from_slice(&buffer[..read]);
        if read < buffer.len() {
            return Ok(true);
        }
    }
}
