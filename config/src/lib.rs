//! Text → checked [`Config`].
//!
//! ringside's configs are written by people and pushed by programs, in YAML, TOML or JSON. This
//! crate turns such a text into a [`Config`] in which nothing can be wrong any more, or into
//! [`Diagnostics`] that name every mistake at once: where it stands, what is wrong, and what to
//! write instead. It is the only crate that knows what a config looks like as text.
//!
//! The way of a text:
//!
//! ```text
//! yaml | toml_text | json   text → tree: values that know where they stand
//! join, environment         several files → one tree; ${NAME} put in
//! names                     who is called what, so that references can point forward
//! config → process, access_log, listener, service, route (→ condition, action, edits)
//!                           tree → types, key by key, by the tables of definition
//! document, resting         what can be replaced in parts and checked again; the same, kept small
//! files                     the files that a config names: there, readable, certificate and key a pair
//! path                      the normal form of paths, also for whoever matches requests
//! overlap                   what is not wrong and rarely meant: routes in each other's way
//! ```
//!
//! Each of the last ones holds, for one part of the config, the type that comes out, the table
//! of keys that goes in, and the function between the two. The tables (`definition.rs`) are the
//! one place that knows which keys exist, which ones have to wait for their feature, and what a
//! missing key means; [`reference()`] prints them.
//!
//! Promises:
//! - A key that is accepted works. A key of the interface whose feature is not built, and a key
//!   that is in no table, are errors; nothing is ignored but `x-…` at the top.
//! - Any bytes end in a config or in diagnostics: no panic, and time and memory within a small
//!   multiple of the text, which is at most 32 MiB.
//! - No IO but reading the files in [`load`], and those that a config names where
//!   [`Document::check_files`] is asked for; whether an address can be bound or a log be opened is for
//!   those who do it to find out.

#![forbid(unsafe_code)]

mod access_log;
mod action;
mod address;
mod circles;
mod condition;
mod config;
mod defaults;
mod definition;
mod diagnostic;
mod dns;
mod document;
mod edits;
mod endpoint_push;
mod environment;
mod files;
mod fingerprint;
mod join;
mod json;
mod labels;
mod listener;
mod load;
mod name;
mod names;
mod overlap;
mod path;
mod path_regex;
mod process;
mod reader;
mod reference;
mod regex;
mod report;
mod resting;
mod route;
mod schema;
mod service;
mod source;
mod subset;
mod toml_text;
mod tree;
mod units;
mod yaml;

pub use access_log::{AccessLog, LogFormat, LogOutput};
pub use action::{Action, Backend, Redirect, RedirectPath, Respond, Rewrite, Scheme};
pub use address::{Address, Network};
pub use condition::{Condition, Test};
pub use config::Config;
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use dns::{Dns, Resolver};
pub use document::{Change, Document, Kind, What};
pub use edits::HeaderEdits;
pub use endpoint_push::{EndpointChange, EndpointPush};
pub use files::{KeyPairFault, token_in};
pub use labels::Labels;
pub use listener::{
    ExposeCauses, Forwarded, HttpListener, Listener, ListenerKind, ListenerLimits,
    ListenerTimeouts, TcpListener,
};
pub use load::{Failure, Format, Loaded, load, parse};
pub use name::Name;
pub use path::normal_path;
pub use process::{
    ADMIN_USUAL, Admin, Auth, Io, Limits, Node, Pin, Probes, Scope, Shutdown, State, Token,
    WORKERS_MAX, Workers,
};
pub use reference::reference;
pub use regex::Regex;
pub use resting::Resting;
pub use route::{HostPattern, Match, PathMatch, Route, RouteTimeouts};
pub use schema::schema;
pub use service::{Balance, Endpoint, Pool, Service, Source};
pub use units::{Ratio, parse_time};
