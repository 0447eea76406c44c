//! What a real ringside tells its service manager: we are the manager's socket.

mod support;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use support::{Origin, PATIENCE, Proxy, config, echo_origin};

on_both_drivers! {
    a_path_is_told_each_state,
    an_abstract_name_is_told_each_state,
}

fn ringside(notify_socket: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringside"));
    command.env("NOTIFY_SOCKET", notify_socket);
    command
}

fn a_path_is_told_each_state(io: &str) {
    let name = format!("ringside-notify-{io}-{}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = fs::remove_file(&path);
    let manager = UnixDatagram::bind(&path).unwrap();
    is_told_each_state(io, path.to_str().unwrap(), &manager);
    fs::remove_file(&path).unwrap();
}

fn an_abstract_name_is_told_each_state(io: &str) {
    let name = format!("ringside-notify-{io}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    is_told_each_state(io, &format!("@{name}"), &manager);
}

fn is_told_each_state(io: &str, socket: &str, manager: &UnixDatagram) {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let origin = Origin::bind();
    let text = config(origin.address, "", "", "");
    let text = text.replace("grace: 100ms, deadline: 5s", "grace: 0s, deadline: 1h");
    let mut proxy = Proxy::start_by(ringside(socket), io, &text);
    assert_eq!(next(), "READY=1\nSTATUS=serving config generation 1\n");

    // A request without its answer holds up the drain.
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    let mut server = origin.accept();
    server.message().unwrap();
    proxy.signal("TERM");
    assert_eq!(next(), "STOPPING=1\nSTATUS=draining: finishing what is open\n");
    proxy.signal("TERM");
    assert_eq!(next(), "STATUS=draining: closing what is still open\n");
    assert_eq!(proxy.exit_code(), Some(0));
    manager.set_nonblocking(true).unwrap();
    let nothing = manager.recv(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(nothing, Err(std::io::ErrorKind::WouldBlock), "no message is sent twice");
}

/// Nobody is there, or what the variable says is no address: it says so, and serves.
#[test]
fn a_manager_that_cannot_be_told_stops_nobody() {
    let long = format!("/{}", "x".repeat(200));
    for socket in ["/nobody/listens/here", "@ringside-nobody-listens-here", &long] {
        let proxy = Proxy::start_by(ringside(socket), "auto", &config(echo_origin(), "", "", ""));
        let line = proxy.says("was not told: ");
        assert!(line.contains(&format!("NOTIFY_SOCKET={socket} ")), "{line}");
        assert_eq!(proxy.connect().get("/").status(), 200);
    }
}

#[test]
fn without_a_manager_nothing_is_told_and_nothing_said() {
    let mut command = ringside("");
    let set_but_empty = Proxy::start_by(command, "auto", &config(echo_origin(), "", "", ""));
    command = ringside("");
    command.env_remove("NOTIFY_SOCKET");
    let unset = Proxy::start_by(command, "auto", &config(echo_origin(), "", "", ""));
    for mut proxy in [set_but_empty, unset] {
        proxy.signal("TERM");
        assert_eq!(proxy.exit_code(), Some(0));
        let said = proxy.said_since();
        assert!(!said.iter().any(|line| line.contains("NOTIFY_SOCKET")), "{said:?}");
    }
}
