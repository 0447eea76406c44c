//! Bodies: which of the received bytes belong to one, and when it ends.
//!
//! A [`BodyReader`] is shown the bytes after a head, piece by piece, and says of each piece which
//! range goes on to the other side as it is. Nothing is copied but what must be held back: a
//! chunk's size line that was cut in two, extensions (dropped), and the end of a chunked body,
//! from its last chunk on, which is released only when all of it has come and is well-formed. So
//! the other side never gets a final chunk of a body that turned out to be broken.
//!
//! ```text
//! loop {
//!     let step = reader.advance(&input)?;
//!     send(reader.lead());             // first: made or held back by the reader; often empty
//!     send(&input[step.pass.clone()]); // then: the received bytes themselves
//!     input = &input[step.consumed..];
//!     if step.done { break }           // what is left of the input belongs to the next message
//!     if input.is_empty() { input = receive()? }
//! }
//! ```

use std::ops::Range;

use super::chunk::Chunked;
use super::framing::Framing;
use crate::error::Malformed;

/// What a reader passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// The body framed as it came: chunked stays chunked.
    Wire,
    /// The content alone, for a side that is framed otherwise (HTTP/1.0, HTTP/2).
    Content,
}

/// What one piece of input came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are dealt with; the rest is to be shown again.
    pub consumed: usize,
    /// `pass.end <= consumed`: the bytes of the input that go on, after [`BodyReader::lead`].
    pub pass: Range<usize>,
    /// Bytes of content among them, without any framing.
    pub content: usize,
    /// The body is complete.
    pub done: bool,
}

/// A body being read.
#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    emit: Emit,
    position: u64,
    /// See [`BodyReader::pass_by`].
    passed_by: bool,
}

#[derive(Debug)]
enum Body {
    Empty,
    Length { remaining: u64 },
    Chunked(Chunked),
    UntilClose,
}

impl BodyReader {
    pub fn new(framing: Framing, emit: Emit) -> BodyReader {
        let body = match framing {
            Framing::None | Framing::Length(0) => Body::Empty,
            Framing::Length(remaining) => Body::Length { remaining },
            Framing::Chunked => Body::Chunked(Chunked::default()),
            Framing::UntilClose => Body::UntilClose,
        };
        BodyReader { body, emit, position: 0, passed_by: false }
    }

    /// Reads on. Progress is made, or the body done, unless the input is empty.
    pub fn advance(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        let step = self.step(input)?;
        self.position += step.consumed as u64;
        Ok(step)
    }

    fn step(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        match &mut self.body {
            Body::Empty => Ok(Step { done: true, ..Step::default() }),
            Body::Length { remaining } => {
                // A length beyond usize is certainly longer than the input.
                let len = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                *remaining -= len as u64;
                Ok(Step { consumed: len, pass: 0..len, content: len, done: *remaining == 0 })
            }
            Body::Chunked(chunked) => chunked.advance(input, self.emit),
            Body::UntilClose => {
                let len = input.len();
                Ok(Step { consumed: len, pass: 0..len, content: len, done: false })
            }
        }
    }

    /// What goes on before the last step's `pass`; the next step overwrites it.
    pub fn lead(&self) -> &[u8] {
        match (&self.body, self.emit) {
            (Body::Chunked(chunked), Emit::Wire) => chunked.lead(),
            _ => &[],
        }
    }

    /// The trailer lines that go on, each with its CR LF, once the body is done.
    pub fn trailers(&self) -> &[u8] {
        match &self.body {
            Body::Chunked(chunked) => chunked.trailers(),
            _ => &[],
        }
    }

    pub fn is_done(&self) -> bool {
        match &self.body {
            Body::Empty | Body::Length { remaining: 0 } => true,
            Body::Chunked(chunked) => chunked.is_done(),
            Body::Length { .. } | Body::UntilClose => false,
        }
    }

    /// Whether nothing was read, or went past, beyond the first `position` bytes.
    pub fn is_at(&self, position: u64) -> bool {
        self.position == position && !self.passed_by
    }

    /// How many bytes, framing included, are read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes are about to go past the reader: from now on it does not know how many were taken before
    /// [`BodyReader::skip`] tells, which may never come.
    pub fn pass_by(&mut self) {
        self.passed_by = true;
    }

    /// Whether the end of the connection, now, is a proper end of the body.
    pub fn may_end_here(&self) -> bool {
        self.is_done() || matches!(self.body, Body::UntilClose)
    }

    /// How many bytes of a body of known length are still to come: what may be spliced.
    pub fn length_left(&self) -> Option<u64> {
        match self.body {
            Body::Empty => Some(0),
            Body::Length { remaining } => Some(remaining),
            Body::Chunked(_) | Body::UntilClose => None,
        }
    }

    /// Counts bytes of a body of known length that went past the reader, spliced.
    pub fn skip(&mut self, len: u64) {
        if let Body::Length { remaining } = &mut self.body {
            debug_assert!(len <= *remaining);
            *remaining = remaining.saturating_sub(len);
        }
        self.position += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{RequestHead, ResponseHead};

    /// An exchange holds two readers and, while it begins, two heads.
    #[test]
    fn small_enough_for_every_exchange() {
        assert!(size_of::<BodyReader>() <= 112, "{}", size_of::<BodyReader>());
        assert!(size_of::<RequestHead>() <= 240, "{}", size_of::<RequestHead>());
        assert!(size_of::<ResponseHead>() <= 160, "{}", size_of::<ResponseHead>());
    }

    #[test]
    fn spliced_bytes_are_counted() {
        let mut reader = BodyReader::new(Framing::Length(10), Emit::Wire);
        let step = reader.advance(b"abc").unwrap();
        assert_eq!((step.pass, step.done, reader.length_left()), (0..3, false, Some(7)));
        reader.skip(5);
        let step = reader.advance(b"defgh").unwrap();
        assert_eq!((step.consumed, step.pass, step.done), (2, 0..2, true));
        assert_eq!(reader.position(), 10);
    }

    #[test]
    fn what_is_refused_stays_refused() {
        let mut reader = BodyReader::new(Framing::Chunked, Emit::Wire);
        assert_eq!(reader.advance(b"x\r\n"), Err(Malformed::BadChunk));
        assert_eq!(reader.advance(b"0\r\n\r\n"), Err(Malformed::BadChunk));
        assert!(!reader.is_done() && !reader.may_end_here());
    }

    /// A last chunk that is not complete is held back, and goes on in one piece.
    #[test]
    fn the_last_chunk_is_held_back() {
        let mut reader = BodyReader::new(Framing::Chunked, Emit::Wire);
        let step = reader.advance(b"1\r\na\r\n0\r\n").unwrap();
        assert_eq!((step.pass, step.consumed), (0..6, 6));
        let step = reader.advance(b"0\r\n").unwrap();
        assert_eq!((step.pass.len(), step.consumed, step.done), (0, 3, false));
        assert_eq!(reader.lead(), b"");
        let step = reader.advance(b"\r\nnext").unwrap();
        assert_eq!((step.pass.len(), step.consumed, step.done), (0, 2, true));
        assert_eq!(reader.lead(), b"0\r\n\r\n");
    }
}
