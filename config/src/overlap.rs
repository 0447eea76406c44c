//! Routes that stand in each other's way: two that differ in nothing but their names, of which the
//! lesser takes it, and routes that no request can reach. Neither is wrong, and both are rarely
//! meant, so they are warnings.
//!
//! A request is judged by host, then path, then method, so only matches with the same host and the
//! same path can tie. One that names methods wins against one that takes all, and CONNECT has to
//! be named.

use std::collections::{HashMap, HashSet};

use crate::diagnostic::quoted;
use crate::report::{Problem, Report};
use crate::route::{HostPattern, Match, PathMatch, Route};
use crate::source::Span;
use crate::tree::{Node, Value};

/// Listeners times hosts times methods, of all routes together: 100,000 routes with ten each. In a
/// config that has more, nothing is compared.
const COMPARED_MAX: usize = 1_000_000;

/// What one match of a route wants. In the order in which they are compared: those that may tie
/// stand beside each other, the winner first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'c> {
    listener: usize,
    host: &'c HostPattern,
    path: Option<&'c PathMatch>,
    route_name: &'c str,
    /// By the index that the config gives.
    route: usize,
    /// Within its route.
    index: usize,
    methods: &'c [String],
}

/// A route that loses to another, and where.
struct Tie<'c> {
    loser: &'c Claim<'c>,
    winner: &'c Claim<'c>,
}

pub(crate) fn warn_of_overlaps(tree: &Node, routes: &[Route], report: &mut Report<'_>) {
    let size = routes.iter().map(|route| {
        let methods: usize = route.matches.iter().map(|m| m.methods.len().max(1)).sum();
        route.listeners.len().saturating_mul(route.hosts.len()).saturating_mul(methods)
    });
    let Some(Value::List(items)) = tree.get("routes").map(|list| &list.value) else {
        return;
    };
    if size.fold(0, usize::saturating_add) > COMPARED_MAX {
        return;
    }
    let claims = routes.iter().enumerate().flat_map(|(index, route)| claims_of(index, route));
    let mut claims: Vec<Claim<'_>> = claims.collect();
    claims.sort_unstable();
    let (ties, reached) = compare(&claims, routes.len());
    let mut winners: HashMap<usize, Vec<&Claim<'_>>> = HashMap::new();
    let mut told = HashSet::new();
    for Tie { loser, winner } in
        ties.iter().filter(|t| told.insert((t.loser.route, t.winner.route)))
    {
        match reached[loser.route] {
            true => report.add(tie_problem(items, loser, winner)),
            false => winners.entry(loser.route).or_default().push(winner),
        }
    }
    for (index, route) in routes.iter().enumerate().filter(|(index, _)| !reached[*index]) {
        let winners = winners.get(&index).map_or(&[][..], Vec::as_slice);
        report.add(unreachable_problem(items, index, route, winners));
    }
}

fn claims_of(index: usize, route: &Route) -> impl Iterator<Item = Claim<'_>> {
    let places =
        route.listeners.iter().flat_map(|&l| route.hosts.iter().map(move |host| (l, host)));
    places.flat_map(move |(listener, host)| {
        let matches = route.matches.iter().enumerate().filter(|(_, m)| can_match(m));
        matches.map(move |(at, condition)| Claim {
            listener,
            host,
            path: condition.path.as_ref().filter(|path| !takes_all(path)),
            route_name: &route.name,
            route: index,
            index: at,
            methods: &condition.methods,
        })
    })
}

fn takes_all(path: &PathMatch) -> bool {
    matches!(path, PathMatch::Prefix(prefix) if prefix == "/")
}

/// RFC 9112 §3.2.3: CONNECT has no path.
fn can_match(condition: &Match) -> bool {
    let is_connect = |method: &String| method == "CONNECT";
    condition.path.as_ref().is_none_or(takes_all)
        || condition.methods.is_empty()
        || !condition.methods.iter().all(is_connect)
}

/// What ties, and which routes some request can reach.
fn compare<'c>(claims: &'c [Claim<'c>], routes: usize) -> (Vec<Tie<'c>>, Vec<bool>) {
    let (mut ties, mut reached) = (Vec::new(), vec![false; routes]);
    for rivals in
        claims.chunk_by(|a, b| (a.listener, a.host, a.path) == (b.listener, b.host, b.path))
    {
        // `None` stands for all the methods that nobody names.
        let mut taken: HashMap<Option<&str>, &Claim<'_>> = HashMap::new();
        for claim in rivals {
            let named = claim.methods.iter().map(|method| Some(method.as_str()));
            for method in named.chain(claim.methods.is_empty().then_some(None)) {
                let winner = *taken.entry(method).or_insert(claim);
                match winner.route == claim.route {
                    true => reached[claim.route] = true,
                    false => ties.push(Tie { loser: claim, winner }),
                }
            }
        }
    }
    (ties, reached)
}

fn tie_problem(items: &[Node], loser: &Claim<'_>, winner: &Claim<'_>) -> Problem {
    let message = format!(
        "the route {} has a match that {} has too, and loses it: of two names the lesser wins",
        quoted(loser.route_name),
        quoted(winner.route_name)
    );
    let (span, path) = place_of_match(items, loser);
    let (winner_span, _) = place_of_match(items, winner);
    Problem::warning(span, message)
        .path(path)
        .related(winner_span, "wins")
        .hint("make their hosts, paths or methods differ")
}

fn unreachable_problem(
    items: &[Node],
    index: usize,
    route: &Route,
    winners: &[&Claim<'_>],
) -> Problem {
    let item = items.get(index);
    let name = item.and_then(|item| item.get("name").or(Some(item)));
    let span = name.map_or(Span::NOWHERE, |node| node.span);
    let path = format!("routes[{index}]");
    let Some(winner) = winners.first() else {
        let message =
            format!("the route {} can never match: CONNECT has no path", quoted(&route.name));
        return Problem::warning(span, message).path(path).hint("take the `path` out");
    };
    let message = format!(
        "the route {} can never match: all that it could take goes to {}{}, by the lesser name",
        quoted(&route.name),
        quoted(winner.route_name),
        if winners.len() > 1 { " and others" } else { "" }
    );
    let (winner_span, _) = place_of_match(items, winner);
    Problem::warning(span, message)
        .path(path)
        .related(winner_span, "takes its requests")
        .hint("make their hosts, paths or methods differ, or take one out")
}

/// The match as it is written, or the name of a route that has none.
fn place_of_match(items: &[Node], claim: &Claim<'_>) -> (Span, String) {
    let path = format!("routes[{}]", claim.route);
    let Some(item) = items.get(claim.route) else {
        return (Span::NOWHERE, path);
    };
    if let Some(Value::List(matches)) = item.get("matches").map(|list| &list.value)
        && let Some(written) = matches.get(claim.index)
    {
        return (written.span, format!("{path}.matches[{}]", claim.index));
    }
    (item.get("name").map_or(item.span, |name| name.span), path)
}
