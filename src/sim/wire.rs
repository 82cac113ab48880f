//! The connection between hyper and the socket: it stamps what leaves, and breaks what must be broken.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::truth::TruthLog;
use crate::{
    clock::Clock,
    http::socket::{ReadStamp, Socket},
    record::Truth,
    units::Nanos,
};

/// A connection's bytes, with or without TLS.
pub struct Wire {
    stream: Stream,
    tap: SharedTap,
}

/// What carries the bytes.
pub enum Stream {
    /// TCP alone.
    Plain(Socket),
    /// TLS on it.
    Tls(Box<TlsStream<Socket>>),
}

/// The tap of a connection, which its answers and its wire share.
pub type SharedTap = Rc<RefCell<Tap>>;

/// Notes for the truth log what goes over a connection, and takes orders for its end.
pub struct Tap {
    clock: Clock,
    log: Option<Rc<TruthLog>>,
    /// What was read last.
    arrival: ReadStamp,
    /// The request that is being answered.
    current: Option<Truth>,
    /// Tokens of chunks that were handed to hyper and have not been written yet.
    queued: Vec<u32>,
    /// Whether everything of the current answer was handed to hyper.
    complete: bool,
    /// Whether closing the connection is to reset it.
    reset: bool,
    /// Whether the next write is to begin with a byte that is no chunk size.
    corrupt: bool,
}

impl Tap {
    /// The tap of a new connection; without a log it notes nothing.
    pub fn new(clock: Clock, log: Option<Rc<TruthLog>>) -> SharedTap {
        Rc::new(RefCell::new(Tap {
            clock,
            log,
            arrival: ReadStamp::default(),
            current: None,
            queued: vec![],
            complete: false,
            reset: false,
            corrupt: false,
        }))
    }

    /// A new request, which has been read completely, is being answered.
    pub fn begin(&mut self, truth: Truth) {
        self.write_line();
        let arrived = self.arrival.lag.map(|_| self.clock.to_unix(self.arrival.time));
        self.current = self.log.is_some().then_some(Truth { arrived, ..truth });
        self.complete = false;
    }

    /// Completes what is known of the current request.
    pub fn note(&mut self, change: impl FnOnce(&mut Truth)) {
        if let Some(truth) = &mut self.current {
            change(truth);
        }
    }

    /// A chunk with so many tokens was handed to hyper; none for chunks that bear none.
    pub fn queue(&mut self, tokens: u32) {
        if tokens > 0 && self.current.is_some() {
            self.queued.push(tokens);
        }
    }

    /// Nothing more will be queued for the current request.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Closing the connection is to reset it.
    pub fn reset(&mut self) {
        self.reset = true;
    }

    /// The next write is to break the framing.
    pub fn corrupt(&mut self) {
        self.corrupt = true;
    }

    fn written(&mut self, at: Nanos) {
        if let Some(current) = &mut self.current {
            current.sent.resize(current.sent.len() + self.queued.len(), self.clock.to_unix(at));
            current.tokens.append(&mut self.queued);
        }
        if self.complete {
            self.write_line();
        }
    }

    fn write_line(&mut self) {
        self.queued.clear();
        if let (Some(truth), Some(log)) = (self.current.take(), &self.log) {
            log.write(&truth);
        }
    }
}

/// A connection that ends in the middle of an answer still leaves its line.
impl Drop for Tap {
    fn drop(&mut self) {
        self.write_line();
    }
}

impl Wire {
    /// Puts `tap` on `stream`.
    pub fn new(stream: Stream, tap: SharedTap) -> Self {
        Wire { stream, tap }
    }
}

impl Stream {
    fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.tap.borrow().reset {
            self.stream.socket().reset_when_closed();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        self.tap.borrow_mut().arrival = self.stream.socket().stamp;
        read
    }
}

/// Not vectored on purpose: hyper then puts what belongs to one flush into one buffer and one write.
impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let broken: Vec<u8>;
        let bytes = if std::mem::take(&mut self.tap.borrow_mut().corrupt) {
            broken = buf.iter().enumerate().map(|(i, byte)| if i == 0 { b'Z' } else { *byte }).collect();
            &broken
        } else {
            buf
        };
        let clock = self.tap.borrow().clock;
        let at = clock.now();
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if let Poll::Ready(Ok(_)) = written {
            self.tap.borrow_mut().written(at);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
