//! Sockets that we accept on: where, what is spoken there, whom we believe and how long we wait.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::address::{Address, Network, listen_address, network};
use crate::definition::{Key, Kind, Object, TRUTH, Words};
use crate::name::{Name, name};
use crate::names::Names;
use crate::process::{HEADER_SIZE_MAX, HEADER_SIZE_MIN};
use crate::reader::{Fields, list, or_none, word};
use crate::report::{Problem, Report};
use crate::tree::Node;
use crate::units::{count, limit_duration, size};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: Name,
    pub address: Address,
    pub kind: ListenerKind,
    pub forwarded: Forwarded,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
    pub expose_causes: ExposeCauses,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Http(HttpListener),
    Tcp(TcpListener),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpListener {
    /// Bytes of a request's head; `<= limits.header_size`.
    pub header_size: usize,
    /// RFC 3986 §6.2.2: before a route is looked for.
    pub normalize_path: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpListener {
    /// Index into `Config::services`.
    pub service: usize,
    /// No byte either way.
    pub idle_timeout: Option<Duration>,
}

/// Which forwarding headers we believe and which we add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Whose `x-forwarded-*` and `x-request-id` count; everybody else's are replaced.
    pub trust: Vec<Network>,
    pub x_forwarded_for: bool,
    pub x_forwarded_proto: bool,
    pub x_request_id: bool,
    pub via: bool,
}

/// `None` is no limit, and no limit is ever zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From the first byte of a request's head to its last.
    pub head: Option<Duration>,
    /// Between two pieces of a request's body.
    pub body_idle: Option<Duration>,
    /// A client that takes nothing of what we send.
    pub write: Option<Duration>,
    /// Between two requests.
    pub keep_alive: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    pub connections: Option<NonZeroUsize>,
}

/// How much a client learns of why ringside answered by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExposeCauses {
    None,
    Name,
    Full,
}

const EXPOSE_CAUSES: Words<ExposeCauses> = Words {
    accepted: &[
        ("none", ExposeCauses::None),
        ("name", ExposeCauses::Name),
        ("full", ExposeCauses::Full),
    ],
    not_yet: &[],
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Added {
    For,
    Proto,
    RequestId,
    Via,
}

const ADDED: Words<Added> = Words {
    accepted: &[
        ("x-forwarded-for", Added::For),
        ("x-forwarded-proto", Added::Proto),
        ("x-request-id", Added::RequestId),
        ("via", Added::Via),
    ],
    not_yet: &["forwarded"],
};

const PROTOCOLS: Words<()> = Words { accepted: &[("http1", ())], not_yet: &["http2"] };

pub(crate) const LISTENER: Object = Object {
    name: "a listener",
    about: "A socket that ringside accepts on.",
    one_of: &["http", "tcp", "detect"],
    keys: &[
        Key::required("name", Kind::Name, "Told in logs and metrics; routes name it."),
        Key::required("address", Kind::Address, "Where it listens; port 0 is any free port."),
        Key::optional("http", Kind::Object(&HTTP), "It speaks HTTP."),
        Key::optional("tcp", Kind::Object(&TCP), "It hands bytes on."),
        Key::not_yet("detect"),
        Key::not_yet("tls"),
        Key::not_yet("intercept"),
        Key::not_yet("proxy_protocol"),
        Key::not_yet("authorization"),
        Key::default("forwarded", Kind::Object(&FORWARDED), "{}", "Forwarding headers.")
            .only_with("http"),
        Key::default("timeouts", Kind::Object(&TIMEOUTS), "{}", "How long it waits for clients.")
            .only_with("http"),
        Key::default("limits", Kind::Object(&LIMITS), "{}", "Limits of this listener."),
        Key::default(
            "expose_causes",
            Kind::Word(&EXPOSE_CAUSES),
            "name",
            "What `x-ringside-cause` tells clients.",
        )
        .only_with("http"),
    ],
};

pub(crate) const HTTP: Object = Object {
    name: "http",
    about: "A listener that speaks HTTP.",
    one_of: &[],
    keys: &[
        Key::default(
            "protocols",
            Kind::List(&Kind::Word(&PROTOCOLS)),
            "[http1]",
            "What is spoken.",
        ),
        Key::default(
            "normalize_path",
            Kind::Word(&TRUTH),
            "true",
            "Routes compare and upstreams get the path in one spelling (RFC 3986 §6.2.2): without dot segments, doubled slashes and needless escapes, what needs an escape with one, in capitals. `%2f` stays as it was sent.",
        ),
        Key::optional(
            "header_size",
            Kind::Size,
            "A request's head; left out, what `limits.header_size` says, and never above it.",
        ),
    ],
};

pub(crate) const TCP: Object = Object {
    name: "tcp",
    about: "A listener that hands bytes on to one service.",
    one_of: &[],
    keys: &[
        Key::required("service", Kind::Name, "Where the bytes go."),
        Key::default("timeouts", Kind::Object(&TCP_TIMEOUTS), "{}", "How long it waits."),
    ],
};

pub(crate) const TCP_TIMEOUTS: Object = Object {
    name: "tcp timeouts",
    about: "How long a connection may be silent.",
    one_of: &[],
    keys: &[Key::default("idle", Kind::OrNone(&Kind::Duration), "1h", "No byte either way.")],
};

pub(crate) const FORWARDED: Object = Object {
    name: "forwarded",
    about: "Which forwarding headers are believed, and which are added to requests.",
    one_of: &[],
    keys: &[
        Key::default(
            "trust",
            Kind::List(&Kind::Network),
            "[]",
            "Whose headers count; everybody else's are replaced.",
        ),
        Key::default(
            "add",
            Kind::List(&Kind::Word(&ADDED)),
            "[x-forwarded-for, x-forwarded-proto, x-request-id, via]",
            "Which ones requests get.",
        ),
        Key::not_yet("client_cert"),
    ],
};

pub(crate) const TIMEOUTS: Object = Object {
    name: "listener timeouts",
    about: "How long an http listener waits for its clients.",
    one_of: &[],
    keys: &[
        Key::default("head", Kind::OrNone(&Kind::Duration), "10s", "A request's head."),
        Key::default(
            "body_idle",
            Kind::OrNone(&Kind::Duration),
            "30s",
            "Between two pieces of a request's body.",
        ),
        Key::default(
            "write",
            Kind::OrNone(&Kind::Duration),
            "30s",
            "A client that takes nothing of what we send.",
        ),
        Key::default("keep_alive", Kind::OrNone(&Kind::Duration), "5m", "Between two requests."),
        Key::not_yet("handshake"),
        Key::not_yet("max_age"),
    ],
};

pub(crate) const LIMITS: Object = Object {
    name: "listener limits",
    about: "Limits of one listener, of the process and not of a worker.",
    one_of: &[],
    keys: &[
        Key::default("connections", Kind::OrNone(&Kind::Number), "none", "Open at a time."),
        Key::not_yet("connections_per_source"),
        Key::not_yet("bytes_per_second"),
    ],
};

pub(crate) fn listener(
    node: &Node,
    report: &mut Report<'_>,
    names: &Names,
    header_size_max: Option<usize>,
) -> Option<Listener> {
    let mut fields = report.fields(node, &LISTENER)?;
    warn_of_http_keys_on_tcp(&mut fields);
    let name = fields.get("name", name);
    let address = fields.get("address", listen_address);
    let http = fields.find("http", |node, report| http(node, report, header_size_max));
    let tcp = fields.find("tcp", |node, report| tcp(node, report, names));
    let forwarded = fields.get("forwarded", forwarded);
    let timeouts = fields.get("timeouts", timeouts);
    let limits = fields.get("limits", limits);
    let expose_causes = fields.get("expose_causes", |n, r| word(n, r, &EXPOSE_CAUSES));
    let kind = match (http?, tcp?) {
        (Some(http), None) => ListenerKind::Http(http),
        (None, Some(tcp)) => ListenerKind::Tcp(tcp),
        // The choice was reported when the object was opened.
        (None, None) | (Some(_), Some(_)) => return None,
    };
    Some(Listener {
        name: name?,
        address: address?,
        kind,
        forwarded: forwarded?,
        timeouts: timeouts?,
        limits: limits?,
        expose_causes: expose_causes?,
    })
}

/// They are part of the interface, but a listener that hands bytes on has no use for them.
fn warn_of_http_keys_on_tcp(fields: &mut Fields<'_, '_, '_>) {
    if fields.node("tcp").is_none() {
        return;
    }
    for key in ["forwarded", "timeouts", "expose_causes"] {
        if let Some(span) = fields.key_span(key) {
            let message = format!("`{key}` is about HTTP and does nothing on a tcp listener");
            let hint = match key {
                "timeouts" => "a tcp listener has `tcp: { timeouts: { idle: 1h } }`",
                _ => "take it out",
            };
            fields.report.add(Problem::warning(span, message).hint(hint));
        }
    }
}

fn http(
    node: &Node,
    report: &mut Report<'_>,
    header_size_max: Option<usize>,
) -> Option<HttpListener> {
    // Without a maximum the limits are wrong, and what is read here will not be used.
    let max = header_size_max.unwrap_or(HEADER_SIZE_MAX);
    let mut fields = report.fields(node, &HTTP)?;
    let protocols = fields.get("protocols", |node, report| {
        let protocols = list(node, report, |node, report| word(node, report, &PROTOCOLS))?;
        if protocols.is_empty() {
            report.add(Problem::error(node.span, "a listener speaks at least one protocol"));
            return None;
        }
        Some(protocols)
    });
    let header_size = fields.find("header_size", |node, report| {
        let given = size(node, report, HEADER_SIZE_MIN, HEADER_SIZE_MAX)?;
        if given > max {
            let message = "a listener's header_size cannot be above `limits.header_size`";
            report.add(Problem::error(node.span, message).hint("raise `limits.header_size` too"));
            return None;
        }
        Some(given)
    });
    let normalize_path = fields.get("normalize_path", |node, report| word(node, report, &TRUTH));
    protocols?;
    Some(HttpListener { header_size: header_size?.unwrap_or(max), normalize_path: normalize_path? })
}

fn tcp(node: &Node, report: &mut Report<'_>, names: &Names) -> Option<TcpListener> {
    let mut fields = report.fields(node, &TCP)?;
    let service = fields.get("service", |node, report| names.service(node, report));
    let idle_timeout = fields.get("timeouts", |node, report| {
        let mut fields = report.fields(node, &TCP_TIMEOUTS)?;
        fields.get("idle", |node, report| or_none(node, report, limit_duration))
    });
    Some(TcpListener { service: service?, idle_timeout: idle_timeout? })
}

fn forwarded(node: &Node, report: &mut Report<'_>) -> Option<Forwarded> {
    let mut fields = report.fields(node, &FORWARDED)?;
    let trust = fields.get("trust", |node, report| list(node, report, network));
    let added = fields.get("add", |n, r| list(n, r, |n, r| word(n, r, &ADDED)));
    let (trust, added) = (trust?, added?);
    Some(Forwarded {
        trust,
        x_forwarded_for: added.contains(&Added::For),
        x_forwarded_proto: added.contains(&Added::Proto),
        x_request_id: added.contains(&Added::RequestId),
        via: added.contains(&Added::Via),
    })
}

fn timeouts(node: &Node, report: &mut Report<'_>) -> Option<ListenerTimeouts> {
    let mut fields = report.fields(node, &TIMEOUTS)?;
    let mut limit = |key| fields.get(key, |n, r| or_none(n, r, limit_duration));
    let head = limit("head");
    let body_idle = limit("body_idle");
    let write = limit("write");
    let keep_alive = limit("keep_alive");
    Some(ListenerTimeouts {
        head: head?,
        body_idle: body_idle?,
        write: write?,
        keep_alive: keep_alive?,
    })
}

fn limits(node: &Node, report: &mut Report<'_>) -> Option<ListenerLimits> {
    let mut fields = report.fields(node, &LIMITS)?;
    let connections =
        fields.get("connections", |n, r| or_none(n, r, |n, r| count(n, r, 10_000_000)));
    Some(ListenerLimits { connections: connections? })
}
