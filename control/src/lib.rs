//! The control thread of ringside: everything that is not the data path.
//!
//! [`start`] puts one tokio `current_thread` runtime on a thread of its own. It watches the config's
//! folders, asks DNS for services that are found by it, and serves two listeners:
//!
//! - **admin** (a Unix socket of mode 0600, or loopback TCP): the REST interface, and what the probes
//!   say;
//! - **probes** (TCP, for the kubelet and Prometheus): `/livez`, `/readyz` and `/metrics`, nothing
//!   else, without a token.
//!
//! Beside it stands the [`AccessLog`], with a thread of its own since an output may block for as
//! long as it likes.
//!
//! # What it promises
//!
//! - **It blocks nobody.** Workers are asked by mail through the [`DataPlane`] and answer when they
//!   get to it; one that does not within 2 s fails `/livez`, by number. Workers hand records to the
//!   access log without a lock, a wait or, once warm, an allocation; when the output is stuck,
//!   records are dropped and counted.
//! - **Nobody holds it.** A connection carries one exchange and has 10 s for it (60 s on admin), 5 s of
//!   those for the head; heads and the number of connections are bounded (`connection.rs`). Those who
//!   listen to events stay for an hour, and are few (`events.rs`, `state.rs`).
//! - **A web page cannot reach it.** On TCP, admin refuses a foreign `Host` or `Origin`.
//! - **Every failure has words**: a refused bind says what to check, and every answer that is not
//!   2xx is `application/problem+json` with the next step (the two probes answer in plain text, as
//!   probes are read by people in `kubectl describe`).
//!
//! # What it leaves to others
//!
//! It knows nothing of routing, workers' insides or counters: the `ringside` crate gives it a
//! [`DataPlane`], which shows of them what there is to show. Signals are `main`'s.

#![forbid(unsafe_code)]

mod access_log;
mod api;
mod auth;
mod client;
mod connection;
mod data_plane;
mod desired;
mod dns;
mod events;
mod host;
mod listen;
mod phase;
mod probes;
mod problem;
mod process;
mod pushed;
mod state;
mod state_dir;
mod thread;
mod watch;

pub use access_log::{AccessLog, Output, Sink};
pub use axum::http::Method;
pub use client::{Question, Reply, ask};
pub use data_plane::{Answer, DataPlane, EndpointState, Refusal, Silent, of_all};
pub use desired::{Initial, Source};
pub use listen::Listen;
pub use phase::Phase;
pub use state_dir::{STATE_DIR_USUAL, Saved, StateDir};
pub use thread::{Control, Options, Program, start};
