//! HTTP for a load generator: connections with timestamps, and response bodies split into events or lines.
//!
//! ```text
//! exchange     a request and its response, over either transport
//!  ├─ stamped      connection ── response (HTTP/1.1) ── tls, tls_records ── socket: the kernel's stamps
//!  └─ portable     reqwest
//! packets      when bytes arrived, by their packets: packet_ring (from the kernel), packet_times (of each byte)
//! reuse        whether connections are reused, by either transport
//! body         splits a response body into chunks by what it begins with: events (sse), lines, or one document
//! error_text   the words of a server's error; page: of one in HTML
//! client       HTTP that is not measured
//! prometheus   the text of a `/metrics` page
//! ```

pub mod body;
pub mod client;
pub mod connection;
pub mod error_text;
pub mod exchange;
pub mod headers;
pub mod lines;
mod packet_ring;
mod packet_times;
pub mod packets;
mod page;
pub mod portable;
pub mod prometheus;
mod response;
mod reuse;
pub mod socket;
pub mod sse;
pub mod stamped;
mod tls;
mod tls_records;

pub use response::Head;
