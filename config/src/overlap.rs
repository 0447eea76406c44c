//! Routes that stand in each other's way: matches that no request can reach, because another takes
//! all of theirs before them or because their path is written as none ever is, and matches between
//! which only a name decides. None of it is wrong, and all of it is rarely meant, so these are
//! warnings.
//!
//! Whatever is called unreachable is: one other match takes every request of it, and comes first.
//! That several do together is not looked for, except method by method.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::condition::{Condition, Test};
use crate::diagnostic::quoted;
use crate::listener::{Listener, ListenerKind};
use crate::path::normal_path;
use crate::path_regex::fits_some_path;
use crate::regex::Regex;
use crate::report::{Problem, Report};
use crate::route::{HostPattern, Match, PathMatch, Route};
use crate::source::Span;
use crate::tree::Node;

/// Listeners times hosts times methods, of all routes together: 100,000 routes with ten each. In a
/// config that has more, nothing is compared.
const COMPARED_MAX: usize = 1_000_000;
/// Looks at one condition or method of another match. When they are used up, nothing more is found.
const LOOKS_MAX: usize = 20_000_000;

/// More ties are not told anyway.
const TIES_MAX: usize = 10_000;

/// What one match of a route wants, on one listener and host.
struct Claim<'c> {
    place: Place<'c>,
    priority: i32,
    route_name: &'c str,
    /// By the index that the config gives.
    route: usize,
    /// Within its route.
    index: usize,
    condition: &'c Match,
}

/// Matches of one priority tie only in one place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place<'c> {
    listener: usize,
    host: HostPlace<'c>,
    path: PathPlace<'c>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum HostPlace<'c> {
    Exact(&'c str),
    Wildcard(&'c str),
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PathPlace<'c> {
    Exact(&'c str),
    Regex(&'c str),
    /// Regexes that take all below a path: `/a/.*` is below `/a`.
    Below(&'c str),
    /// Without a slash at its end, so that `/` is empty.
    Prefix(&'c str),
}

/// A match that another takes requests from.
struct Loss<'c> {
    loser: &'c Claim<'c>,
    winner: &'c Claim<'c>,
    is_whole: bool,
}

pub(crate) fn warn_of_overlaps(
    tree: &Node,
    listeners: &[Listener],
    routes: &[Route],
    report: &mut Report<'_>,
) {
    let size = routes.iter().map(|route| {
        let methods: usize = route.matches.iter().map(|m| m.methods.len().max(1)).sum();
        route.listeners.len().saturating_mul(route.hosts.len()).saturating_mul(methods)
    });
    let items = tree.items("routes");
    if size.fold(0, usize::saturating_add) > COMPARED_MAX {
        return;
    }
    let normalizes: Vec<bool> = listeners
        .iter()
        .map(|listener| matches!(&listener.kind, ListenerKind::Http(http) if http.normalize_path))
        .collect();
    let odd = warn_of_odd_paths(items, routes, &normalizes, report);
    let claims: Vec<Claim<'_>> = routes
        .iter()
        .enumerate()
        .flat_map(|(index, route)| claims_of(index, route, &normalizes))
        .collect();
    let Found { losses, reached } = compare(&claims, routes.len());
    let mut winners: HashMap<usize, Vec<&Claim<'_>>> = HashMap::new();
    let mut told = HashSet::new();
    for Loss { loser, winner, is_whole } in
        losses.iter().filter(|l| told.insert((l.loser.route, l.winner.route)))
    {
        match reached[loser.route] {
            // Somebody raised its priority for a reason.
            true if winner.priority > loser.priority => {}
            true => report.add(tie_problem(items, loser, winner, *is_whole)),
            false if *is_whole => winners.entry(loser.route).or_default().push(winner),
            false => {}
        }
    }
    let unreached = routes.iter().enumerate().filter(|(index, _)| !reached[*index] && !odd[*index]);
    for (index, route) in unreached {
        let winners = winners.get(&index).map_or(&[][..], Vec::as_slice);
        report.add(unreachable_problem(items, index, route, winners));
    }
}

/// Of paths that no request has, or that have a second spelling. Says which routes have one of the
/// first kind.
fn warn_of_odd_paths(
    items: &[Node],
    routes: &[Route],
    normalizes: &[bool],
    report: &mut Report<'_>,
) -> Vec<bool> {
    let mut odd = vec![false; routes.len()];
    let mut looks = LOOKS_MAX;
    for (route, index) in routes.iter().zip(0..) {
        let normalizes = route.listeners.iter().all(|listener| normalizes[*listener]);
        for (at, condition) in route.matches.iter().enumerate() {
            let Some(path) = &condition.path else { continue };
            let (message, hint) = if let Some((path, normal)) =
                normal_form(path).filter(|_| normalizes)
            {
                odd[index] = true;
                (
                    format!(
                        "the path {} can never match: requests come in normal form",
                        quoted(path)
                    ),
                    format!("write {}, or set `normalize_path: false`", quoted(&normal)),
                )
            } else if let Some(regex) = regex_of(condition)
                && !fits_some_path(regex, normalizes, &mut looks)
            {
                odd[index] = true;
                let hint = match normalizes {
                    true => {
                        "it has to fit the whole of a path in normal form: from its `/` to before the \
                         `?`, with escapes in capitals, such as `%C3`"
                    }
                    false => "it has to fit the whole of a path: from its `/` to before the `?`",
                };
                (
                    format!(
                        "the regex {} can never match: no path is like that",
                        quoted(regex.as_str())
                    ),
                    hint.to_owned(),
                )
            } else if let Some((path, other)) = other_spelling(path, route) {
                (
                    format!(
                        "the path {} has a second spelling that this does not match",
                        quoted(path)
                    ),
                    format!("`%2f` and `%2F` stay as they are sent: match {} too", quoted(&other)),
                )
            } else {
                continue;
            };
            let (span, place) = place_of_match(items, index, at);
            report.add(Problem::warning(span, message).path(format!("{place}.path")).hint(hint));
        }
    }
    odd
}

/// The regex that a path has to fit. CONNECT has no path, which is another matter.
fn regex_of(condition: &Match) -> Option<&Regex> {
    match &condition.path {
        Some(PathMatch::Regex(regex)) if !condition.methods.iter().any(|m| m == "CONNECT") => {
            Some(regex)
        }
        _ => None,
    }
}

/// Requests are made normal before they are matched. A path that is not, and what it would be.
fn normal_form(path: &PathMatch) -> Option<(&str, String)> {
    let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = path else { return None };
    let normal = String::from_utf8(normal_path(path.as_bytes())?).ok()?;
    (normal != *path).then_some((path, normal))
}

/// A path with an escaped slash, and the same with the other spelling of that, unless the route
/// takes it too.
fn other_spelling<'p>(path: &'p PathMatch, route: &Route) -> Option<(&'p str, String)> {
    let swap = |text: &str| match text.contains("%2f") {
        true => text.replace("%2f", "%2F"),
        false => text.replace("%2F", "%2f"),
    };
    let (text, other) = match path {
        PathMatch::Exact(text) => (text, PathMatch::Exact(swap(text))),
        PathMatch::Prefix(text) => (text, PathMatch::Prefix(swap(text))),
        PathMatch::Regex(_) => return None,
    };
    let is_taken = route.matches.iter().any(|condition| condition.path.as_ref() == Some(&other));
    (!is_taken).then(|| (text.as_str(), swap(text)))
}

fn claims_of<'c>(
    index: usize,
    route: &'c Route,
    normalizes: &'c [bool],
) -> impl Iterator<Item = Claim<'c>> {
    let places =
        route.listeners.iter().flat_map(|&l| route.hosts.iter().map(move |host| (l, host)));
    places.flat_map(move |(listener, host)| {
        let matches = route.matches.iter().enumerate().filter(move |(_, condition)| {
            let odd = condition.path.as_ref().is_some_and(|path| normal_form(path).is_some());
            has_path(condition) && may_hold(condition) && !(odd && normalizes[listener])
        });
        matches.map(move |(at, condition)| Claim {
            place: Place {
                listener,
                host: HostPlace::of(host),
                path: PathPlace::of(condition.path.as_ref()),
            },
            priority: route.priority,
            route_name: &route.name,
            route: index,
            index: at,
            condition,
        })
    })
}

/// Whether no condition says the opposite of another, as far as they are looked at.
fn may_hold(condition: &Match) -> bool {
    const LOOKED_AT: usize = 32;
    let opposite = |a: &Condition, b: &Condition| {
        a.negated != b.negated && a.name == b.name && a.test == b.test
    };
    [&condition.headers, &condition.cookies, &condition.query].into_iter().all(|list| {
        let list = &list[..list.len().min(LOOKED_AT)];
        list.iter().all(|one| !list.iter().any(|other| opposite(one, other)))
    })
}

/// RFC 9112 §3.2.3: CONNECT has no path.
fn has_path(condition: &Match) -> bool {
    let is_connect = |method: &String| method == "CONNECT";
    let takes_none = match PathPlace::of(condition.path.as_ref()) {
        PathPlace::Prefix(prefix) => prefix.is_empty(),
        PathPlace::Regex(_) => true,
        PathPlace::Exact(_) | PathPlace::Below(_) => false,
    };
    takes_none || condition.methods.is_empty() || !condition.methods.iter().all(is_connect)
}

impl<'c> HostPlace<'c> {
    fn of(host: &'c HostPattern) -> HostPlace<'c> {
        match host {
            HostPattern::Any => HostPlace::Any,
            HostPattern::Exact(host) => HostPlace::Exact(host),
            HostPattern::Wildcard(suffix) => HostPlace::Wildcard(suffix),
        }
    }

    /// Itself, and all others that take whatever this one takes.
    fn enclosing(self) -> impl Iterator<Item = HostPlace<'c>> {
        let name = match self {
            HostPlace::Exact(name) | HostPlace::Wildcard(name) => name,
            HostPlace::Any => "",
        };
        let suffixes =
            name.match_indices('.').map(|(dot, _)| HostPlace::Wildcard(&name[dot + 1..]));
        let any = (self != HostPlace::Any).then_some(HostPlace::Any);
        std::iter::once(self).chain(suffixes).chain(any)
    }
}

impl<'c> PathPlace<'c> {
    fn of(path: Option<&'c PathMatch>) -> PathPlace<'c> {
        match path {
            None => PathPlace::Prefix(""),
            Some(PathMatch::Prefix(prefix)) => PathPlace::Prefix(prefix.trim_end_matches('/')),
            Some(PathMatch::Exact(path)) => PathPlace::Exact(path),
            Some(PathMatch::Regex(regex)) => PathPlace::Regex(regex.as_str()),
        }
    }

    fn len(self) -> usize {
        match self {
            PathPlace::Exact(text) | PathPlace::Regex(text) => text.len(),
            PathPlace::Prefix(text) | PathPlace::Below(text) => text.len(),
        }
    }

    /// Of what this takes all, if it is a regex of which that can be told.
    fn below(self) -> Option<PathPlace<'c>> {
        let PathPlace::Regex(text) = self else { return None };
        let literal = text.strip_suffix("/.*")?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_~%:@!,;=&'".contains(&byte);
        literal.bytes().all(is_plain).then_some(PathPlace::Below(literal))
    }

    /// The places of regexes that come before this and take whatever it takes.
    fn regexes_before(self) -> impl Iterator<Item = PathPlace<'c>> {
        let (text, all) = match self {
            PathPlace::Prefix(prefix) => (prefix, Some(PathPlace::Regex(".*"))),
            _ => ("", None),
        };
        text.match_indices('/').map(|(slash, _)| PathPlace::Below(&text[..slash])).chain(all)
    }

    /// Itself, and all others that take whatever this one takes, as far as that can be told.
    fn enclosing(self) -> impl Iterator<Item = PathPlace<'c>> {
        let (text, whole) = match self {
            PathPlace::Exact(path) => (path, Some(PathPlace::Prefix(path))),
            PathPlace::Prefix(prefix) => (prefix, None),
            PathPlace::Regex(_) | PathPlace::Below(_) => ("/", None),
        };
        let shorter = text.match_indices('/').map(|(slash, _)| PathPlace::Prefix(&text[..slash]));
        std::iter::once(self).chain(whole).chain(shorter)
    }
}

impl<'c> Place<'c> {
    fn regexes_before(self) -> impl Iterator<Item = Place<'c>> {
        self.path.regexes_before().map(move |path| Place { path, ..self })
    }

    fn enclosing(self) -> impl Iterator<Item = Place<'c>> {
        self.host.enclosing().flat_map(move |host| {
            self.path.enclosing().map(move |path| Place { host, path, ..self })
        })
    }
}

impl Claim<'_> {
    /// What is compared between matches of one place and priority, before the name; the lesser is
    /// the better.
    fn rank(&self) -> (bool, Reverse<usize>, Reverse<usize>) {
        let Match { methods, headers, cookies, query, .. } = self.condition;
        (methods.is_empty(), Reverse(headers.len() + cookies.len()), Reverse(query.len()))
    }

    /// Whether it takes a method, or, for `None`, all those that nobody names.
    fn takes(&self, method: Option<&str>) -> bool {
        let methods = &self.condition.methods;
        match method {
            Some(method) if !methods.is_empty() => methods.iter().any(|m| m == method),
            Some(method) => method != "CONNECT",
            None => methods.is_empty(),
        }
    }

    fn conditions(&self) -> [&[Condition]; 3] {
        let Match { headers, cookies, query, .. } = self.condition;
        [headers, cookies, query]
    }

    /// Whether every request that meets the other's conditions meets these. Of methods and places
    /// nothing is said.
    fn is_implied_by(&self, other: &Claim<'_>) -> bool {
        let networks = &self.condition.source_ips;
        let narrower = &other.condition.source_ips;
        let sources = networks.is_empty()
            || !narrower.is_empty()
                && narrower.iter().all(|inner| networks.iter().any(|outer| outer.encloses(inner)));
        let pairs = self.conditions().into_iter().zip(other.conditions());
        sources && pairs.into_iter().all(|(ours, theirs)| ours.iter().all(|c| theirs.contains(c)))
    }

    /// Whether there is surely a request that meets the conditions of both.
    fn goes_with(&self, other: &Claim<'_>) -> bool {
        let (ours, theirs) = (&self.condition.source_ips, &other.condition.source_ips);
        let sources = ours.is_empty()
            || theirs.is_empty()
            || ours.iter().any(|a| theirs.iter().any(|b| a.encloses(b) || b.encloses(a)));
        sources
            && self.conditions().into_iter().zip(other.conditions()).all(|(ours, theirs)| {
                ours.iter().all(|our| theirs.iter().all(|their| go_together(our, their)))
            })
    }

    /// How many looks comparing the two takes.
    fn looks(&self, other: &Claim<'_>) -> usize {
        let size = |claim: &Claim<'_>| {
            let conditions = claim.conditions().into_iter().flatten();
            1 + claim.condition.source_ips.len() + conditions.map(size_of_condition).sum::<usize>()
        };
        size(self) * size(other) + self.condition.methods.len()
    }
}

/// In looks: long texts take longer.
fn size_of_condition(condition: &Condition) -> usize {
    const TEXT_BYTES_PER_LOOK: usize = 16;
    let text = match &condition.test {
        Test::Present => 0,
        Test::Exact(text) | Test::Prefix(text) => text.len(),
        Test::Regex(regex) => regex.as_str().len(),
    };
    1 + (condition.name.len() + text) / TEXT_BYTES_PER_LOOK
}

/// Whether some value, or none, surely passes both. Of a name that is there twice, no more is said
/// than of one that is there once: a client that sends both of two values is rare.
fn go_together(a: &Condition, b: &Condition) -> bool {
    if a.name != b.name || a == b {
        return true;
    }
    let takes = |test: &Test, text: &str| test.takes(text.bytes());
    match (a.negated, b.negated) {
        (true, true) => true,
        (true, false) => go_together(b, a),
        (false, true) => match (&a.test, &b.test) {
            (Test::Exact(text), test) => !takes(test, text),
            (Test::Present | Test::Prefix(_), Test::Exact(_)) => true,
            (Test::Present, Test::Prefix(_)) => true,
            (Test::Prefix(wanted), Test::Prefix(barred)) => !wanted.starts_with(barred.as_str()),
            (Test::Present | Test::Prefix(_) | Test::Regex(_), _) => false,
        },
        (false, false) => match (&a.test, &b.test) {
            (Test::Exact(text), test) | (test, Test::Exact(text)) => takes(test, text),
            (Test::Prefix(a), Test::Prefix(b)) => {
                a.starts_with(b.as_str()) || b.starts_with(a.as_str())
            }
            (Test::Present, Test::Present | Test::Prefix(_)) => true,
            (Test::Prefix(_), Test::Present) => true,
            (Test::Regex(_), _) | (_, Test::Regex(_)) => false,
        },
    }
}

struct Found<'c> {
    losses: Vec<Loss<'c>>,
    /// By route: whether some request may reach it.
    reached: Vec<bool>,
}

fn compare<'c>(claims: &'c [Claim<'c>], routes: usize) -> Found<'c> {
    let mut places: HashMap<Place<'_>, Vec<&Claim<'_>>> = HashMap::new();
    for claim in claims {
        places.entry(claim.place).or_default().push(claim);
        if let Some(path) = claim.place.path.below() {
            places.entry(Place { path, ..claim.place }).or_default().push(claim);
        }
    }
    for rivals in places.values_mut() {
        rivals.sort_unstable_by_key(|c| (Reverse(c.priority), c.rank(), c.route_name, c.index));
    }
    let highest = claims.iter().map(|claim| claim.priority).max().unwrap_or(0);
    let mut looks = 0;
    let (mut losses, mut reached) = (Vec::new(), vec![false; routes]);
    for claim in claims {
        let named = claim.condition.methods.iter().map(|method| Some(method.as_str()));
        let every = claim.condition.methods.is_empty().then_some(None);
        for method in named.chain(every) {
            let mut before = Before { claim, method, looks: &mut looks, losses: &mut losses };
            // Among equals, only regexes and what stands in the same place come first and take as much.
            let many = if claim.priority < highest { usize::MAX } else { 1 };
            let places_before = claim.place.regexes_before();
            let mut places_before = places_before.chain(claim.place.enclosing().take(many));
            if !places_before.any(|place| before.is_whole_lost_in(&places, place)) {
                reached[claim.route] = true;
            }
        }
    }
    Found { losses, reached }
}

/// A claim, one of its methods, and what comes before it.
struct Before<'a, 'c> {
    claim: &'c Claim<'c>,
    method: Option<&'c str>,
    looks: &'a mut usize,
    losses: &'a mut Vec<Loss<'c>>,
}

impl<'c> Before<'_, 'c> {
    /// Whether a match in this place takes all that the claim could, and comes first. One that takes
    /// only some of it, by no more than its name, is noted on the way.
    fn is_whole_lost_in(
        &mut self,
        places: &HashMap<Place<'c>, Vec<&'c Claim<'c>>>,
        place: Place<'c>,
    ) -> bool {
        *self.looks = self.looks.saturating_add(1 + place.path.len());
        if *self.looks > LOOKS_MAX {
            return false;
        }
        let Some(rivals) = places.get(&place) else { return false };
        let loser = self.claim;
        let ours = (Reverse(loser.priority), loser.rank(), loser.route_name);
        for winner in rivals {
            let is_here = place == loser.place;
            let is_prefix = matches!(loser.place.path, PathPlace::Prefix(_));
            let is_regex = matches!(place.path, PathPlace::Regex(_) | PathPlace::Below(_));
            let theirs = (Reverse(winner.priority), winner.rank(), winner.route_name);
            let comes_first = match (is_here, is_prefix && is_regex) {
                (true, _) => theirs < ours,
                (false, true) => winner.priority >= loser.priority,
                (false, false) => winner.priority > loser.priority,
            };
            if !comes_first {
                return false;
            }
            *self.looks = self.looks.saturating_add(winner.looks(loser));
            if *self.looks > LOOKS_MAX {
                return false;
            }
            if winner.route == loser.route || !winner.takes(self.method) {
                continue;
            }
            if winner.is_implied_by(loser) {
                self.losses.push(Loss { loser, winner, is_whole: true });
                return true;
            }
            let ties = (theirs.0, theirs.1) == (ours.0, ours.1);
            let may_be_told = self.losses.len() < TIES_MAX;
            if is_here && ties && may_be_told && winner.goes_with(loser) {
                self.losses.push(Loss { loser, winner, is_whole: false });
            }
        }
        false
    }
}

fn tie_problem(items: &[Node], loser: &Claim<'_>, winner: &Claim<'_>, is_whole: bool) -> Problem {
    let (theirs, ours) = (quoted(winner.route_name), quoted(loser.route_name));
    let message = match is_whole {
        true => format!(
            "the route {ours} has a match that {theirs} has too, and loses it: of two names the \
             lesser wins"
        ),
        false => format!(
            "the routes {theirs} and {ours} have matches that both fit some requests: of two names \
             the lesser wins"
        ),
    };
    let (span, path) = place_of_match(items, loser.route, loser.index);
    let (winner_span, _) = place_of_match(items, winner.route, winner.index);
    Problem::warning(span, message)
        .path(path)
        .related(winner_span, "wins")
        .hint("make their conditions differ, or give one a higher `priority`")
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
        let (why, hint) = match route.matches.iter().all(may_hold) {
            true => ("CONNECT has no path", "take the `path` out"),
            false => ("its conditions exclude each other", "take one of them out"),
        };
        let message = format!("the route {} can never match: {why}", quoted(&route.name));
        return Problem::warning(span, message).path(path).hint(hint);
    };
    let message = format!(
        "the route {} can never match: all that it could take goes to {}{}, by {}",
        quoted(&route.name),
        quoted(winner.route_name),
        if winners.len() > 1 { " and others" } else { "" },
        match winner.place.path {
            _ if winner.priority > route.priority => "the higher priority",
            PathPlace::Regex(_) if !is_regex(route) => "its regex, which comes before any prefix",
            _ => "the lesser name",
        },
    );
    let (winner_span, _) = place_of_match(items, winner.route, winner.index);
    Problem::warning(span, message)
        .path(path)
        .related(winner_span, "takes its requests")
        .hint("make their conditions differ, or take one out")
}

fn is_regex(route: &Route) -> bool {
    route.matches.iter().any(|condition| matches!(condition.path, Some(PathMatch::Regex(_))))
}

/// The match as it is written, or the name of a route that has none.
fn place_of_match(items: &[Node], route: usize, index: usize) -> (Span, String) {
    let path = format!("routes[{route}]");
    let Some(item) = items.get(route) else {
        return (Span::NOWHERE, path);
    };
    if let Some(written) = item.items("matches").get(index) {
        return (written.span, format!("{path}.matches[{index}]"));
    }
    (item.get("name").map_or(item.span, |name| name.span), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_that_surely_go_together() {
        let condition = |name: &str, test: &Test, negated| Condition {
            name: name.to_owned(),
            test: test.clone(),
            negated,
        };
        let exact = |text: &str| Test::Exact(text.to_owned());
        let prefix = |text: &str| Test::Prefix(text.to_owned());
        let regex = |text: &str| Test::Regex(text.parse().unwrap());
        let rows = [
            (exact("a"), exact("b"), false, true),
            (exact("ab"), prefix("a"), true, false),
            (exact("b"), prefix("a"), false, true),
            (exact("b"), regex("a*"), false, true),
            (exact("aa"), regex("a*"), true, false),
            (exact("a"), Test::Present, true, false),
            (prefix("ab"), prefix("a"), true, false),
            (prefix("ab"), prefix("b"), false, true),
            (prefix("a"), Test::Present, true, false),
            (regex("a"), regex("b"), false, false),
            (regex("a"), prefix("b"), false, false),
            (Test::Present, regex("b"), false, false),
        ];
        for (a, b, together, with_the_opposite) in rows {
            let ours = condition("x", &a, false);
            let is = |name, negated| go_together(&ours, &condition(name, &b, negated));
            assert_eq!(is("x", false), together, "{a:?} {b:?}");
            assert_eq!(is("x", true), with_the_opposite, "{a:?} and not {b:?}");
            assert!(is("y", false) && is("y", true));
            assert!(go_together(&condition("x", &a, true), &condition("x", &b, true)));
        }
    }
}
