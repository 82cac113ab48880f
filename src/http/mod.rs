//! HTTP for a load generator: connections with timestamps, and response bodies split into events or lines.
//!
//! ```text
//! exchange     a request and its response, over either transport
//!  ├─ stamped      connection ── response (HTTP/1.1) ── tls ── socket: the kernel's stamps
//!  └─ portable     reqwest
//! reuse        whether connections are reused, by either transport
//! sse, lines   split a response body into events or lines
//! client       HTTP that is not measured
//! prometheus   the text of a `/metrics` page
//! ```

pub mod client;
pub mod connection;
pub mod exchange;
pub mod lines;
pub mod portable;
pub mod prometheus;
mod response;
mod reuse;
pub mod socket;
pub mod sse;
pub mod stamped;
mod tls;

pub use response::Head;
