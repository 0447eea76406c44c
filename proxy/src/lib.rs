//! ringside: the data plane of a service mesh.
//!
//! Read [`exchange`] first: it is the way of a request. Around it: [`worker`] (a core's thread and
//! what it owns), [`downstream`] and [`upstream`] (connections), [`relay`] (bodies and tunnels),
//! [`plan`] (the compiled config), [`run`] (the process). The rest is pure: it decides, and does
//! nothing.

#![forbid(unsafe_code)]

pub mod access_writer;
pub mod check;
pub mod client;
pub mod cpus;
pub mod demo;
pub mod downstream;
pub mod edits;
pub mod error;
pub mod exchange;
pub mod explain;
pub mod explain_command;
pub mod http;
pub mod http1;
pub mod initial;
pub mod live_plan;
pub mod manual;
pub mod messages;
pub mod node;
pub mod plan;
pub mod plane;
pub mod pool;
pub mod prefixes;
pub mod record;
pub mod relay;
pub mod replay;
pub mod request_id;
pub mod route;
pub mod run;
pub mod say;
pub mod service_manager;
pub mod socket_file;
pub mod spare;
pub mod split;
pub mod telemetry;
pub mod turn;
pub mod upstream;
pub mod views;
pub mod worker;
