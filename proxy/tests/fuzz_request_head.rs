//! Any bytes at all, read as requests. Longer runs: `cargo bolero test -p ringside
//! fuzz_request_head`, or `BOLERO_RANDOM_ITERATIONS=… cargo test -p ringside --test
//! fuzz_request_head`.

#[path = "http1/fuzz.rs"]
mod fuzz;
#[path = "http1/peer.rs"]
mod peer;

use ringside::http1::encode::Forward;
use ringside::http1::head::HeadLimits;

/// No panic; the same verdict however the bytes are cut; what is accepted goes on as exactly one
/// well-formed message (checked by the peer).
fn check(bytes: &[u8]) {
    let small = HeadLimits { header_size: 200, header_count: 4, target_size: 40 };
    for limits in [HeadLimits::default(), small] {
        fuzz::same_for_all_cuts(bytes, |pieces| peer::requests(pieces, &limits, &peer::FORWARD));
    }
    let trusting = Forward { trust: true, close: true, ..peer::FORWARD };
    peer::requests(&[bytes], &HeadLimits::default(), &trusting);
    peer::requests(&[bytes], &HeadLimits::default(), &Forward::default());
}

#[test]
fn fuzz_request_head() {
    const PARTS: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /p?q HTTP/1.1\r\nHost: a:80\r\n",
        "GET http://b:81/c?d HTTP/1.1\r\n",
        "CONNECT a:80 HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.0\r\n",
        "GET",
        "/",
        "?",
        "*",
        " ",
        "\t",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r",
        "\n",
        "\0",
        ":",
        "Host",
        "Host: b\r\n",
        "Content-Length",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding",
        "Transfer-Encoding: chunked\r\n",
        "chunked",
        "gzip, ",
        "Connection: close\r\n",
        "Connection: keep-alive, x-end-to-end, te\r\n",
        "Connection: ",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Expect: 100-continue\r\n",
        "TE: trailers\r\n",
        "Trailer: x\r\n",
        "X-End-To-End: v\r\n",
        "X-Forwarded-For: 1.1.1.1\r\n",
        "X-Request-Id: i\r\n",
        "Forwarded: x\r\n",
        "\r\n\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "\u{e9}",
        "#",
        "@",
        "[::1]",
    ];
    bolero::check!(name = "fuzz_request_head").for_each(|input: &[u8]| {
        check(input);
        check(&fuzz::assemble(input, PARTS));
    });
}
