//! A downstream TCP connection: dials an endpoint of its service, and relays.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::Labels;
use reactor::{Either, Stream, race};

use crate::downstream::connection::Connection;
use crate::error::{Cause, Shortage};
use crate::plan::Service;
use crate::relay::{Traffic, TunnelEnd, tunnel};
use crate::telemetry::counters::Direction;
use crate::upstream::{self, Replica};
use crate::worker::Worker;

/// Serves a connection until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    service: Arc<Service>,
    idle: Option<Duration>,
) {
    connection.set_busy();
    let traffic = Traffic::default();
    let mut endpoint = None;
    let relayed = relay(&worker, &connection, &service, idle, &traffic, &mut endpoint).await;
    if let Err(cause) = relayed {
        connection.end_by(connection.blame(cause));
        // The client must not take a part for the whole.
        connection.stream.reset_on_close();
    }
    let (inward, outward) = (traffic.inward.get(), traffic.outward.get());
    let listener = connection.listener();
    let mut counters = worker.counters.borrow_mut();
    counters.bytes(listener, Direction::In, inward);
    counters.bytes(listener, Direction::Out, outward);
    drop(counters);
    let service = Some(service);
    worker.record_connection(&connection, Some(Tunnelled { service, endpoint, inward, outward }));
    worker.dismiss(&connection);
}

/// Ends when the client has reset its connection; one that has only ended its sending waits on.
async fn is_reset(stream: &Stream) {
    if stream.ended().await.is_ok() {
        pending::<()>().await;
    }
}

/// What a TCP connection carried, and where to.
#[derive(Default)]
pub struct Tunnelled {
    pub service: Option<Arc<Service>>,
    pub endpoint: Option<Rc<Replica>>,
    pub inward: u64,
    pub outward: u64,
}

async fn relay(
    worker: &Worker,
    connection: &Connection,
    service: &Arc<Service>,
    idle: Option<Duration>,
    traffic: &Traffic,
    endpoint: &mut Option<Rc<Replica>>,
) -> Result<(), Cause> {
    if worker.reactor.is_out_of_memory() {
        return Err(worker.overloaded(Shortage::Memory));
    }
    let attempt = upstream::Attempt::begin(worker, service, &Labels::default())?;
    *endpoint = Some(attempt.replica.clone());
    let dialing = upstream::dial(worker, &attempt);
    let up = match race(dialing, is_reset(&connection.stream)).await {
        Either::First(dialed) => dialed?,
        Either::Second(()) => return Err(Cause::ClientGone),
    };
    match tunnel(&worker.reactor, &connection.stream, &up.stream, idle, traffic).await {
        TunnelEnd::Closed => Ok(()),
        TunnelEnd::Idle => Err(Cause::StreamIdleTimeout),
        TunnelEnd::DownFailed => Err(Cause::ClientGone),
        TunnelEnd::UpFailed => Err(Cause::UpstreamReset),
    }
}
