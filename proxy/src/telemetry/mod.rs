//! What the data plane remembers of its work: counters and access records.
//!
//! Everything here is pure: no clock, no socket, no atomics. A worker owns one
//! [`counters::Counters`] and adds to it with plain integers; when control asks, the worker clones
//! it, and the control thread merges the copies and renders them ([`prometheus`]). An exchange is
//! recorded once, at its end, from its outcome: into the counters, and, where there is an access
//! log, into a recycled [`access::AccessRecord`], whose JSON line is written by the log's own
//! thread.
//!
//! Workers know listeners, routes and services by small numbers; [`names`] gives those out and
//! knows what they stand for.

pub mod access;
pub mod counters;
pub mod histogram;
mod json;
pub mod names;
pub mod prometheus;
