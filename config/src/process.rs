//! The boot keys: who this proxy is, what it may use, and how it ends. They come from the file
//! only and take a restart to change.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{Address, listen_address};
use crate::definition::{Key, Kind, Object, Words};
use crate::diagnostic::quoted;
use crate::name::{Name, name};
use crate::reader::{list, or_none, text, word};
use crate::report::{Complaint, Problem, Report};
use crate::tree::{Node as Tree, Value};
use crate::units::{count, duration, size};

/// Who this proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `None`: the host's name, which is not for this crate to ask.
    pub id: Option<Name>,
    /// The service that this proxy stands beside.
    pub service: Option<Name>,
    pub zone: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Without TLS, so always [`Address::is_local`]; never abstract.
    pub address: Address,
    pub auth: Auth,
    /// Nobody has asked for it: where it cannot be had, there is none.
    pub is_optional: bool,
}

impl Admin {
    /// What there is where the config says nothing of it.
    pub(crate) fn usual() -> Admin {
        let address = Address::Unix(ADMIN_USUAL["unix:".len()..].into());
        Admin { address, auth: Auth::None, is_optional: true }
    }
}

/// Where admin is where nobody says otherwise.
pub const ADMIN_USUAL: &str = "unix:/run/ringside/admin.sock";

/// Who may ask admin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Whoever reaches it.
    None,
    /// Who brings one of these; where there is none, one is made at start.
    Token(Vec<Token>),
}

/// What somebody may do who brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Told in audit lines.
    pub name: Name,
    pub token_file: PathBuf,
    pub scopes: Vec<Scope>,
    /// Of services and config items, each as it is or with a `*` at its end; empty: all.
    pub names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Read,
    Endpoints,
    Config,
    Lifecycle,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Never abstract.
    pub address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// As many as the CPU quota and the affinity mask give.
    Auto,
    Count(NonZeroUsize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Auto,
    IoUring,
    Epoll,
}

/// Where the last config that was live is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In the usual folder, if that is there.
    Usual,
    Nowhere,
    In(PathBuf),
}

/// Limits of the whole process; sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All buffers of all connections together.
    pub memory: usize,
    pub connections: NonZeroUsize,
    /// A message head, all of it; `<= connection_buffer`.
    pub header_size: usize,
    pub header_count: NonZeroUsize,
    pub target_size: usize,
    pub body_size: Option<usize>,
    /// What one connection may hold before its peer has to wait; `<= memory`.
    pub connection_buffer: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Still accepting, not ready any more.
    pub grace: Duration,
    /// From the signal on; what is still open then is closed. `>= grace`
    pub deadline: Duration,
}

const IO: Words<Io> = Words {
    accepted: &[("auto", Io::Auto), ("io_uring", Io::IoUring), ("epoll", Io::Epoll)],
    not_yet: &[],
};

const PIN: Words<Pin> = Words {
    accepted: &[("auto", Pin::Auto), ("true", Pin::Always), ("false", Pin::Never)],
    not_yet: &[],
};

pub(crate) const IO_KIND: Kind = Kind::Word(&IO);
pub(crate) const WORKERS_KIND: Kind = Kind::OrWords(&["auto"], &Kind::Number);
pub(crate) const PIN_KIND: Kind = Kind::Word(&PIN);

pub(crate) const NODE: Object = Object {
    name: "node",
    about: "Who this proxy is.",
    one_of: &[],
    keys: &[
        Key::optional(
            "id",
            Kind::Name,
            "Told in `x-ringside-cause` and `ringside_build_info`; left out, the host's name.",
        ),
        Key::optional(
            "service",
            Kind::Name,
            "The service that this proxy stands beside; told in `ringside_build_info`.",
        ),
        Key::optional("zone", Kind::Name, "Where it runs; told in `ringside_build_info`."),
        Key::not_yet("labels"),
    ],
};

pub(crate) const ADMIN: Object = Object {
    name: "admin",
    about: "The REST interface for operators.",
    one_of: &[],
    keys: &[
        Key::default("address", Kind::Address, ADMIN_USUAL, "Loopback or `unix:/path`."),
        Key::optional(
            "auth",
            Kind::Word(&AUTH),
            "Left out: `token` on TCP and where there are tokens, else `none`.",
        ),
        Key::default(
            "tokens",
            Kind::List(&Kind::Object(&TOKEN)),
            "[]",
            "Who may do what; without one, `token` makes one in `state_dir` at start.",
        ),
        Key::not_yet("tls"),
    ],
};

pub(crate) const TOKEN: Object = Object {
    name: "a token",
    about: "Somebody who may use admin.",
    one_of: &[],
    keys: &[
        Key::required("name", Kind::Name, "Told in audit lines."),
        Key::required("token_file", Kind::Text, "A file that holds the token; read at start."),
        Key::default(
            "scopes",
            Kind::List(&Kind::Word(&SCOPE)),
            "[read]",
            "What it is good for: `endpoints` are pushes of endpoints, `lifecycle` drain, undrain and quit.",
        ),
        Key::default(
            "names",
            Kind::List(&Kind::Text),
            "[]",
            "Services and items that it may change, `shop.*` among them; left out, all.",
        ),
    ],
};

const SCOPE: Words<Scope> = Words {
    accepted: &[
        ("read", Scope::Read),
        ("endpoints", Scope::Endpoints),
        ("config", Scope::Config),
        ("lifecycle", Scope::Lifecycle),
    ],
    not_yet: &[],
};

const AUTH: Words<bool> = Words { accepted: &[("none", false), ("token", true)], not_yet: &[] };

pub(crate) const PROBES: Object = Object {
    name: "probes",
    about: "`/livez`, `/readyz` and `/metrics`, for anybody.",
    one_of: &[],
    keys: &[Key::required("address", Kind::Address, "Where they are served; not `unix:@name`.")],
};

pub(crate) const LIMITS: Object = Object {
    name: "limits",
    about: "Limits of the process, whatever the number of workers.",
    one_of: &[],
    keys: &[
        Key::default("memory", Kind::Size, "256MiB", "All connection buffers together."),
        Key::default("connections", Kind::Number, "50000", "Downstream connections at a time."),
        Key::not_yet("connections_per_ip"),
        Key::default("header_size", Kind::Size, "64KiB", "A request's or response's head."),
        Key::default("header_count", Kind::Number, "100", "Header fields in one head."),
        Key::default("target_size", Kind::Size, "16KiB", "A request's target."),
        Key::default("body_size", Kind::OrNone(&Kind::Size), "none", "A request's body."),
        Key::default(
            "connection_buffer",
            Kind::Size,
            "256KiB",
            "What one connection may hold before its peer has to wait.",
        ),
        Key::not_yet("http2_streams"),
        Key::not_yet("handshakes_per_worker"),
        Key::not_yet("rate_limit_keys"),
    ],
};

pub(crate) const SHUTDOWN: Object = Object {
    name: "shutdown",
    about: "What happens on SIGTERM.",
    one_of: &[],
    keys: &[
        Key::default("grace", Kind::Duration, "5s", "Still accepting, but not ready any more."),
        Key::default(
            "deadline",
            Kind::Duration,
            "30s",
            "From the signal until everything is closed.",
        ),
    ],
};

pub(crate) fn node(tree: &Tree, report: &mut Report<'_>) -> Option<Node> {
    let mut fields = report.fields(tree, &NODE)?;
    let id = fields.find("id", name);
    let service = fields.find("service", name);
    let zone = fields.find("zone", name);
    Some(Node { id: id?, service: service?, zone: zone? })
}

/// `Some(None)`: there is to be none.
pub(crate) fn admin(tree: &Tree, report: &mut Report<'_>) -> Option<Option<Admin>> {
    or_none(tree, report, some_admin)
}

fn some_admin(tree: &Tree, report: &mut Report<'_>) -> Option<Admin> {
    let mut fields = report.fields(tree, &ADMIN)?;
    let address = fields.get("address", control_address);
    let auth = fields.find("auth", |tree, report| word(tree, report, &AUTH));
    let tokens = fields.get("tokens", |tree, report| list(tree, report, token));
    let (address, auth, tokens) = (address?, auth?, tokens?);
    let span = fields.node("address").map_or(fields.span, |node| node.span);
    if !address.is_local() {
        let message = format!("admin at {address} is open to everybody who can reach it");
        let hint = "use a loopback address or a unix: socket; admin has no TLS yet";
        fields.report.add(Problem::error(span, message).hint(hint));
        return None;
    }
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (index, token) in tokens.iter().enumerate() {
        let Some(first) = known.insert(&token.name, index) else { continue };
        let span = |index: usize| match fields.node("tokens").map(|list| &list.value) {
            Some(Value::List(items)) => {
                items.get(index).and_then(|item| item.get("name")).map_or(span, |name| name.span)
            }
            _ => span,
        };
        let message = format!("there are two tokens with the name {}", quoted(&token.name));
        let problem = Problem::error(span(index), message).related(span(first), "the first one");
        fields.report.add(problem.hint("audit lines tell who did what by these names"));
        return None;
    }
    if auth == Some(false) && !tokens.is_empty() {
        let message = "`auth: none` asks nobody for the tokens that are here";
        let span = fields.key_span("tokens").unwrap_or(span);
        fields.report.add(Problem::error(span, message).hint("write `auth: token`"));
        return None;
    }
    let needs_token = auth.unwrap_or(!tokens.is_empty() || matches!(address, Address::Ip(_)));
    let auth = if needs_token { Auth::Token(tokens) } else { Auth::None };
    Some(Admin { address, auth, is_optional: false })
}

fn token(tree: &Tree, report: &mut Report<'_>) -> Option<Token> {
    let mut fields = report.fields(tree, &TOKEN)?;
    let name = fields.get("name", name);
    let token_file = fields.get("token_file", |tree, report| {
        text(tree, report, "a file", |given| match given.is_empty() || given.contains('\0') {
            true => Err(Complaint::new(format!("{} is not a file", quoted(given)))),
            false => Ok(PathBuf::from(given)),
        })
    });
    let scopes = fields.get("scopes", |tree, report| {
        let scopes = list(tree, report, |tree, report| word(tree, report, &SCOPE))?;
        if scopes.is_empty() {
            let message = "a token without a scope is good for nothing";
            report.add(Problem::error(tree.span, message).hint("leave `scopes` out: it may read"));
            return None;
        }
        Some(scopes)
    });
    let names = fields.get("names", |tree, report| {
        list(tree, report, |tree, report| text(tree, report, "a name", name_pattern))
    });
    Some(Token { name: name?, token_file: token_file?, scopes: scopes?, names: names? })
}

/// A name, or the beginning of names and `*`.
fn name_pattern(given: &str) -> Result<String, Complaint> {
    let start = given.strip_suffix('*').unwrap_or(given);
    match start.is_empty() && given == "*" || Name::parse(start).is_some() {
        true => Ok(given.to_owned()),
        false => Err(Complaint::new(format!("{} is not a name", quoted(given)))
            .hint("a name, or its beginning and a `*`: `shop.*`")),
    }
}

pub(crate) fn probes(tree: &Tree, report: &mut Report<'_>) -> Option<Probes> {
    let mut fields = report.fields(tree, &PROBES)?;
    Some(Probes { address: fields.get("address", control_address)? })
}

/// Nobody may connect to these but by the mode of a file, which an abstract socket has not.
pub(crate) fn state_dir(tree: &Tree, report: &mut Report<'_>) -> Option<State> {
    text(tree, report, "a folder", |given| match given {
        "none" => Ok(State::Nowhere),
        path if path.starts_with('/') && !path.contains('\0') => Ok(State::In(path.into())),
        other => Err(Complaint::new(format!("{} is not a folder", quoted(other)))
            .hint("a folder begins with `/`; `none` keeps nothing")),
    })
}

fn control_address(tree: &Tree, report: &mut Report<'_>) -> Option<Address> {
    let address = listen_address(tree, report)?;
    if let Address::Abstract(name) = &address {
        let message = "an abstract socket has no file mode to protect it";
        let hint = format!("use a path: `unix:/run/{}.sock`", name.escape_debug());
        report.add(Problem::error(tree.span, message).hint(hint));
        return None;
    }
    Some(address)
}

/// More threads than any machine has cores for.
pub const WORKERS_MAX: u32 = 1024;

pub(crate) fn workers(tree: &Tree, report: &mut Report<'_>) -> Option<Workers> {
    match tree.as_scalar() {
        Some(scalar) if scalar.text == "auto" => Some(Workers::Auto),
        _ => count(tree, report, WORKERS_MAX).map(Workers::Count),
    }
}

pub(crate) fn pin(tree: &Tree, report: &mut Report<'_>) -> Option<Pin> {
    word(tree, report, &PIN)
}

pub(crate) fn io(tree: &Tree, report: &mut Report<'_>) -> Option<Io> {
    word(tree, report, &IO)
}

/// Bounds of a head's size, also of a listener's own.
pub(crate) const HEADER_SIZE_MIN: usize = 1 << 10;
pub(crate) const HEADER_SIZE_MAX: usize = 1 << 20;

pub(crate) fn limits(tree: &Tree, report: &mut Report<'_>) -> Option<Limits> {
    let mut fields = report.fields(tree, &LIMITS)?;
    let memory = fields.get("memory", |t, r| size(t, r, 1 << 20, 1 << 40));
    let connections = fields.get("connections", |t, r| count(t, r, 10_000_000));
    let header_size =
        fields.get("header_size", |t, r| size(t, r, HEADER_SIZE_MIN, HEADER_SIZE_MAX));
    let header_count = fields.get("header_count", |t, r| count(t, r, 10_000));
    let target_size = fields.get("target_size", |t, r| size(t, r, 64, HEADER_SIZE_MAX));
    let body_size =
        fields.get("body_size", |t, r| or_none(t, r, |t, r| size(t, r, 0, usize::MAX >> 1)));
    let connection_buffer = fields.get("connection_buffer", |t, r| size(t, r, 16 << 10, 1 << 30));
    let limits = Limits {
        memory: memory?,
        connections: connections?,
        header_size: header_size?,
        header_count: header_count?,
        target_size: target_size?,
        body_size: body_size?,
        connection_buffer: connection_buffer?,
    };
    let too_much = if limits.header_size > limits.connection_buffer {
        "a head has to fit into one connection: `header_size` is above `connection_buffer`"
    } else if limits.connection_buffer > limits.memory {
        "one connection cannot hold more than all: `connection_buffer` is above `memory`"
    } else {
        return Some(limits);
    };
    fields.report.add(Problem::error(fields.span, too_much));
    None
}

pub(crate) fn shutdown(tree: &Tree, report: &mut Report<'_>) -> Option<Shutdown> {
    let mut fields = report.fields(tree, &SHUTDOWN)?;
    let grace = fields.get("grace", duration);
    let deadline = fields.get("deadline", duration);
    let (grace, deadline) = (grace?, deadline?);
    if grace > deadline {
        let message = "the grace time is part of the deadline, so it cannot be longer";
        fields.report.add(Problem::error(fields.span, message));
        return None;
    }
    Some(Shutdown { grace, deadline })
}
