//! `Upgrade` (RFC 9110 §7.8): which changes of protocol go on to the upstream.
//!
//! Only WebSocket does, and only when it is asked for properly. `h2c` forwarded blindly opens a
//! tunnel past every route and rule (h2c smuggling); of two protocols the next hop may choose the
//! other one. What is not forwarded is dropped, and the request goes on as the plain request that
//! it also is.

/// The change of protocol that a head asks for, or that a 101 grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    #[default]
    None,
    /// RFC 6455.
    WebSocket,
}

/// What the fields of one head have said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Exactly one `Upgrade`, exactly `websocket`.
    protocol: Once,
    key: Once,
    version: Once,
}

/// Whether something was there exactly once and as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Once {
    #[default]
    Never,
    Good,
    Bad,
}

impl Once {
    fn add(&mut self, good: bool) {
        *self = if *self == Once::Never && good { Once::Good } else { Once::Bad };
    }
}

impl Seen {
    pub(super) fn add_protocol(&mut self, value: &[u8]) {
        self.protocol.add(value.eq_ignore_ascii_case(b"websocket"));
    }

    /// RFC 6455 §4.1: sixteen bytes in base64.
    pub(super) fn add_key(&mut self, value: &[u8]) {
        let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/';
        self.key
            .add(value.len() == 24 && value.ends_with(b"==") && value[..22].iter().all(is_base64));
    }

    pub(super) fn add_version(&mut self, value: &[u8]) {
        self.version.add(value == b"13");
    }

    /// RFC 6455 §4.1: the client's handshake.
    pub(super) fn is_websocket_request(self) -> bool {
        [self.protocol, self.key, self.version] == [Once::Good; 3]
    }

    /// RFC 6455 §4.2.2: the server's.
    pub(super) fn is_websocket_response(self) -> bool {
        self.protocol == Once::Good
    }
}
