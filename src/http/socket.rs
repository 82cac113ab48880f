//! A TCP socket that takes a timestamp of every read and write: on Linux with the kernel's receive stamps, elsewhere when the
//! read returned. TLS is above it.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::{
    clock::{Clock, WallClock},
    units::{Nanos, UnixNanos},
};

/// The timestamp of a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadStamp {
    /// The kernel's stamp converted to the monotonic clock, or the time at which the read returned.
    pub time: Nanos,
    /// Time from the kernel's stamp until the read returned; `None` if stamped in user space.
    pub lag: Option<Nanos>,
    /// Number of the read on its socket. All bytes of one read have the stamp of its last byte.
    pub read: u64,
    /// How many bytes the connection had received up to these; `None` unless their packets are captured.
    pub end: Option<u64>,
}

impl ReadStamp {
    /// The stamp of the bytes before the last `left` ones.
    #[must_use]
    pub fn before_last(self, left: usize) -> Self {
        ReadStamp { end: self.end.map(|end| end.saturating_sub(left as u64)), ..self }
    }
}

/// A TCP connection with timestamps.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    clock: Clock,
    wall: WallClock,
    /// Whether reads ask the kernel without waiting; see [`Socket::ask_kernel`].
    asks_kernel: bool,
    /// The timestamp of the last read that returned bytes.
    pub stamp: ReadStamp,
    /// The number of bytes read so far.
    pub received: u64,
    /// When the first byte since [`Socket::begin_request`] was about to be handed to the kernel; `None` before that.
    pub first_write: Option<Nanos>,
    /// When the kernel last accepted bytes.
    pub last_write: Option<Nanos>,
}

impl Socket {
    /// Wraps a connection and asks the kernel for stamps, if it supports them.
    pub fn new(tcp: TcpStream, clock: Clock) -> Self {
        // Otherwise the kernel may delay the end of a request for a round trip.
        let _ = tcp.set_nodelay(true);
        // If this is refused, reads return without stamps and are stamped here.
        let _ = os::request_stamps(&tcp);
        let wall = WallClock::new(&clock);
        Socket {
            tcp,
            clock,
            wall,
            asks_kernel: false,
            stamp: ReadStamp::default(),
            received: 0,
            first_write: None,
            last_write: None,
        }
    }

    /// Uses this clock for all later timestamps.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
        self.wall = WallClock::new(&clock);
    }

    /// Resets the write timestamps for a new request.
    pub fn begin_request(&mut self) {
        (self.first_write, self.last_write) = (None, None);
    }

    /// Makes reads ask the kernel, and never wait. Otherwise what has arrived is unknown until the event loop of the socket's thread
    /// runs, so that another thread does not see it in time.
    pub fn ask_kernel(&mut self, ask: bool) {
        self.asks_kernel = ask;
    }

    /// Segments that this side has retransmitted so far; `None` if the system does not report them.
    #[must_use]
    pub fn retransmit_count(&self) -> Option<u32> {
        os::retransmit_count(&self.tcp)
    }

    /// Steps of the wall clock seen so far.
    #[must_use]
    pub fn clock_steps(&self) -> u32 {
        self.wall.step_count()
    }

    /// Makes closing the socket reset the connection. A socket that refuses is closed already.
    pub fn reset_when_closed(&self) {
        let _ = self.tcp.set_zero_linger();
    }

    /// Records a read that returned bytes; `kernel` is the stamp that came with them.
    fn note_read(&mut self, kernel: Option<UnixNanos>) {
        let (now, arrival) = match kernel {
            Some(kernel) => self.wall.arrival_time(&self.clock, kernel),
            None => (self.clock.now(), None),
        };
        let read = self.stamp.read + 1;
        self.stamp = ReadStamp { time: arrival.unwrap_or(now), lag: arrival.map(|t| now.since(t)), read, end: None };
    }

    fn note_write<T>(&mut self, before: Nanos, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(done, Poll::Ready(Ok(_))) {
            self.first_write.get_or_insert(before);
            self.last_write = Some(self.clock.now());
        }
        done
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        if space.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.asks_kernel {
            return match os::receive_stamped(&self.tcp, space) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                received => {
                    let read = received?.0;
                    self.received += read as u64;
                    buf.advance(read);
                    Poll::Ready(Ok(()))
                }
            };
        }
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            let mut done = Ok((0, None));
            // A read that does not fill the buffer has emptied the socket. Returning "would block" then makes tokio wait for more
            // without asking the kernel again, which would cost a system call for each chunk.
            let tried = self.tcp.try_io(Interest::READABLE, || {
                done = os::receive_stamped(&self.tcp, space);
                match &done {
                    Ok((read, _)) if *read == 0 || *read == space.len() => Ok(()),
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => Ok(()),
                    _ => Err(io::ErrorKind::WouldBlock.into()),
                }
            });
            match done {
                Ok((0, _)) if tried.is_err() => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
                Ok((read, kernel)) => {
                    if read > 0 {
                        self.note_read(kernel);
                        self.received += read as u64;
                        buf.advance(read);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let before = self.clock.now();
        let done = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.note_write(before, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let before = self.clock.now();
        let done = Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes);
        self.note_write(before, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Keeps the kernel's stamping switched on: it starts about a millisecond after the first socket asks for it, and stops with
/// the last such socket.
#[derive(Debug)]
pub struct KernelStamping {
    _held: Option<std::net::UdpSocket>,
}

impl KernelStamping {
    /// Switches stamping on, if the system supports it.
    #[must_use]
    pub fn switch_on() -> Self {
        let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).ok();
        KernelStamping { _held: socket.filter(|socket| os::request_stamps(socket).is_ok()) }
    }
}

#[cfg(target_os = "linux")]
mod os {
    //! The system calls.
    #![allow(unsafe_code, reason = "nix panics if the kernel's `tcp_info` is shorter than the C library's")]

    use std::mem::offset_of;

    use nix::{
        libc,
        sys::{
            socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
            time::TimeSpec,
        },
    };

    use super::{AsFd, AsRawFd, IoSliceMut, io};
    use crate::units::{SECOND, UnixNanos};

    const RETRANSMITS: usize = offset_of!(libc::tcp_info, tcpi_total_retrans);
    /// The part of `tcp_info` that is read: older kernels have less after it, and newer ones more.
    const READ_LEN: usize = RETRANSMITS + size_of::<u32>();

    /// Room for the stamp, aligned like the kernel's structures in it.
    #[repr(align(16))]
    struct Control([u8; 64]);

    pub fn request_stamps(socket: &impl AsFd) -> io::Result<()> {
        Ok(setsockopt(socket, ReceiveTimestampns, &true)?)
    }

    /// Reads the available bytes, with the time at which the last of them arrived.
    pub fn receive_stamped(socket: &impl AsRawFd, space: &mut [u8]) -> io::Result<(usize, Option<UnixNanos>)> {
        // On the stack, so that a read does not allocate.
        let mut control = Control([0; 64]);
        let mut parts = [IoSliceMut::new(space)];
        let got = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control.0), MsgFlags::MSG_DONTWAIT)?;
        let stamp = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => to_unix_nanos(time),
            _ => None,
        });
        Ok((got.bytes, stamp))
    }

    /// Converts a stamp; zero means a missing one.
    fn to_unix_nanos(time: TimeSpec) -> Option<UnixNanos> {
        let seconds = u64::try_from(time.tv_sec()).ok().filter(|s| *s > 0)?;
        Some(UnixNanos(seconds * SECOND + u64::try_from(time.tv_nsec()).ok()?))
    }

    /// The segments that this socket has sent again; null if the kernel does not count them.
    pub fn retransmit_count(socket: &impl AsRawFd) -> Option<u32> {
        let mut info = [0; READ_LEN];
        let mut len = libc::socklen_t::try_from(READ_LEN).ok()?;
        // SAFETY: `info` lives during the call and has this length.
        let done = unsafe {
            let to = info.as_mut_ptr().cast();
            libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut len)
        };
        if done == 0 { retransmits_in(info.get(..usize::try_from(len).ok()?)?) } else { None }
    }

    fn retransmits_in(info: &[u8]) -> Option<u32> {
        info.get(RETRANSMITS..READ_LEN)?.try_into().ok().map(u32::from_ne_bytes)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_kernel_with_less_information_has_no_retransmits() {
            let server = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let socket = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
            assert_eq!(retransmit_count(&socket), Some(0));
            // Not TCP.
            assert_eq!(retransmit_count(&std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap()), None);
            let mut info = [0; READ_LEN];
            info[RETRANSMITS] = 3;
            assert_eq!(retransmits_in(&info), Some(u32::from_ne_bytes([3, 0, 0, 0])));
            // Emulators and sandboxes copy less than Linux does.
            assert_eq!(retransmits_in(&info[..4]), None);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    //! Systems without stamps.

    use super::{AsFd, AsRawFd, IoSliceMut, io};
    use crate::units::UnixNanos;

    pub fn request_stamps(_: &impl AsFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn receive_stamped(socket: &impl AsRawFd, space: &mut [u8]) -> io::Result<(usize, Option<UnixNanos>)> {
        use nix::sys::socket::{MsgFlags, recv};
        Ok((recv(socket.as_raw_fd(), space, MsgFlags::MSG_DONTWAIT)?, None))
    }

    pub fn retransmit_count(_: &impl AsRawFd) -> Option<u32> {
        None
    }
}
