//! The clients: keep their connections, send one request or several at once, small and large, and
//! sometimes leave in the middle.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use reactor::{Address, Either, Piece, Reactor, Stream, race};

use crate::message::{Direction, Framed, Reader, body_of, field, frame};
use crate::{Manner, Told};

/// A request waits no longer than this for its answer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(60);
/// More are not sent at once.
const PIPELINE: u64 = 4;

/// What came of a request on a connection.
enum Answered {
    /// Whole.
    Yes(String, Vec<u8>),
    /// The connection ended, or the answer broke off.
    No,
}

pub(crate) struct Client<'a> {
    pub reactor: &'a Reactor,
    pub proxy: Address,
    pub manner: Manner,
    pub told: &'a Told,
}

impl Client<'_> {
    /// Asks for everything in `ids`, on one connection as long as it lasts.
    pub(crate) async fn visit(&self, mut ids: VecDeque<String>) {
        let mut connection: Option<Stream> = None;
        while !ids.is_empty() {
            let stream = match connection.take() {
                Some(stream) => stream,
                None => match self.reactor.connect(&self.proxy).await {
                    Ok(stream) => stream,
                    Err(_) if self.told.is_draining() => return,
                    Err(error) => {
                        assert!(self.manner.loses, "connecting works: {error}");
                        ids.pop_front();
                        continue;
                    }
                },
            };
            let count = 1 + self.reactor.random() % PIPELINE;
            let batch: Vec<String> = ids.drain(..ids.len().min(count as usize)).collect();
            let is_patient = batch.len() == 1 && batch[0].starts_with('P');
            let (unanswered, stays) = match is_patient && self.reactor.random().is_multiple_of(2) {
                true => (&[][..], self.ask_first(&stream, &batch[0]).await),
                false => self.ask(&stream, &batch).await,
            };
            // Whoever said that it closes has not begun with what came after.
            unanswered.iter().rev().for_each(|id| ids.push_front(id.clone()));
            connection = stays.then_some(stream);
            if self.reactor.random().is_multiple_of(2) {
                let pause = Duration::from_micros(self.reactor.random() % 20_000);
                self.reactor.sleep(pause).await;
            }
        }
        if let Some(stream) = connection {
            stream.shutdown_write();
            let mut reader = Reader::new(&stream);
            while reader.fill().await {}
            assert!(reader.is_empty(), "nothing that nobody asked for");
        }
    }

    /// Sends a batch and takes the answers. Returns what may be asked again, and whether the
    /// connection stays.
    async fn ask<'i>(&self, stream: &Stream, batch: &'i [String]) -> (&'i [String], bool) {
        let mut wire = Vec::new();
        for id in batch {
            let (head, body) = request(id, "", self.reactor.random());
            wire.extend_from_slice(head.as_bytes());
            wire.extend(body);
        }
        stream.start_send([Piece::Vec(wire)]);
        if self.reactor.random().is_multiple_of(16) {
            self.leave(stream).await;
            return (&[], false);
        }
        let half_closes = self.manner.half_closes && self.reactor.random().is_multiple_of(16);
        let half_close = async {
            if half_closes {
                let _ = stream.sent().await;
                stream.shutdown_write();
            }
            pending().await
        };
        let (unanswered, stays) = match race(self.take_answers(stream, batch), half_close).await {
            Either::First(taken) => taken,
            Either::Second(never) => never,
        };
        (unanswered, stays && !half_closes)
    }

    /// Sends a body only when it is told to. Returns whether the connection stays.
    async fn ask_first(&self, stream: &Stream, id: &str) -> bool {
        let (head, body) = request(id, "expect: 100-continue\r\n", self.reactor.random());
        stream.start_send([Piece::Vec(head.into_bytes())]);
        let mut body = Some(body);
        let mut reader = Reader::new(stream);
        let answer = async {
            loop {
                match reader.head().await {
                    Some(head) if head.starts_with("HTTP/1.1 100") => {
                        let body = body.take().expect("one 100 is enough");
                        let _ = stream.sent().await;
                        stream.start_send([Piece::Vec(body)]);
                    }
                    Some(head) if head.starts_with("HTTP/1.1 1") => {}
                    Some(head) => break reader.body(&head).await.map(|body| (head, body)),
                    None => break None,
                }
            }
        };
        let until = self.reactor.now() + PATIENCE;
        let answer = self.reactor.timeout_at(until, answer).await.expect("nobody is left hanging");
        let Some((head, answer)) = answer else {
            assert!(self.manner.loses || self.told.is_draining(), "{id} was not answered");
            return false;
        };
        self.judge(id, &head, &answer);
        let closes = field(&head, "connection") == Some("close");
        let owes = body.is_some_and(|body| !body.is_empty());
        assert!(closes || !owes, "{id}: what is still to come would be read as a request");
        let _ = stream.sent().await;
        !closes && !stream.has_ended()
    }

    /// See [`Client::ask`].
    async fn take_answers<'i>(&self, stream: &Stream, batch: &'i [String]) -> (&'i [String], bool) {
        let mut reader = Reader::new(stream);
        for (at, id) in batch.iter().enumerate() {
            let until = self.reactor.now() + PATIENCE;
            let answer = self.reactor.timeout_at(until, answer_to(id, &mut reader)).await;
            let Answered::Yes(head, body) = answer.expect("nobody is left hanging") else {
                assert!(self.manner.loses || self.told.is_draining(), "{id} was not answered");
                return (&[], false);
            };
            self.judge(id, &head, &body);
            if field(&head, "connection") == Some("close") {
                return (&batch[at + 1..], false);
            }
        }
        assert!(reader.is_empty(), "an answer to each");
        let _ = stream.sent().await;
        (&[], !stream.has_ended())
    }

    fn judge(&self, id: &str, head: &str, body: &[u8]) {
        let status: u16 = head[9..12].parse().expect("a status");
        self.told.answered(id, status);
        if status == 200 {
            assert_eq!(field(head, "x-id"), Some(id), "its own answer");
            let expected = match id.starts_with("HEAD") {
                true => Vec::new(),
                false => body_of(id, Direction::Down),
            };
            assert!(body == expected, "{id}: its own body, and all of it");
            return;
        }
        let cause = field(head, "x-ringside-cause").unwrap_or_else(|| panic!("{id}: {head}"));
        // The one failure that nobody can hide: a request that met the close of an idle connection
        // and must not be sent again, because it might have been executed, or cannot be, because
        // its body is gone.
        let met_a_close =
            cause.starts_with("upstream_closed") || cause.starts_with("upstream_reset");
        let excused = id.starts_with('P') && met_a_close && !self.told.has_reached(id);
        let is_refused = cause.starts_with("overloaded");
        if is_refused {
            assert!(self.manner.tight && !self.told.has_reached(id), "{id}: {head}");
            self.told.refused.set(self.told.refused.get() + 1);
        }
        assert!(self.manner.loses || excused || is_refused, "{id}: {head}");
    }

    /// Leaves while the requests or their answers are on their way.
    async fn leave(&self, stream: &Stream) {
        let random = self.reactor.random();
        let soon = self.reactor.now() + Duration::from_micros(random % 10_000);
        if random & 1 << 32 != 0 {
            // Takes some of the answer first.
            let mut reader = Reader::new(stream);
            self.reactor.timeout_at(soon, async { while reader.fill().await {} }).await;
        } else {
            self.reactor.sleep_until(soon).await;
        }
        if random & 1 << 33 != 0 {
            stream.reset_on_close();
        }
    }
}

/// The head, with more fields, and the body of a request.
fn request(id: &str, more: &str, random: u64) -> (String, Vec<u8>) {
    let (method, _) = id.split_once('-').expect("begins with the method");
    let (fields, body) = match method {
        "POST" | "PUT" => {
            let framed = if random.is_multiple_of(3) { Framed::InChunks } else { Framed::ByLength };
            frame(&body_of(id, Direction::Up), framed)
        }
        _ => Default::default(),
    };
    let head = format!("{method} /{id} HTTP/1.1\r\nhost: web\r\nx-id: {id}\r\n{more}{fields}\r\n");
    (head, body)
}

/// The final answer to a request.
async fn answer_to(id: &str, reader: &mut Reader<'_>) -> Answered {
    let head = loop {
        match reader.head().await {
            None => return Answered::No,
            Some(head) if head.starts_with("HTTP/1.1 1") => {}
            Some(head) => break head,
        }
    };
    if id.starts_with("HEAD") {
        return Answered::Yes(head, Vec::new());
    }
    match reader.body(&head).await {
        Some(body) => Answered::Yes(head, body),
        None => Answered::No,
    }
}
