//! A downstream TCP connection: dials an endpoint of its service, and relays.

use std::rc::Rc;
use std::time::Duration;

use crate::downstream::connection::Connection;
use crate::error::Cause;
use crate::relay::{Traffic, TunnelEnd, tunnel};
use crate::telemetry::counters::Direction;
use crate::upstream;
use crate::worker::Worker;

/// Serves a connection until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    service: usize,
    idle: Option<Duration>,
) {
    connection.set_busy();
    if let Err(cause) = relay(&worker, &connection, service, idle).await {
        connection.end_by(cause);
    }
    worker.dismiss(&connection);
}

async fn relay(
    worker: &Rc<Worker>,
    connection: &Connection,
    service: usize,
    idle: Option<Duration>,
) -> Result<(), Cause> {
    let attempt = upstream::Attempt::begin(worker, service)?;
    let up = upstream::dial(worker, &attempt).await?;
    let traffic = Traffic::default();
    let end = tunnel(&worker.reactor, &connection.stream, &up.stream, idle, &traffic).await;
    let listener = worker.plan.listeners[connection.listener].id;
    let mut counters = worker.counters.borrow_mut();
    counters.bytes(listener, Direction::In, traffic.inward.get());
    counters.bytes(listener, Direction::Out, traffic.outward.get());
    match end {
        TunnelEnd::Closed => Ok(()),
        TunnelEnd::Idle => Err(Cause::StreamIdleTimeout),
        TunnelEnd::DownFailed => Err(Cause::ClientGone),
        TunnelEnd::UpFailed => Err(Cause::UpstreamReset),
    }
}
