//! The packets that servers send: when each byte of a connection arrived, however late it is read.
//!
//! The kernel's stamp of a read is the arrival of its last bytes. Chunks that wait in a socket together share one; their
//! packets have one each.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use super::{
    packet_ring::PacketRing,
    packet_times::{ByteArrivals, Segment},
};
use crate::{
    clock::{Clock, WallClock},
    units::{Nanos, SECOND},
};

/// How often the ring is emptied, unless somebody needs its packets sooner. It has room for seconds.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// How often the ring is looked into again, and after what time, for a packet that a reader has already: while one processor writes a
/// packet, later ones of other processors cannot be taken yet.
const LATE_PACKET: (u32, Duration) = (40, Duration::from_micros(100));

/// A connection of another program to the same server is forgotten after this time.
const MAX_UNCLAIMED: Nanos = Nanos(10 * SECOND);

/// Captures the packets of some servers.
#[derive(Debug, Clone)]
pub struct PacketCapture(Arc<Capture>);

#[derive(Debug)]
struct Capture {
    servers: Vec<SocketAddr>,
    state: Mutex<State>,
    /// Connections that were opened since the ring was last emptied. They are few, and the lock is held for a moment: who opens a
    /// connection does not wait until the ring is empty.
    opened: Mutex<Vec<(FlowKey, SharedArrivals)>>,
}

type SharedArrivals = Arc<Mutex<ByteArrivals>>;

#[derive(Debug)]
struct State {
    ring: PacketRing,
    clock: Clock,
    wall: WallClock,
    flows: HashMap<FlowKey, Flow, PortHash>,
    /// More flows than this are looked through for those that have ended.
    max_flows: usize,
    drops: u64,
}

/// A connection: the index of the server, and the client's port.
type FlowKey = (usize, u16);

/// The system chooses the ports of connections, so that no attacker can make them collide.
type PortHash = BuildHasherDefault<PortHasher>;

#[derive(Debug, Default)]
struct PortHasher(u64);

impl Hasher for PortHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio: the highest bits, which the table uses too, depend on all of the number.
        self.0 = (self.0.rotate_left(16) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

#[derive(Debug)]
struct Flow {
    arrivals: SharedArrivals,
    /// `None`: it is ours.
    unclaimed_since: Option<Nanos>,
}

/// The packets of one connection.
#[derive(Debug, Clone)]
pub struct PacketFlow {
    arrivals: SharedArrivals,
    capture: PacketCapture,
}

impl PacketCapture {
    /// Whether the system has such a capture and allows it.
    #[must_use]
    pub fn is_allowed() -> bool {
        PacketRing::is_allowed()
    }

    /// Captures the packets that these servers send after this call. Connections that are open already have none. Another thread empties
    /// the ring, after it has called `prepare_thread`.
    ///
    /// # Errors
    /// The system has no such capture or does not allow it.
    pub fn start(
        servers: Vec<SocketAddr>,
        clock: Clock,
        prepare_thread: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        // An IPv4 address that is written as one of IPv6 has packets of IPv4.
        let canonical = |server: SocketAddr| SocketAddr::new(server.ip().to_canonical(), server.port());
        let servers: Vec<SocketAddr> = servers.into_iter().map(canonical).collect();
        let ring = PacketRing::open(&servers)?;
        let wall = WallClock::new(&clock);
        let state = State { ring, clock, wall, flows: HashMap::default(), max_flows: 64, drops: 0 };
        let capture = Arc::new(Capture { servers, state: Mutex::new(state), opened: Mutex::default() });
        let weak = Arc::downgrade(&capture);
        thread::Builder::new().name("packets".into()).spawn(move || {
            prepare_thread();
            drain_regularly(&weak);
        })?;
        Ok(PacketCapture(capture))
    }

    /// Uses this clock for the arrivals of all later packets. The arrivals so far are forgotten.
    pub fn set_clock(&self, clock: Clock) {
        self.0.drain();
        let mut state = lock(&self.0.state);
        state.flows.values().for_each(|flow| lock(&flow.arrivals).forget_times());
        state.clock = clock;
        state.wall = WallClock::new(&clock);
    }

    /// The packets of a connection that has just been opened; `None`: the capture does not have that server.
    #[must_use]
    pub fn watch(&self, server: SocketAddr, local_port: u16) -> Option<PacketFlow> {
        let key = (self.0.find_server(server.ip().to_canonical(), server.port())?, local_port);
        let arrivals = SharedArrivals::default();
        lock(&self.0.opened).push((key, Arc::clone(&arrivals)));
        Some(PacketFlow { arrivals, capture: self.clone() })
    }

    /// Packets that were lost because the ring was full.
    #[must_use]
    pub fn count_drops(&self) -> u64 {
        let mut state = lock(&self.0.state);
        state.drops += state.ring.take_drops();
        state.drops
    }
}

impl PacketFlow {
    /// Looks up arrivals. All bytes up to position `read` have been read.
    pub fn look_up<T>(&self, read: u64, look_up: impl FnOnce(&mut ByteArrivals) -> T) -> T {
        let capture = &self.capture.0;
        let mut arrivals = lock(&self.arrivals);
        if !arrivals.has_arrived(read) {
            drop(arrivals);
            capture.drain();
            arrivals = lock(&self.arrivals);
        }
        for _ in 0..LATE_PACKET.0 {
            // After drops, or without the packet that opened the connection, waiting does not help.
            if arrivals.has_arrived(read) || !arrivals.is_open() || self.capture.count_drops() > 0 {
                break;
            }
            drop(arrivals);
            thread::sleep(LATE_PACKET.1);
            capture.drain();
            arrivals = lock(&self.arrivals);
        }
        arrivals.assume_arrived(read);
        look_up(&mut arrivals)
    }
}

fn drain_regularly(capture: &Weak<Capture>) {
    while let Some(capture) = capture.upgrade() {
        capture.drain();
        drop(capture);
        thread::sleep(DRAIN_INTERVAL);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Capture {
    fn find_server(&self, ip: IpAddr, port: u16) -> Option<usize> {
        self.servers.iter().position(|server| server.port() == port && server.ip() == ip)
    }

    /// Takes all packets that have arrived.
    fn drain(&self) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        // Before the packets: those that opened these connections are in the ring by now.
        let opened = std::mem::take(&mut *lock(&self.opened));
        let mut reading = state.wall.read_clocks(&state.clock);
        while let Some(packet) = state.ring.next_packet() {
            let (time, head) = (packet.time, Head::parse(packet.head, packet.len));
            let Some(head) = head else { continue };
            let Some(server) = self.find_server(head.source, head.source_port) else { continue };
            if reading.is_before(time) {
                reading = state.wall.read_clocks(&state.clock);
            }
            let time = state.wall.arrival_by(reading, time);
            let key = (server, head.port);
            if head.segment.opens {
                let known = state.flows.get(&key).is_some_and(|flow| lock(&flow.arrivals).is_opened_by(head.segment));
                if !known {
                    let arrivals = Arc::new(Mutex::new(ByteArrivals::opened_by(head.segment)));
                    state.flows.insert(key, Flow { arrivals, unclaimed_since: Some(reading.now()) });
                }
            } else if let Some(flow) = state.flows.get(&key) {
                lock(&flow.arrivals).add_segment(head.segment, time);
            }
        }
        for (key, arrivals) in opened {
            if let Some(flow) = state.flows.get_mut(&key) {
                *lock(&arrivals) = std::mem::take(&mut *lock(&flow.arrivals));
                *flow = Flow { arrivals, unclaimed_since: None };
            }
        }
        state.forget_ended(reading.now());
    }
}

impl State {
    /// Forgets the connections that have ended.
    fn forget_ended(&mut self, now: Nanos) {
        if self.flows.len() > self.max_flows {
            self.flows.retain(|_, flow| match flow.unclaimed_since {
                None => Arc::strong_count(&flow.arrivals) > 1,
                Some(since) => now.since(since) < MAX_UNCLAIMED,
            });
            self.max_flows = self.flows.len() * 2 + 64;
        }
    }
}

/// What is needed of the headers of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    source: IpAddr,
    source_port: u16,
    port: u16,
    segment: Segment,
}

impl Head {
    /// Parses the headers of IP and TCP at the start of a packet that is `len` bytes long; `None`: it is something else, or cut.
    fn parse(bytes: &[u8], len: u32) -> Option<Self> {
        const TCP: u8 = 6;
        const SYN: u8 = 2;
        let half = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let (source, header, len) = match bytes.first()? >> 4 {
            4 if bytes.get(9) == Some(&TCP) => {
                let ip = Ipv4Addr::from_octets(*bytes.get(12..)?.first_chunk()?);
                // A packet of more than 64 KiB, as between two programs of one machine, has 0 here.
                let total = half(2).filter(|total| *total > 0).map_or(len, u32::from);
                (IpAddr::V4(ip), usize::from(bytes[0] & 0xf) * 4, total)
            }
            6 if bytes.get(6) == Some(&TCP) => {
                let ip = Ipv6Addr::from_octets(*bytes.get(8..)?.first_chunk()?);
                let payload = half(4).filter(|payload| *payload > 0).map(u32::from);
                (IpAddr::V6(ip), 40, payload.map_or(len, |payload| payload + 40))
            }
            _ => return None,
        };
        let sequence = u32::from_be_bytes(*bytes.get(header + 4..)?.first_chunk()?);
        let headers = header + usize::from(bytes.get(header + 12)? >> 4) * 4;
        let len = len.saturating_sub(u32::try_from(headers).ok()?);
        let opens = bytes.get(header + 13)? & SYN != 0;
        Some(Head {
            source,
            source_port: half(header)?,
            port: half(header + 2)?,
            segment: Segment { sequence, len, opens },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers of IPv4 (with `options` words of options) and TCP, and their length with a payload of `payload` bytes.
    fn ipv4(options: u8, payload: u16, flags: u8) -> (Vec<u8>, u32) {
        let header = 20 + usize::from(options) * 4;
        let total = u16::try_from(header).unwrap() + 32 + payload;
        let mut bytes = vec![0; header + 32];
        bytes[0] = 0x45 + options;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[9] = 6;
        bytes[12..16].copy_from_slice(&[10, 1, 2, 3]);
        write_tcp(&mut bytes[header..], flags);
        (bytes, total.into())
    }

    fn write_tcp(tcp: &mut [u8], flags: u8) {
        tcp[..2].copy_from_slice(&8000_u16.to_be_bytes());
        tcp[2..4].copy_from_slice(&54321_u16.to_be_bytes());
        tcp[4..8].copy_from_slice(&0xfedc_ba98_u32.to_be_bytes());
        (tcp[12], tcp[13]) = (0x80, flags);
    }

    #[test]
    fn heads_are_parsed() {
        let head = |source: IpAddr, len, opens| {
            let segment = Segment { sequence: 0xfedc_ba98, len, opens };
            Some(Head { source, source_port: 8000, port: 54321, segment })
        };
        let v4: IpAddr = [10, 1, 2, 3].into();
        for (options, payload, flags) in [(0, 0, 0x12), (0, 230, 0x18), (6, 7, 0x10)] {
            let (bytes, len) = ipv4(options, payload, flags);
            // Ethernet fills short packets up.
            for len in [len, len.max(46)] {
                assert_eq!(Head::parse(&bytes[..bytes.len().min(64)], len), head(v4, payload.into(), flags == 0x12));
            }
        }
        let (mut bytes, _) = ipv4(0, 0, 0x10);
        bytes[2..4].fill(0);
        assert_eq!(Head::parse(&bytes, 100_052), head(v4, 100_000, false), "longer than its field");
        let mut v6 = [0; 72];
        (v6[0], v6[6]) = (0x60, 6);
        v6[4..6].copy_from_slice(&(32_u16 + 500).to_be_bytes());
        v6[23] = 1;
        write_tcp(&mut v6[40..], 0x18);
        assert_eq!(Head::parse(&v6[..64], 572), head(Ipv6Addr::LOCALHOST.into(), 500, false));
    }

    #[test]
    fn odd_packets_are_ignored() {
        let (bytes, len) = ipv4(0, 10, 0x18);
        for cut in 0..34 {
            assert_eq!(Head::parse(&bytes[..cut], len), None, "{cut}");
        }
        for (at, value) in [(0, 0x55), (0, 0), (9, 17)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert_eq!(Head::parse(&other, len), None);
        }
        // Headers that are longer than the packet.
        let (mut bytes, _) = ipv4(0, 0, 0x18);
        bytes[32] = 0xf0;
        assert_eq!(Head::parse(&bytes, 52).unwrap().segment.len, 0);
    }
}
