//! The origin: counts what it executes, and answers as origins do: by length, in chunks or until
//! close, at once or later, before it has read the request's body or after; it closes connections
//! with notice and without.

use std::rc::Rc;
use std::time::Duration;

use reactor::{Either, ListenSocket, Listener, Piece, Reactor, Receiver, Stream, race};

use crate::message::{Direction, Framed, Reader, bits, body_of, field, frame};
use crate::{Told, tunnel};

/// What is spoken on a listening socket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Speaks {
    Http,
    /// See [`tunnel`].
    Raw,
}

/// Serves until nobody holds the other end of `stop`.
pub(crate) async fn serve(
    reactor: Reactor,
    socket: ListenSocket,
    speaks: Speaks,
    mut stop: Receiver<()>,
    told: Rc<Told>,
) {
    let mut accepting = Listener::new(&reactor, socket);
    loop {
        match race(accepting.accept(), stop.recv()).await {
            Either::First(Ok(Some(accepted))) => {
                let (host, told) = (reactor.clone(), told.clone());
                reactor.spawn(async move {
                    let stream = host.adopt(accepted);
                    match speaks {
                        Speaks::Http => serve_connection(&host, &stream, &told).await,
                        Speaks::Raw => tunnel::answer(&stream, Vec::new()).await,
                    }
                });
            }
            Either::First(Err(_)) => reactor.sleep(Duration::from_millis(1)).await,
            Either::First(Ok(None)) | Either::Second(_) => return,
        }
    }
}

async fn serve_connection(reactor: &Reactor, stream: &Stream, told: &Told) {
    let mut reader = Reader::new(stream);
    while let Some(after) = serve_request(reactor, stream, &mut reader, told).await {
        match after {
            After::Keep => {}
            After::Close => {
                stream.shutdown_write();
                while reader.fill().await {}
                assert!(reader.is_empty(), "who was told of the end sends no more");
                return;
            }
            After::CloseWithoutNotice { within } => {
                let then = reactor.now() + within;
                if reactor.timeout_at(then, stream.readable()).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// What becomes of the connection after a response.
enum After {
    Keep,
    /// The response has announced it.
    Close,
    /// If no request comes until then.
    CloseWithoutNotice {
        within: Duration,
    },
}

/// Serves one request; none when the connection is done with.
async fn serve_request(
    reactor: &Reactor,
    stream: &Stream,
    reader: &mut Reader<'_>,
    told: &Told,
) -> Option<After> {
    let head = reader.head().await?;
    let id = field(&head, "x-id").expect("every request has one").to_owned();
    assert!(head.contains(&format!(" /{id} HTTP/1.1\r\n")), "one head: {head}");
    told.reached(&id);
    if field(&head, "upgrade").is_some() {
        stream.send([Piece::Static(tunnel::SWITCHING)]).await.ok()?;
        tunnel::answer(stream, reader.take_rest()).await;
        return None;
    }
    // The same request is answered the same way, on whatever connection it comes.
    let mood = bits(&id, 3);
    let framed = match mood % 8 {
        0..4 => Framed::ByLength,
        4..7 => Framed::InChunks,
        _ => Framed::UntilClose,
    };
    let is_early = (mood >> 16).is_multiple_of(6);
    // Whoever waits to be told never sends the body after an early answer.
    let is_last = is_early && field(&head, "expect").is_some();
    let closes = is_last || framed == Framed::UntilClose || (mood >> 8).is_multiple_of(8);
    if !is_early {
        if field(&head, "expect").is_some() {
            stream.send([Piece::Static(b"HTTP/1.1 100 Continue\r\n\r\n")]).await.ok()?;
        }
        told.executed(&id, &reader.body(&head).await?);
        if (mood >> 24).is_multiple_of(4) {
            reactor.sleep(Duration::from_micros(reactor.random() % 5_000)).await;
        }
    }
    if (mood >> 32).is_multiple_of(5) {
        stream
            .send([Piece::Static(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")])
            .await
            .ok()?;
    }
    let body = match id.starts_with("HEAD") {
        true => Vec::new(),
        false => body_of(&id, Direction::Down),
    };
    let (mut fields, wire) = frame(&body, framed);
    if closes && framed != Framed::UntilClose {
        fields.push_str("connection: close\r\n");
    }
    let wire = if id.starts_with("HEAD") { Vec::new() } else { wire };
    let answer = format!("HTTP/1.1 200 OK\r\nx-id: {id}\r\n{fields}\r\n");
    stream.start_send([Piece::Vec(answer.into_bytes()), Piece::Vec(wire)]);
    if is_early && !is_last {
        // To close with unread bytes would be a reset, and take the response with it.
        told.executed(&id, &reader.body(&head).await?);
    }
    stream.sent().await.ok()?;
    Some(match closes {
        true => After::Close,
        false if (mood >> 40).is_multiple_of(3) => {
            After::CloseWithoutNotice { within: Duration::from_micros(reactor.random() % 20_000) }
        }
        false => After::Keep,
    })
}
