//! The connections of one listener: how many, how long, how large.
//!
//! A connection carries one exchange and is closed: probes and scrapes come once in seconds, and a
//! connection without an idle state has nothing to hold. Only events last ([`Lasting`]). Whoever
//! finds the [`House`] full takes the seat of the one that has said nothing for longest, so that idle
//! connections keep no probe waiting. The bounds are fixed, not configured: nobody has reason to
//! change them, and a mistake here would cost the last way to look inside.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::host;
use crate::listen::{Listen, Listening};

/// Connections of one listener at a time, but for one at the door; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// From accept to the end of the request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// From accept to the last byte of a probe's response.
pub(crate) const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// The same of admin's: a request may wait for the workers, and bring a config of 32 MiB.
pub(crate) const ADMIN_WITHIN: Duration = Duration::from_secs(60);
/// The same where the response says that it lasts: a reader that stopped holds its place no longer.
const LASTING_WITHIN: Duration = Duration::from_secs(3600);
/// The request's head; also the buffer for it. hyper asks for 8 KiB at least.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whose `Host` a listener answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// Anybody's: probes come to a pod's address by any name, and a socket file is no browser's.
    Any,
    /// This machine's loopback only.
    Loopback,
}

impl Hosts {
    /// What admin answers to when it listens there.
    pub(crate) fn of_admin(address: &Listen) -> Hosts {
        match address {
            Listen::Unix(_) => Hosts::Any,
            Listen::Tcp(_) => Hosts::Loopback,
        }
    }
}

/// In a response's extensions: it has no end of its own.
#[derive(Clone, Copy)]
pub(crate) struct Lasting;

/// Accepts and serves until the runtime ends. Called within the runtime.
pub(crate) async fn serve(
    socket: Listening,
    router: Router,
    hosts: Hosts,
    within: Duration,
) -> io::Result<()> {
    let house = House::new(CONNECTIONS_MAX);
    match socket {
        Listening::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        spawn(stream, house.guest().await, router.clone(), hosts, within);
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            }
        }
        Listening::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        spawn(stream, house.guest().await, router.clone(), hosts, within);
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }
}

/// The connections of a listener: so many seats, and those of the seated that have not asked for
/// anything yet.
struct House {
    seats: Arc<Semaphore>,
    silent: Mutex<Silent>,
}

/// In the order in which they came, each with what shows it out.
#[derive(Default)]
struct Silent {
    came: u64,
    doors: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A connection with a seat, which is free again when this is dropped.
struct Guest {
    house: Arc<House>,
    number: u64,
    /// Becomes `Ok` when it has to leave.
    shown_out: oneshot::Receiver<()>,
    _seat: OwnedSemaphorePermit,
}

impl House {
    fn new(seats: usize) -> Arc<House> {
        Arc::new(House { seats: Arc::new(Semaphore::new(seats)), silent: Mutex::default() })
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for whoever stands at the door. Where all are taken, the one that has been silent for
    /// longest leaves; where all have asked, one of them has to be served first.
    async fn guest(self: &Arc<House>) -> Guest {
        if self.seats.available_permits() == 0 {
            let longest = self.silent().doors.pop_first();
            if let Some((_, door)) = longest {
                // One that is gone already has left its seat.
                let _ = door.send(());
            }
        }
        let seats = Arc::clone(&self.seats);
        let seat = seats.acquire_owned().await.expect("the semaphore is never closed");
        let (door, shown_out) = oneshot::channel();
        let mut silent = self.silent();
        let number = silent.came;
        silent.came += 1;
        silent.doors.insert(number, door);
        Guest { house: Arc::clone(self), number, shown_out, _seat: seat }
    }
}

impl Guest {
    /// What is called when it has asked for something.
    fn speaks(&self) -> impl Fn() + use<> {
        let (house, number) = (Arc::clone(&self.house), self.number);
        move || drop(house.silent().doors.remove(&number))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.house.silent().doors.remove(&self.number);
    }
}

/// Serves one connection in a task of its own.
fn spawn<S>(stream: S, mut guest: Guest, router: Router, hosts: Hosts, within: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let lasts = AtomicBool::new(false);
        let mut exchange = pin!(exchange(stream, router, hosts, guest.speaks(), &lasts));
        let ended = tokio::select! {
            ended = timeout(within, &mut exchange) => ended.is_ok(),
            Ok(()) = &mut guest.shown_out => true,
        };
        // A connection that failed or took too long is the client's business: nothing to record.
        if !ended && lasts.load(Ordering::Relaxed) {
            let _ = timeout(LASTING_WITHIN, exchange).await;
        }
    });
}

/// `speaks` is called when the request's head is here; `lasts` becomes true with a response that is
/// [`Lasting`].
async fn exchange<S>(
    stream: S,
    router: Router,
    hosts: Hosts,
    speaks: impl Fn(),
    lasts: &AtomicBool,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        speaks();
        let answer = answer(request, router.clone(), hosts);
        async move {
            let answer = answer.await;
            let is_lasting =
                |response: &Response<Body>| response.extensions().get::<Lasting>().is_some();
            lasts.store(answer.as_ref().is_ok_and(is_lasting), Ordering::Relaxed);
            answer
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    request: Request<Incoming>,
    router: Router,
    hosts: Hosts,
) -> Result<Response<Body>, Infallible> {
    if hosts == Hosts::Loopback
        && let Err(problem) = host::check(request.uri(), request.headers())
    {
        return Ok(problem.into_response());
    }
    hyper::service::Service::call(&TowerToHyperService::new(router), request).await
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    /// Over a pipe of 64 bytes, in virtual time: how long a client that does this is borne with.
    async fn borne_with(request: &[u8]) -> Duration {
        let (mut client, server) = tokio::io::duplex(64);
        let router = Router::new().route("/large", get(|| async { "x".repeat(1 << 20) }));
        let house = House::new(1);
        let begin = Instant::now();
        spawn(server, house.guest().await, router, Hosts::Any, PROBE_WITHIN);
        client.write_all(request).await.unwrap();
        let _free_again = house.seats.acquire().await.unwrap();
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_said_nothing_for_longest_leaves_a_full_house() {
        let slow = || async {
            sleep(Duration::from_secs(3)).await;
            "served"
        };
        let router = Router::new().route("/slow", get(slow));
        let house = House::new(3);
        let mut clients = Vec::new();
        let begin = Instant::now();
        for request in ["GET /slow HTTP/1.1\r\nhost: a\r\n\r\n", "", "GET", "", "GET", ""] {
            let (mut client, server) = tokio::io::duplex(1024);
            spawn(server, house.guest().await, router.clone(), Hosts::Any, PROBE_WITHIN);
            client.write_all(request.as_bytes()).await.unwrap();
            // What it said is heard.
            sleep(Duration::from_millis(1)).await;
            clients.push(client);
        }
        assert!(begin.elapsed().as_secs() < 1, "nobody had to wait for a seat");
        for client in &mut clients[1..4] {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "silent, and first to leave");
        }
        assert!(begin.elapsed().as_secs() < 1);
        let mut answer = String::new();
        clients[0].read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("served"), "who has asked is served: {answer}");
        // The two that are left have their five seconds.
        clients[5].read_to_string(&mut answer).await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 5);
        assert!(house.silent().doors.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_finishes_its_head_has_five_seconds() {
        assert_eq!(borne_with(b"GET /large HTTP/1.1\r\nhost").await.as_secs(), 5);
        assert_eq!(borne_with(b"").await.as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_has_ten() {
        assert_eq!(borne_with(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.as_secs(), 10);
    }
}
