//! A socket that notes when bytes passed it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{clock::Clock, units::Nanos};

/// The moments of one connection, shared between its socket and whoever reads the answer.
///
/// Right as long as both run on one thread: hyper keeps one frame in flight, so the frame in hand is from the last read.
#[derive(Debug)]
pub struct Stamps {
    clock: Clock,
    /// Nanoseconds of the clock plus one; 0: not since [`Stamps::begin`].
    first_write: AtomicU64,
    last_write: AtomicU64,
    last_read: AtomicU64,
}

impl Stamps {
    /// No moment yet.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Stamps { clock, first_write: 0.into(), last_write: 0.into(), last_read: 0.into() })
    }

    /// Forgets everything: a new request begins.
    pub fn begin(&self) {
        for cell in [&self.first_write, &self.last_write, &self.last_read] {
            cell.store(0, Relaxed);
        }
    }

    /// When the request's first byte was about to be handed to the socket.
    pub fn first_write(&self) -> Option<Nanos> {
        read(&self.first_write)
    }

    /// When the socket last took bytes.
    pub fn last_write(&self) -> Option<Nanos> {
        read(&self.last_write)
    }

    /// When the last read returned bytes.
    pub fn last_read(&self) -> Option<Nanos> {
        read(&self.last_read)
    }

    fn now(&self) -> u64 {
        self.clock.now().0 + 1
    }
}

fn read(cell: &AtomicU64) -> Option<Nanos> {
    cell.load(Relaxed).checked_sub(1).map(Nanos)
}

/// An IO type that stamps what passes it. It stands under TLS, next to the socket.
#[derive(Debug)]
pub struct Stamped<T> {
    io: T,
    stamps: Arc<Stamps>,
}

impl<T> Stamped<T> {
    /// Stamps `io` into `stamps`.
    pub fn new(io: T, stamps: Arc<Stamps>) -> Self {
        Stamped { io, stamps }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stamped<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.stamps.last_read.store(self.stamps.now(), Relaxed);
        }
        done
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stamped<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stamped(|io| io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stamped(|io| io.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: AsyncWrite + Unpin> Stamped<T> {
    fn stamped(
        mut self: Pin<&mut Self>,
        write: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let before = self.stamps.now();
        let done = write(Pin::new(&mut self.io));
        if let Poll::Ready(Ok(1..)) = done {
            let _ = self.stamps.first_write.compare_exchange(0, before, Relaxed, Relaxed);
            self.stamps.last_write.store(self.stamps.now(), Relaxed);
        }
        done
    }
}
