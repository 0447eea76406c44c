//! What leads back to where it came from: a redirect that sends clients to itself, and a listener
//! whose requests go to its own address. Warnings, and only where nothing else can come in between.

use crate::action::{Action, Redirect, RedirectPath};
use crate::address::Address;
use crate::diagnostic::quoted;
use crate::listener::{Listener, ListenerKind};
use crate::report::{Problem, Report};
use crate::route::{HostPattern, Match, PathMatch, Route};
use crate::service::Service;
use crate::source::Span;
use crate::tree::{Node, Value};

/// Pairs of a redirect and another route. In a config that has more, none is looked at.
const PAIRS_MAX: usize = 10_000_000;

pub(crate) fn warn_of_circles(
    tree: &Node,
    listeners: &[Listener],
    services: &[Service],
    routes: &[Route],
    report: &mut Report<'_>,
) {
    let leads_to: Vec<Vec<usize>> = services
        .iter()
        .map(|service| {
            (0..listeners.len()).filter(|&at| leads_to(service, &listeners[at])).collect()
        })
        .collect();
    warn_of_tcp_circles(items(tree, "listeners"), listeners, services, &leads_to, report);
    let items = items(tree, "routes");
    for (index, route) in routes.iter().enumerate() {
        if let Some((backend, listener)) = backend_circle(route, &leads_to) {
            let span = place(items, index, &["backends"]);
            let message = format!(
                "the listener {} sends requests of this route to its own address, by the service {}",
                quoted(&listeners[listener].name),
                quoted(&services[backend].name),
            );
            report.add(
                Problem::warning(span, message)
                    .path(format!("routes[{index}].backends"))
                    .hint("they come in again until the client gives up: name another endpoint"),
            );
        }
    }
    let redirects = routes.iter().filter(|route| matches!(route.action, Action::Redirect(_)));
    if redirects.count().saturating_mul(routes.len()) > PAIRS_MAX {
        return;
    }
    for (index, route) in routes.iter().enumerate() {
        if let Some(path) = redirect_circle(route, routes) {
            let message = format!("this redirect leads to itself, by the path {}", quoted(&path));
            report.add(
                Problem::warning(place(items, index, &["redirect"]), message)
                    .path(format!("routes[{index}].redirect"))
                    .hint("have another route take that path, or match less"),
            );
        }
    }
}

fn warn_of_tcp_circles(
    items: &[Node],
    listeners: &[Listener],
    services: &[Service],
    leads_to: &[Vec<usize>],
    report: &mut Report<'_>,
) {
    for (index, listener) in listeners.iter().enumerate() {
        let ListenerKind::Tcp(tcp) = &listener.kind else { continue };
        if leads_to[tcp.service].contains(&index) {
            let message = format!(
                "this listener connects to its own address, by the service {}",
                quoted(&services[tcp.service].name)
            );
            report.add(
                Problem::warning(place(items, index, &["tcp", "service"]), message)
                    .path(format!("listeners[{index}].tcp.service"))
                    .hint("each connection would open the next: name another endpoint"),
            );
        }
    }
}

/// A service and a listener of the route that the service leads to.
fn backend_circle(route: &Route, leads_to: &[Vec<usize>]) -> Option<(usize, usize)> {
    let Action::Forward(backends) = &route.action else { return None };
    // Another host or path may well be another route.
    if route.rewrite.host.is_some() || route.rewrite.prefix.is_some() {
        return None;
    }
    backends.iter().find_map(|backend| {
        let mut own = leads_to[backend.service].iter().filter(|at| route.listeners.contains(at));
        own.next().map(|&own| (backend.service, own))
    })
}

fn leads_to(service: &Service, listener: &Listener) -> bool {
    service.source.endpoints().iter().any(|endpoint| {
        match (&listener.address, &endpoint.address) {
            // The others of this port are most likely other machines.
            (Address::Ip(ours), Address::Ip(theirs)) if ours.ip().is_unspecified() => {
                let ip = theirs.ip().to_canonical();
                let is_here = ip.is_loopback() || ip.is_unspecified();
                is_here && listener.address.collides_with(&endpoint.address)
            }
            (ours, theirs) => ours == theirs,
        }
    })
}

/// The path by which a redirect surely leads to its own route again.
fn redirect_circle(route: &Route, routes: &[Route]) -> Option<String> {
    // What a new host or port leads to is not known here.
    let Action::Redirect(Redirect { scheme: None, host: None, port: None, path, status }) =
        &route.action
    else {
        return None;
    };
    // Of a browser that is sent elsewhere with 301 to 303, what was a POST is a GET.
    let comes_again = |condition: &&Match| {
        // Cookies are what such a redirect may set.
        condition.cookies.is_empty()
            && (condition.methods.is_empty()
                || matches!(status, 307 | 308)
                || condition.methods.iter().any(|method| method == "GET"))
    };
    route.matches.iter().filter(comes_again).find_map(|condition| {
        // As a prefix, it is what becomes of a path that is no longer than what matched.
        let (RedirectPath::Whole(target) | RedirectPath::Prefix(target)) = path.as_ref()?;
        let is_taken = takes(condition.path.as_ref(), target)
            && !routes.iter().any(|rival| may_come_before(rival, route, condition, target));
        is_taken.then(|| target.clone())
    })
}

/// Whether another route may take the path where this match of ours does.
fn may_come_before(rival: &Route, ours: &Route, condition: &Match, path: &str) -> bool {
    if std::ptr::eq(rival, ours) || rival.priority < ours.priority {
        return false;
    }
    let mut common = rival.listeners.iter().filter(|listener| ours.listeners.contains(listener));
    let meets = |host: &HostPattern| ours.hosts.iter().any(|our| hosts_meet(host, our));
    // The same hosts: the better path wins.
    let is_better_by_host = rival.hosts != ours.hosts || rival.priority > ours.priority;
    common.next().is_some()
        && rival.hosts.iter().any(meets)
        && rival.matches.iter().any(|theirs| {
            let better =
                is_better_by_host || worth(theirs.path.as_ref()) >= worth(condition.path.as_ref());
            better && takes(theirs.path.as_ref(), path)
        })
}

/// The order of paths: exact, a regex, the longest prefix.
fn worth(path: Option<&PathMatch>) -> (u8, usize) {
    match path {
        None => (0, 0),
        Some(PathMatch::Prefix(prefix)) => (0, prefix.trim_end_matches('/').len()),
        Some(PathMatch::Regex(_)) => (1, 0),
        Some(PathMatch::Exact(_)) => (2, 0),
    }
}

fn takes(pattern: Option<&PathMatch>, path: &str) -> bool {
    match pattern {
        None => true,
        Some(PathMatch::Exact(exact)) => exact == path,
        Some(PathMatch::Regex(regex)) => regex.is_match(path.bytes()),
        Some(PathMatch::Prefix(prefix)) => path
            .strip_prefix(prefix.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    }
}

fn hosts_meet(a: &HostPattern, b: &HostPattern) -> bool {
    let below = |name: &str, suffix: &str| {
        name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    match (a, b) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => true,
        (HostPattern::Exact(a), HostPattern::Exact(b)) => a == b,
        (HostPattern::Exact(name), HostPattern::Wildcard(suffix))
        | (HostPattern::Wildcard(suffix), HostPattern::Exact(name)) => below(name, suffix),
        (HostPattern::Wildcard(a), HostPattern::Wildcard(b)) => below(a, b) || below(b, a),
    }
}

fn items<'t>(tree: &'t Node, list: &str) -> &'t [Node] {
    match tree.get(list).map(|list| &list.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

/// What these keys of an item lead to.
fn place(items: &[Node], index: usize, keys: &[&str]) -> Span {
    let item = items.get(index);
    let place = item.and_then(|item| keys.iter().try_fold(item, |node, key| node.get(key)));
    place.or(item).map_or(Span::NOWHERE, |node| node.span)
}
