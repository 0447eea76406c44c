//! Prints a large config, to measure with: `cargo run -p config --example big -- SERVICES ENDPOINTS`.
//! Each service has so many endpoints and one route; the first one's endpoints are pushed.

use std::fmt::Write as _;
use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    let mut counts = std::env::args().skip(1).map(|count| count.parse::<usize>());
    let (Some(Ok(services)), Some(Ok(endpoints))) = (counts.next(), counts.next()) else {
        return Err(io::Error::other("say how many services, and how many endpoints of each"));
    };
    let mut text = String::from(
        "version: 1\nworkers: 2\naccess_log: none\n\
         admin: { address: \"127.0.0.1:0\", auth: none }\nprobes: { address: \"127.0.0.1:0\" }\n\
         listeners:\n  - { name: web, address: \"127.0.0.1:0\", http: {} }\nservices:\n",
    );
    text.push_str("  - { name: s0, pushed: { wait_at_start: 0s } }\n");
    for service in 1..services {
        let _ = write!(text, "  - {{ name: s{service}, endpoints: [");
        for endpoint in 0..endpoints {
            let (high, low) = (service / 250, service % 250);
            let _ = write!(text, "{{ address: \"10.{endpoint}.{high}.{low}:80\" }}, ");
        }
        text.push_str("] }\n");
    }
    text.push_str("routes:\n");
    for route in 0..services {
        let _ = writeln!(
            text,
            "  - {{ name: r{route}, hosts: [h{route}.example.com], \
             matches: [{{ path: {{ prefix: /p{route} }} }}], backends: [{{ service: s{route} }}] }}"
        );
    }
    io::stdout().write_all(text.as_bytes())
}
