//! Which endpoint of a service gets the next request.
//!
//! A [`Balancer`] stands for one service on one worker. It holds, for each endpoint, a weight and
//! the requests in flight *on this worker*, and answers [`Balancer::pick`] with an index into the
//! list it was made from. What an endpoint is (an address, a pool, an identity) is the caller's
//! business; the balancer sees only the index.
//!
//! # What it promises
//!
//! - **Pure.** No IO, no clock, no async, no thread-local: `now` and the random numbers are
//!   arguments, so the same calls give the same picks, in production and in the simulator.
//! - **No allocation after [`Balancer::new`]**, and a pick never fails for want of memory.
//! - **Never an unusable endpoint.** The predicate given to `pick` is asked for every endpoint
//!   that is about to be returned, and an endpoint of weight 0 is never returned. `None` means
//!   that no endpoint is usable.
//! - **Exact shares** under [`Policy::RoundRobin`]: of any `sum(weights)` picks in a row, each
//!   endpoint gets its weight, and its turns are spread over the period.
//!
//! # What it leaves to others
//!
//! Health, ejection and "not the one that just failed" come in by way of the predicate; pools,
//! retries and replays live in the proxy. Endpoints that come and go make a new balancer:
//! [`Balancer::endpoints`] gives the requests in flight to carry over.
//!
//! # The files
//!
//! `balancer.rs` holds the endpoints and the policy; `endpoint.rs` is what is known of one
//! endpoint; then one file per policy (`round_robin.rs`, `least_request.rs`), and `random.rs` for
//! drawing a number below a bound.

#![forbid(unsafe_code)]

mod balancer;
mod endpoint;
mod least_request;
mod random;
mod round_robin;

pub use crate::balancer::{Balancer, Policy};
pub use crate::endpoint::Endpoint;
