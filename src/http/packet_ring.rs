//! A ring of memory in which the kernel leaves a copy of the head of each packet from some servers, with its arrival (Linux's
//! `AF_PACKET` with `TPACKET_V2`, packet(7)).
//!
//! A packet is in the ring before TCP sees it, so that the packets of all bytes that were read are here. The newer `TPACKET_V3`
//! hands packets over in blocks, after a timeout.

#[cfg(target_os = "linux")]
pub use linux::PacketRing;
#[cfg(not(target_os = "linux"))]
pub use other::AbsentRing as PacketRing;

use crate::units::UnixNanos;

/// A packet's head.
#[derive(Debug)]
pub struct RingPacket<'a> {
    /// When the kernel received it.
    pub time: UnixNanos,
    /// The length of the whole packet.
    pub len: u32,
    /// Its first bytes, from the header of IP on.
    pub head: &'a [u8],
}

#[cfg(target_os = "linux")]
mod linux {
    #![allow(unsafe_code, reason = "memory that is shared with the kernel, and socket options that no crate wraps")]

    use std::{
        ffi::c_int,
        io,
        net::{IpAddr, SocketAddr},
        os::fd::{AsRawFd, FromRawFd, OwnedFd},
        ptr,
        sync::atomic::{AtomicU32, Ordering},
    };

    use nix::libc::{self, sock_filter};

    use super::RingPacket;
    use crate::units::{SECOND, UnixNanos};

    /// Room for what the kernel writes before a packet's head.
    const BEFORE_HEAD: usize = 80;
    /// Room for a packet: also for the header of IPv4 or IPv6 and what is needed of TCP's. Without IPv6 it is two lines of a cache.
    const FRAME: usize = 128;
    const LONG_FRAME: usize = 144;
    const BLOCK: usize = 1 << 16;
    /// 32 MiB: at least 230,000 packets, which are the chunks of nine seconds at 512 streams with a chunk every 20 ms.
    const MAX_BLOCKS: usize = 512;
    const MIN_BLOCKS: usize = 16;

    /// See the module.
    #[derive(Debug)]
    pub struct PacketRing {
        socket: OwnedFd,
        memory: *mut u8,
        blocks: usize,
        frame_len: usize,
        /// The frame that is filled next.
        next: usize,
        /// A copy of the frame that was read last.
        frame: [u8; LONG_FRAME],
    }

    // SAFETY: the memory belongs to the ring and is only used through it.
    unsafe impl Send for PacketRing {}

    impl PacketRing {
        /// Whether the system allows it.
        #[must_use]
        pub fn is_allowed() -> bool {
            open_socket().is_ok()
        }

        /// Opens a ring for the packets that come from `servers`, over all interfaces.
        pub fn open(servers: &[SocketAddr]) -> io::Result<Self> {
            let socket = open_socket()?;
            set_option(
                &socket,
                libc::SOL_PACKET,
                libc::PACKET_VERSION,
                &(libc::tpacket_versions::TPACKET_V2 as c_int),
            )?;
            let frame_len = if servers.iter().all(SocketAddr::is_ipv4) { FRAME } else { LONG_FRAME };
            let mut program = filter_program(servers, frame_len - BEFORE_HEAD);
            let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
            set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)?;
            let mut blocks = MAX_BLOCKS;
            loop {
                match request_ring(&socket, blocks, frame_len) {
                    Err(e) if e.kind() == io::ErrorKind::OutOfMemory && blocks > MIN_BLOCKS => blocks /= 2,
                    result => break result?,
                }
            }
            // SAFETY: the kernel chooses a free place.
            let memory = unsafe {
                let rights = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(ptr::null_mut(), blocks * BLOCK, rights, libc::MAP_SHARED, socket.as_raw_fd(), 0)
            };
            if memory == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let frame = [0; LONG_FRAME];
            let ring = PacketRing { socket, memory: memory.cast(), blocks, frame_len, next: 0, frame };
            ring.bind(servers)?;
            Ok(ring)
        }

        /// Starts the capture.
        fn bind(&self, servers: &[SocketAddr]) -> io::Result<()> {
            // A socket for one protocol sees what comes in; one for all protocols also sees what goes out, unless asked not to.
            let protocol = match (servers.iter().any(SocketAddr::is_ipv4), servers.iter().any(SocketAddr::is_ipv6)) {
                (true, false) => libc::ETH_P_IP,
                (false, true) => libc::ETH_P_IPV6,
                _ => {
                    set_option(&self.socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
                    libc::ETH_P_ALL
                }
            };
            // SAFETY: all fields are numbers. Without an interface it is bound to all.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            (address.sll_family, address.sll_protocol) = (17, u16::try_from(protocol).unwrap_or_default().to_be());
            // SAFETY: the address lives during the call and has this length.
            check(unsafe {
                let len = u32::try_from(size_of_val(&address)).unwrap_or_default();
                libc::bind(self.socket.as_raw_fd(), ptr::from_ref(&address).cast(), len)
            })
        }

        /// The next packet, if there is one.
        pub fn next_packet(&mut self) -> Option<RingPacket<'_>> {
            let per_block = BLOCK / self.frame_len;
            let at = self.next / per_block * BLOCK + self.next % per_block * self.frame_len;
            // SAFETY: frames lie within the memory and are aligned to 16 bytes. The first word of a frame says whose it is: a frame
            // that is ours does not change until it is handed back.
            unsafe {
                let frame = self.memory.add(at);
                let status = AtomicU32::from_ptr(frame.cast());
                if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                    return None;
                }
                ptr::copy_nonoverlapping(frame, self.frame.as_mut_ptr(), self.frame_len);
                status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            }
            self.next = (self.next + 1) % (self.blocks * per_block);
            // The fields of `tpacket2_hdr`.
            let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| self.frame[at + byte]));
            let (len, captured, seconds, nanos) = (word(4), word(8), word(16), word(20));
            let start = usize::from(u16::from_ne_bytes([self.frame[14], self.frame[15]])).min(self.frame_len);
            let end = start.saturating_add(captured as usize).min(self.frame_len);
            let time = UnixNanos(u64::from(seconds) * SECOND + u64::from(nanos));
            Some(RingPacket { time, len, head: &self.frame[start..end] })
        }

        /// Packets that found no room since the last call.
        pub fn take_drops(&self) -> u64 {
            // SAFETY: all fields are numbers.
            let mut counts: libc::tpacket_stats = unsafe { std::mem::zeroed() };
            let mut len = u32::try_from(size_of_val(&counts)).unwrap_or_default();
            // SAFETY: the counts live during the call and have this length.
            let done = check(unsafe {
                let to = ptr::from_mut(&mut counts).cast();
                libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, to, &raw mut len)
            });
            done.map_or(0, |()| counts.tp_drops.into())
        }
    }

    impl Drop for PacketRing {
        fn drop(&mut self) {
            // SAFETY: it was mapped with this length, and nothing refers to it any more.
            unsafe { libc::munmap(self.memory.cast(), self.blocks * BLOCK) };
        }
    }

    fn open_socket() -> io::Result<OwnedFd> {
        // SAFETY: it takes no memory. Packets come once it is bound.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: it was just opened, and nothing else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn request_ring(socket: &OwnedFd, blocks: usize, frame_len: usize) -> io::Result<()> {
        let number = |n: usize| u32::try_from(n).unwrap_or_default();
        let request = libc::tpacket_req {
            tp_block_size: number(BLOCK),
            tp_block_nr: number(blocks),
            tp_frame_size: number(frame_len),
            tp_frame_nr: number(BLOCK / frame_len * blocks),
        };
        set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
    }

    fn check(result: c_int) -> io::Result<()> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn set_option<T>(socket: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
        let len = u32::try_from(size_of::<T>()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the value lives during the call and has this length.
        check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(value).cast(), len) })
    }

    // Instructions of the classic packet filter.
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    /// From the header after the one of IPv4.
    const LOAD_HALF_AFTER: u16 = 0x48;
    const LEN_OF_IPV4: u16 = 0xb1;
    const AND: u16 = 0x54;
    const IF_EQUAL: u16 = 0x15;
    const IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;

    /// A filter that passes the first `head` bytes of TCP from these servers.
    pub(super) fn filter_program(servers: &[SocketAddr], head: usize) -> Vec<sock_filter> {
        let mut program: Vec<sock_filter> = servers.iter().flat_map(|server| filter_for(server, head)).collect();
        program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 });
        program
    }

    /// The part of the filter for one server, which other packets leave at its end.
    fn filter_for(server: &SocketAddr, head: usize) -> Vec<sock_filter> {
        const TCP: u32 = 6;
        let port = u32::from(server.port());
        let steps: Vec<(u16, u32)> = match server.ip() {
            IpAddr::V4(ip) => vec![
                (LOAD_BYTE, 0),
                (AND, 0xf0),
                (IF_EQUAL, 0x40),
                (LOAD_BYTE, 9),
                (IF_EQUAL, TCP),
                (LOAD_WORD, 12),
                (IF_EQUAL, ip.into()),
                // Fragments after the first have no header of TCP.
                (LOAD_HALF, 6),
                (IF_ANY_BIT, 0x1fff),
                (LEN_OF_IPV4, 0),
                (LOAD_HALF_AFTER, 0),
                (IF_EQUAL, port),
            ],
            IpAddr::V6(ip) => {
                let mut steps = vec![(LOAD_BYTE, 0), (AND, 0xf0), (IF_EQUAL, 0x60), (LOAD_BYTE, 6), (IF_EQUAL, TCP)];
                let words = ip.to_bits();
                for (offset, shift) in [(8, 96), (12, 64), (16, 32), (20, 0)] {
                    let word = u32::try_from(words >> shift & 0xffff_ffff).unwrap_or_default();
                    steps.extend([(LOAD_WORD, offset), (IF_EQUAL, word)]);
                }
                steps.extend([(LOAD_HALF, 40), (IF_EQUAL, port)]);
                steps
            }
        };
        let count = steps.len();
        let instruction = |(at, (code, k)): (usize, (u16, u32))| {
            // Past the instructions that are left, and past the one that passes a packet.
            let leave = u8::try_from(count - at).unwrap_or(u8::MAX);
            let (jt, jf) = match code {
                IF_EQUAL => (0, leave),
                IF_ANY_BIT => (leave, 0),
                _ => (0, 0),
            };
            sock_filter { code, jt, jf, k }
        };
        let mut program: Vec<sock_filter> = steps.into_iter().enumerate().map(instruction).collect();
        program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: u32::try_from(head).unwrap_or_default() });
        program
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    //! Systems without such a ring.

    use std::{io, net::SocketAddr};

    use super::RingPacket;

    /// Cannot be opened.
    #[derive(Debug)]
    pub enum AbsentRing {}

    impl AbsentRing {
        pub fn is_allowed() -> bool {
            false
        }

        pub fn open(_: &[SocketAddr]) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub fn next_packet(&mut self) -> Option<RingPacket<'_>> {
            match *self {}
        }

        pub fn take_drops(&self) -> u64 {
            match *self {}
        }
    }
}
