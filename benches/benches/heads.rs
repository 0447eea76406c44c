//! Reading a head, and writing the one that goes on.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringside::http1::encode::{Forward, Proto, Respond, encode_request, encode_response};
use ringside::http1::head::{
    Asked, HeadLimits, RequestHead, ResponseHead, parse_request, parse_response,
};

const REQUEST: &[u8] = b"GET /api/reviews/17?full=1 HTTP/1.1\r\n\
    host: reviews.example.com\r\n\
    user-agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101\r\n\
    accept: application/json\r\n\
    accept-encoding: gzip, br\r\n\
    accept-language: en\r\n\
    cookie: session=0123456789abcdef\r\n\
    x-group: beta\r\n\
    connection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    server: origin\r\n\
    date: Sun, 22 Nov 2026 00:00:00 GMT\r\n\
    content-type: application/json\r\n\
    content-length: 100\r\n\
    cache-control: no-cache\r\n\r\n";

fn heads(c: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut request = RequestHead::default();
    c.bench_function("request head, read", |b| {
        b.iter(|| parse_request(black_box(REQUEST), &limits, &mut request).unwrap());
    });
    let mut response = ResponseHead::default();
    let asked = Asked::default();
    c.bench_function("response head, read", |b| {
        b.iter(|| parse_response(black_box(RESPONSE), &limits, asked, &mut response).unwrap());
    });
    let mut out = Vec::new();
    let forward = Forward {
        client_ip: Some(b"192.0.2.1"),
        proto: Some(Proto::Http),
        request_id: Some(b"01234567-89ab-4def-bfff-ffffffffffff"),
        via: true,
        ..Forward::default()
    };
    c.bench_function("request head, written", |b| {
        b.iter(|| {
            out.clear();
            encode_request(&mut out, &request, black_box(REQUEST), &forward);
        });
    });
    let respond = Respond { keep_alive: true, framing: response.framing, ..Respond::default() };
    c.bench_function("response head, written", |b| {
        b.iter(|| {
            out.clear();
            encode_response(&mut out, &response, black_box(RESPONSE), &respond);
        });
    });
}

criterion_group!(benches, heads);
criterion_main!(benches);
