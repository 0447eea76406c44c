//! What the service manager is told: systemd's protocol of `Type=notify` and `notify-reload`
//! (sd_notify(3)), to the socket that `NOTIFY_SOCKET` names. Where there is none, nothing happens.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::say::say;

/// How long a manager that takes nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the process begins to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It serves. Ends a start, and a reload whether or not the new config was taken.
    Ready,
    /// It reads its config again; [`State::Ready`] has to follow.
    Reloading,
    /// It finishes what is open, and ends.
    Stopping,
}

/// Tells a state, with a line for people (`systemctl status`).
pub fn tell(state: State, status: &str) {
    // Read before it is sent, as sd_notify(3) wants it of a reload.
    send(&message(Some(state), status, reactor::monotonic_ns() / 1000));
}

/// Tells only the line for people.
pub fn status(line: &str) {
    send(&message(None, line, 0));
}

/// One assignment a line; systemd 253 needs the time of a reload to tell it from an older one.
fn message(state: Option<State>, status: &str, now_us: u64) -> String {
    let state = match state {
        Some(State::Ready) => "READY=1\n".to_owned(),
        Some(State::Reloading) => format!("RELOADING=1\nMONOTONIC_USEC={now_us}\n"),
        Some(State::Stopping) => "STOPPING=1\n".to_owned(),
        None => String::new(),
    };
    // A second line would be an assignment of its own.
    format!("{state}STATUS={}\n", status.replace(['\n', '\r'], " "))
}

/// That nobody takes it is said, and is no reason to stop.
fn send(message: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send_to(&socket, message) {
        let socket = socket.display();
        say(format_args!("the service manager at NOTIFY_SOCKET={socket} was not told: {error}"));
    }
}

/// `/path`, or `@name` of an abstract socket.
fn send_to(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(PATIENCE))?;
    from.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_lines() {
        for (state, expected) in [
            (Some(State::Ready), "READY=1\nSTATUS=a b\n"),
            (Some(State::Reloading), "RELOADING=1\nMONOTONIC_USEC=1234567\nSTATUS=a b\n"),
            (Some(State::Stopping), "STOPPING=1\nSTATUS=a b\n"),
            (None, "STATUS=a b\n"),
        ] {
            assert_eq!(message(state, "a\nb", 1_234_567), expected);
        }
    }

    #[test]
    fn the_time_is_the_one_that_systemd_compares() {
        let seconds = || -> f64 {
            // CLOCK_BOOTTIME, which is ahead of ours by the time asleep.
            let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
            uptime.split(' ').next().unwrap().parse().unwrap()
        };
        let first = reactor::monotonic_ns();
        assert!(first > 0 && first as f64 / 1e9 <= seconds() + 0.02);
        assert!(reactor::monotonic_ns() >= first);
    }
}
