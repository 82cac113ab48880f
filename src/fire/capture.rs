//! `--stamps packets` and `auto`: the packets of the servers, captured from before the first connection to the end of the run.

use std::io;

use super::{
    args::{Args, StampSource, TransportKind},
    priority::Work,
};
use crate::{
    cli,
    clock::Clock,
    error::Error,
    http::{connection::ServerAddress, packets::PacketCapture},
    record::Stamps,
};

/// Starts the capture, if it is asked for, or possible and wanted then. Connections must be opened after it.
///
/// # Errors
/// The flags exclude each other, or the system does not allow it.
pub fn start_capture(args: &Args, servers: &[ServerAddress]) -> Result<Option<PacketCapture>, Error> {
    let portable = args.transport == TransportKind::Portable;
    match args.stamps {
        StampSource::Kernel => Ok(None),
        StampSource::Packets if portable => Err(Error::Usage(
            "--stamps packets needs the stamped transport: leave --transport portable out, or use --stamps kernel"
                .into(),
        )),
        // That flag asks for the stamps of an event loop.
        StampSource::Auto if portable => Ok(None),
        StampSource::Packets => open_capture(servers)
            .map(Some)
            .map_err(|e| Error::Setup(format!("--stamps packets: {}; or use --stamps kernel", describe_refusal(&e)))),
        StampSource::Auto => Ok(open_capture(servers)
            .inspect_err(|e| {
                let why = describe_refusal(e);
                cli::print_warning("vb-fire", format_args!("--stamps auto: the kernel's stamps, not packets: {why}"));
            })
            .ok()),
    }
}

fn open_capture(servers: &[ServerAddress]) -> io::Result<PacketCapture> {
    let addresses = servers.iter().flat_map(|server| server.addresses().iter().copied());
    // A packet can wait in the ring for seconds.
    PacketCapture::start(addresses.collect(), Clock::start(), || Work::Write.apply_to_thread())
}

fn describe_refusal(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::PermissionDenied => {
            "the system does not allow it: run as root, or give the program the right once with `sudo setcap cap_net_raw+ep` and its \
             path, a container with --cap-add NET_RAW"
                .into()
        }
        io::ErrorKind::Unsupported => "this system has no such capture: it needs Linux".into(),
        _ => format!("cannot capture packets: {e}"),
    }
}

/// What was used, for the run record; `None`: nothing else was asked for.
#[must_use]
pub fn stamps_used(args: &Args, capture: Option<&PacketCapture>) -> Option<&'static str> {
    match (capture, args.stamps) {
        (Some(_), _) => Some("packets"),
        (None, StampSource::Kernel | StampSource::Packets) => None,
        (None, StampSource::Auto) if args.transport == TransportKind::Portable => None,
        (None, StampSource::Auto) => Some("kernel"),
    }
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
    (missed > 0).then(|| format!("stamps by packets: {missed} of {chunks} chunks keep the stamp of their read: {why}"))
}
