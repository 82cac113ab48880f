//! HTTP as a load generator needs it: connections whose moments are known, and the APIs spoken over them.

pub mod connection;
pub mod openai;
pub mod question;
pub mod sse;
pub mod stamp;
mod tls;
