//! Heads: the first line and the fields of a request or response, as offsets into the buffer
//! they were received in.
//!
//! [`parse_request`] and [`parse_response`] are shown all bytes received so far, from the first
//! byte of the head on, again and again until they say [`Parsed::Complete`] or refuse. Between
//! two calls for one head the bytes may move and grow, never change. The heads are reused: the
//! call after a complete or refused head begins a new one by itself, and [`RequestHead::clear`]
//! forgets one that will never be complete.

pub use super::connection::Connection;
pub use super::request::{RequestHead, parse_request};
pub use super::response::{Asked, ResponseHead, parse_response};
use crate::error::Cause;

/// The bounds of one head, from `limits` of the config.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head, first line and final empty line included.
    pub header_size: usize,
    /// Field lines.
    pub header_count: usize,
    /// Bytes of the request target.
    pub target_size: usize,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits { header_size: 64 << 10, header_count: 100, target_size: 16 << 10 }
    }
}

/// More 1xx responses than this before a final one are a flood.
pub const INTERIM_RESPONSES_MAX: u32 = 16;

/// How far the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So far so good; show more.
    Partial,
    /// The head has `len` bytes; the body, or the next head, begins there.
    Complete { len: usize },
}

/// The head is refused: answer with the cause, close, forward nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    pub cause: Cause,
}

/// A range of the head's bytes. Heads are far below 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    #[inline]
    pub(super) fn new(start: usize, len: usize) -> Span {
        debug_assert!(start + len <= u32::MAX as usize);
        Span { start: start as u32, len: len as u32 }
    }

    /// `bytes` are those of the head that this span is of.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.range()]
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}
