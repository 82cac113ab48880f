//! HTTP as a load generator needs it: connections whose moments are known, and the APIs spoken over them.
//!
//! ```text
//! exchange     a request and its answer, whichever way they are carried
//!  ├─ stamped      connection ── reply (HTTP/1.1) ── tls ── socket: the kernel's stamps
//!  └─ portable     reqwest
//! sse, openai, pattern   what the bytes of an answer mean
//! question     HTTP off the stopwatch
//! prometheus   the text of a `/metrics` page
//! ```

pub mod connection;
pub mod exchange;
pub mod openai;
pub mod pattern;
pub mod portable;
pub mod prometheus;
pub mod question;
mod reply;
pub mod socket;
pub mod sse;
pub mod stamped;
mod tls;

pub use reply::Head;
