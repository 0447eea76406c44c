//! The field lines of a head: where each is, which of them a proxy cares about, and which go on
//! to the other side.
//!
//! Reading is one pass over the bytes: a table for names, eight bytes at a time for values. A
//! line that does not fit this fast path (a control character, no colon, no line end yet) is
//! looked at again as a whole, which either finds its fault or waits for the rest of it.

use config::Scheme;

use super::connection;
use super::head::{HeadLimits, Span};
use super::syntax::{find_control, is_ows, is_token_byte, is_value, token_len, trim_ows};
use crate::edits::Edits;
use crate::error::{Cause, Malformed};

/// The fields that are more than bytes to a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    #[default]
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    /// `proxy-authenticate`, `proxy-authorization`, `proxy-authentication-info`: between the
    /// client and its own proxy, which we are not.
    ProxyAuth,
    Te,
    Trailer,
    Upgrade,
    Http2Settings,
    Expect,
    Date,
    ForwardedFor,
    ForwardedProto,
    /// `forwarded` and every other `x-forwarded-…`.
    Forwarded,
    RequestId,
    RingsideCause,
    WebSocketKey,
    WebSocketVersion,
}

impl Kind {
    /// Kinds are few: a set of them is a word.
    pub(super) const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Any case, any token. Nearly all names are told by their length and first byte.
    #[inline]
    pub fn of(name: &[u8]) -> Kind {
        let Some(first) = name.first() else { return Kind::Other };
        let (kind, is_it) = match (name.len(), first | 0x20) {
            (2, b't') => (Kind::Te, is(name, b"te")),
            (4, b'h') => (Kind::Host, is(name, b"host")),
            (4, b'd') => (Kind::Date, is(name, b"date")),
            (6, b'e') => (Kind::Expect, is(name, b"expect")),
            (7, b'u') => (Kind::Upgrade, is(name, b"upgrade")),
            (7, b't') => (Kind::Trailer, is(name, b"trailer")),
            (9, b'f') => (Kind::Forwarded, is(name, b"forwarded")),
            (10, b'c') => (Kind::Connection, is(name, b"connection")),
            (10, b'k') => (Kind::KeepAlive, is(name, b"keep-alive")),
            (12, b'x') => (Kind::RequestId, is(name, b"x-request-id")),
            (14, b'c') => (Kind::ContentLength, is(name, b"content-length")),
            (14, b'h') => (Kind::Http2Settings, is(name, b"http2-settings")),
            (16, b'p') => (Kind::ProxyConnection, is(name, b"proxy-connection")),
            (17, b't') => (Kind::TransferEncoding, is(name, b"transfer-encoding")),
            (17, b's') => (Kind::WebSocketKey, is(name, b"sec-websocket-key")),
            (21, b's') => (Kind::WebSocketVersion, is(name, b"sec-websocket-version")),
            (18, b'p') => (Kind::ProxyAuth, is(name, b"proxy-authenticate")),
            (19, b'p') => (Kind::ProxyAuth, is(name, b"proxy-authorization")),
            (25, b'p') => (Kind::ProxyAuth, is(name, b"proxy-authentication-info")),
            (15, b'x') if is(name, b"x-forwarded-for") => (Kind::ForwardedFor, true),
            (17, b'x') if is(name, b"x-forwarded-proto") => (Kind::ForwardedProto, true),
            (16, b'x') if is(name, b"x-ringside-cause") => (Kind::RingsideCause, true),
            (13.., b'x') => (Kind::Forwarded, is(&name[..12], b"x-forwarded-")),
            _ => return Kind::Other,
        };
        if is_it { kind } else { Kind::Other }
    }
}

/// What a peer claims about who was before it.
pub(super) const CLAIMS: u32 = Kind::ForwardedFor.bit()
    | Kind::ForwardedProto.bit()
    | Kind::Forwarded.bit()
    | Kind::RequestId.bit();

/// Whether `name`, a token, is `full` in any case. Setting the bit that tells the cases apart
/// makes no other token byte a letter, digit or hyphen.
#[inline]
fn is<const N: usize>(name: &[u8], full: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    let mut difference = 0;
    for place in 0..N {
        difference |= (name[place] | 0x20) ^ full[place];
    }
    difference == 0
}

/// One field line, as offsets into the head's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Where the line, that is its name, begins.
    start: u32,
    value: Span,
    name_len: u16,
    pub kind: Kind,
    /// Whether `Connection` names it, so that it ends here (RFC 9110 §7.6.1).
    pub named_by_connection: bool,
}

impl Field {
    pub fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        &bytes[start..start + usize::from(self.name_len)]
    }

    /// Without the white space around it.
    pub fn value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.value.of(bytes)
    }

    pub(super) fn value_span(&self) -> Span {
        self.value
    }
}

/// The field lines of one head, in order. Reused from head to head.
#[derive(Debug, Default)]
pub struct Fields {
    list: Vec<Field>,
    /// Where the last field line ends: the empty line that ends the head follows.
    end: u32,
}

impl Fields {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a field of this kind is among those that may go on.
    pub(super) fn goes_on(&self, kind: Kind) -> bool {
        self.as_slice().iter().any(|field| field.kind == kind && !field.named_by_connection)
    }

    pub fn as_slice(&self) -> &[Field] {
        &self.list
    }

    /// Names (as sent) and values (trimmed).
    pub fn iter<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.list.iter().map(|field| (field.name(bytes), field.value(bytes)))
    }

    /// The first value of the field, in any case of its name.
    pub fn get<'a>(&self, bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        let field = self.list.iter().find(|f| f.name(bytes).eq_ignore_ascii_case(name))?;
        Some(field.value(bytes))
    }

    /// The values of all fields of a kind that `Connection` does not name.
    pub(super) fn of_kind<'a>(
        &'a self,
        bytes: &'a [u8],
        kind: Kind,
    ) -> impl Iterator<Item = &'a [u8]> {
        let is_meant = move |f: &&Field| f.kind == kind && !f.named_by_connection;
        self.list.iter().filter(is_meant).map(|f| f.value(bytes))
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.end = 0;
    }

    /// Appends the lines of all fields that are not `dropped` (a set of kinds), not named by
    /// `Connection`, and not dropped by the edits. Lines were checked when they were read, so
    /// neighbours are copied in one go.
    pub(super) fn copy_lines(&self, out: &mut Vec<u8>, bytes: &[u8], dropped: u32, edits: &Edits) {
        let (mut kept_from, edited) = (None, edits.drops_any());
        for field in &self.list {
            let drop = dropped & field.kind.bit() != 0
                || field.named_by_connection
                || edited && edits.drops(field.name(bytes));
            match (drop, kept_from) {
                (false, None) => kept_from = Some(field.start),
                (true, Some(from)) => {
                    out.extend_from_slice(&bytes[from as usize..field.start as usize]);
                    kept_from = None;
                }
                _ => {}
            }
        }
        if let Some(from) = kept_from {
            out.extend_from_slice(&bytes[from as usize..self.end as usize]);
        }
    }

    /// Marks the fields that the `Connection` fields name. Framing and Host are not theirs to
    /// remove: those are never copied but announced anew.
    pub(super) fn mark_named(&mut self, bytes: &[u8]) {
        for place in 0..self.list.len() {
            if self.list[place].kind != Kind::Connection {
                continue;
            }
            for option in connection::options(self.list[place].value(bytes)) {
                for field in &mut self.list {
                    field.named_by_connection |= field.name(bytes).eq_ignore_ascii_case(option);
                }
            }
        }
    }
}

/// The fields of a request as routes see them: those that go on to the upstream, and the one that asks
/// for another protocol.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    fields: &'a [Field],
    bytes: &'a [u8],
    hidden: u32,
}

impl<'a> Shown<'a> {
    /// The values of all fields of this name, which is in lower case.
    pub fn values(self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let Shown { fields, bytes, hidden } = self;
        let is_shown = move |f: &&Field| match f.kind {
            Kind::Upgrade => true,
            kind => !f.named_by_connection && hidden & kind.bit() == 0,
        };
        let same = move |f: &&Field| f.name(bytes).eq_ignore_ascii_case(name.as_bytes());
        fields.iter().filter(same).filter(is_shown).map(|f| f.value(bytes))
    }

    /// How the client reached whoever came to us: by plain HTTP, unless somebody who is trusted says
    /// otherwise.
    pub fn scheme(self) -> Scheme {
        let said = self.values("x-forwarded-proto").next();
        match said.is_some_and(|said| said.eq_ignore_ascii_case(b"https")) {
            true => Scheme::Https,
            false => Scheme::Http,
        }
    }
}

impl Fields {
    /// `trust`: what the client says of who was before it counts.
    pub fn shown<'a>(&'a self, bytes: &'a [u8], trust: bool) -> Shown<'a> {
        let claims = if trust { 0 } else { CLAIMS };
        Shown { fields: &self.list, bytes, hidden: claims | Kind::RingsideCause.bit() }
    }
}

/// How far a head that came in pieces has been read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Where the first line that has not been judged begins.
    pub(super) line: usize,
    /// No line feed is in `line..scanned`.
    pub(super) scanned: usize,
    /// The first line has been judged.
    pub(super) in_fields: bool,
    /// Complete or refused: the next call begins a new head.
    pub(super) ended: bool,
}

impl Progress {
    /// The end of the current line (behind its line feed), if it is there yet.
    pub(super) fn line_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let from = self.scanned.max(self.line).min(bytes.len());
        match memchr::memchr(b'\n', &bytes[from..]) {
            Some(offset) => Some(from + offset + 1),
            None => {
                self.scanned = bytes.len();
                None
            }
        }
    }
}

/// What came next in a head.
pub(super) enum Next {
    /// This one, also appended to the list.
    Field(Field),
    /// The empty line that ends the head; the head has this many bytes.
    End(usize),
    Partial,
}

impl Fields {
    /// Reads the next line of the head.
    #[inline]
    pub(super) fn next(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
        progress: &mut Progress,
    ) -> Result<Next, Cause> {
        let line = progress.line;
        // A line whose beginning has been seen before waits for its end first, so that feeding
        // it byte by byte does not read it again and again.
        let waits = progress.scanned > line;
        let fast = if waits { Fast::Odd } else { read_fast(bytes, line) };
        let (field, end) = match fast {
            Fast::Field(field, end) => (Some(field), end),
            Fast::End => (None, line + 2),
            Fast::Odd => match progress.line_end(bytes) {
                None if bytes.len() > limits.header_size => return Err(Cause::HeadersTooLarge),
                None => return Ok(Next::Partial),
                Some(end) if end > limits.header_size => return Err(Cause::HeadersTooLarge),
                Some(end) => (read_line(bytes, line, end).map_err(Cause::BadRequest)?, end),
            },
        };
        if end > limits.header_size {
            return Err(Cause::HeadersTooLarge);
        }
        progress.line = end;
        let Some(field) = field else {
            self.end = line as u32;
            return Ok(Next::End(end));
        };
        if self.list.len() >= limits.header_count {
            return Err(Cause::HeadersTooLarge);
        }
        self.list.push(field);
        Ok(Next::Field(field))
    }
}

enum Fast {
    /// A field and where its line ends.
    Field(Field, usize),
    /// The empty line.
    End,
    /// Something is wrong, or not there yet.
    Odd,
}

#[inline]
fn read_fast(bytes: &[u8], line: usize) -> Fast {
    let Some(rest) = bytes.get(line..) else { return Fast::Odd };
    let name_len = token_len(rest);
    if rest.get(name_len) != Some(&b':') || name_len == 0 {
        return if rest.starts_with(b"\r\n") { Fast::End } else { Fast::Odd };
    }
    let mut start = name_len + 1;
    while start < rest.len() && is_ows(rest[start]) {
        start += 1;
    }
    let mut end = start;
    loop {
        end = find_control(rest, end);
        match rest.get(end) {
            Some(b'\t') => end += 1,
            Some(b'\r') if rest.get(end + 1) == Some(&b'\n') => break,
            _ => return Fast::Odd,
        }
    }
    let line_end = line + end + 2;
    while end > start && is_ows(rest[end - 1]) {
        end -= 1;
    }
    match field(line, &rest[..name_len], Span::new(line + start, end - start)) {
        Some(field) => Fast::Field(field, line_end),
        None => Fast::Odd,
    }
}

#[inline]
fn field(start: usize, name: &[u8], value: Span) -> Option<Field> {
    Some(Field {
        start: u32::try_from(start).ok()?,
        value,
        name_len: u16::try_from(name.len()).ok()?,
        kind: Kind::of(name),
        named_by_connection: false,
    })
}

/// Judges the complete line `bytes[line..end]`; `None` is the empty line.
fn read_line(bytes: &[u8], line: usize, end: usize) -> Result<Option<Field>, Malformed> {
    let text = strip_line_end(&bytes[line..end])?;
    if text.is_empty() {
        return Ok(None);
    }
    let (name, value) = split_field(text)?;
    let value_start = end - 2 - (text.len() - name.len() - 1);
    let leading = value.iter().take_while(|&&b| is_ows(b)).count();
    let span = Span::new(value_start + leading, trim_ows(value).len());
    field(line, name, span).map(Some).ok_or(Malformed::BadHeaderName)
}

/// The line without its CR LF.
pub(super) fn strip_line_end(line: &[u8]) -> Result<&[u8], Malformed> {
    // RFC 9112 §2.2 lets a recipient take a bare LF as a line end; the next hop may not, so we
    // do not either.
    match line {
        [text @ .., b'\r', b'\n'] => Ok(text),
        _ => Err(Malformed::BareLineFeed),
    }
}

/// Name and untrimmed value of a line without its end; also of trailers.
pub(super) fn split_field(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    // RFC 9112 §5.2: a server must refuse obs-fold or make it spaces. We refuse.
    if text.first().is_some_and(|&b| is_ows(b)) {
        return Err(Malformed::ObsFold);
    }
    let Some(colon) = memchr::memchr(b':', text) else { return Err(Malformed::NoColon) };
    let (name, value) = (&text[..colon], &text[colon + 1..]);
    // RFC 9112 §5.1: white space between name and colon must be refused. It is no token byte.
    if name.is_empty() || !name.iter().all(|&b| is_token_byte(b)) {
        return Err(Malformed::BadHeaderName);
    }
    if is_value(value) {
        Ok((name, value))
    } else if value.contains(&b'\r') {
        Err(Malformed::BareCarriageReturn)
    } else {
        Err(Malformed::BadHeaderValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_in_any_case() {
        for (name, kind) in [
            ("host", Kind::Host),
            ("HOST", Kind::Host),
            ("Content-Length", Kind::ContentLength),
            ("Transfer-Encoding", Kind::TransferEncoding),
            ("Connection", Kind::Connection),
            ("Keep-Alive", Kind::KeepAlive),
            ("TE", Kind::Te),
            ("Trailer", Kind::Trailer),
            ("Upgrade", Kind::Upgrade),
            ("HTTP2-Settings", Kind::Http2Settings),
            ("Expect", Kind::Expect),
            ("X-Request-Id", Kind::RequestId),
            ("X-Forwarded-For", Kind::ForwardedFor),
            ("X-Forwarded-Proto", Kind::ForwardedProto),
            ("X-Forwarded-Host", Kind::Forwarded),
            ("X-Forwarded-Client-Cert", Kind::Forwarded),
            ("Forwarded", Kind::Forwarded),
            ("X-Ringside-Cause", Kind::RingsideCause),
            ("Proxy-Connection", Kind::ProxyConnection),
            ("Proxy-Authorization", Kind::ProxyAuth),
            ("Proxy-Authenticate", Kind::ProxyAuth),
            ("Sec-WebSocket-Key", Kind::WebSocketKey),
            ("Sec-WebSocket-Version", Kind::WebSocketVersion),
            ("hosts", Kind::Other),
            ("X-Forwarded-", Kind::Other),
            ("X-Forwarded", Kind::Other),
            ("Content-Lengths", Kind::Other),
            ("Content_Length", Kind::Other),
            ("", Kind::Other),
        ] {
            assert_eq!(Kind::of(name.as_bytes()), kind, "{name}");
        }
    }

    #[test]
    fn a_field_is_sixteen_bytes() {
        assert_eq!(size_of::<Field>(), 16);
    }
}
