//! A peer for tests: shows bytes to the readers of `ringside::http1` in given pieces, as a
//! connection would, and writes down what comes out. Whatever passes is held against independent
//! readers: `httparse` for heads, the small strict decoder below for chunked bodies.

#![allow(dead_code, reason = "each test target uses its part")]

use ringside::edits::Edits;
use ringside::error::Cause;
use ringside::http::{Form, Method, Version};
use ringside::http1::body::{BodyReader, Emit};
use ringside::http1::encode::{Forward, Proto, Respond, encode_request, encode_response};
use ringside::http1::framing::Framing;
use ringside::http1::head::{
    Asked, HeadLimits, Parsed, RequestHead, ResponseHead, parse_request, parse_response,
};
use ringside::http1::upgrade::Upgrade;

/// What we say when a vector does not care.
pub(crate) const FORWARD: Forward<'static> = Forward {
    client_ip: Some(b"192.0.2.7"),
    proto: Some(Proto::Http),
    request_id: Some(b"id-1"),
    via: true,
    trust: false,
    host: None,
    prefix: None,
    edits: Edits::NONE,
    close: false,
};

/// Requests as they come out of one connection fed with `pieces`.
pub(crate) fn requests(
    pieces: &[&[u8]],
    limits: &HeadLimits,
    forward: &Forward<'_>,
) -> Vec<String> {
    let mut feed = Feed::new(pieces);
    let mut events = Vec::new();
    let mut head = RequestHead::default();
    loop {
        let len = match parse_request(feed.unread(), limits, &mut head) {
            Ok(Parsed::Complete { len }) => len,
            Ok(Parsed::Partial) => {
                if feed.more() {
                    continue;
                }
                if !feed.unread().is_empty() {
                    events.push("partial".to_owned());
                }
                return events;
            }
            Err(reject) => {
                events.push(refusal(reject.cause));
                return events;
            }
        };
        let bytes = feed.unread()[..len].to_vec();
        events.push(describe_request(&head, &bytes));
        check_same_reading(&head, &bytes);
        let mut out = Vec::new();
        encode_request(&mut out, &head, &bytes, forward);
        check_forwarded_request(&head, &bytes, &out, forward);
        events.push(format!("forward {}", out.escape_ascii()));
        feed.consume(len);
        if head.method == Method::Connect || head.upgrade != Upgrade::None {
            while feed.more() {}
            events.push(format!("rest {}", feed.unread().escape_ascii()));
            return events;
        }
        if !body(head.framing, &mut feed, &mut events, Cause::BadRequest) || !head.keep_alive() {
            return events;
        }
    }
}

/// One final response, interim ones before it, and what is left over.
pub(crate) fn responses(
    pieces: &[&[u8]],
    limits: &HeadLimits,
    asked: Asked,
    respond: &Respond,
) -> Vec<String> {
    let mut feed = Feed::new(pieces);
    let mut events = Vec::new();
    let mut head = ResponseHead::default();
    loop {
        let len = match parse_response(feed.unread(), limits, asked, &mut head) {
            Ok(Parsed::Complete { len }) => len,
            Ok(Parsed::Partial) => {
                if feed.more() {
                    continue;
                }
                events.push("partial".to_owned());
                return events;
            }
            Err(reject) => {
                events.push(refusal(reject.cause));
                return events;
            }
        };
        let bytes = feed.unread()[..len].to_vec();
        events.push(describe_response(&head, &bytes));
        let mut out = Vec::new();
        let respond = Respond { framing: head.framing, ..*respond };
        encode_response(&mut out, &head, &bytes, &respond);
        check_forwarded_response(&head, &bytes, &out, asked, &respond);
        events.push(format!("forward {}", out.escape_ascii()));
        feed.consume(len);
        if head.is_interim() {
            continue;
        }
        if !head.tunnel && !body(head.framing, &mut feed, &mut events, Cause::UpstreamBadResponse) {
            return events;
        }
        while feed.more() {}
        if !feed.unread().is_empty() {
            events.push(format!("rest {}", feed.unread().escape_ascii()));
        }
        return events;
    }
}

/// A body that is all the input, with what passes on.
pub(crate) fn chunked(pieces: &[&[u8]]) -> Vec<String> {
    let mut feed = Feed::new(pieces);
    let mut events = Vec::new();
    if body(Framing::Chunked, &mut feed, &mut events, Cause::BadRequest) {
        while feed.more() {}
        events.push(format!("rest {}", feed.unread().escape_ascii()));
    }
    events
}

fn refusal(cause: Cause) -> String {
    match cause.detail() {
        Some(detail) => format!("reject {} {detail}", cause.name()),
        None => format!("reject {}", cause.name()),
    }
}

fn describe_framing(framing: Framing) -> String {
    match framing {
        Framing::None => String::new(),
        Framing::Length(length) => format!(" length={length}"),
        Framing::Chunked => " chunked".to_owned(),
        Framing::UntilClose => " until-close".to_owned(),
    }
}

fn describe_request(head: &RequestHead, bytes: &[u8]) -> String {
    let mut text = format!(
        "request {} {}{} host={}{}",
        head.method_token(bytes).escape_ascii(),
        head.path(bytes).escape_ascii(),
        head.query(bytes).escape_ascii(),
        head.host(bytes).escape_ascii(),
        describe_framing(head.framing),
    );
    for (flag, name) in [
        (head.expects_continue, " expect"),
        (head.upgrade == Upgrade::WebSocket, " websocket"),
        (!head.keep_alive(), " close"),
    ] {
        if flag {
            text += name;
        }
    }
    text
}

fn describe_response(head: &ResponseHead, bytes: &[u8]) -> String {
    let mut text = format!("response {}", head.status);
    if !head.reason(bytes).is_empty() {
        text += &format!(" {}", head.reason(bytes).escape_ascii());
    }
    text += &describe_framing(head.framing);
    if let Some(length) = head.length_without_body {
        text += &format!(" (length={length})");
    }
    if head.tunnel {
        text += " tunnel";
    }
    if !head.keep_alive() && !head.tunnel && !head.is_interim() {
        text += " close";
    }
    text
}

/// Reads a body both ways at once; false if the connection ends with it.
fn body(
    framing: Framing,
    feed: &mut Feed<'_>,
    events: &mut Vec<String>,
    blame: fn(ringside::error::Malformed) -> Cause,
) -> bool {
    if framing == Framing::None {
        return true;
    }
    let mut wire = Vec::new();
    let mut content = Vec::new();
    let mut counted = 0;
    let mut by_wire = BodyReader::new(framing, Emit::Wire);
    let mut by_content = BodyReader::new(framing, Emit::Content);
    loop {
        let from_wire = drain(&mut by_wire, feed.unread(), &mut wire, &mut counted);
        let from_content = drain(&mut by_content, feed.unread(), &mut content, &mut 0);
        // Both modes see the same body in the same bytes.
        assert_eq!(from_wire, from_content);
        match from_wire {
            Err(malformed) => {
                check_no_end(framing, &wire);
                events.push(refusal(blame(malformed)));
                return false;
            }
            Ok((consumed, done)) => {
                feed.consume(consumed);
                assert_eq!(done, by_wire.is_done());
                if done {
                    break;
                }
                assert!(feed.unread().is_empty(), "a body reader takes what it is given");
                check_no_end(framing, &wire);
                if !feed.more() {
                    break;
                }
            }
        }
    }
    assert_eq!(counted, content.len());
    let ended = by_wire.is_done();
    if ended && framing == Framing::Chunked {
        let read = decode_chunked(&wire).expect("a chunked body that passes is well-formed");
        assert_eq!((read.content, read.used), (content.clone(), wire.len()));
        assert_eq!(by_wire.trailers(), read.trailers);
        assert_eq!(by_content.trailers(), read.trailers);
    } else if framing != Framing::Chunked {
        assert_eq!(wire, content);
    }
    events.push(format!("body {}", content.escape_ascii()));
    events.push(format!("wire {}", wire.escape_ascii()));
    if !ended {
        events.push(if by_wire.may_end_here() { "end" } else { "truncated" }.to_owned());
    }
    ended
}

/// Shows the reader all of the input; says how much it took and whether the body is complete.
fn drain(
    reader: &mut BodyReader,
    input: &[u8],
    out: &mut Vec<u8>,
    content: &mut usize,
) -> Result<(usize, bool), ringside::error::Malformed> {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let step = reader.advance(rest)?;
        assert!(step.pass.start <= step.pass.end && step.pass.end <= step.consumed);
        assert!(step.consumed <= rest.len());
        out.extend_from_slice(reader.lead());
        out.extend_from_slice(&rest[step.pass.clone()]);
        *content += step.content;
        at += step.consumed;
        if step.done || at == input.len() {
            return Ok((at, step.done));
        }
        assert!(step.consumed > 0, "no progress at {:?}", rest.escape_ascii().to_string());
    }
}

/// A broken body is never passed on in such a way that the next hop could take it as complete.
fn check_no_end(framing: Framing, wire: &[u8]) {
    if framing == Framing::Chunked {
        assert!(decode_chunked(wire).is_none(), "passed a final chunk: {}", wire.escape_ascii());
    }
}

pub(crate) struct Decoded {
    pub(crate) content: Vec<u8>,
    pub(crate) trailers: Vec<u8>,
    pub(crate) used: usize,
}

/// A chunked body, read in the narrowest way. Written to share nothing with the reader under
/// test.
pub(crate) fn decode_chunked(wire: &[u8]) -> Option<Decoded> {
    fn line(wire: &[u8], at: usize) -> Option<(&[u8], usize)> {
        let len = wire[at..].windows(2).position(|two| two == b"\r\n")?;
        Some((&wire[at..at + len], at + len + 2))
    }
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let (size, next) = line(wire, at)?;
        assert!(!size.is_empty() && size.len() <= 16 && size.iter().all(u8::is_ascii_hexdigit));
        let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).ok()?;
        if size == 0 {
            at = next;
            break;
        }
        content.extend_from_slice(wire.get(next..next.checked_add(size)?)?);
        at = next + size;
        if wire.len() < at + 2 {
            return None;
        }
        assert_eq!(&wire[at..at + 2], b"\r\n");
        at += 2;
    }
    let trailers_start = at;
    loop {
        let (text, next) = line(wire, at)?;
        if text.is_empty() {
            let trailers = wire[trailers_start..at].to_vec();
            return Some(Decoded { content, trailers, used: next });
        }
        assert!(!text.iter().any(|&b| b == b'\r' || b == b'\n' || b == 0));
        assert!(text.contains(&b':'));
        at = next;
    }
}

/// Of bytes from 0x80 on in a target, which clients do send, `httparse` takes UTF-8 only.
fn httparse_takes_target(head: &RequestHead, bytes: &[u8]) -> bool {
    str::from_utf8(head.target(bytes)).is_ok()
}

/// `httparse` reads the same head in the same bytes.
fn check_same_reading(head: &RequestHead, bytes: &[u8]) {
    if !httparse_takes_target(head, bytes) {
        return;
    }
    let mut slots = vec![httparse::EMPTY_HEADER; head.fields.len()];
    let mut parsed = httparse::Request::new(&mut slots);
    assert_eq!(parsed.parse(bytes), Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!(parsed.method.unwrap().as_bytes(), head.method_token(bytes));
    assert_eq!(parsed.path.unwrap().as_bytes(), head.target(bytes));
    assert_eq!(parsed.version == Some(1), head.version == Version::Http11);
    let theirs = parsed.headers.iter().map(|field| (field.name.as_bytes(), field.value));
    assert!(theirs.eq(head.fields.iter(bytes)), "{}", bytes.escape_ascii());
}

/// What goes to the upstream is exactly one request, for us and for `httparse`, with the framing
/// and host that were read.
pub(crate) fn check_forwarded_request(
    head: &RequestHead,
    bytes: &[u8],
    out: &[u8],
    forward: &Forward<'_>,
) {
    if !httparse_takes_target(head, bytes) {
        return;
    }
    let text = out.escape_ascii();
    let host: &[u8] = forward.host.unwrap_or_else(|| head.host(bytes));
    let mut slots = [httparse::EMPTY_HEADER; 300];
    let mut parsed = httparse::Request::new(&mut slots);
    assert_eq!(parsed.parse(out), Ok(httparse::Status::Complete(out.len())), "{text}");
    assert_eq!(parsed.version, Some(1));
    check_lines(out);
    let named = |name: &str| named_fields(parsed.headers, name);
    assert_eq!(named("host"), [host], "{text}");
    check_framing_fields(head.framing, parsed.headers);
    for name in ["keep-alive", "proxy-connection", "http2-settings", "proxy-authorization"] {
        assert!(named(name).is_empty(), "{name} in {text}");
    }
    let upgrade: &[&[u8]] = if head.upgrade == Upgrade::None { &[] } else { &[b"websocket"] };
    assert_eq!(named("upgrade"), upgrade);
    if !forward.trust {
        assert_eq!(named("x-forwarded-for"), forward.client_ip.as_slice());
        assert_eq!(named("x-request-id"), forward.request_id.as_slice());
    }
    // Every end-to-end field that came goes on with its value.
    for field in head.fields.as_slice().iter().filter(|field| !field.named_by_connection) {
        if field.name(bytes).eq_ignore_ascii_case(b"x-end-to-end") {
            assert!(named("x-end-to-end").contains(&field.value(bytes)));
        }
    }
    if host.is_empty() {
        return;
    }
    let limits = HeadLimits {
        header_size: usize::MAX,
        header_count: usize::MAX,
        target_size: usize::MAX >> 1,
    };
    let mut again = RequestHead::default();
    let len = parse_request(out, &limits, &mut again);
    assert_eq!(len, Ok(Parsed::Complete { len: out.len() }), "{text}");
    assert_eq!(again.framing, head.framing);
    assert_eq!(again.method_token(out), head.method_token(bytes));
    assert_eq!(again.upgrade, head.upgrade);
    if forward.prefix.is_none() {
        assert_eq!(again.path(out), head.path(bytes));
        assert_eq!(again.query(out), head.query(bytes));
        assert_ne!(again.form, Form::Absolute);
    }
    // Forwarding what was forwarded changes nothing more but the list of proxies.
    let quiet = Forward { trust: true, ..Forward::default() };
    let mut twice = Vec::new();
    encode_request(&mut twice, &again, out, &quiet);
    let mut thrice = Vec::new();
    let mut last = RequestHead::default();
    parse_request(&twice, &limits, &mut last).expect("well-formed");
    encode_request(&mut thrice, &last, &twice, &quiet);
    assert_eq!(twice.escape_ascii().to_string(), thrice.escape_ascii().to_string());
}

/// What goes to the client is exactly one response, for us and for `httparse`, with the framing
/// that was read.
pub(crate) fn check_forwarded_response(
    head: &ResponseHead,
    bytes: &[u8],
    out: &[u8],
    asked: Asked,
    respond: &Respond,
) {
    let text = out.escape_ascii();
    let mut slots = [httparse::EMPTY_HEADER; 300];
    let mut parsed = httparse::Response::new(&mut slots);
    assert_eq!(parsed.parse(out), Ok(httparse::Status::Complete(out.len())), "{text}");
    assert_eq!((parsed.version, parsed.code), (Some(1), Some(head.status)));
    check_lines(out);
    let announced = match (respond.framing, head.length_without_body) {
        (Framing::None, Some(length)) => Framing::Length(length),
        (framing, _) => framing,
    };
    check_framing_fields(announced, parsed.headers);
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "x-ringside-cause", "te"] {
        assert!(named_fields(parsed.headers, name).is_empty(), "{name} in {text}");
    }
    let limits = HeadLimits {
        header_size: usize::MAX,
        header_count: usize::MAX,
        target_size: usize::MAX >> 1,
    };
    let mut again = ResponseHead::default();
    let len = parse_response(out, &limits, asked, &mut again);
    assert_eq!(len, Ok(Parsed::Complete { len: out.len() }), "{text}");
    assert_eq!((again.status, again.framing), (head.status, head.framing));
    assert_eq!(again.reason(out), head.reason(bytes));
    assert_eq!((again.tunnel, again.upgrade), (head.tunnel, head.upgrade));
    if !head.is_interim() && !head.tunnel {
        let stays = respond.keep_alive && respond.framing != Framing::UntilClose;
        assert_eq!(again.keep_alive(), stays, "{text}");
    }
}

/// Every line ends in CR LF and holds no other CR or LF; only the last one is empty.
fn check_lines(out: &[u8]) {
    let lines: Vec<&[u8]> = out.split(|&b| b == b'\n').collect();
    let (last, lines) = lines.split_last().unwrap();
    assert!(last.is_empty());
    for (place, line) in lines.iter().enumerate() {
        let text = line.strip_suffix(b"\r").expect("CR before LF");
        assert!(!text.contains(&b'\r'));
        assert_eq!(text.is_empty(), place == lines.len() - 1);
    }
}

fn check_framing_fields(framing: Framing, headers: &[httparse::Header<'_>]) {
    let lengths = named_fields(headers, "content-length");
    let codings = named_fields(headers, "transfer-encoding");
    match framing {
        Framing::None | Framing::UntilClose => assert!(lengths.is_empty() && codings.is_empty()),
        Framing::Chunked => assert!(lengths.is_empty() && codings == [b"chunked"]),
        Framing::Length(length) => {
            assert!(lengths == [length.to_string().as_bytes()] && codings.is_empty());
        }
    }
}

fn named_fields<'a>(headers: &[httparse::Header<'a>], name: &str) -> Vec<&'a [u8]> {
    let is_named = |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case(name);
    headers.iter().filter(is_named).map(|h| h.value).collect()
}

/// The receiving end of a connection whose bytes come in given pieces.
struct Feed<'a> {
    pieces: std::slice::Iter<'a, &'a [u8]>,
    buffer: Vec<u8>,
    start: usize,
}

impl<'a> Feed<'a> {
    fn new(pieces: &'a [&'a [u8]]) -> Feed<'a> {
        Feed { pieces: pieces.iter(), buffer: Vec::new(), start: 0 }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
        assert!(self.start <= self.buffer.len());
    }

    fn more(&mut self) -> bool {
        match self.pieces.next() {
            Some(piece) => {
                self.buffer.extend_from_slice(piece);
                true
            }
            None => false,
        }
    }
}

/// The ways in which `bytes` are fed: whole, byte by byte, and cut in two everywhere (of long
/// inputs: at a hundred places and near both ends).
pub(crate) fn cuts(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut ways = vec![vec![bytes], bytes.chunks(1).collect()];
    let step = if bytes.len() <= 1500 { 1 } else { bytes.len() / 100 };
    let near = |at: usize| at < 40 || at + 40 > bytes.len();
    for at in (0..=bytes.len()).filter(|at| at % step == 0 || near(*at)) {
        ways.push(vec![&bytes[..at], &bytes[at..]]);
    }
    ways
}
