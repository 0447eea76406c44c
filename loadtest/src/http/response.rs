//! Responses, as the generator reads them.

use super::chunked::Chunked;
use super::head::{Collector, Head, Malformed, decimal};

/// One whole response; its body was counted and thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) length: u64,
    /// The connection ends after this response.
    pub(crate) close: bool,
}

#[derive(Default)]
enum Body {
    #[default]
    None,
    Length(Response, u64),
    Chunked(Response, Chunked),
    UntilClose(Response),
}

/// Reads responses one after another (never to HEAD or CONNECT, which we do not send).
#[derive(Default)]
pub(crate) struct ResponseReader {
    head: Collector,
    body: Body,
}

impl ResponseReader {
    /// Body bytes that may be thrown away unread: all but the last, which completes the response.
    pub(crate) fn discardable(&self) -> u64 {
        match self.body {
            Body::Length(_, left) => left.saturating_sub(1),
            _ => 0,
        }
    }

    /// So many of the [`discardable`](Self::discardable) bytes have been thrown away.
    pub(crate) fn discarded(&mut self, count: u64) {
        if let Body::Length(_, left) = &mut self.body {
            *left -= count;
        }
    }

    /// Takes bytes up to the end of a response at most; returns how many, and the response.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Response>), Malformed> {
        match std::mem::take(&mut self.body) {
            Body::None => self.take_head(bytes),
            Body::Length(response, left) => {
                let part = left.min(bytes.len() as u64);
                if part == left {
                    return Ok((part as usize, Some(response)));
                }
                self.body = Body::Length(response, left - part);
                Ok((part as usize, None))
            }
            Body::Chunked(response, mut body) => {
                let taken = body.take(bytes)?;
                if body.is_done() {
                    return Ok((taken, Some(Response { length: body.length, ..response })));
                }
                self.body = Body::Chunked(response, body);
                Ok((taken, None))
            }
            Body::UntilClose(mut response) => {
                response.length += bytes.len() as u64;
                self.body = Body::UntilClose(response);
                Ok((bytes.len(), None))
            }
        }
    }

    /// The stream has ended: a response without a length ends with it, any other is cut.
    pub(crate) fn end(&mut self) -> Option<Response> {
        match std::mem::take(&mut self.body) {
            Body::UntilClose(response) => Some(response),
            _ => None,
        }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<(usize, Option<Response>), Malformed> {
        let parse = |head: &[u8]| {
            let head = Head::parse(head)?;
            let (status, old) = status(head.start)?;
            let response = Response { status, length: 0, close: head.close || old };
            Ok((response, head.content_length, head.chunked))
        };
        let (taken, parsed) = self.head.take(bytes, parse)?;
        let Some((response, length, chunked)) = parsed else { return Ok((taken, None)) };
        match (response.status, chunked, length) {
            // RFC 9112 §6.3: these have no body whatever they say; 1xx is not the response yet.
            (100..200, ..) => {}
            (204 | 304, ..) | (_, false, Some(0)) => return Ok((taken, Some(response))),
            (_, true, _) => self.body = Body::Chunked(response, Chunked::new()),
            (_, false, Some(length)) => {
                self.body = Body::Length(Response { length, ..response }, length);
            }
            (_, false, None) => {
                self.body = Body::UntilClose(Response { close: true, ..response });
            }
        }
        Ok((taken, None))
    }
}

/// The status code, and whether the version is one without keep-alive.
fn status(line: &[u8]) -> Result<(u16, bool), Malformed> {
    let old = line.starts_with(b"HTTP/1.0 ");
    if !old && !line.starts_with(b"HTTP/1.1 ") {
        return Err(Malformed("not an HTTP/1 status line"));
    }
    let code = line.get(9..12).and_then(decimal).ok_or(Malformed("no status code"))?;
    Ok((code as u16, old))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut bytes: &[u8], step: usize) -> Vec<(u16, u64, bool)> {
        let mut reader = ResponseReader::default();
        let mut responses = Vec::new();
        while !bytes.is_empty() {
            let (taken, response) = reader.take(&bytes[..step.min(bytes.len())]).unwrap();
            bytes = &bytes[taken..];
            responses.extend(response);
        }
        responses.extend(reader.end());
        responses.into_iter().map(|r| (r.status, r.length, r.close)).collect()
    }

    #[test]
    fn every_framing_at_any_split() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\n\
            HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello\
            HTTP/1.1 204 No Content\r\n\r\n\
            HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n\
            HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
            HTTP/1.0 200 OK\r\n\r\nuntil the end";
        for step in 1..=bytes.len() {
            assert_eq!(
                read_all(bytes, step),
                [
                    (200, 5, false),
                    (204, 0, false),
                    (503, 0, true),
                    (200, 3, false),
                    (200, 13, true)
                ],
                "in steps of {step}"
            );
        }
    }

    #[test]
    fn a_long_body_may_be_thrown_away_but_for_its_last_byte() {
        let mut reader = ResponseReader::default();
        reader.take(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").unwrap();
        reader.take(b"x").unwrap();
        assert_eq!(reader.discardable(), 998);
        reader.discarded(998);
        assert_eq!(reader.discardable(), 0);
        assert_eq!(reader.take(b"yz").unwrap().1.map(|r| r.length), Some(1000));
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for bad in [&b"HTTP/2 200 OK\r\n\r\n"[..], b"junk\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"] {
            assert!(ResponseReader::default().take(bad).is_err(), "{bad:?}");
        }
    }
}
