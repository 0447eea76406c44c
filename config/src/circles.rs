//! What leads back to where it came from: redirects that send clients round, and listeners whose
//! traffic comes to their own address again. Told only where nothing else can come in between.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::action::{Action, Redirect, RedirectPath, Rewrite};
use crate::address::Address;
use crate::diagnostic::quoted;
use crate::listener::{Listener, ListenerKind};
use crate::path::normal_path;
use crate::report::{Problem, Report};
use crate::route::{HostPattern, Match, PathMatch, Route};
use crate::service::Service;
use crate::source::Span;
use crate::tree::Node;

/// Looks at a host or a match of a route. When they are used up, no more redirects are looked at.
const LOOKS_MAX: usize = 20_000_000;
/// Redirects that lead to each other.
const STEPS_MAX: usize = 8;

pub(crate) fn tell_of_circles(
    tree: &Node,
    listeners: &[Listener],
    services: &[Service],
    routes: &[Route],
    report: &mut Report<'_>,
) {
    let leads_to = services.iter().map(|service| {
        (0..listeners.len()).filter(|&at| leads_to(service, &listeners[at])).collect()
    });
    let leads_to: Vec<Vec<usize>> = leads_to.collect();
    tell_of_tcp_circles(tree.items("listeners"), listeners, services, routes, &leads_to, report);
    let items = tree.items("routes");
    for (index, route) in routes.iter().enumerate() {
        if let Some((backend, listener)) = backend_circle(route, routes, &leads_to) {
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
    let mut looks = LOOKS_MAX;
    for (index, route) in routes.iter().enumerate() {
        if let Some(path) = redirect_circle(route, listeners, routes, &mut looks) {
            let message = format!("this redirect leads to itself, by the path {}", quoted(&path));
            report.add(
                Problem::warning(place(items, index, &["redirect"]), message)
                    .path(format!("routes[{index}].redirect"))
                    .hint("have another route take that path, or match less"),
            );
        }
    }
}

/// Each connection to such a listener would open the next until none is left: an error, but for
/// circles that a route is part of.
fn tell_of_tcp_circles(
    items: &[Node],
    listeners: &[Listener],
    services: &[Service],
    routes: &[Route],
    leads_to: &[Vec<usize>],
    report: &mut Report<'_>,
) {
    // From each listener, the services that all of its traffic may go to.
    let mut goes_to: Vec<Vec<usize>> = vec![Vec::new(); listeners.len()];
    for (listener, goes_to) in listeners.iter().zip(&mut goes_to) {
        if let ListenerKind::Tcp(tcp) = &listener.kind {
            goes_to.push(tcp.service);
        }
    }
    let any = [HostPattern::Any];
    for route in routes.iter().filter(|r| r.hosts == any && r.matches == [Match::default()]) {
        for &listener in &route.listeners {
            goes_to[listener].extend(forwards_unchanged(route));
        }
    }
    for (index, listener) in listeners.iter().enumerate() {
        let ListenerKind::Tcp(tcp) = &listener.kind else { continue };
        let Some(way) = way_back(index, &goes_to, leads_to) else { continue };
        let service = quoted(&services[tcp.service].name);
        let message = match way.as_slice() {
            [] => format!("this listener connects to its own address, by the service {service}"),
            way => {
                let way = way.iter().map(|at| quoted(&listeners[*at].name)).collect::<Vec<_>>();
                let way = way.join(" and ");
                format!(
                    "this listener leads back to itself, by the service {service} and the listener {way}"
                )
            }
        };
        let is_tcp = |at: &usize| matches!(listeners[*at].kind, ListenerKind::Tcp(_));
        let span = place(items, index, &["tcp", "service"]);
        let problem = match way.iter().all(is_tcp) {
            true => Problem::error(span, message),
            false => Problem::warning(span, message),
        };
        report.add(
            problem
                .path(format!("listeners[{index}].tcp.service"))
                .hint("each connection would open the next: name another endpoint"),
        );
    }
}

/// The listeners between one and itself, in the fewest steps.
fn way_back(from: usize, goes_to: &[Vec<usize>], leads_to: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut before: HashMap<usize, usize> = HashMap::new();
    let mut ahead = VecDeque::from([from]);
    while let Some(here) = ahead.pop_front() {
        for &next in goes_to[here].iter().flat_map(|service| &leads_to[*service]) {
            if next == from {
                let back = |at: &usize| before.get(at).copied();
                let way = std::iter::successors(Some(here), back).take_while(|at| *at != from);
                let mut way: Vec<usize> = way.collect();
                way.reverse();
                return Some(way);
            }
            if let Entry::Vacant(entry) = before.entry(next) {
                entry.insert(here);
                ahead.push_back(next);
            }
        }
    }
    None
}

/// A service and a listener of the route that the service leads to, where the route surely takes what
/// comes from there: it comes from another address, and says who forwarded it.
fn backend_circle(
    route: &Route,
    routes: &[Route],
    leads_to: &[Vec<usize>],
) -> Option<(usize, usize)> {
    let by_source = |condition: &Match| !condition.source_ips.is_empty();
    let by_forwarded = |condition: &Match| by_source(condition) || !condition.headers.is_empty();
    let overlap = |other: &Route| {
        let hosts = route.hosts.iter();
        let mut pairs = hosts.flat_map(|ours| other.hosts.iter().map(move |theirs| (ours, theirs)));
        pairs.any(|(ours, theirs)| encloses(ours, theirs) || encloses(theirs, ours))
    };
    let may_take = |other: &Route, listener: usize| {
        !std::ptr::eq(other, route)
            && other.listeners.contains(&listener)
            && other.matches.iter().any(by_forwarded)
            && overlap(other)
    };
    if route.matches.iter().any(by_source) {
        return None;
    }
    let found = forwards_unchanged(route).find_map(|service| {
        let mut own = leads_to[service].iter().filter(|at| route.listeners.contains(at));
        own.next().map(|&own| (service, own))
    });
    found.filter(|(_, listener)| !routes.iter().any(|other| may_take(other, *listener)))
}

/// The services of which any endpoint may get a route's requests as they came: with another host, path
/// or header one may be another route's the next time.
fn forwards_unchanged(route: &Route) -> impl Iterator<Item = usize> {
    let backends = match &route.action {
        Action::Forward(backends)
            if route.rewrite == Rewrite::default() && route.request_headers.is_empty() =>
        {
            backends.as_slice()
        }
        _ => &[],
    };
    let unchanged = backends.iter().filter(|backend| {
        backend.request_headers.is_empty() && backend.labels.is_empty() && backend.weight > 0
    });
    unchanged.map(|backend| backend.service)
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

/// A match of a route, on one of its listeners and hosts.
#[derive(Clone, Copy)]
struct Taken<'c> {
    listener: usize,
    /// There, paths are compared in their one spelling.
    normalizes: bool,
    host: &'c HostPattern,
    route: &'c Route,
    condition: &'c Match,
}

/// The path by which a redirect surely leads to its own match again, alone or by way of others.
fn redirect_circle(
    route: &Route,
    listeners: &[Listener],
    routes: &[Route],
    looks: &mut usize,
) -> Option<String> {
    let places = route.listeners.iter().flat_map(|&listener| {
        let hosts = route.hosts.iter();
        hosts.flat_map(move |host| route.matches.iter().map(move |m| (listener, host, m)))
    });
    places.into_iter().find_map(|(listener, host, condition)| {
        let kind = &listeners[listener].kind;
        let normalizes = matches!(kind, ListenerKind::Http(http) if http.normalize_path);
        let begin = Taken { listener, normalizes, host, route, condition };
        // What it is asked for first: nothing is said of what follows a prefix.
        let asked = match &condition.path {
            None => "/",
            Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) => path,
            Some(PathMatch::Regex(_)) => "",
        };
        let first = begin.leads_to(asked)?;
        let (mut here, mut path) = (begin, first.clone());
        for _ in 0..STEPS_MAX {
            here = here.next(routes, begin, &path, looks)?;
            if std::ptr::eq(here.condition, begin.condition) {
                return Some(first);
            }
            path = here.leads_to(&path)?;
        }
        None
    })
}

impl<'c> Taken<'c> {
    /// The path that a client is sent to, on the same host, as it is compared then.
    fn leads_to(&self, path: &str) -> Option<String> {
        let path = self.leads_to_spelled(path)?;
        let normal = self.normalizes.then(|| normal_path(path.as_bytes())).flatten();
        Some(normal.and_then(|normal| String::from_utf8(normal).ok()).unwrap_or(path))
    }

    /// The same as it is sent.
    fn leads_to_spelled(&self, path: &str) -> Option<String> {
        // What a new host or port leads to is not known here.
        let Action::Redirect(Redirect { scheme: None, host: None, port: None, path: to, .. }) =
            &self.route.action
        else {
            return None;
        };
        match (to.as_ref()?, &self.condition.path) {
            (RedirectPath::Whole(to), _) => Some(to.clone()),
            (RedirectPath::Prefix(to), Some(PathMatch::Prefix(old))) => {
                let rest = path.strip_prefix(old.trim_end_matches('/'))?;
                Some(format!("{}{rest}", to.trim_end_matches('/')))
            }
            (RedirectPath::Prefix(to), _) => Some(to.clone()),
        }
    }

    /// The match that surely takes the path on this listener and host.
    fn next(
        &self,
        routes: &'c [Route],
        begin: Taken<'c>,
        path: &str,
        looks: &mut usize,
    ) -> Option<Taken<'c>> {
        let sizes = routes.iter().map(|route| route.hosts.len() * (1 + route.matches.len()));
        *looks = looks.checked_sub(path.len() + sizes.sum::<usize>())?;
        let takers = routes.iter().filter(|route| route.listeners.contains(&self.listener));
        let takers = takers.flat_map(|route| {
            let hosts = route.hosts.iter().filter(|theirs| encloses(theirs, self.host));
            hosts.flat_map(move |theirs| {
                let matches = route.matches.iter();
                let matches = matches.filter(|condition| takes(condition.path.as_ref(), path));
                matches.map(move |condition| {
                    let rank = (route.priority, width(theirs), worth(condition.path.as_ref()));
                    (rank, Taken { route, condition, ..*self })
                })
            })
        });
        let (mut best, mut rivals) = (None, 0);
        for (rank, taken) in takers {
            match best {
                Some((known, _)) if rank < known => {}
                Some((known, _)) if rank == known => rivals += 1,
                _ => (best, rivals) = (Some((rank, taken)), 0),
            }
        }
        let (_, taken) = best.filter(|_| rivals == 0)?;
        taken.comes_again(begin).then_some(taken)
    }

    /// Whether whoever is sent here by `begin` meets all conditions but that on the path.
    fn comes_again(&self, begin: Taken<'_>) -> bool {
        let Match { methods, headers, cookies, query, source_ips, .. } = self.condition;
        // Sent elsewhere with 301 to 303, what was a POST is a GET in a browser. CONNECT has no path.
        let by_other = || methods.iter().any(|method| method != "CONNECT");
        let by_get = methods.is_empty() || methods.iter().any(|method| method == "GET");
        let is_same = std::ptr::eq(self.condition, begin.condition);
        let keeps_method =
            matches!(&self.route.action, Action::Redirect(Redirect { status: 307 | 308, .. }));
        // Cookies are what a redirect may set.
        cookies.is_empty()
            && (by_get || is_same && keeps_method && by_other())
            && (is_same || headers.is_empty() && query.is_empty() && source_ips.is_empty())
    }
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

/// Whether a host pattern takes all that another does.
fn encloses(outer: &HostPattern, inner: &HostPattern) -> bool {
    match (outer, inner) {
        (HostPattern::Any, _) => true,
        (HostPattern::Wildcard(suffix), HostPattern::Exact(name)) => {
            name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'))
        }
        (HostPattern::Wildcard(suffix), HostPattern::Wildcard(name)) => {
            let rest = name.strip_suffix(suffix.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        (outer, inner) => outer == inner,
    }
}

/// The order of hosts: exact, the longest wildcard, any.
fn width(host: &HostPattern) -> (u8, usize) {
    match host {
        HostPattern::Any => (0, 0),
        HostPattern::Wildcard(suffix) => (1, suffix.len()),
        HostPattern::Exact(_) => (2, 0),
    }
}

/// What these keys of an item lead to.
fn place(items: &[Node], index: usize, keys: &[&str]) -> Span {
    let item = items.get(index);
    let place = item.and_then(|item| keys.iter().try_fold(item, |node, key| node.get(key)));
    place.or(item).map_or(Span::NOWHERE, |node| node.span)
}
