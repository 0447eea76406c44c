//! The `Connection` field (RFC 9110 §7.6.1): what a peer wants of this one connection.

use super::syntax::trim_ows;
use crate::error::Cause;

/// At most so many options in all `Connection` fields of a head. Each is looked up among all
/// fields, so this times `limits.header_count` bounds the work of one head.
const OPTIONS_MAX: usize = 32;

/// What the `Connection` fields of one head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// It names further fields, which end here.
    pub names_fields: bool,
    count: u8,
}

impl Connection {
    /// Adds one field's value.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), Cause> {
        // What nearly every client sends.
        if self.count == 0 && value == b"keep-alive" {
            (self.keep_alive, self.count) = (true, 1);
            return Ok(());
        }
        for option in options(value) {
            if usize::from(self.count) == OPTIONS_MAX {
                return Err(Cause::HeadersTooLarge);
            }
            self.count += 1;
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.names_fields = true;
            }
        }
        Ok(())
    }
}

/// The elements of a list (RFC 9110 §5.6.1), empty ones left out.
pub(super) fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim_ows).filter(|option| !option.is_empty())
}
