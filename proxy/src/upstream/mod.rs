//! Whom we connect to: which endpoint, which connection, and what becomes of it.

mod connection;
mod dial;
mod service;

pub use connection::{Upstream, Upstreams};
pub use dial::{Attempt, dial};
pub use service::{Busy, Replica};
