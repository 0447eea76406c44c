//! `ringside demo`: a mesh of two services on one machine, to look at.
//!
//! ```text
//! visitors ─▶ sidecar of web ─▶ web ─▶ sidecar of web ─▶ sidecar of reviews ─▶ reviews
//! ```
//!
//! The sidecars are two whole ringside data planes ([`crate::run::Process`]) in this process; the
//! services know nothing of each other but their own sidecar's address. All ports are free ones.

mod figures;
mod service;
mod visitors;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reactor::{Signal, Signals};

use crate::run::{Overrides, Process};
use crate::say::say;
use figures::Figures;

/// Visitors at a time.
const VISITORS: usize = 8;

/// Runs until `seconds` have passed or a signal comes. Fails if any request failed.
pub fn demo(seconds: Option<u64>) -> io::Result<ExitCode> {
    let signals = Signals::block()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    // Ends with the process.
    std::thread::spawn(move || {
        let wait = || while signals.wait() != Signal::Terminate {};
        wait();
        stopped.store(true, Ordering::Relaxed);
        wait();
        say(format_args!("told to stop again: it ends as it is"));
        // As a shell has it of a program that SIGINT ended.
        std::process::exit(130);
    });
    let mesh = Mesh::start()?;
    let mut out = io::stdout();
    mesh.introduce(&mut out)?;
    let served = mesh.show(&mut out, seconds.map(Duration::from_secs), &stop)?;
    mesh.end();
    writeln!(
        out,
        "\n{} requests, {} failed: each went through the sidecar of web twice and that of reviews once",
        served.requests, served.failed
    )?;
    let good = served.requests > 0 && served.failed == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is running.
struct Mesh {
    web: Process,
    reviews: Process,
    entrance: SocketAddr,
    probes: SocketAddr,
    figures: Arc<Figures>,
    leave: Arc<AtomicBool>,
    visitors: Vec<std::thread::JoinHandle<()>>,
}

impl Mesh {
    fn start() -> io::Result<Mesh> {
        let reviews_service = service::Unstarted::bind()?;
        let reviews = sidecar(&config("reviews", reviews_service.address(), None))?;
        reviews_service.start(service::Kind::Reviews);
        let reviews_address = listening(&reviews, "inbound");
        // The web service is told its sidecar's outbound address, which is not known before the
        // sidecar runs; the sidecar is told the service's. So the service's port comes first.
        let web_service = service::Unstarted::bind()?;
        let outbound = Some(("reviews", reviews_address));
        let web = sidecar(&config("web", web_service.address(), outbound))?;
        web_service.start(service::Kind::Web { reviews: listening(&web, "outbound") });

        let entrance = listening(&web, "inbound");
        let probes = web.probes().ok_or_else(|| io::Error::other("no probes"))?;
        let figures = Arc::new(Figures::default());
        let leave = Arc::new(AtomicBool::new(false));
        let visitors = (0..VISITORS)
            .map(|_| visitors::start(entrance, figures.clone(), leave.clone()))
            .collect();
        Ok(Mesh { web, reviews, entrance, probes, figures, leave, visitors })
    }

    fn introduce(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\nvisitors -> [sidecar] web [sidecar] -> [sidecar] reviews")?;
        writeln!(out, "  try:  curl -i http://{}/", self.entrance)?;
        writeln!(
            out,
            "        curl -i http://{}/nowhere   (no route: see x-ringside-cause)",
            self.entrance
        )?;
        writeln!(out, "  open: http://{}/metrics\n", self.probes)
    }

    /// Shows a line per second, in place on a terminal.
    fn show(
        &self,
        out: &mut (impl Write + IsTerminal),
        limit: Option<Duration>,
        stop: &AtomicBool,
    ) -> io::Result<figures::Total> {
        let begun = Instant::now();
        let mut shown = 0;
        while !stop.load(Ordering::Relaxed) && limit.is_none_or(|limit| begun.elapsed() < limit) {
            std::thread::sleep(Duration::from_millis(50));
            if begun.elapsed().as_secs() > shown {
                shown = begun.elapsed().as_secs();
                let line = self.figures.second();
                match out.is_terminal() {
                    true => write!(out, "\r\x1b[2K{line}")?,
                    false => writeln!(out, "{line}")?,
                }
                out.flush()?;
            }
        }
        Ok(self.figures.total())
    }

    fn end(mut self) {
        self.leave.store(true, Ordering::Relaxed);
        for visitor in self.visitors {
            let _ = visitor.join();
        }
        self.web.drain();
        self.web.end();
        self.reviews.drain();
        self.reviews.end();
    }
}

/// A sidecar's config: requests from outside go to the service; those of the service, if it makes
/// any, go to `outbound`.
fn config(service: &str, address: SocketAddr, outbound: Option<(&str, SocketAddr)>) -> String {
    let mut listeners = vec![r#"{ name: inbound, address: "127.0.0.1:0", http: {} }"#.to_owned()];
    let mut services =
        vec![format!(r#"{{ name: {service}, endpoints: [{{ address: "{address}" }}] }}"#)];
    let mut routes = vec![format!(
        "{{ name: inbound, listeners: [inbound], matches: [{{ path: {{ exact: / }} }}], \
         backends: [{{ service: {service} }}] }}"
    )];
    if let Some((name, address)) = outbound {
        listeners.push(r#"{ name: outbound, address: "127.0.0.1:0", http: {} }"#.to_owned());
        services.push(format!(r#"{{ name: {name}, endpoints: [{{ address: "{address}" }}] }}"#));
        routes.push(format!(
            "{{ name: outbound, listeners: [outbound], hosts: [{name}], \
             backends: [{{ service: {name} }}] }}"
        ));
    }
    let [listeners, services, routes] =
        [listeners, services, routes].map(|items| items.join("\n  - "));
    format!(
        r#"version: 1
node: {{ id: {service}-sidecar }}
workers: 1
access_log: none
probes: {{ address: "127.0.0.1:0" }}
shutdown: {{ grace: 0s, deadline: 2s }}
listeners:
  - {listeners}
services:
  - {services}
routes:
  - {routes}
"#
    )
}

fn sidecar(config: &str) -> io::Result<Process> {
    let initial = config::Document::parse("demo", config.as_bytes(), config::Format::Yaml)
        .and_then(control::Initial::of)
        .map_err(|diagnostics| io::Error::other(diagnostics.to_string()))?;
    Process::start(initial, &Overrides::default(), None)
        .map_err(|error| io::Error::other(error.to_string()))
}

fn listening(process: &Process, listener: &str) -> SocketAddr {
    process.address(listener).and_then(|address| address.ip()).expect("the demo listens on TCP")
}
