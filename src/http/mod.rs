//! HTTP as a load generator needs it: connections whose moments are known, and replies cut into pieces.
//!
//! ```text
//! exchange     a request and its answer, whichever way they are carried
//!  ├─ stamped      connection ── reply (HTTP/1.1) ── tls ── socket: the kernel's stamps
//!  └─ portable     reqwest
//! sse, lines   how the bytes of an answer are cut
//! question     HTTP off the stopwatch
//! prometheus   the text of a `/metrics` page
//! ```

pub mod client;
pub mod connection;
pub mod exchange;
pub mod lines;
pub mod portable;
pub mod prometheus;
mod response;
pub mod socket;
pub mod sse;
pub mod stamped;
mod tls;

pub use response::Head;
