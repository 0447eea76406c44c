//! One line of a table: a proxy that runs, or the control without one.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use crate::peer::{Installed, Setup};
use crate::process::{self, Process};

/// What a contestant's figure is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Straight to the origin: tells whether the machine held still.
    Control,
    /// What no proxy can beat.
    Floor,
    Peer,
    Ours,
}

/// What to put up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Direct,
    FloorUring,
    FloorSplice,
    Program(Setup),
}

/// The cores: what is measured runs alone on its own.
pub const PROXY_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;

pub struct Contestant {
    pub name: &'static str,
    pub kind: Kind,
    pub address: SocketAddr,
    process: Option<Process>,
}

impl Contestant {
    /// The control: straight to `address`.
    pub fn direct(address: SocketAddr) -> Contestant {
        Contestant { name: "direct", kind: Kind::Control, address, process: None }
    }

    /// A process that was started and listens at `address`.
    pub fn of(name: &'static str, kind: Kind, address: SocketAddr, process: Process) -> Contestant {
        Contestant { name, kind, address, process: Some(process) }
    }

    /// Starts it and waits until it listens; `None` if its program is not on this machine.
    pub(crate) fn start(
        entry: Entry,
        installed: &[Installed],
        origin: SocketAddr,
        folder: &Path,
    ) -> io::Result<Option<Contestant>> {
        let floor = |kind: &str, name| {
            let arguments = ["floor", kind, "--to", &origin.to_string()];
            let (process, address) =
                Process::start_ourselves(name, &arguments, Some(PROXY_CORE), folder)?;
            Ok(Some(Contestant::of(name, Kind::Floor, address, process)))
        };
        match entry {
            Entry::Direct => Ok(Some(Contestant::direct(origin))),
            Entry::FloorUring => floor("uring", "floor uring"),
            Entry::FloorSplice => floor("splice", "floor splice"),
            Entry::Program(setup) => {
                let Some(program) = installed.iter().find(|installed| installed.can(setup)) else {
                    return Ok(None);
                };
                let address = process::free_address()?;
                let own = folder.join(format!("{setup:?}-{}", address.port()));
                let command = program.command(setup, address, origin, &own)?;
                let name = setup.name();
                let log = own.join("output.log");
                let mut process = Process::start(name, command, Some(PROXY_CORE), log)?;
                process.wait_ready(address)?;
                let kind = if name.starts_with("ringside") { Kind::Ours } else { Kind::Peer };
                Ok(Some(Contestant::of(name, kind, address, process)))
            }
        }
    }

    /// Starts all that are on this machine.
    pub(crate) fn start_all(
        entries: &[Entry],
        installed: &[Installed],
        origin: SocketAddr,
        folder: &Path,
    ) -> io::Result<Vec<Contestant>> {
        let started =
            entries.iter().map(|entry| Contestant::start(*entry, installed, origin, folder));
        Ok(started.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    pub fn pids(&self) -> Vec<u32> {
        self.process.as_ref().map_or_else(Vec::new, Process::pids)
    }

    /// Fails if the program has ended by itself.
    pub(crate) fn check_alive(&mut self) -> io::Result<()> {
        match self.process.as_mut().map_or(Ok(None), Process::ended)? {
            Some(status) => Err(io::Error::other(format!("{} ended: {status}", self.name))),
            None => Ok(()),
        }
    }
}
