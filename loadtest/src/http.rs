//! Just enough HTTP/1.1 to play both ends of a measurement: [`RequestReader`] for the origin,
//! [`ResponseReader`] for the generator. Both are fed bytes and return values; neither does IO.
//!
//! They are written apart from ringside's own codec on purpose: a judge that shares the code of
//! the judged sees the same mistakes.

mod chunked;
mod head;
mod request;
mod response;

pub(crate) use request::{Action, Method, Request, RequestReader, Seen};
pub(crate) use response::{Response, ResponseReader};
