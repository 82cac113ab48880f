//! `--stamps packets`: the packets of the servers, captured from before the first connection to the end of the run.

use super::{
    args::{Args, StampSource, TransportKind},
    priority::Work,
};
use crate::{
    clock::Clock,
    error::Error,
    http::{connection::ServerAddress, packets::PacketCapture},
    record::Stamps,
};

/// Starts the capture, if it is asked for. Connections must be opened after it.
///
/// # Errors
/// The flags exclude each other, or the system does not allow it.
pub fn start_capture(args: &Args, servers: &[ServerAddress]) -> Result<Option<PacketCapture>, Error> {
    if args.stamps == StampSource::Kernel {
        return Ok(None);
    }
    let excluded = |what: &str| Err(Error::Usage(format!("--stamps packets {what}")));
    if args.transport == TransportKind::Portable {
        return excluded("needs the stamped transport: leave --transport portable out, or use --stamps kernel");
    }
    let addresses = servers.iter().flat_map(|server| server.addresses().iter().copied());
    // A packet can wait in the ring for seconds.
    PacketCapture::start(addresses.collect(), Clock::start(), || Work::Write.apply_to_thread()).map(Some)
}

/// What the capture has missed, with the reason; `None`: nothing.
#[must_use]
pub fn describe_missed(stamps: Stamps) -> Option<String> {
    let Stamps { chunks, packets, packet_drops, .. } = stamps;
    let missed = chunks.saturating_sub(packets);
    let why = if packets == 0 {
        "do the packets come from another address than --base-url, as from a container with a published port?".into()
    } else if packet_drops > 0 {
        format!("{packet_drops} packets found no room in the ring: was the client stopped, or too busy?")
    } else {
        "they came by a way that the capture does not see, or the clock was stepped".into()
    };
    (missed > 0).then(|| format!("--stamps packets: {missed} of {chunks} chunks keep the stamp of their read: {why}"))
}
