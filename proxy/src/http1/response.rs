//! Response heads (RFC 9112 §4): read, judged and classified in one pass.
//!
//! Whatever is wrong with a response, the client gets `upstream_bad_response` with the detail.

use super::connection::{Connection, options};
use super::fields::{Field, Fields, Kind, Next, Progress, strip_line_end};
use super::framing::{Announced, Framing};
use super::head::{HeadLimits, Parsed, Reject, Span};
use super::syntax::is_value;
use super::upgrade::{Seen, Upgrade};
use crate::error::{Cause, Malformed};
use crate::http::{Method, Version};

/// What a response answers, as far as its reading depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    /// The upgrade that was forwarded with the request.
    pub upgrade: Upgrade,
}

/// A response head. Accessors that take `bytes` want the bytes that it was parsed from.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    pub version: Version,
    /// Where the body ends; [`Framing::None`] if there is none, whatever was announced.
    pub framing: Framing,
    /// The Content-Length of a body that is not there: of a response to HEAD, or a 304.
    pub length_without_body: Option<u64>,
    pub connection: Connection,
    /// The connection is a tunnel from here on: a 101 that was asked for, or a 2xx to CONNECT.
    pub tunnel: bool,
    /// The protocol of a 101.
    pub upgrade: Upgrade,
    /// The upstream's own idle timeout in seconds, if it tells (`Keep-Alive: timeout=5`).
    pub keep_alive_timeout: Option<u32>,
    pub fields: Fields,
    reason: Span,
    announced: Announced,
    upgrade_seen: Seen,
    progress: Progress,
}

/// Reads a response head from all bytes received so far; see the module [`super::head`].
pub fn parse_response(
    bytes: &[u8],
    limits: &HeadLimits,
    asked: Asked,
    head: &mut ResponseHead,
) -> Result<Parsed, Reject> {
    if head.progress.ended {
        head.clear();
    }
    let result = head.read(bytes, limits, asked);
    head.progress.ended = result != Ok(Parsed::Partial);
    result.map_err(|cause| Reject { cause: blame_upstream(cause) })
}

/// The shared readers name a request's causes.
fn blame_upstream(cause: Cause) -> Cause {
    Cause::UpstreamBadResponse(match cause {
        Cause::BadRequest(detail) => detail,
        Cause::UnsupportedCoding => Malformed::BadTransferCoding,
        Cause::UnsupportedVersion => Malformed::BadVersion,
        _ => Malformed::HeadTooLarge,
    })
}

impl ResponseHead {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = ResponseHead { fields, ..ResponseHead::default() };
    }

    /// Whether bytes of a head have been seen that is neither complete nor refused.
    pub fn is_partial(&self) -> bool {
        !self.progress.ended && (self.progress.scanned > 0 || self.progress.line > 0)
    }

    pub fn reason<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.reason.of(bytes)
    }

    /// A 1xx after which the final response is still to come.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Whether it says to the client when it was made.
    pub fn is_dated(&self) -> bool {
        self.fields.goes_on(Kind::Date)
    }

    /// RFC 9112 §9.3: whether the upstream takes a further request after this response's body. One
    /// that announces a body where there is none may send it all the same.
    pub fn keep_alive(&self) -> bool {
        let announced = self.announced.chunked || self.announced.length.is_some_and(|len| len > 0);
        !self.connection.close
            && (self.version == Version::Http11 || self.connection.keep_alive)
            && self.framing != Framing::UntilClose
            && !(self.status == 204 && announced)
            && !self.tunnel
    }

    fn read(&mut self, bytes: &[u8], limits: &HeadLimits, asked: Asked) -> Result<Parsed, Cause> {
        if !self.progress.in_fields && !self.read_status_line(bytes, limits)? {
            return Ok(Parsed::Partial);
        }
        loop {
            match self.fields.next(bytes, limits, &mut self.progress)? {
                Next::Field(field) => {
                    if field.kind != Kind::Other {
                        self.note(field, bytes)?;
                    }
                }
                Next::End(len) => {
                    self.finish(bytes, asked)?;
                    return Ok(Parsed::Complete { len });
                }
                Next::Partial => return Ok(Parsed::Partial),
            }
        }
    }

    /// Reads the status line; false while it is not complete.
    fn read_status_line(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<bool, Cause> {
        const START: &[u8] = b"HTTP/";
        let known = bytes.len().min(START.len());
        if bytes[..known] != START[..known] {
            return Err(Cause::BadRequest(Malformed::NotHttp));
        }
        let Some(end) = self.progress.line_end(bytes) else {
            return match bytes.len() > limits.header_size {
                true => Err(Cause::HeadersTooLarge),
                false => Ok(false),
            };
        };
        if end > limits.header_size {
            return Err(Cause::HeadersTooLarge);
        }
        let line = strip_line_end(&bytes[..end]).map_err(Cause::BadRequest)?;
        self.judge_status_line(line).map_err(Cause::BadRequest)?;
        self.progress.line = end;
        self.progress.in_fields = true;
        Ok(true)
    }

    fn judge_status_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let Some((start, rest)) = line.split_first_chunk::<9>() else {
            return Err(Malformed::BadStatusLine);
        };
        self.version = match start {
            b"HTTP/1.1 " => Version::Http11,
            b"HTTP/1.0 " => Version::Http10,
            _ => return Err(Malformed::BadVersion),
        };
        let Some((digits, rest)) = rest.split_first_chunk::<3>() else {
            return Err(Malformed::BadStatusLine);
        };
        let [b'1'..=b'9', _, _] = digits else { return Err(Malformed::BadStatusLine) };
        for digit in digits {
            if !digit.is_ascii_digit() {
                return Err(Malformed::BadStatusLine);
            }
            self.status = self.status * 10 + u16::from(digit - b'0');
        }
        // RFC 9112 §4: a space even before an empty reason; servers forget it.
        let reason = match rest {
            [] => rest,
            [b' ', reason @ ..] => reason,
            _ => return Err(Malformed::BadStatusLine),
        };
        if !is_value(reason) {
            return Err(Malformed::BadStatusLine);
        }
        self.reason = Span::new(line.len() - reason.len(), reason.len());
        Ok(())
    }

    /// Takes in a field that means something to us.
    fn note(&mut self, field: Field, bytes: &[u8]) -> Result<(), Cause> {
        let value = field.value(bytes);
        match field.kind {
            Kind::ContentLength => self.announced.add_length(value)?,
            Kind::TransferEncoding => self.announced.add_coding(value, self.version)?,
            Kind::Connection => self.connection.add(value)?,
            Kind::Upgrade => self.upgrade_seen.add_protocol(value),
            Kind::KeepAlive => self.keep_alive_timeout = parse_timeout(value),
            _ => {}
        }
        Ok(())
    }

    /// What can be said only when all fields are known.
    fn finish(&mut self, bytes: &[u8], asked: Asked) -> Result<(), Cause> {
        let announced = match self.announced {
            Announced { chunked: true, .. } => Framing::Chunked,
            Announced { length: Some(length), .. } => Framing::Length(length),
            // RFC 9112 §6.3 rule 8: a response without either ends with the connection.
            Announced { .. } => Framing::UntilClose,
        };
        // RFC 9112 §6.3 rules 1 and 2, which come before all others.
        self.framing = match (self.status, asked.method) {
            (101, _) => {
                if asked.upgrade == Upgrade::None
                    || !self.connection.upgrade
                    || !self.upgrade_seen.is_websocket_response()
                {
                    return Err(Cause::BadRequest(Malformed::UnexpectedUpgrade));
                }
                self.upgrade = asked.upgrade;
                self.tunnel = true;
                Framing::None
            }
            (200..=299, Method::Connect) => {
                self.tunnel = true;
                Framing::None
            }
            (100..=199 | 204, _) => Framing::None,
            (304, _) | (_, Method::Head) => {
                self.length_without_body = self.announced.length;
                Framing::None
            }
            _ => announced,
        };
        if self.connection.names_fields {
            self.fields.mark_named(bytes);
        }
        Ok(())
    }
}

/// `timeout=5, max=100`: the five.
fn parse_timeout(value: &[u8]) -> Option<u32> {
    let timeout = options(value).find_map(|option| {
        let (name, number) = option.split_at_checked(8)?;
        name.eq_ignore_ascii_case(b"timeout=").then_some(number)
    })?;
    str::from_utf8(timeout).ok()?.parse().ok()
}
