//! The layer between hyper and the socket: it timestamps every write and applies faults of the connection.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::truth_log::TruthLog;
use crate::{
    clock::Clock,
    http::socket::{ReadStamp, Socket},
    record::Truth,
    units::Nanos,
};

/// A connection, with or without TLS.
pub struct Wire {
    stream: WireStream,
    tap: SharedTap,
}

/// The stream under a [`Wire`].
pub enum WireStream {
    /// Plain TCP.
    Plain(Socket),
    /// TLS over TCP.
    Tls(Box<TlsStream<Socket>>),
}

/// The tap of a connection, shared by its responses and its wire.
pub type SharedTap = Rc<RefCell<ConnectionTap>>;

/// Records for the truth log what is sent on a connection, and holds the faults to apply to it.
pub struct ConnectionTap {
    clock: Clock,
    log: Option<Rc<TruthLog>>,
    /// When the bytes of the last read arrived.
    last_read: ReadStamp,
    /// The current request.
    current: Option<Truth>,
    /// The token counts of chunks that were handed to hyper and are not written yet.
    queued_tokens: Vec<u32>,
    /// Whether the whole current response was handed to hyper.
    complete: bool,
    /// Whether to reset the connection when it is closed.
    reset_on_close: bool,
    /// Whether to replace the first byte of the next write, so that the chunk size is invalid.
    corrupt_next: bool,
}

impl ConnectionTap {
    /// The tap of a new connection; without a log it records nothing.
    pub fn new(clock: Clock, log: Option<Rc<TruthLog>>) -> SharedTap {
        Rc::new(RefCell::new(ConnectionTap {
            clock,
            log,
            last_read: ReadStamp::default(),
            current: None,
            queued_tokens: vec![],
            complete: false,
            reset_on_close: false,
            corrupt_next: false,
        }))
    }

    /// Starts the line of a request that was read completely.
    pub fn begin_request(&mut self, truth: Truth) {
        self.write_line();
        let arrived = self.last_read.lag.map(|_| self.clock.to_unix(self.last_read.time));
        self.current = self.log.is_some().then_some(Truth { arrived, ..truth });
        self.complete = false;
    }

    /// Updates the line of the current request.
    pub fn update_truth(&mut self, change: impl FnOnce(&mut Truth)) {
        if let Some(truth) = &mut self.current {
            change(truth);
        }
    }

    /// Records that a chunk with this many tokens was handed to hyper. Chunks without tokens are not recorded.
    pub fn queue_chunk(&mut self, tokens: u32) {
        if tokens > 0 && self.current.is_some() {
            self.queued_tokens.push(tokens);
        }
    }

    /// Marks the current request: no more chunks follow.
    pub fn mark_complete(&mut self) {
        self.complete = true;
    }

    /// Makes the close of the connection a reset.
    pub fn reset_when_closed(&mut self) {
        self.reset_on_close = true;
    }

    /// Breaks the chunk framing of the next write.
    pub fn corrupt_next_write(&mut self) {
        self.corrupt_next = true;
    }

    fn record_write(&mut self, time: Nanos) {
        if let Some(current) = &mut self.current {
            current.sent.resize(current.sent.len() + self.queued_tokens.len(), self.clock.to_unix(time));
            current.tokens.append(&mut self.queued_tokens);
        }
        if self.complete {
            self.write_line();
        }
    }

    fn write_line(&mut self) {
        self.queued_tokens.clear();
        if let (Some(truth), Some(log)) = (self.current.take(), &self.log) {
            log.write_line(&truth);
        }
    }
}

/// Writes the line of a connection that ends in the middle of a response.
impl Drop for ConnectionTap {
    fn drop(&mut self) {
        self.write_line();
    }
}

impl Wire {
    /// Puts `tap` on `stream`.
    pub fn new(stream: WireStream, tap: SharedTap) -> Self {
        Wire { stream, tap }
    }
}

impl WireStream {
    fn tcp_socket(&self) -> &Socket {
        match self {
            WireStream::Plain(socket) => socket,
            WireStream::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.tap.borrow().reset_on_close {
            self.stream.tcp_socket().reset_when_closed();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = match &mut self.stream {
            WireStream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            WireStream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        self.tap.borrow_mut().last_read = self.stream.tcp_socket().stamp;
        read
    }
}

/// Not vectored on purpose: hyper then collects everything up to a flush in one buffer and one write.
impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let broken: Vec<u8>;
        let bytes = if std::mem::take(&mut self.tap.borrow_mut().corrupt_next) {
            broken = buf.iter().enumerate().map(|(i, byte)| if i == 0 { b'Z' } else { *byte }).collect();
            &broken
        } else {
            buf
        };
        let clock = self.tap.borrow().clock;
        let time = clock.now();
        let written = match &mut self.stream {
            WireStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            WireStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if let Poll::Ready(Ok(_)) = written {
            self.tap.borrow_mut().record_write(time);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            WireStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            WireStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            WireStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            WireStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
