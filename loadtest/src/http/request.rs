//! Requests, as the origin reads them.

use super::chunked::Chunked;
use super::head::{Collector, Head, Malformed, decimal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Other,
}

/// What the path asks the origin to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A body of so many bytes, with its length said.
    Bytes(u64),
    /// The same, chunked.
    Chunked(u64),
    /// The usual answer, so many milliseconds later.
    Slow(u64),
    Stats,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) action: Action,
    pub(crate) close: bool,
    pub(crate) test_id: Option<Box<[u8]>>,
}

/// What the reader has come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// All bytes are taken and the request goes on.
    Nothing,
    /// The head is there and its sender waits for `100 Continue` before the body.
    ExpectsContinue,
    Request(Request),
}

#[derive(Default)]
enum Body {
    /// No request has begun its body: a head comes next.
    #[default]
    None,
    Length(Request, u64),
    Chunked(Request, Chunked),
}

/// Reads requests one after another and throws their bodies away.
#[derive(Default)]
pub(crate) struct RequestReader {
    head: Collector,
    body: Body,
}

/// The body of an answer to any path that says nothing else.
pub(crate) const USUAL_LENGTH: u64 = 100;

impl RequestReader {
    /// Whether the next byte begins a new request.
    pub(crate) fn is_between_requests(&self) -> bool {
        !self.head.has_begun() && matches!(self.body, Body::None)
    }

    /// Takes bytes up to the end of a request at most; returns how many and what they came to.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(usize, Seen), Malformed> {
        match std::mem::take(&mut self.body) {
            Body::None => self.take_head(bytes),
            Body::Length(request, left) => {
                let part = left.min(bytes.len() as u64);
                if part == left {
                    return Ok((part as usize, Seen::Request(request)));
                }
                self.body = Body::Length(request, left - part);
                Ok((part as usize, Seen::Nothing))
            }
            Body::Chunked(request, mut body) => {
                let taken = body.take(bytes)?;
                if body.is_done() {
                    return Ok((taken, Seen::Request(request)));
                }
                self.body = Body::Chunked(request, body);
                Ok((taken, Seen::Nothing))
            }
        }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<(usize, Seen), Malformed> {
        let parse = |head: &[u8]| {
            let head = Head::parse(head)?;
            Ok((request(&head)?, head.content_length, head.chunked, head.expect_continue))
        };
        let (taken, parsed) = self.head.take(bytes, parse)?;
        let Some((request, length, chunked, expects)) = parsed else {
            return Ok((taken, Seen::Nothing));
        };
        self.body = match (chunked, length) {
            (true, _) => Body::Chunked(request, Chunked::new()),
            (false, None | Some(0)) => return Ok((taken, Seen::Request(request))),
            (false, Some(length)) => Body::Length(request, length),
        };
        Ok((taken, if expects { Seen::ExpectsContinue } else { Seen::Nothing }))
    }
}

fn request(head: &Head<'_>) -> Result<Request, Malformed> {
    let mut words = head.start.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Err(Malformed("request line without three words"));
    };
    let method = match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        _ => Method::Other,
    };
    Ok(Request {
        method,
        action: action(target),
        close: head.close || version == b"HTTP/1.0",
        test_id: head.test_id.map(Box::from),
    })
}

fn action(target: &[u8]) -> Action {
    let number = |prefix: &[u8]| target.strip_prefix(prefix).and_then(decimal);
    if target == b"/__stats" {
        Action::Stats
    } else if let Some(length) = number(b"/bytes/") {
        Action::Bytes(length)
    } else if let Some(length) = number(b"/chunked/") {
        Action::Chunked(length)
    } else if let Some(delay_ms) = number(b"/slow/") {
        Action::Slow(delay_ms)
    } else {
        Action::Bytes(USUAL_LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut bytes: &[u8], step: usize) -> Vec<Request> {
        let mut reader = RequestReader::default();
        let mut requests = Vec::new();
        while !bytes.is_empty() {
            let (taken, seen) = reader.take(&bytes[..step.min(bytes.len())]).unwrap();
            bytes = &bytes[taken..];
            if let Seen::Request(request) = seen {
                requests.push(request);
            }
        }
        assert!(reader.is_between_requests());
        requests
    }

    #[test]
    fn pipelined_requests_come_out_one_by_one_at_any_split() {
        let bytes = b"GET /bytes/7 HTTP/1.1\r\nhost: a\r\n\r\n\
            POST /slow/5 HTTP/1.1\r\ncontent-length: 3\r\nx-test-id: q\r\n\r\nabc\
            POST /chunked/9 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n\
            HEAD /anything HTTP/1.0\r\n\r\n";
        for step in 1..=bytes.len() {
            let requests = read_all(bytes, step);
            let actions: Vec<_> = requests.iter().map(|r| (r.method, r.action)).collect();
            assert_eq!(
                actions,
                [
                    (Method::Get, Action::Bytes(7)),
                    (Method::Post, Action::Slow(5)),
                    (Method::Post, Action::Chunked(9)),
                    (Method::Head, Action::Bytes(USUAL_LENGTH)),
                ]
            );
            assert_eq!(requests[1].test_id.as_deref(), Some(&b"q"[..]));
            assert!(requests[3].close && !requests[0].close);
        }
    }

    #[test]
    fn a_sender_that_waits_is_told_so() {
        let mut reader = RequestReader::default();
        let head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
        assert_eq!(reader.take(head), Ok((head.len(), Seen::ExpectsContinue)));
        assert!(matches!(reader.take(b"x"), Ok((1, Seen::Request(_)))));
    }
}
