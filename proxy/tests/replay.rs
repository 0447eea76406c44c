//! An upstream that closes idle connections whenever it likes costs no client anything.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Client, Origin, Proxy, config};

on_both_drivers! { random_closes_cost_nothing }

/// Requests per test; `REQUESTS=100000` for the number of the issue.
fn requests() -> usize {
    std::env::var("REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

fn random_closes_cost_nothing(io: &str) {
    const CLIENTS: usize = 8;
    let executed: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let counted = executed.clone();
    let origin = Origin::bind().serve(move |server| {
        let mut lives = 1 + (server.stream().peer_addr().unwrap().port() % 7) as u64;
        while let Some(request) = server.message() {
            let id = request.header("x-test-id").expect("an id").to_owned();
            *counted.lock().unwrap().entry(id.clone()).or_default() += 1;
            let length = id.len();
            server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{id}"));
            lives -= 1;
            if lives == 0 {
                // Some close at once, some a little later, when the next request may be on its way.
                std::thread::sleep(Duration::from_micros(u64::from(id.as_bytes()[0] % 5) * 50));
                return;
            }
        }
    });
    let proxy = Proxy::start(io, &config(origin, "", "", ""));
    let each = requests() / CLIENTS;
    let address = proxy.address("web");
    let failed: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || ask_all(address, client, each)))
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (gets, posts) = failed.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let metrics = proxy.metrics();
    let counted: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("ringside_requests_total{")).collect();
    assert_eq!(gets, 0, "GETs that failed: {counted:#?}");
    // A POST that was on its way when the connection closed fails; it is never done twice.
    assert!(posts <= each * CLIENTS / 3, "{posts} POSTs failed");
    eprintln!("{} requests, {gets} GETs and {posts} POSTs failed", each * CLIENTS);
    let executed = executed.lock().unwrap();
    let twice: Vec<_> = executed.iter().filter(|(id, n)| id.contains("POST") && **n > 1).collect();
    assert!(twice.is_empty(), "executed twice: {twice:?}");
}

/// Every third request is a POST. Returns how many GETs and POSTs failed.
fn ask_all(address: std::net::SocketAddr, client: usize, count: usize) -> (usize, usize) {
    let (mut connection, mut gets, mut posts) = (Client::connect(address), 0, 0);
    for n in 0..count {
        let method = if n % 3 == 0 { "POST" } else { "GET" };
        let id = format!("{n}-{client}-{method}");
        let body = if method == "POST" { "content-length: 2\r\n\r\nhi" } else { "\r\n" };
        let request = format!("{method} / HTTP/1.1\r\nhost: web\r\nx-test-id: {id}\r\n{body}");
        connection.send(request);
        let good = match connection.message() {
            Some(response) if response.status() == 200 => {
                assert_eq!(response.body, id.as_bytes(), "each gets its own answer");
                true
            }
            Some(_) => false,
            None => {
                connection = Client::connect(address);
                false
            }
        };
        match method {
            _ if good => {}
            "GET" => gets += 1,
            _ => posts += 1,
        }
    }
    (gets, posts)
}
