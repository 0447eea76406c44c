//! `loops serve`: one loop, one role, one thread.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use clap::ValueEnum;
use reactor::Backend;

use crate::on_monoio::Idle;
use crate::{on_glommio, on_monoio, on_reactor};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_enum)]
    event_loop: Loop,
    #[arg(value_enum)]
    service: Service,
    /// Where to listen; port 0 picks a free one, and the first line printed names it
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the proxy forwards to
    #[arg(long, required_if_eq("service", "proxy"))]
    to: Option<SocketAddr>,
}

/// What carries the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Loop {
    /// Our reactor with its io_uring driver
    OursUring,
    /// Our reactor with its epoll driver
    OursEpoll,
    /// monoio with its io_uring driver
    Monoio,
    /// The same, waiting by poll: no buffer while idle, one more operation for a request
    MonoioPoll,
    /// glommio
    Glommio,
}

impl Loop {
    pub(crate) const ALL: [Loop; 5] =
        [Loop::OursUring, Loop::OursEpoll, Loop::Monoio, Loop::MonoioPoll, Loop::Glommio];

    /// Its name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Loop::OursUring => "ours-uring",
            Loop::OursEpoll => "ours-epoll",
            Loop::Monoio => "monoio",
            Loop::MonoioPoll => "monoio-poll",
            Loop::Glommio => "glommio",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// Sends back what comes
    Echo,
    /// An HTTP/1.1 reverse proxy for fixed heads
    Proxy,
}

impl Service {
    /// Its name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Proxy => "proxy",
        }
    }
}

/// A service with what it needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Echo,
    Proxy(SocketAddr),
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    reactor::raise_descriptor_limit()?;
    let listen = arguments.listen;
    let role = match (arguments.service, arguments.to) {
        (Service::Echo, _) => Role::Echo,
        (Service::Proxy, Some(to)) => Role::Proxy(to),
        (Service::Proxy, None) => return Err(io::Error::other("a proxy needs --to")),
    };
    match arguments.event_loop {
        Loop::OursUring => on_reactor::serve(Backend::IoUring, listen, role),
        Loop::OursEpoll => on_reactor::serve(Backend::Epoll, listen, role),
        Loop::Monoio => on_monoio::serve(Idle::HoldsBuffer, listen, role),
        Loop::MonoioPoll => on_monoio::serve(Idle::Polls, listen, role),
        Loop::Glommio => on_glommio::serve(listen, role),
    }
}

/// Says that connections are taken from now on.
pub(crate) fn announce(address: impl Display) {
    println!("listening on {address}");
}
