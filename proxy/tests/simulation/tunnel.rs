//! Dialogues without HTTP: through a TCP listener, CONNECT or an upgrade. The client says an id and the
//! body that belongs to it, the origin the body of the answer; each ends its sending when it has said
//! all. Who sees an orderly end has got all.

use std::time::Duration;

use reactor::{Address, Piece, Reactor, RecvError, Stream, both};

use crate::message::{Direction, Reader, bits, body_of};
use crate::{Manner, Told};

/// A dialogue takes no longer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// By what way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    Connect,
    Upgrade,
}

pub(crate) struct Caller<'a> {
    pub reactor: &'a Reactor,
    pub way: Way,
    pub proxy: Address,
    pub manner: Manner,
    pub told: &'a Told,
}

impl Caller<'_> {
    /// Has one dialogue.
    pub(crate) async fn call(&self, id: &str) {
        let stream = match self.reactor.connect(&self.proxy).await {
            Ok(stream) => stream,
            Err(error) => return assert!(self.may_fail(), "connecting works: {error}"),
        };
        let until = self.reactor.now() + PATIENCE;
        let dialogue = self.dialogue(&stream, id);
        assert!(self.reactor.timeout_at(until, dialogue).await.is_some(), "{id} is left hanging");
    }

    async fn dialogue(&self, stream: &Stream, id: &str) {
        let Some(rest) = self.open(stream, id).await else { return };
        let mut said = format!("{id}\n").into_bytes();
        said.extend(body_of(id, Direction::Up));
        if self.reactor.random().is_multiple_of(8) {
            // Leaves in the middle, and lets the origin know.
            said.truncate(said.len() * 2 / 3);
            let _ = stream.send([Piece::Vec(said)]).await;
            stream.reset_on_close();
            return;
        }
        let say = async {
            let _ = stream.send([Piece::Vec(said)]).await;
            stream.shutdown_write();
        };
        let ((), heard) = both(say, hear(stream, rest)).await;
        let expected = body_of(id, Direction::Down);
        match heard {
            Ok(heard) if heard == expected => {
                self.told.dialogues.set(self.told.dialogues.get() + 1)
            }
            Ok(_) => panic!("{id}: a part as the whole"),
            Err(_) => assert!(self.may_fail(), "{id}: a reset"),
        }
    }

    /// Asks for the tunnel; what came behind the answer, or none if there is no tunnel.
    async fn open(&self, stream: &Stream, id: &str) -> Option<Vec<u8>> {
        let request = match self.way {
            Way::Tcp => return Some(Vec::new()),
            Way::Connect => "CONNECT raw:1 HTTP/1.1\r\nhost: raw:1\r\n\r\n".to_owned(),
            Way::Upgrade => format!(
                "GET /{id} HTTP/1.1\r\nhost: web\r\nx-id: {id}\r\nconnection: upgrade\r\n\
                 upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
        };
        stream.start_send([Piece::Vec(request.into_bytes())]);
        let mut reader = Reader::new(stream);
        match reader.head().await {
            Some(head)
                if head.starts_with("HTTP/1.1 101 ") || head.starts_with("HTTP/1.1 200 ") =>
            {
                let _ = stream.sent().await;
                return Some(reader.take_rest());
            }
            Some(head) => {
                let is_refused = self.manner.tight && head.contains("x-ringside-cause: overloaded");
                assert!(self.manner.loses || is_refused, "{id}: {head}");
            }
            None => assert!(self.may_fail(), "{id}: no answer"),
        }
        None
    }

    fn may_fail(&self) -> bool {
        // A TCP listener has no words for want of memory: it resets.
        let is_refused = self.manner.tight && matches!(self.way, Way::Tcp);
        self.manner.loses || self.told.is_draining() || is_refused
    }
}

/// The origin's side; `heard` has come already.
pub(crate) async fn answer(stream: &Stream, mut heard: Vec<u8>) {
    let line = loop {
        if let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            break heard.drain(..=end).collect::<Vec<u8>>();
        }
        match stream.recv().await {
            Ok(Some(buf)) => heard.extend_from_slice(&buf),
            Ok(None) => return assert!(heard.is_empty(), "a part of an id"),
            Err(_) => return,
        }
    };
    let id = std::str::from_utf8(&line[..line.len() - 1]).expect("an id").to_owned();
    let expected = body_of(&id, Direction::Up);
    let say = async {
        let _ = stream.send([Piece::Vec(body_of(&id, Direction::Down))]).await;
        stream.shutdown_write();
    };
    let listens_first = bits(&id, 4).is_multiple_of(2);
    let heard = match listens_first {
        true => {
            let heard = hear(stream, heard).await;
            say.await;
            heard
        }
        false => both(say, hear(stream, heard)).await.1,
    };
    if let Ok(heard) = heard {
        assert!(heard == expected, "{id}: {} of {} bytes", heard.len(), expected.len());
    }
}

/// All that comes, to an orderly end.
async fn hear(stream: &Stream, mut heard: Vec<u8>) -> Result<Vec<u8>, RecvError> {
    while let Some(buf) = stream.recv().await? {
        heard.extend_from_slice(&buf);
    }
    Ok(heard)
}
