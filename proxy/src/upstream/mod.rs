//! Whom we connect to: which endpoint, which connection, and what becomes of it.

mod connection;
mod dial;

pub use connection::{Upstream, Upstreams};
pub use dial::{Attempt, dial};
