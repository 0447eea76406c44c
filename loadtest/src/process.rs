//! Processes we start: each is ended by its id when its [`Process`] is dropped.
//!
//! That covers returns, errors and panics. For the ways out that run no destructor (ctrl-c, a
//! kill) each child asks the kernel for SIGTERM at our death.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::{syscall, usage};

/// How long a program may take to answer its first connection.
const READY_MAX: Duration = Duration::from_secs(15);
/// How long a program may take to obey SIGTERM before it is killed.
const END_MAX: Duration = Duration::from_millis(500);

/// A running program, its output in a file.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program on one core, with what it prints in `log`.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        core: Option<usize>,
        log: PathBuf,
    ) -> io::Result<Process> {
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
        syscall::bind_to_us(&mut command, core);
        let child = command.spawn().map_err(|error| {
            io::Error::other(format!("cannot start {name} ({:?}): {error}", command.get_program()))
        })?;
        Ok(Process { child, name: name.to_owned(), log })
    }

    /// Starts this very program with other arguments and reads the address it says it listens on.
    pub fn start_ourselves(
        name: &str,
        arguments: &[&str],
        core: Option<usize>,
        folder: &Path,
    ) -> io::Result<(Process, SocketAddr)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        syscall::bind_to_us(&mut command, core);
        let log = folder.join(format!("{name}.log"));
        command.stderr(File::create(&log)?);
        let child = command.spawn()?;
        let mut process = Process { child, name: name.to_owned(), log };
        let stdout = process.child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").and_then(|a| a.parse().ok());
        match address {
            Some(address) => Ok((process, address)),
            None => Err(process.failure("it did not say where it listens")),
        }
    }

    /// Connects until somebody listens at `address`; fails if the program ends before.
    pub(crate) fn wait_ready(&mut self, address: SocketAddr) -> io::Result<()> {
        let end = Instant::now() + READY_MAX;
        loop {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(&format!("ended at once ({status})")));
            }
            if Instant::now() > end {
                return Err(self.failure("did not listen in time"));
            }
            std::thread::sleep(Duration::from_millis(2)); // between two tries, not instead of one
        }
    }

    fn failure(&self, what: &str) -> io::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(8).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        io::Error::other(format!("{}: {what}\n{}", self.name, tail.join("\n")))
    }

    /// Its id, and those of all that descend from it.
    pub fn pids(&self) -> Vec<u32> {
        usage::family(self.child.id())
    }

    /// Why it has ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.pids();
        let _ = syscall::signal(self.child.id(), libc::SIGTERM);
        let end = Instant::now() + END_MAX;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // A master that has to be killed takes nobody with it.
        for pid in family.into_iter().skip(1) {
            let _ = syscall::signal(pid, libc::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs this very program to its end on one core and returns what it printed.
pub(crate) fn run_ourselves(arguments: &[String], core: Option<usize>) -> io::Result<String> {
    let child = spawn_ourselves(arguments, core)?;
    child.output()
}

/// This very program, running beside us; see [`Running::output`].
pub(crate) struct Running(Option<Child>);

pub(crate) fn spawn_ourselves(arguments: &[String], core: Option<usize>) -> io::Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    syscall::bind_to_us(&mut command, core);
    Ok(Running(Some(command.spawn()?)))
}

impl Running {
    /// Waits for the end and returns what was printed; a failed run is an error.
    pub(crate) fn output(mut self) -> io::Result<String> {
        let child = self.0.as_mut().expect("taken only here");
        let mut output = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut output)?;
        let status = child.wait()?;
        self.0 = None;
        if status.success() {
            Ok(output)
        } else {
            Err(io::Error::other(format!("a loadtest child ended with {status}")))
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A loopback address that is free now.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// A new folder for configs and logs, removed with everything in it when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it.
    pub fn new() -> io::Result<Folder> {
        let name = format!("loadtest-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Folder(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
