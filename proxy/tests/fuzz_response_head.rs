//! Any bytes at all, read as responses.

#[path = "http1/fuzz.rs"]
mod fuzz;
#[path = "http1/peer.rs"]
mod peer;

use ringside::http::{Method, Version};
use ringside::http1::encode::Respond;
use ringside::http1::head::{Asked, HeadLimits};
use ringside::http1::upgrade::Upgrade;

fn check(bytes: &[u8]) {
    let small = HeadLimits { header_size: 120, header_count: 3, target_size: 40 };
    let respond = Respond { keep_alive: true, ..Respond::default() };
    for asked in [
        Asked { method: Method::Get, upgrade: Upgrade::None },
        Asked { method: Method::Head, upgrade: Upgrade::None },
        Asked { method: Method::Connect, upgrade: Upgrade::None },
        Asked { method: Method::Get, upgrade: Upgrade::WebSocket },
    ] {
        for limits in [HeadLimits::default(), small] {
            fuzz::same_for_all_cuts(bytes, |pieces| {
                peer::responses(pieces, &limits, asked, &respond)
            });
        }
        let old = Respond { client: Version::Http10, keep_alive: true, via: true, ..respond };
        peer::responses(&[bytes], &HeadLimits::default(), asked, &old);
    }
}

#[test]
fn fuzz_response_head() {
    const PARTS: &[&str] = &[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 S\r\n",
        "HTTP/1.0 204 \r\n",
        "HTTP/1.1 304\r\n",
        "HTTP/1.1 404 Not Found\r\n",
        "HTTP/1.1",
        "200",
        " ",
        "\t",
        "\r\n",
        "\r",
        "\n",
        "\0",
        ":",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "Content-Length",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, x-hop\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "X-Hop: 1\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Trailer: x\r\n",
        "X-Ringside-Cause: x\r\n",
        "Date: x\r\n",
        "\r\n\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "\u{e9}",
    ];
    bolero::check!(name = "fuzz_response_head").for_each(|input: &[u8]| {
        check(input);
        check(&fuzz::assemble(input, PARTS));
    });
}
