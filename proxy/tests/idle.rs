//! Thousands of connections that rest: little memory, nobody else hurt, all closed in the end.

mod support;

use std::sync::Mutex;

use support::{Client, Proxy, config, echo_origin};

on_both_drivers! { ten_thousand_resting_connections }

/// As many as one process may hold beside the rest, where that is less than ten thousand.
const CONNECTIONS: u64 = 10_000;
/// What the test itself and ringside need beside these connections.
const RESERVED: u64 = 256;
/// Resident memory of the whole process for each of them.
const BYTES_EACH: u64 = 3 * 1024;

/// The clients of both drivers' tests would not fit into one process at a time.
static TURN: Mutex<()> = Mutex::new(());

fn resident(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.unwrap().parse().unwrap()
}

fn ten_thousand_resting_connections(io: &str) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let descriptors = reactor::raise_descriptor_limit().unwrap();
    let mut proxy = Proxy::start(io, &config(echo_origin(), "", "", ""));
    // ringside keeps room for an upstream connection beside each.
    let count = CONNECTIONS.min((descriptors - RESERVED) / 2 - 10);
    assert!(count >= 4_000, "{descriptors} descriptors are too few to test anything");

    // What grows with the first requests has grown.
    for _ in 0..100 {
        proxy.connect().get("/warm");
    }
    proxy.metric_becomes(&["ringside_connections_active", "web"], "0");
    let before = resident(&proxy);
    let mut resting: Vec<Client> = (0..count)
        .map(|_| {
            let mut client = proxy.connect();
            assert_eq!(client.get("/rest").status(), 200);
            client
        })
        .collect();
    proxy.metric_becomes(&["ringside_connections_active", "web"], &count.to_string());
    let each = resident(&proxy).saturating_sub(before) / count;
    assert!(each <= BYTES_EACH, "{each} bytes for each resting connection");

    let mut healthy = proxy.connect();
    for _ in 0..100 {
        assert_eq!(healthy.get("/healthy").body, b"GET /healthy HTTP/1.1|");
    }
    for client in resting.iter_mut().step_by(500) {
        assert_eq!(client.get("/awake").body, b"GET /awake HTTP/1.1|");
    }
    proxy.metric_becomes(&["ringside_connections_active", "web"], &(count + 1).to_string());

    proxy.signal("TERM");
    for mut client in resting.drain(..).chain([healthy]) {
        assert!(client.ends_orderly());
    }
    assert_eq!(proxy.exit_code(), Some(0));
}
