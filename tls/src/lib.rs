//! TLS as bytes in and bytes out: no sockets, no files, no clock.
//!
//! So far it judges whether a certificate and a key belong together, for `ringside check`; sessions and
//! identities are not there yet.

#![forbid(unsafe_code)]

mod key_pair;

pub use key_pair::{KeyPairError, check_key_pair};
