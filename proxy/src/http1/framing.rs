//! Where a message's body ends (RFC 9112 §6).

use super::connection::options;
use super::syntax::is_token;
use crate::error::{Cause, Malformed};
use crate::http::Version;

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is no body and none is announced.
    #[default]
    None,
    /// `Content-Length`, as one plain number below 2⁶³.
    Length(u64),
    /// `Transfer-Encoding: chunked`, alone.
    Chunked,
    /// The end of the connection ends it; responses only.
    UntilClose,
}

/// Lengths from here on are refused: nobody sends them, and signed arithmetic at the next hop
/// would read them as negative.
const LENGTH_END: u64 = 1 << 63;

/// What the framing fields of a head have said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announced {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
}

impl Announced {
    /// Adds a `Content-Length`.
    pub(super) fn add_length(&mut self, value: &[u8]) -> Result<(), Cause> {
        let length = parse_length(value).ok_or(Cause::BadRequest(Malformed::BadLength))?;
        // RFC 9112 §6.3: two lengths, or a length beside a coding, are how requests are
        // smuggled. Equal ones could be merged; no client needs that.
        if self.length.is_some() || self.chunked {
            return Err(Cause::BadRequest(Malformed::ConflictingLength));
        }
        self.length = Some(length);
        Ok(())
    }

    /// Adds a `Transfer-Encoding`.
    pub(super) fn add_coding(&mut self, value: &[u8], version: Version) -> Result<(), Cause> {
        // RFC 9112 §6.1: with HTTP/1.0 a coding is to be treated as if the framing were faulty.
        // RFC 9112 §7.1: chunked may not be applied twice.
        if version == Version::Http10 || self.chunked {
            return Err(Cause::BadRequest(Malformed::BadTransferCoding));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(refuse_coding(value));
        }
        if self.length.is_some() {
            return Err(Cause::BadRequest(Malformed::ConflictingLength));
        }
        self.chunked = true;
        Ok(())
    }
}

/// RFC 9112 §6.1: 501 for a coding that we do not know, where the body's end would still be
/// clear (chunked comes last, once); 400 for everything else.
fn refuse_coding(value: &[u8]) -> Cause {
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let count = options(value).count();
    let well_formed = options(value).all(is_token)
        && options(value).filter(is_chunked).count() == 1
        && options(value).last().as_ref().is_some_and(is_chunked);
    if well_formed && count == value.split(|&b| b == b',').count() && count > 1 {
        Cause::UnsupportedCoding
    } else {
        Cause::BadRequest(Malformed::BadTransferCoding)
    }
}

/// RFC 9110 §8.6: digits, nothing else. Leading zeros are grammar and are not forwarded.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let mut length = 0u64;
    for &digit in value {
        if !digit.is_ascii_digit() {
            return None;
        }
        length = length.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    (length < LENGTH_END).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"002"), Some(2));
        assert_eq!(parse_length(b"9223372036854775807"), Some(LENGTH_END - 1));
        for bad in [
            "",
            "+2",
            "-2",
            "0x2",
            "1_0",
            "2 a",
            "2,2",
            "2, 5",
            "9223372036854775808",
            "18446744073709551617",
            "99999999999999999999999",
            "2\0",
            "٢",
            "2.0",
            "1e3",
        ] {
            assert_eq!(parse_length(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn codings() {
        let refuse = |value: &str| refuse_coding(value.as_bytes());
        let bad = Cause::BadRequest(Malformed::BadTransferCoding);
        assert_eq!(refuse("gzip, chunked"), Cause::UnsupportedCoding);
        assert_eq!(refuse("GZIP,Chunked"), Cause::UnsupportedCoding);
        for value in [
            "",
            "gzip",
            "chunked, gzip",
            "chunked, chunked",
            "identity",
            "xchunked",
            "\"chunked\"",
            "chunked;a=b",
            "chunked,",
            ",chunked",
            "gzip,,chunked",
            "chunked\x0b",
            "gzip\x0b, chunked",
            "chunked\u{a0}",
            "chunke",
        ] {
            assert_eq!(refuse(value), bad, "{value:?}");
        }
    }
}
