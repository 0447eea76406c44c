//! Heads going out: what was received, rewritten once into the caller's buffer.
//!
//! Field lines were checked when they were read, so runs of them are copied as they came. What
//! ends at this hop is left out, what we vouch for is written anew: Host, framing, connection,
//! who forwarded. The names we write are lower case.

use std::io::Write as _;
use std::net::IpAddr;

use super::fields::{CLAIMS, Kind};
use super::framing::Framing;
use super::head::{RequestHead, ResponseHead};
use super::upgrade::Upgrade;
use crate::edits::Edits;
use crate::error::Cause;
use crate::http::date::DateText;
use crate::http::location::Location;
use crate::http::rewrite::NewPrefix;
use crate::http::status::reason_phrase;
use crate::http::{Form, Version};

/// RFC 9110 §7.6.1: what concerns only the connection it came on, and what we announce anew.
const HOP_BY_HOP: u32 = Kind::Connection.bit()
    | Kind::KeepAlive.bit()
    | Kind::ProxyConnection.bit()
    | Kind::ProxyAuth.bit()
    | Kind::Te.bit()
    | Kind::Upgrade.bit()
    | Kind::Http2Settings.bit()
    | Kind::TransferEncoding.bit()
    | Kind::ContentLength.bit()
    // A name that only ringside may say.
    | Kind::RingsideCause.bit();

/// How the client reached us, as `x-forwarded-proto` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    Http,
    Https,
}

impl Proto {
    pub fn name(self) -> &'static str {
        match self {
            Proto::Http => "http",
            Proto::Https => "https",
        }
    }
}

/// An IP address as text, formatted once per connection.
#[derive(Clone, Copy)]
pub struct IpText {
    text: [u8; IpText::SIZE_MAX],
    len: u8,
}

impl IpText {
    /// The longest IPv6 address, eight groups of four digits.
    const SIZE_MAX: usize = 39;

    /// An IPv4 address that came by an IPv6 socket is written as IPv4.
    pub fn new(address: IpAddr) -> IpText {
        let mut text = [0; IpText::SIZE_MAX];
        let mut rest = &mut text[..];
        // Canonical text always fits: mapped addresses, the only longer form, are IPv4 here.
        let _ = write!(rest, "{}", address.to_canonical());
        let len = IpText::SIZE_MAX - rest.len();
        IpText { text, len: len as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

/// What we say of ourselves and of the client when a request goes on.
///
/// Whatever is `None` or false is not said; what a client that is not trusted says of it is left
/// out in any case.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// Text for `x-forwarded-for`: see [`IpText`].
    pub client_ip: Option<&'a [u8]>,
    pub proto: Option<Proto>,
    /// For requests that bring none which we believe.
    pub request_id: Option<&'a [u8]>,
    /// Add a `via` field.
    pub via: bool,
    /// The client's own `x-forwarded-…`, `forwarded` and `x-request-id` count: the list of
    /// addresses is added to, the others stay.
    pub trust: bool,
    /// In place of the request's host. Give one for HTTP/1.0 requests, which may have none.
    pub host: Option<&'a [u8]>,
    /// In place of what the route's match took of the path.
    pub prefix: Option<NewPrefix<'a>>,
    pub edits: &'a Edits,
    /// Ask the upstream to close after its response.
    pub close: bool,
}

impl Default for Forward<'_> {
    fn default() -> Self {
        Forward {
            client_ip: None,
            proto: None,
            request_id: None,
            via: false,
            trust: false,
            host: None,
            prefix: None,
            edits: Edits::NONE,
            close: false,
        }
    }
}

/// Appends the request head that goes to the upstream.
pub fn encode_request(out: &mut Vec<u8>, head: &RequestHead, bytes: &[u8], forward: &Forward<'_>) {
    out.extend_from_slice(head.method_token(bytes));
    out.push(b' ');
    match (forward.prefix, head.form) {
        (Some(prefix), Form::Origin | Form::Absolute) => {
            prefix.write(out, head.path(bytes));
            out.extend_from_slice(head.query(bytes));
        }
        // RFC 9112 §3.2.1: towards an origin the target is in origin form.
        (None, Form::Absolute) => {
            out.extend_from_slice(head.path(bytes));
            out.extend_from_slice(head.query(bytes));
        }
        (_, Form::Origin | Form::Authority | Form::Asterisk) => {
            out.extend_from_slice(head.target(bytes));
        }
    }
    // RFC 9110 §7.6.3 and §2.5: a proxy sends its own version.
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    // RFC 9112 §3.2.2: Host is made anew from the target's authority.
    out.extend_from_slice(forward.host.unwrap_or_else(|| head.host(bytes)));
    out.extend_from_slice(b"\r\n");

    let mut dropped = HOP_BY_HOP | Kind::Host.bit();
    if !head.expects_continue {
        dropped |= Kind::Expect.bit();
    }
    if head.framing != Framing::Chunked {
        // RFC 9110 §6.6.2: it announces what cannot come.
        dropped |= Kind::Trailer.bit();
    }
    if !forward.trust {
        dropped |= CLAIMS;
    } else if forward.client_ip.is_some() {
        dropped |= Kind::ForwardedFor.bit();
    }
    head.fields.copy_lines(out, bytes, dropped, forward.edits);

    write_framing(out, head.framing);
    match (head.upgrade, forward.close) {
        (Upgrade::WebSocket, _) => {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        (Upgrade::None, close) => {
            // RFC 9110 §10.1.4: TE goes with a Connection option of its name.
            let options: &[u8] = match (close, head.te_trailers) {
                (false, false) => b"",
                (true, false) => b"connection: close\r\n",
                (false, true) => b"connection: te\r\nte: trailers\r\n",
                (true, true) => b"connection: close, te\r\nte: trailers\r\n",
            };
            out.extend_from_slice(options);
        }
    }
    write_claims(out, head, bytes, forward);
    if forward.via && !forward.edits.drops(b"via") {
        write_via(out, head.version);
    }
    out.extend_from_slice(forward.edits.lines());
    out.extend_from_slice(b"\r\n");
}

/// Who the client is and how it came.
fn write_claims(out: &mut Vec<u8>, head: &RequestHead, bytes: &[u8], forward: &Forward<'_>) {
    let believed = |kind| forward.trust && head.fields.goes_on(kind);
    let edits = forward.edits;
    if let Some(client_ip) = forward.client_ip
        && !edits.drops(b"x-forwarded-for")
    {
        out.extend_from_slice(b"x-forwarded-for: ");
        if forward.trust {
            // One line: many servers read only the first or the last.
            for list in head.fields.of_kind(bytes, Kind::ForwardedFor).filter(|v| !v.is_empty()) {
                out.extend_from_slice(list);
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(client_ip);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(proto) = forward.proto
        && !believed(Kind::ForwardedProto)
        && !edits.drops(b"x-forwarded-proto")
    {
        write_field(out, b"x-forwarded-proto", proto.name().as_bytes());
    }
    if let Some(request_id) = forward.request_id
        && !believed(Kind::RequestId)
        && !edits.drops(b"x-request-id")
    {
        write_field(out, b"x-request-id", request_id);
    }
}

/// How a response goes on to the client.
#[derive(Clone, Copy, Debug)]
pub struct Respond<'a> {
    /// The client's version.
    pub client: Version,
    /// We take a further request after this response.
    pub keep_alive: bool,
    /// How the body goes on; usually [`ResponseHead::framing`]. [`Framing::UntilClose`] implies
    /// that we close, whatever `keep_alive` says.
    pub framing: Framing,
    /// Add a `via` field.
    pub via: bool,
    /// When it came, for one that says no date (RFC 9110 §6.6.1).
    pub date: Option<DateText>,
    pub edits: &'a Edits,
}

impl Default for Respond<'_> {
    fn default() -> Self {
        Respond {
            client: Version::default(),
            keep_alive: false,
            framing: Framing::default(),
            via: false,
            date: None,
            edits: Edits::NONE,
        }
    }
}

/// Appends the response head that goes to the client.
pub fn encode_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    bytes: &[u8],
    respond: &Respond<'_>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(head.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.reason(bytes));
    out.extend_from_slice(b"\r\n");

    let mut dropped = HOP_BY_HOP;
    if respond.framing != Framing::Chunked {
        dropped |= Kind::Trailer.bit();
    }
    head.fields.copy_lines(out, bytes, dropped, respond.edits);

    if head.upgrade == Upgrade::WebSocket {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    } else if !head.is_interim() && !head.tunnel {
        // RFC 9110 §8.6, §15.4.5: the length that GET would have had.
        match head.length_without_body {
            Some(length) if respond.framing == Framing::None => {
                write_framing(out, Framing::Length(length));
            }
            _ => write_framing(out, respond.framing),
        }
        let stays = respond.keep_alive && respond.framing != Framing::UntilClose;
        write_persistence(out, stays, respond.client);
    }
    if let Some(date) = respond.date {
        write_date(out, &date, respond.edits);
    }
    if respond.via && !respond.edits.drops(b"via") {
        write_via(out, head.version);
    }
    out.extend_from_slice(respond.edits.lines());
    out.extend_from_slice(b"\r\n");
}

/// A response that a route makes by itself.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub status: u16,
    /// Where it leads.
    pub location: Option<Location<'a>>,
    /// Empty where the status allows none.
    pub body: &'a str,
    pub date: DateText,
    pub edits: &'a Edits,
    /// The client's version.
    pub client: Version,
    pub keep_alive: bool,
    /// The request was HEAD: the same head, no body.
    pub head_request: bool,
}

/// Appends a whole response.
pub fn encode_answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let Answer { status, location, body, date, edits, client, keep_alive, head_request } = *answer;
    write_status_line(out, status);
    if let Some(location) = location
        && !edits.drops(b"location")
    {
        out.extend_from_slice(b"location: ");
        location.write(out);
        out.extend_from_slice(b"\r\n");
    }
    write_date(out, &date, edits);
    if !body.is_empty() && !edits.drops(b"content-type") && !edits.writes("content-type") {
        out.extend_from_slice(b"content-type: text/plain; charset=utf-8\r\n");
    }
    // RFC 9110 §8.6: none with 204, and with 304 it would be that of another response.
    if !matches!(status, 204 | 304) {
        write_framing(out, Framing::Length(body.len() as u64));
    }
    out.extend_from_slice(edits.lines());
    write_persistence(out, keep_alive, client);
    out.extend_from_slice(b"\r\n");
    if !head_request {
        out.extend_from_slice(body.as_bytes());
    }
}

/// What the edits say of the date goes before.
fn write_date(out: &mut Vec<u8>, date: &DateText, edits: &Edits) {
    if !edits.drops(b"date") && !edits.writes("date") {
        write_field(out, b"date", date);
    }
}

fn write_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// How much of a cause the client is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expose {
    /// Nothing but the status.
    None,
    /// Name and node.
    #[default]
    Name,
    /// Name, node and detail.
    Full,
}

/// A response that ringside makes itself.
#[derive(Clone, Copy, Debug)]
pub struct OwnResponse<'a> {
    pub cause: Cause,
    pub expose: Expose,
    /// `node.id` of the config.
    pub node_id: &'a [u8],
    pub date: DateText,
    /// The client's version.
    pub client: Version,
    pub keep_alive: bool,
    /// The request was HEAD: the same head, no body.
    pub head_request: bool,
}

/// Appends a whole response that says why, in one line, with the next step.
pub fn encode_own_response(out: &mut Vec<u8>, own: &OwnResponse<'_>) {
    let status = own.cause.status();
    let reason = reason_phrase(status);
    write_status_line(out, status);
    write_field(out, b"date", &own.date);
    out.extend_from_slice(b"content-type: text/plain\r\n");
    let detail = own.cause.detail().unwrap_or_default();
    // The body as pieces, so that its length is known before it is written.
    let body: [&str; 6] = match (own.expose, detail) {
        (Expose::None, _) => [reason, "\n", "", "", "", ""],
        (Expose::Full, detail) if !detail.is_empty() => {
            [own.cause.name(), " (", detail, "): ", own.cause.hint(), "\n"]
        }
        _ => [own.cause.name(), ": ", own.cause.hint(), "\n", "", ""],
    };
    let body_len: usize = body.iter().map(|piece| piece.len()).sum();
    write_framing(out, Framing::Length(body_len as u64));
    if own.expose != Expose::None {
        out.extend_from_slice(b"x-ringside-cause: ");
        out.extend_from_slice(own.cause.name().as_bytes());
        out.extend_from_slice(b"; node=");
        write_visible(out, own.node_id);
        if own.expose == Expose::Full && !detail.is_empty() {
            out.extend_from_slice(b"; detail=");
            out.extend_from_slice(detail.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    write_persistence(out, own.keep_alive, own.client);
    out.extend_from_slice(b"\r\n");
    if !own.head_request {
        for piece in body {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// RFC 9112 §6: the one announcement of where the body ends.
fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            write_field(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

/// RFC 9112 §9.3: 1.1 stays unless told otherwise, 1.0 the other way round.
fn write_persistence(out: &mut Vec<u8>, keep_alive: bool, client: Version) {
    match (keep_alive, client) {
        (true, Version::Http10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (true, Version::Http11 | Version::Http2) => {}
        (false, _) => out.extend_from_slice(b"connection: close\r\n"),
    }
}

/// RFC 9110 §7.6.3: the version that the message came with, and who received it.
fn write_via(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(b"via: ");
    out.extend_from_slice(version.number().as_bytes());
    out.extend_from_slice(b" ringside\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Text from the environment (`node.id` may be a host name) can end no line.
fn write_visible(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().map(|&b| if b.is_ascii_graphic() { b } else { b'_' }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Malformed;

    const OWN: OwnResponse<'static> = OwnResponse {
        cause: Cause::NoRoute,
        expose: Expose::Name,
        node_id: b"web-1",
        date: *b"Sun, 06 Nov 1994 08:49:37 GMT",
        client: Version::Http11,
        keep_alive: true,
        head_request: false,
    };

    fn check(own: OwnResponse<'_>, expect: &str) {
        let mut out = b"before".to_vec();
        encode_own_response(&mut out, &own);
        assert_eq!(std::str::from_utf8(&out).unwrap(), format!("before{expect}"));
    }

    #[test]
    fn own_responses_tell_name_and_next_step() {
        check(
            OWN,
            "HTTP/1.1 404 Not Found\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             content-type: text/plain\r\ncontent-length: 97\r\n\
             x-ringside-cause: no_route; node=web-1\r\n\r\n\
             no_route: no route matches this host, path and method; \
             compare them with the listener's `routes`\n",
        );
    }

    #[test]
    fn full_tells_the_detail_none_tells_nothing() {
        let cause = Cause::BadRequest(Malformed::SeveralHosts);
        check(
            OwnResponse { cause, expose: Expose::Full, keep_alive: false, ..OWN },
            "HTTP/1.1 400 Bad Request\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             content-type: text/plain\r\ncontent-length: 57\r\n\
             x-ringside-cause: bad_request; node=web-1; detail=several_hosts\r\n\
             connection: close\r\n\r\n\
             bad_request (several_hosts): send exactly one Host field\n",
        );
        check(
            OwnResponse { cause, expose: Expose::None, head_request: true, ..OWN },
            "HTTP/1.1 400 Bad Request\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             content-type: text/plain\r\ncontent-length: 12\r\n\r\n",
        );
    }

    #[test]
    fn own_responses_to_old_clients() {
        let own = OwnResponse {
            cause: Cause::Draining,
            expose: Expose::None,
            client: Version::Http10,
            ..OWN
        };
        check(
            own,
            "HTTP/1.1 503 Service Unavailable\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             content-type: text/plain\r\n\
             content-length: 20\r\nconnection: keep-alive\r\n\r\nService Unavailable\n",
        );
    }

    #[test]
    fn a_node_id_ends_no_line() {
        let mut out = Vec::new();
        encode_own_response(&mut out, &OwnResponse { node_id: b"a\r\nx: y\0\xff", ..OWN });
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("; node=a__x:_y__\r\n"), "{text}");
    }

    #[test]
    fn every_cause_makes_one_whole_response() {
        for &cause in Cause::ALL.iter().filter(|cause| cause.status() != 0) {
            let mut out = Vec::new();
            encode_own_response(&mut out, &OwnResponse { cause, expose: Expose::Full, ..OWN });
            let mut slots = [httparse::EMPTY_HEADER; 8];
            let mut head = httparse::Response::new(&mut slots);
            let Ok(httparse::Status::Complete(len)) = head.parse(&out) else { panic!("{cause:?}") };
            let length = head.headers.iter().find(|h| h.name == "content-length").unwrap().value;
            assert_eq!(length, (out.len() - len).to_string().as_bytes());
            assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), head.headers.len() + 3);
        }
    }

    #[test]
    fn addresses_as_text() {
        for (address, text) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::1", "::1"),
            ("1111:2222:3333:4444:5555:6666:7777:8888", "1111:2222:3333:4444:5555:6666:7777:8888"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(IpText::new(address).as_bytes(), text.as_bytes());
        }
    }
}
