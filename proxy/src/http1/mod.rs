//! HTTP/1.1 and 1.0 as pure functions of bytes (RFC 9110, RFC 9112).
//!
//! The caller owns the sockets and the buffers. It shows what it has received so far and learns
//! one of three things: not enough yet, a complete head of so many bytes, or a cause to refuse
//! it. It then asks for the head that goes on to the other side, and hands the bytes after the
//! head to a [`body::BodyReader`], which says how many of them belong to the body and pass on as
//! they are.
//!
//! What this module promises:
//! - **One reading.** A message that could be read in two ways is refused, so that the next hop
//!   cannot read it differently (request smuggling). What is forwarded is re-announced: one Host,
//!   one framing, plain numbers.
//! - **The same verdict however the bytes are cut.** A line is judged when its line feed is
//!   there, so feeding a message whole or byte by byte gives the same answer; only the first
//!   bytes (junk, TLS) and sizes are judged earlier.
//! - **Linear work, bounded memory.** Heads are offsets into the caller's buffer; a head fed byte
//!   by byte is scanned once. The reused structures allocate only while they grow to the largest
//!   head seen.
//!
//! What it leaves to others: time limits, routing, who is trusted, and when to close.

pub mod body;
mod chunk;
mod connection;
pub mod encode;
pub mod fields;
pub mod framing;
pub mod head;
mod request;
mod response;
mod syntax;
pub mod upgrade;
