//! An exchange's two messages: what is held of them, in memory that is used again.

use reactor::{Charge, Reactor};

use crate::http1::head::{RequestHead, ResponseHead};
use crate::spare::Reusable;

/// A request, from its arrival to its record. Its memory is used again by the next exchange.
#[derive(Default)]
pub struct Request {
    pub head: RequestHead,
    /// The bytes that the head was parsed from.
    pub bytes: Vec<u8>,
    /// What of the body was here with the head, where it is small: goes upstream behind the head,
    /// and is kept, so that it can be sent again.
    pub body: Vec<u8>,
    /// Larger heads count in `limits.memory`.
    charge: Option<Charge>,
}

/// A response's head while it is read and rewritten: leased when it comes and given back before
/// anybody is waited for again, so that all exchanges of a turn use the same warm memory.
#[derive(Default)]
pub struct Response {
    pub head: ResponseHead,
    /// The bytes that the head was parsed from.
    pub bytes: Vec<u8>,
}

/// Larger vectors are not kept for the next exchange.
const KEPT_BYTES: usize = 16 * 1024;
/// Smaller heads are not charged.
const CHARGED_BYTES: usize = 2 * 1024;

impl Request {
    /// The head is complete, and held while an upstream is waited for: also what is made of it, as
    /// long as that is not sent.
    pub fn charge(&mut self, reactor: &Reactor) {
        let held = 2 * self.bytes.capacity();
        self.charge = (self.bytes.len() > CHARGED_BYTES).then(|| reactor.charge(held));
    }

    /// The id that a client gave whom we trust.
    pub fn believed_id(&self, trust: bool) -> Option<&[u8]> {
        if trust { self.head.request_id(&self.bytes) } else { None }
    }
}

impl Reusable for Request {
    fn reset(&mut self) {
        self.head.clear();
        self.charge = None;
        reset(&mut self.bytes);
        reset(&mut self.body);
    }
}

impl Reusable for Response {
    fn reset(&mut self) {
        self.head.clear();
        reset(&mut self.bytes);
    }
}

fn reset(bytes: &mut Vec<u8>) {
    match bytes.capacity() > KEPT_BYTES {
        true => *bytes = Vec::new(),
        false => bytes.clear(),
    }
}
