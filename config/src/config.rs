//! The whole config: its top-level keys, and what has to hold between them.

use std::num::NonZeroUsize;

use crate::access_log::{ACCESS_LOG, AccessLog, access_log};
use crate::address::Address;
use crate::circles::tell_of_circles;
use crate::defaults::{DEFAULTS, read_alone};
use crate::definition::{Key, Kind, Object};
use crate::dns::{RESOLVER, Resolver, resolver};
use crate::listener::{LISTENER, Listener, ListenerKind, listener};
use crate::names::Names;
use crate::overlap::warn_of_overlaps;
use crate::process::{
    ADMIN, Admin, IO_KIND, Io, LIMITS, Limits, NODE, Node, PIN_KIND, PROBES, Pin, Probes, SHUTDOWN,
    Shutdown, State, WORKERS_KIND, Workers, admin, io, limits, node, pin, probes, shutdown,
    state_dir, workers,
};
use crate::reader::{list, or_none};
use crate::regex::Regexes;
use crate::report::{Problem, Report};
use crate::route::{ROUTE, Route, route};
use crate::service::{SERVICE, Service, service};
use crate::source::Span;
use crate::subset::check_subsets;
use crate::tree::{Node as Tree, Value};
use crate::units::number;

/// A config without mistakes: every index points to something, every name is there once, no two
/// sockets want one address, and every value is within its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node: Node,
    pub admin: Option<Admin>,
    pub probes: Option<Probes>,
    pub workers: Workers,
    pub pin: Pin,
    pub io: Io,
    pub state: State,
    pub limits: Limits,
    pub shutdown: Shutdown,
    pub resolver: Resolver,
    /// `None`: `access_log: none`.
    pub access_log: Option<AccessLog>,
    pub listeners: Vec<Listener>,
    pub services: Vec<Service>,
    pub routes: Vec<Route>,
}

impl Config {
    /// A key that is read at start only and that differs in `other`.
    pub fn boot_change(&self, other: &Config) -> Option<&'static str> {
        let Config {
            node,
            admin,
            probes,
            workers,
            pin,
            io,
            state,
            limits,
            access_log: _,
            shutdown: _,
            resolver: _,
            listeners: _,
            services: _,
            routes: _,
        } = self;
        let changes = [
            ("node", *node != other.node),
            ("admin", *admin != other.admin),
            ("probes", *probes != other.probes),
            ("workers", *workers != other.workers),
            ("pin", *pin != other.pin),
            ("io", *io != other.io),
            ("state_dir", *state != other.state),
            ("limits", *limits != other.limits),
        ];
        changes.into_iter().find(|(_, is_other)| *is_other).map(|(key, _)| key)
    }
}

/// Sockets are compared pair by pair.
const LISTENERS_MAX: usize = 1024;

pub(crate) const CONFIG: Object = Object {
    name: "a config",
    about: "The top of a config. Keys that begin with `x-` are ignored.",
    one_of: &[],
    keys: &[
        Key::default("version", Kind::Number, "1", "The format's; there is only 1."),
        Key::default("node", Kind::Object(&NODE), "{}", "Who this proxy is."),
        Key::optional(
            "admin",
            Kind::OrNone(&Kind::Object(&ADMIN)),
            "The REST interface; left out: `unix:/run/ringside/admin.sock`, if that can be had.",
        ),
        Key::optional("probes", Kind::Object(&PROBES), "Health and metrics; left out: none."),
        Key::default("workers", WORKERS_KIND, "auto", "Threads that serve, 1 to 1024."),
        Key::default("pin", PIN_KIND, "auto", "Whether each worker stays on its core."),
        Key::default("io", IO_KIND, "auto", "How the kernel is asked."),
        Key::optional(
            "state_dir",
            Kind::Text,
            "Where the last good config and pushed endpoints are kept; left out, `/var/lib/ringside` if that is there; `none` keeps nothing.",
        ),
        Key::default("limits", Kind::Object(&LIMITS), "{}", "Limits of the process."),
        Key::default("shutdown", Kind::Object(&SHUTDOWN), "{}", "What SIGTERM does."),
        Key::default("resolver", Kind::Object(&RESOLVER), "{}", "Who is asked for names."),
        Key::not_yet("identities"),
        Key::not_yet("jwt_issuers"),
        Key::not_yet("rate_limits"),
        Key::not_yet("authorization"),
        Key::default(
            "access_log",
            Kind::OrNone(&Kind::Object(&ACCESS_LOG)),
            "{}",
            "One line per exchange or connection.",
        ),
        Key::not_yet("tracing"),
        Key::optional(
            "defaults",
            Kind::Object(&DEFAULTS),
            "What items have that say nothing else.",
        ),
        Key::required(
            "listeners",
            Kind::List(&Kind::Object(&LISTENER)),
            "Where ringside accepts, at most 1024.",
        ),
        Key::default(
            "services",
            Kind::List(&Kind::Object(&SERVICE)),
            "[]",
            "Where it connects to.",
        ),
        Key::default("routes", Kind::List(&Kind::Object(&ROUTE)), "[]", "What goes where."),
        Key::not_yet("tcp_routes"),
    ],
};

/// A socket that the config asks for, and where it does.
struct Bound {
    address: Address,
    span: Span,
    path: String,
}

impl Bound {
    /// What the `address` of a top-level key asks for.
    fn at(tree: &Tree, key: &str, address: &Address) -> Bound {
        let node = tree.get(key).and_then(|object| object.get("address"));
        let span = node.map_or(tree.span, |node| node.span);
        Bound { address: address.clone(), span, path: format!("{key}.address") }
    }
}

/// What a text is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Whole,
    /// What is read at start; the rest comes by a push, so there may be no listener yet.
    Boot,
}

pub(crate) fn config(tree: &Tree, role: Role, report: &mut Report<'_>) -> Option<Config> {
    let names = Names::index(tree, report);
    let mut fields = report.fields(tree, &CONFIG)?;
    let version = fields.get("version", version);
    let node = fields.get("node", node);
    let admin = fields.find("admin", admin);
    let probes = fields.find("probes", probes);
    let workers = fields.get("workers", workers);
    let pin = fields.get("pin", pin);
    let io = fields.get("io", io);
    let state = fields.find("state_dir", state_dir);
    let limits = fields.get("limits", limits);
    let shutdown = fields.get("shutdown", shutdown);
    let resolver = fields.get("resolver", resolver);
    let access_log = fields.get("access_log", |tree, report| or_none(tree, report, access_log));
    let header_size_max = limits.as_ref().map(|limits| limits.header_size);
    let mut regexes = Regexes::default();
    let defaults = fields.find("defaults", |tree, report| {
        read_alone(tree, report, |key, item, report| match key {
            "listener" => drop(listener(item, report, &names, header_size_max)),
            "service" => drop(service(item, report)),
            _ => drop(route(item, report, &names, &mut regexes)),
        });
        Some(())
    });
    let mut bound = Vec::new();
    let listeners = match (role, fields.node("listeners")) {
        (Role::Boot, None) => Some(Vec::new()),
        _ => fields.get("listeners", |tree, report| {
            listeners(tree, report, &names, header_size_max, &mut bound)
        }),
    };
    let services = fields.get("services", |tree, report| list(tree, report, service));
    let routes = fields.get("routes", |tree, report| {
        list(tree, report, |tree, report| route(tree, report, &names, &mut regexes))
    });
    let admin = admin.map(|given| given.unwrap_or_else(|| Some(Admin::usual())));
    let asked_for = admin.iter().flatten().filter(|admin| !admin.is_optional);
    bound.extend(asked_for.map(|admin| Bound::at(tree, "admin", &admin.address)));
    bound.extend(probes.iter().flatten().map(|probes| Bound::at(tree, "probes", &probes.address)));
    check_collisions(&bound, fields.report);
    if let (Some(listeners), Some(routes)) = (&listeners, &routes) {
        warn_of_idle_listeners(tree, listeners, routes, fields.report);
        warn_of_overlaps(tree, listeners, routes, fields.report);
    }
    if let (Some(services), Some(routes)) = (&services, &routes) {
        check_subsets(tree, services, routes, fields.report)?;
        // Where something is missing, numbers do not name what they should.
        if let Some(listeners) = listeners.as_ref().filter(|_| !fields.report.has_errors()) {
            tell_of_circles(tree, listeners, services, routes, fields.report);
        }
    }
    version?;
    defaults?;
    Some(Config {
        node: node?,
        admin: admin?,
        probes: probes?,
        workers: workers?,
        pin: pin?,
        io: io?,
        state: state?.unwrap_or(State::Usual),
        limits: limits?,
        shutdown: shutdown?,
        resolver: resolver?,
        access_log: access_log?,
        listeners: listeners?,
        services: services?,
        routes: routes?,
    })
}

fn version(tree: &Tree, report: &mut Report<'_>) -> Option<NonZeroUsize> {
    let version = number(tree, report, 0, u64::MAX)?;
    if version != 1 {
        let message = format!("this ringside reads version 1 of the format, not {version}");
        report.add(Problem::error(tree.span, message));
        return None;
    }
    Some(NonZeroUsize::MIN)
}

fn listeners(
    tree: &Tree,
    report: &mut Report<'_>,
    names: &Names,
    header_size_max: Option<usize>,
    bound: &mut Vec<Bound>,
) -> Option<Vec<Listener>> {
    if let Value::List(items) = &tree.value
        && items.len() > LISTENERS_MAX
    {
        let message = format!("a config has at most {LISTENERS_MAX} listeners");
        report.add(Problem::error(tree.span, message));
        return None;
    }
    if matches!(&tree.value, Value::Null) || matches!(&tree.value, Value::List(l) if l.is_empty()) {
        let hint = "add one: `- { name: web, address: \"127.0.0.1:8080\", http: {} }`";
        report.add(Problem::error(tree.span, "a config needs at least one listener").hint(hint));
        return None;
    }
    list(tree, report, |tree, report| {
        let listener = listener(tree, report, names, header_size_max)?;
        let span = tree.get("address").map_or(tree.span, |address| address.span);
        let path = format!("{}.address", report.path_text());
        bound.push(Bound { address: listener.address.clone(), span, path });
        Some(listener)
    })
}

fn check_collisions(bound: &[Bound], report: &mut Report<'_>) {
    for (index, second) in bound.iter().enumerate() {
        let first =
            bound[..index].iter().find(|first| first.address.collides_with(&second.address));
        if let Some(first) = first {
            let message = format!("{} is taken already", second.address);
            report.add(
                Problem::error(second.span, message)
                    .related(first.span, "by this one")
                    .path(second.path.as_str()),
            );
        }
    }
}

fn warn_of_idle_listeners(
    tree: &Tree,
    listeners: &[Listener],
    routes: &[Route],
    report: &mut Report<'_>,
) {
    let mut has_route = vec![false; listeners.len()];
    routes.iter().flat_map(|route| &route.listeners).for_each(|&index| has_route[index] = true);
    for (index, (listener, item)) in listeners.iter().zip(tree.items("listeners")).enumerate() {
        if matches!(listener.kind, ListenerKind::Http(_)) && !has_route[index] {
            let message = format!(
                "no route is on the listener `{}`: it answers 404 to everything",
                listener.name
            );
            let span = item.get("name").map_or(item.span, |name| name.span);
            let problem = Problem::warning(span, message).path(format!("listeners[{index}]"));
            report.add(problem.hint("add it to the `listeners` of a route"));
        }
    }
}
