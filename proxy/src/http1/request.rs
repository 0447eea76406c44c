//! Request heads (RFC 9112 §3): read, judged and classified in one pass.

use super::connection::Connection;
use super::fields::{Field, Fields, Kind, Next, Progress, strip_line_end};
use super::framing::{Announced, Framing};
use super::head::{HeadLimits, Parsed, Reject, Span};
use super::syntax::token_len;
use super::upgrade::{Seen, Upgrade};
use crate::error::{Cause, Malformed};
use crate::http::{Form, Method, Version, host, target};

/// Longer method tokens are refused: no registered one comes near.
const METHOD_SIZE_MAX: usize = 32;

/// ` HTTP/1.1`
const VERSION_SIZE: usize = 9;

/// The first byte of a TLS record that holds a handshake, as a ClientHello does.
const TLS_HANDSHAKE: u8 = 0x16;

/// A request head. Accessors that take `bytes` want the bytes that it was parsed from.
#[derive(Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    pub version: Version,
    pub form: Form,
    /// [`Framing::None`], [`Framing::Length`] or [`Framing::Chunked`].
    pub framing: Framing,
    pub connection: Connection,
    /// The client waits for a 100 before it sends its body, and speaks HTTP/1.1.
    pub expects_continue: bool,
    /// The client takes trailers (`TE: trailers`).
    pub te_trailers: bool,
    /// A valid request for another protocol; what is invalid is [`Upgrade::None`].
    pub upgrade: Upgrade,
    pub fields: Fields,
    method_token: Span,
    target: Span,
    path: Span,
    query: Span,
    /// Of the target if that names one, else of the Host field.
    host: Span,
    has_host: bool,
    announced: Announced,
    upgrade_seen: Seen,
    progress: Progress,
}

/// Reads a request head from all bytes received so far; see the module [`super::head`].
pub fn parse_request(
    bytes: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Parsed, Reject> {
    if head.progress.ended {
        head.clear();
    }
    let result = head.read(bytes, limits);
    head.progress.ended = result != Ok(Parsed::Partial);
    result.map_err(|cause| Reject { cause })
}

impl RequestHead {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = RequestHead { fields, ..RequestHead::default() };
    }

    /// Whether bytes of a head have been seen that is neither complete nor refused.
    pub fn is_partial(&self) -> bool {
        !self.progress.ended && (self.progress.scanned > 0 || self.progress.line > 0)
    }

    pub fn method_token<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.method_token.of(bytes)
    }

    /// As it was sent, but for what [`RequestHead::normalize_path`] did.
    pub fn target<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.target.of(bytes)
    }

    /// What routes compare: begins with `/`, or is `*`, or is empty (CONNECT).
    pub fn path<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.path.of(bytes) {
            // RFC 9112 §3.2.1: an empty path is sent as `/`; §3.2.4: for OPTIONS, without a
            // query, it is `*`.
            [] if self.method == Method::Options && self.query.is_empty() => b"*",
            [] if self.form == Form::Absolute => b"/",
            path => path,
        }
    }

    /// Gives the path its [normal form](config::normal_path). Where that is not what was sent, it
    /// stands behind the head, and the query behind it.
    pub fn normalize_path(&mut self, bytes: &mut Vec<u8>) {
        let Some(path) = config::normal_path(self.path.of(bytes)) else { return };
        let (start, query) = (bytes.len(), self.query.range());
        bytes.extend_from_slice(&path);
        bytes.extend_from_within(query.clone());
        self.path = Span::new(start, path.len());
        self.query = Span::new(start + path.len(), query.len());
        if self.form == Form::Origin {
            self.target = Span::new(start, path.len() + query.len());
        }
    }

    /// With its question mark, or empty.
    pub fn query<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.query.of(bytes)
    }

    /// The authority that the request is for, port included; empty only in HTTP/1.0.
    pub fn host<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.host.of(bytes)
    }

    /// The `x-request-id` that goes on where the client is trusted.
    pub fn request_id<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let mut ids = self.fields.as_slice().iter().filter(|field| field.kind == Kind::RequestId);
        ids.find(|field| !field.named_by_connection).map(|field| field.value(bytes))
    }

    /// RFC 9112 §9.3: whether the client means to send further requests on this connection.
    pub fn keep_alive(&self) -> bool {
        !self.connection.close && (self.version == Version::Http11 || self.connection.keep_alive)
    }

    fn read(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Parsed, Cause> {
        if !self.progress.in_fields && !self.read_request_line(bytes, limits)? {
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
                    self.finish(bytes)?;
                    return Ok(Parsed::Complete { len });
                }
                Next::Partial => return Ok(Parsed::Partial),
            }
        }
    }

    /// Reads the request line; false while it is not complete.
    fn read_request_line(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<bool, Cause> {
        // RFC 9112 §2.2: a server should ignore an empty line before the request line. One.
        if self.progress.line == 0 && bytes.first() == Some(&b'\r') {
            match bytes.get(1) {
                None => return Ok(false),
                Some(b'\n') => self.progress.line = 2,
                Some(_) => return Err(Cause::BadRequest(Malformed::BadRequestLine)),
            }
        }
        let start = self.progress.line;
        let text = &bytes[start..];
        let method_len = method_len(text)?;
        // The longest line whose parts all keep to their limits.
        let size_max = METHOD_SIZE_MAX + 1 + limits.target_size + VERSION_SIZE;
        let Some(end) = self.progress.line_end(bytes) else {
            // One more, for the CR that is not part of it.
            return match text.len() > size_max + 1 {
                true => Err(Cause::UriTooLong),
                false if bytes.len() > limits.header_size => Err(Cause::HeadersTooLarge),
                false => Ok(false),
            };
        };
        let size = end - start;
        if size > size_max + 2 {
            return Err(Cause::UriTooLong);
        }
        if end > limits.header_size {
            return Err(Cause::HeadersTooLarge);
        }
        let line = strip_line_end(&text[..size]).map_err(Cause::BadRequest)?;
        self.judge_request_line(line, start, method_len, limits)?;
        self.progress.line = end;
        self.progress.in_fields = true;
        Ok(true)
    }

    fn judge_request_line(
        &mut self,
        line: &[u8],
        start: usize,
        method_len: usize,
        limits: &HeadLimits,
    ) -> Result<(), Cause> {
        let bad = Cause::BadRequest;
        // RFC 9112 §3: METHOD SP TARGET SP VERSION, single spaces and nothing around them.
        if line.get(method_len) != Some(&b' ') {
            return Err(bad(Malformed::BadRequestLine));
        }
        let method = &line[..method_len];
        let rest = &line[method_len + 1..];
        let Some((target, version)) = rest.split_last_chunk::<VERSION_SIZE>() else {
            return Err(bad(Malformed::BadVersion));
        };
        self.version = match version {
            b" HTTP/1.1" => Version::Http11,
            b" HTTP/1.0" => Version::Http10,
            // Also the preface of HTTP/2: `PRI * HTTP/2.0`.
            [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Cause::UnsupportedVersion);
            }
            _ => return Err(bad(Malformed::BadVersion)),
        };
        if target.len() > limits.target_size {
            return Err(Cause::UriTooLong);
        }
        self.method = Method::from_token(method);
        let parts = target::parse(target, self.method).ok_or(bad(Malformed::BadTarget))?;
        self.form = parts.form;
        self.method_token = Span::new(start, method_len);
        let target_start = start + method_len + 1;
        self.target = Span::new(target_start, target.len());
        // Authority, path and query stand one after the other at the target's end.
        let query_start = target_start + target.len() - parts.query.len();
        self.query = Span::new(query_start, parts.query.len());
        self.path = Span::new(query_start - parts.path.len(), parts.path.len());
        if !parts.authority.is_empty() {
            let path_start = query_start - parts.path.len();
            self.host = Span::new(path_start - parts.authority.len(), parts.authority.len());
        }
        Ok(())
    }

    /// Takes in a field that means something to us.
    fn note(&mut self, field: Field, bytes: &[u8]) -> Result<(), Cause> {
        let value = field.value(bytes);
        match field.kind {
            Kind::Host => {
                // RFC 9112 §3.2: more than one Host, or an invalid one, is 400.
                if std::mem::replace(&mut self.has_host, true) {
                    return Err(Cause::BadRequest(Malformed::SeveralHosts));
                }
                if !host::is_valid(value) {
                    return Err(Cause::BadRequest(Malformed::BadHost));
                }
                // RFC 9112 §3.2.2: the target's authority wins over Host.
                if self.host.is_empty() {
                    self.host = field.value_span();
                }
            }
            Kind::ContentLength => self.announced.add_length(value)?,
            Kind::TransferEncoding => self.announced.add_coding(value, self.version)?,
            Kind::Connection => self.connection.add(value)?,
            Kind::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Cause::ExpectationFailed);
                }
                // RFC 9110 §10.1.1: it means nothing in HTTP/1.0.
                self.expects_continue = self.version == Version::Http11;
            }
            Kind::Te => {
                self.te_trailers |=
                    super::connection::options(value).any(|o| o.eq_ignore_ascii_case(b"trailers"));
            }
            Kind::Upgrade => self.upgrade_seen.add_protocol(value),
            Kind::WebSocketKey => self.upgrade_seen.add_key(value),
            Kind::WebSocketVersion => self.upgrade_seen.add_version(value),
            _ => {}
        }
        Ok(())
    }

    /// What can be said only when all fields are known.
    fn finish(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        // RFC 9112 §3.2: an HTTP/1.1 request without Host is 400, whatever its target says.
        if !self.has_host && self.version == Version::Http11 {
            return Err(Cause::BadRequest(Malformed::MissingHost));
        }
        // RFC 9112 §6.3: neither field, no body.
        self.framing = match self.announced {
            Announced { chunked: true, .. } => Framing::Chunked,
            Announced { length: Some(length), .. } => Framing::Length(length),
            Announced { .. } => Framing::None,
        };
        // RFC 9110 §9.3.6: CONNECT has no content; what follows its head belongs to the tunnel.
        if self.method == Method::Connect
            && !matches!(self.framing, Framing::None | Framing::Length(0))
        {
            return Err(Cause::BadRequest(Malformed::BodyNotAllowed));
        }
        if self.connection.names_fields {
            self.fields.mark_named(bytes);
        }
        self.upgrade = self.valid_upgrade();
        Ok(())
    }

    /// RFC 6455 §4.1: GET in HTTP/1.1 with its fields, none of which ends here; and no body,
    /// which would stand between the head and the first frame.
    fn valid_upgrade(&self) -> Upgrade {
        let is_named = |field: &Field| {
            field.named_by_connection
                && matches!(field.kind, Kind::WebSocketKey | Kind::WebSocketVersion)
        };
        let valid = self.connection.upgrade
            && self.upgrade_seen.is_websocket_request()
            && self.method == Method::Get
            && self.version == Version::Http11
            && matches!(self.framing, Framing::None | Framing::Length(0))
            && !self.fields.as_slice().iter().any(is_named);
        if valid { Upgrade::WebSocket } else { Upgrade::None }
    }
}

/// The length of the method at the start of `text`, as far as it is there. Judged before the line
/// is complete, so that what is not HTTP is refused at its first bytes.
fn method_len(text: &[u8]) -> Result<usize, Cause> {
    let start = &text[..text.len().min(METHOD_SIZE_MAX + 1)];
    let len = token_len(start);
    match start.get(len) {
        Some(_) if len == 0 && start[0] == TLS_HANDSHAKE => {
            Err(Cause::BadRequest(Malformed::TlsClientHello))
        }
        Some(b' ') if len > 0 => Ok(len),
        // A line end here is a matter of the whole line.
        Some(b'\r' | b'\n') if len > 0 => Ok(len),
        Some(_) => Err(Cause::BadRequest(Malformed::BadMethod)),
        None if len > METHOD_SIZE_MAX => Err(Cause::BadRequest(Malformed::BadMethod)),
        None => Ok(len),
    }
}
