//! The vectors of `tests/http1/*.txt`: bytes in, events out, each fed whole, byte by byte and cut
//! in two at every place.
//!
//! A vector is a block of lines; an empty line ends it.
//! ```text
//! # what it shows
//! > bytes in; \r \n \t \0 \xNN \\ are escapes, {"text"*N} is repetition; lines are joined
//! = an event, in order; `forward`, `wire` and `rest` may be left out as a whole
//! ? GET | HEAD | CONNECT | websocket: what a response answers (responses only)
//! ! trust | keep-alive …: settings of the forwarding (see `settings` below)
//! ```

#[path = "http1/peer.rs"]
mod peer;

use config::HeaderEdits;
use proptest::prelude::*;
use ringside::edits::Edits;
use ringside::http::rewrite::NewPrefix;
use ringside::http::{Method, Version};
use ringside::http1::encode::{Forward, Respond};
use ringside::http1::head::{Asked, HeadLimits};
use ringside::http1::upgrade::Upgrade;

#[derive(Default)]
struct Vector {
    line: usize,
    name: String,
    input: Vec<u8>,
    expect: Vec<String>,
    asked: Asked,
    settings: Vec<String>,
}

impl Vector {
    fn has(&self, setting: &str) -> bool {
        self.settings.iter().any(|s| s == setting)
    }
}

/// Runs every vector of a file and reports all that differ.
fn check(file: &str, run: impl Fn(&Vector, &[&[u8]]) -> Vec<String>) {
    let path = format!("{}/tests/http1/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let vectors = parse(&text);
    assert!(!vectors.is_empty());
    let mut wrong = 0;
    for vector in &vectors {
        let place = format!("{file}:{}: {}", vector.line, vector.name);
        for pieces in peer::cuts(&vector.input) {
            let mut events = run(vector, &pieces);
            for optional in ["forward ", "wire ", "rest "] {
                if !vector.expect.iter().any(|e| e.starts_with(optional)) {
                    events.retain(|e| !e.starts_with(optional));
                }
            }
            if events != vector.expect {
                let lens: Vec<_> = pieces.iter().take(3).map(|piece| piece.len()).collect();
                let shown = |events: &[String]| {
                    events.iter().map(|e| format!("  = {e:.2000}\n")).collect::<String>()
                };
                eprintln!(
                    "{place} (pieces of {lens:?}…)\nexpected\n{}got\n{}",
                    shown(&vector.expect),
                    shown(&events)
                );
                wrong += 1;
                break;
            }
        }
    }
    assert_eq!(wrong, 0, "of {} vectors", vectors.len());
}

fn parse(text: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut vector = Vector::default();
    for (number, line) in text.lines().chain([""]).enumerate() {
        let (kind, rest) = line.split_at(line.len().min(1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match kind {
            "#" if vector.name.is_empty() => {
                vector.name = rest.to_owned();
                vector.line = number + 1;
            }
            "#" => vector.name += &format!(" {rest}"),
            ">" => vector.input.extend(unescape(rest)),
            "=" => vector.expect.push(unescape(rest).escape_ascii().to_string()),
            "?" if rest == "websocket" => vector.asked.upgrade = Upgrade::WebSocket,
            "?" => vector.asked.method = Method::from_token(rest.as_bytes()),
            "!" => vector.settings.extend(rest.split(' ').map(str::to_owned)),
            "" => {
                if !vector.input.is_empty() {
                    vectors.push(std::mem::take(&mut vector));
                }
                vector = Vector::default();
            }
            _ => panic!("line {}: {line}", number + 1),
        }
    }
    vectors
}

/// An event's text is escaped once more when it is made, so here `\\x` stays what it is.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [escape, tail @ ..]) => {
                rest = tail;
                match escape {
                    b'r' => out.push(b'\r'),
                    b'n' => out.push(b'\n'),
                    b't' => out.push(b'\t'),
                    b'0' => out.push(0),
                    b'\\' => out.push(b'\\'),
                    b'x' => {
                        let digits = std::str::from_utf8(&tail[..2]).unwrap();
                        out.push(u8::from_str_radix(digits, 16).unwrap());
                        rest = &tail[2..];
                    }
                    other => panic!("escape {other}"),
                }
            }
            (b'{', [b'"', tail @ ..]) => {
                let text = std::str::from_utf8(tail).unwrap();
                let (piece, tail) = text.split_once("\"*").expect("{\"text\"*N}");
                let (count, tail) = tail.split_once('}').unwrap();
                out.extend(unescape(piece).repeat(count.parse().unwrap()));
                rest = tail.as_bytes();
            }
            _ => out.push(*first),
        }
    }
    out
}

fn check_requests(file: &str) {
    let edits = Edits::new(&[&HeaderEdits {
        set: vec![("x-b".to_owned(), "2".to_owned())],
        add: vec![("x-c".to_owned(), "2".to_owned())],
        remove: vec!["x-a".to_owned()],
    }]);
    check(file, |vector, pieces| {
        let mut forward = Forward { trust: vector.has("trust"), ..peer::FORWARD };
        if vector.has("plain") {
            forward = Forward::default();
        }
        forward.close = vector.has("close");
        if vector.has("edited") {
            forward.edits = &edits;
        }
        if vector.has("override") {
            forward.host = Some(b"other:81");
            forward.prefix = Some(NewPrefix { prefix: "/new", matched: 4 });
        }
        peer::requests(pieces, &HeadLimits::default(), &forward)
    });
}

fn check_responses(file: &str) {
    check(file, |vector, pieces| {
        let respond = Respond {
            client: if vector.has("http10") { Version::Http10 } else { Version::Http11 },
            keep_alive: !vector.has("close"),
            via: vector.has("via"),
            ..Respond::default()
        };
        peer::responses(pieces, &HeadLimits::default(), vector.asked, &respond)
    });
}

#[test]
fn request_lines() {
    check_requests("request_line.txt");
}

#[test]
fn hosts() {
    check_requests("host.txt");
}

#[test]
fn fields() {
    check_requests("fields.txt");
}

#[test]
fn lengths() {
    check_requests("length.txt");
}

#[test]
fn codings() {
    check_requests("coding.txt");
}

#[test]
fn chunks() {
    check_requests("chunks.txt");
}

#[test]
fn sizes() {
    check_requests("size.txt");
}

#[test]
fn connections() {
    check_requests("connection.txt");
}

#[test]
fn forwarding() {
    check_requests("forward.txt");
}

#[test]
fn response_heads() {
    check_responses("response.txt");
}

#[test]
fn response_bodies() {
    check_responses("response_body.txt");
}

#[test]
fn response_forwarding() {
    check_responses("response_forward.txt");
}

prop_compose! {
    /// A field of any name and value that the grammar allows, among them those that mean
    /// something to a proxy.
    fn field()(
        name in prop_oneof![
            4 => "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}",
            1 => "(?i-u)x-forwarded-(for|proto|host)|x-request-id|via|te|keep-alive|trailer|forwarded",
            1 => "(?i-u)connection|upgrade|http2-settings|proxy-authorization|x-ringside-cause",
        ],
        white in "[ \t]{0,3}",
        value in "[ \t!-~]{0,30}",
    ) -> (String, String) {
        (name, format!("{white}{value}"))
    }
}

/// Names that the grammar of their own values or counts restricts.
fn is_free(name: &str) -> bool {
    !["host", "content-length", "transfer-encoding", "expect"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

proptest! {
    /// Whatever well-formed request comes, one goes on, with its method, target, host, framing
    /// and body, and no line that nobody wrote (the peer checks lines and fields).
    #[test]
    fn a_well_formed_request_goes_on_as_one(
        method in "[A-Z]{3,9}",
        path in "(/[a-z0-9%.~|{}-]{0,8}){1,4}",
        query in "(\\?[a-z=&?/]{0,12})?",
        host in "[a-z]{1,9}(\\.[a-z]{1,5})?(:[1-9][0-9]{0,3})?",
        fields in prop::collection::vec(field(), 0..12),
        place in any::<prop::sample::Index>(),
        body in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        is_chunked: bool,
        trust: bool,
    ) {
        prop_assume!(method != "CONNECT");
        let mut lines: Vec<String> = fields
            .iter()
            .filter(|(name, _)| is_free(name))
            .map(|(name, value)| format!("{name}:{value}\r\n"))
            .collect();
        lines.insert(place.index(lines.len() + 1), format!("hOSt: {host}\r\n"));
        let mut input = format!("{method} {path}{query} HTTP/1.1\r\n").into_bytes();
        let (framing, content) = match (&body, is_chunked) {
            (None, _) => (String::new(), Vec::new()),
            (Some(body), true) if !body.is_empty() => {
                lines.insert(place.index(lines.len()), "transfer-encoding: chunked\r\n".to_owned());
                let size = format!("{:x}\r\n", body.len());
                (" chunked".to_owned(), [size.as_bytes(), body, b"\r\n0\r\n\r\n"].concat())
            }
            (Some(body), _) => {
                lines.insert(place.index(lines.len()), format!("content-length: {}\r\n", body.len()));
                (format!(" length={}", body.len()), body.clone())
            }
        };
        input.extend(lines.concat().as_bytes());
        input.extend(b"\r\n");
        input.extend(content);
        let forward = Forward { trust, ..peer::FORWARD };
        let events = peer::requests(&[&input], &HeadLimits::default(), &forward);
        let start = format!("request {method} {path}{query} host={host}{framing}");
        prop_assert!(events[0].starts_with(&start), "{events:?}");
        let bodies: Vec<_> = events.iter().filter(|e| e.starts_with("body ")).collect();
        match body {
            Some(body) => prop_assert_eq!(bodies, [&format!("body {}", body.escape_ascii())]),
            None => prop_assert!(bodies.is_empty()),
        }
        prop_assert_eq!(events.iter().filter(|e| e.starts_with("request ")).count(), 1);
    }
}
