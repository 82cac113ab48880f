//! A socket under TLS that hands out one record at a time, so that it is known which bytes of the stream a plaintext came from.
//!
//! A record can be decrypted once its last byte has arrived. Its head has its length, but neither the length of its plaintext nor
//! whether it has any: sessions and keys are renewed in records that look the same. rustls takes no more bytes while it holds a plaintext, so
//! that a plaintext is of the record that was handed out last.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::Socket;

/// How much is read at once: some chunks of a stream.
const BUFFER: usize = 4 << 10;

/// See the module.
#[derive(Debug)]
pub struct RecordSocket {
    /// The connection.
    pub socket: Socket,
    /// What was read and not yet handed out; `None`: it does not matter where records end, and reads are handed on as they are.
    unread: Option<UnreadBytes>,
}

#[derive(Debug)]
struct UnreadBytes {
    buffer: Box<[u8; BUFFER]>,
    start: usize,
    end: usize,
    record: RecordProgress,
}

/// How far the record is that is being handed out.
#[derive(Debug, Default)]
struct RecordProgress {
    head: [u8; 5],
    head_len: usize,
    /// Bytes left after the head, once that is complete.
    left: usize,
}

impl RecordSocket {
    /// Wraps a connection on which nothing was read yet. `by_record`: whether it is to be read record by record.
    #[must_use]
    pub fn new(socket: Socket, by_record: bool) -> Self {
        let unread =
            || UnreadBytes { buffer: Box::new([0; BUFFER]), start: 0, end: 0, record: RecordProgress::default() };
        RecordSocket { socket, unread: by_record.then(unread) }
    }

    /// How many bytes of the connection's stream were handed out.
    #[must_use]
    pub fn handed_out(&self) -> u64 {
        self.socket.received - self.unread.as_ref().map_or(0, |unread| (unread.end - unread.start) as u64)
    }
}

impl RecordProgress {
    /// How many of these bytes come before the end of the record.
    fn take_bytes(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.left == 0 {
            taken = (self.head.len() - self.head_len).min(bytes.len());
            self.head[self.head_len..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_len += taken;
            if self.head_len < self.head.len() {
                return taken;
            }
            self.head_len = 0;
            self.left = u16::from_be_bytes([self.head[3], self.head[4]]).into();
        }
        let more = self.left.min(bytes.len() - taken);
        self.left -= more;
        taken + more
    }
}

impl AsyncRead for RecordSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let RecordSocket { socket, unread } = &mut *self;
        let Some(unread) = unread else { return Pin::new(socket).poll_read(cx, buf) };
        if unread.start == unread.end {
            let mut space = ReadBuf::new(&mut *unread.buffer);
            ready!(Pin::new(socket).poll_read(cx, &mut space))?;
            (unread.start, unread.end) = (0, space.filled().len());
        }
        let bytes = &unread.buffer[unread.start..unread.end];
        let taken = unread.record.take_bytes(&bytes[..bytes.len().min(buf.remaining())]);
        buf.put_slice(&bytes[..taken]);
        unread.start += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RecordSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Which record each byte of a plaintext came from.
#[derive(Debug, Clone, Default)]
pub struct RecordMap {
    /// The length of the plaintext so far.
    pub plain: u64,
    /// The end of each read of the plaintext, and of the record that it came from.
    ends: Vec<(u64, u64)>,
    /// The reads that were looked up already.
    passed: usize,
}

impl RecordMap {
    /// Notes that the next `count` bytes of the plaintext came from the record that ends at this position.
    pub fn add_read(&mut self, count: usize, record_end: u64) {
        if count > 0 {
            self.plain += count as u64;
            self.ends.push((self.plain, record_end));
        }
    }

    /// The reads since the last call, which are the reads of a response.
    #[must_use]
    pub fn take_reads(&mut self) -> RecordMap {
        RecordMap { plain: self.plain, ends: std::mem::take(&mut self.ends), passed: 0 }
    }

    /// Where the record ends that has the last byte before a position of the plaintext. Positions must not decrease from call to call.
    #[must_use]
    pub fn find_record_end(&mut self, position: u64) -> Option<u64> {
        let left = &self.ends[self.passed..];
        self.passed += left.iter().take_while(|(end, _)| *end < position).count();
        self.ends.get(self.passed).map(|(_, record)| *record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes come, what is handed out ends at the end of each record and never crosses one.
        #[test]
        fn records_are_handed_out_one_by_one(
            lens in prop::collection::vec(prop_oneof![0..40_usize, 0..20_000_usize], 1..12),
            reads in prop::collection::vec(1..6_000_usize, 1..20),
        ) {
            let (mut stream, mut ends) = (Vec::new(), Vec::new());
            for len in lens {
                stream.extend_from_slice(&[23, 3, 3]);
                stream.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
                stream.extend(std::iter::repeat_n(23, len));
                ends.push(stream.len());
            }
            let (mut progress, mut at, mut handed) = (RecordProgress::default(), 0, Vec::new());
            for read in reads.iter().cycle() {
                let arrived = &stream[at..stream.len().min(at + read)];
                let mut rest = arrived;
                while !rest.is_empty() {
                    let taken = progress.take_bytes(rest);
                    prop_assert!(taken > 0);
                    rest = &rest[taken..];
                    handed.push(at + arrived.len() - rest.len());
                }
                at += arrived.len();
                if at == stream.len() {
                    break;
                }
            }
            for end in ends {
                prop_assert!(handed.contains(&end), "{} in {:?}", end, handed);
            }
        }
    }

    #[test]
    fn a_plaintext_belongs_to_the_record_it_came_from() {
        let mut map = RecordMap::default();
        map.add_read(10, 120);
        let _ = map.take_reads();
        // A record in two reads, one without a plaintext before the next.
        for (count, end) in [(100, 300), (50, 300), (0, 400), (7, 500)] {
            map.add_read(count, end);
        }
        let mut reads = map.take_reads();
        assert_eq!((map.plain, reads.plain), (167, 167));
        for (position, end) in [(11, 300), (110, 300), (111, 300), (160, 300), (161, 500), (167, 500)] {
            assert_eq!(reads.find_record_end(position), Some(end), "{position}");
        }
        assert_eq!(reads.find_record_end(168), None);
        assert_eq!(map.take_reads().find_record_end(1), None);
    }
}
