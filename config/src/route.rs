//! Which requests a route takes, what is done with them, and how long that may take.

use std::time::Duration;

use crate::action::{
    Action, BACKEND, REDIRECT, RESPOND, REWRITE, Redirect, RedirectPath, Rewrite, backends,
    redirect, respond, rewrite,
};
use crate::address::{Network, network};
use crate::condition::{COOKIE, Condition, HEADER, QUERY, cookies, headers, query, regex};
use crate::definition::{Key, Kind, Object};
use crate::diagnostic::quoted;
use crate::edits::{EDITS, HeaderEdits, edits};
use crate::name::{Name, is_token, name};
use crate::names::Names;
use crate::reader::{Fields, list, or_none, text};
use crate::regex::{Regex, Regexes};
use crate::report::{Complaint, Problem, Report};
use crate::tree::{Node, Value};
use crate::units::{integer, limit_duration};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: Name,
    /// Indices into `Config::listeners`, ascending, each once, each an http listener, at least one.
    pub listeners: Vec<usize>,
    /// Higher first, before everything else.
    pub priority: i32,
    /// Any one of these; never empty.
    pub hosts: Vec<HostPattern>,
    /// Any one of these; never empty.
    pub matches: Vec<Match>,
    pub action: Action,
    /// Nothing, unless the action is [`Action::Forward`].
    pub rewrite: Rewrite,
    /// None, unless the action is [`Action::Forward`].
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub timeouts: RouteTimeouts,
}

/// Compared without a port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    Any,
    /// In lower case. An IPv6 address is in brackets.
    Exact(String),
    /// What follows `*.`, in lower case: one or more labels stand before it.
    Wildcard(String),
}

/// All conditions that are there have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    pub path: Option<PathMatch>,
    /// Any one of these; empty: any method but CONNECT.
    pub methods: Vec<String>,
    /// Of one name each, in lower case.
    pub headers: Vec<Condition>,
    pub cookies: Vec<Condition>,
    pub query: Vec<Condition>,
    /// Any one of these; empty: any source.
    pub source_ips: Vec<Network>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathMatch {
    /// Begins with `/`.
    Exact(String),
    /// Whole segments: `/api` takes `/api` and `/api/x`, not `/apix`. Begins with `/` and does
    /// not end with one, except for `/` itself, which takes everything.
    Prefix(String),
    Regex(Regex),
}

/// `None` is no limit, and no limit is ever zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// From the request's last byte to the response's head.
    pub response: Option<Duration>,
    /// No byte either way, also in tunnels.
    pub stream_idle: Option<Duration>,
    /// The whole exchange.
    pub total: Option<Duration>,
}

pub(crate) const ROUTE: Object = Object {
    name: "a route",
    about: "Which requests it takes, and what is done with them. Of those that fit, one is chosen by \
            `priority`; then host (exact, longest wildcard, any), path (exact, longest regex, \
            longest prefix), method, number of headers and cookies, number of query conditions; \
            then the lesser name.",
    one_of: &["backends", "redirect", "respond"],
    keys: &[
        Key::required("name", Kind::Name, "Told in logs and metrics."),
        Key::optional(
            "listeners",
            Kind::List(&Kind::Name),
            "Where it holds; may be left out where there is only one http listener.",
        ),
        Key::optional(
            "hosts",
            Kind::List(&Kind::Host),
            "Any one of these, without a port; left out: any host. `\"*.x\"` is one or more labels before `x`.",
        ),
        Key::default("priority", Kind::Number, "0", "Higher first, before everything else."),
        Key::optional(
            "matches",
            Kind::List(&Kind::Object(&MATCH)),
            "Any one of these; left out: everything but CONNECT.",
        ),
        Key::optional(
            "backends",
            Kind::List(&Kind::Object(&BACKEND)),
            "Where it goes: each request to one of these, by weight.",
        ),
        Key::optional("redirect", Kind::Object(&REDIRECT), "Answer with a new address."),
        Key::optional("respond", Kind::Object(&RESPOND), "Answer without a service."),
        Key::not_yet("sticky"),
        Key::not_yet("mirrors"),
        Key::not_yet("fault"),
        Key::default(
            "rewrite",
            Kind::Object(&REWRITE),
            "{}",
            "What is made anew on the way there.",
        )
        .only_with("backends"),
        Key::default("request_headers", Kind::Object(&EDITS), "{}", "Changes on the way there.")
            .only_with("backends"),
        Key::default("response_headers", Kind::Object(&EDITS), "{}", "Changes on the way back."),
        Key::default("timeouts", Kind::Object(&TIMEOUTS), "{}", "How long an exchange may take.")
            .only_with("backends"),
        Key::not_yet("retry"),
        Key::not_yet("hedge"),
        Key::not_yet("rate_limits"),
        Key::not_yet("jwt"),
        Key::not_yet("authorization"),
    ],
};

pub(crate) const MATCH: Object = Object {
    name: "a match",
    about: "Conditions on a request; all that are given have to hold.",
    one_of: &[],
    keys: &[
        Key::optional("path", Kind::Object(&PATH), "The path, without the query."),
        Key::optional(
            "methods",
            Kind::List(&Kind::Method),
            "Any one of these; left out: any but CONNECT, which has to be named.",
        ),
        Key::optional("headers", Kind::List(&Kind::Object(&HEADER)), "All of these."),
        Key::optional("cookies", Kind::List(&Kind::Object(&COOKIE)), "All of these."),
        Key::optional("query", Kind::List(&Kind::Object(&QUERY)), "All of these."),
        Key::optional(
            "source_ips",
            Kind::List(&Kind::Network),
            "Any one of these has the address of who has connected; over a Unix socket none has.",
        ),
        Key::not_yet("identities"),
    ],
};

pub(crate) const PATH: Object = Object {
    name: "a path match",
    about: "A condition on the path.",
    one_of: &["exact", "prefix", "regex"],
    keys: &[
        Key::optional("exact", Kind::Path, "The whole path."),
        Key::optional("prefix", Kind::Path, "Whole segments: `/api` takes `/api/x`, not `/apix`."),
        Key::optional("regex", Kind::Regex, "The whole path."),
    ],
};

pub(crate) const TIMEOUTS: Object = Object {
    name: "route timeouts",
    about: "How long an exchange may take.",
    one_of: &[],
    keys: &[
        Key::default(
            "response",
            Kind::OrNone(&Kind::Duration),
            "15s",
            "From the request's last byte to the response's head.",
        ),
        Key::not_yet("per_try"),
        Key::default(
            "stream_idle",
            Kind::OrNone(&Kind::Duration),
            "5m",
            "No byte either way, also in tunnels.",
        ),
        Key::default("total", Kind::OrNone(&Kind::Duration), "none", "The whole exchange."),
    ],
};

pub(crate) fn route(
    node: &Node,
    report: &mut Report<'_>,
    names: &Names,
    regexes: &mut Regexes,
) -> Option<Route> {
    let mut fields = report.fields(node, &ROUTE)?;
    let name = fields.get("name", name);
    let listeners = match fields.node("listeners") {
        Some(_) => fields.get("listeners", |node, report| listeners(node, report, names)),
        None => the_only_listener(&fields.span, fields.report, names),
    };
    let priority = fields.get("priority", |n, r| integer(n, r, -1_000_000, 1_000_000));
    let hosts = fields.find("hosts", hosts);
    let matches = fields.find("matches", |node, report| matches(node, report, regexes));
    let backends = fields.find("backends", |node, report| backends(node, report, names));
    let redirect = fields.find("redirect", redirect);
    let respond = fields.find("respond", respond);
    let rewrite = fields.get("rewrite", rewrite);
    let request_headers = fields.get("request_headers", edits);
    let response_headers = fields.get("response_headers", edits);
    let timeouts = fields.get("timeouts", timeouts);
    let action = match (backends?, redirect?, respond?) {
        (Some(backends), None, None) => Action::Forward(backends),
        (None, Some(redirect), None) => Action::Redirect(redirect),
        (None, None, Some(respond)) => Action::Respond(respond),
        // The choice was reported when the object was opened.
        _ => return None,
    };
    if !matches!(action, Action::Forward(_)) {
        tell_of_idle_keys(&mut fields);
    }
    let route = Route {
        name: name?,
        listeners: listeners?,
        priority: priority?,
        hosts: hosts?.unwrap_or_else(|| vec![HostPattern::Any]),
        matches: matches?.unwrap_or_else(|| vec![Match::default()]),
        action,
        rewrite: rewrite?,
        request_headers: request_headers?,
        response_headers: response_headers?,
        timeouts: timeouts?,
    };
    check_prefix(&route, node, fields.report)?;
    Some(route)
}

/// Of a route that answers by itself.
fn tell_of_idle_keys(fields: &mut Fields<'_, '_, '_>) {
    for (key, why) in [
        ("rewrite", "nothing goes on from this route, so there is nothing to rewrite"),
        (
            "request_headers",
            "nothing goes on from this route, so there is nothing to change on the way",
        ),
        ("timeouts", "this route answers by itself, so there is nothing to wait for"),
    ] {
        let Some(span) = fields.key_span(key) else { continue };
        let problem = match key {
            "timeouts" => Problem::warning(span, why),
            _ => Problem::error(span, why),
        };
        fields.report.add(problem.hint(format!("take `{key}` out")));
    }
}

/// A new prefix wants to know what the old one was.
fn check_prefix(route: &Route, node: &Node, report: &mut Report<'_>) -> Option<()> {
    let is_regex = |condition: &Match| matches!(condition.path, Some(PathMatch::Regex(_)));
    let key = match &route.action {
        Action::Forward(_) if route.rewrite.prefix.is_some() => "rewrite",
        Action::Redirect(Redirect { path: Some(RedirectPath::Prefix(_)), .. }) => "redirect",
        _ => return Some(()),
    };
    if !route.matches.iter().any(is_regex) {
        return Some(());
    }
    let at = node.get(key).and_then(|object| object.get("prefix")).unwrap_or(node);
    let message = "a new prefix stands for what matched, and a regex matches the whole path";
    let hint = "match by `prefix` or `exact`, or make it two routes";
    report.add(Problem::error(at.span, message).hint(hint));
    None
}

fn listeners(node: &Node, report: &mut Report<'_>, names: &Names) -> Option<Vec<usize>> {
    let mut listeners = list(node, report, |node, report| names.http_listener(node, report))?;
    if listeners.is_empty() {
        report.add(empty_list(node, "a listener"));
        return None;
    }
    listeners.sort_unstable();
    listeners.dedup();
    Some(listeners)
}

fn the_only_listener(
    span: &crate::source::Span,
    report: &mut Report<'_>,
    names: &Names,
) -> Option<Vec<usize>> {
    let message = match names.http_listeners() {
        [only] => return Some(vec![*only]),
        [] if names.may_have_http_listener() => return None,
        [] => "there is no http listener that this route could be on",
        _ => "there are several http listeners, so a route has to name its `listeners`",
    };
    report.add(Problem::error(*span, message));
    None
}

fn hosts(node: &Node, report: &mut Report<'_>) -> Option<Vec<HostPattern>> {
    let hosts = list(node, report, |n, r| text(n, r, "a host", parse_host))?;
    if hosts.is_empty() {
        report.add(empty_list(node, "a host"));
        return None;
    }
    Some(hosts)
}

fn matches(node: &Node, report: &mut Report<'_>, regexes: &mut Regexes) -> Option<Vec<Match>> {
    let matches = list(node, report, |node, report| {
        if matches!(node.value, Value::Null) {
            let problem = Problem::error(node.span, "a match is a map, and here is nothing");
            report.add(problem.hint("to take every request, leave `matches` out, or write `{}`"));
            return None;
        }
        let mut fields = report.fields(node, &MATCH)?;
        let path = fields.find("path", |node, report| path(node, report, regexes));
        let methods = fields.find("methods", methods);
        let headers = fields.find("headers", |node, report| headers(node, report, regexes));
        let cookies = fields.find("cookies", |node, report| cookies(node, report, regexes));
        let query = fields.find("query", |node, report| query(node, report, regexes));
        let source_ips = fields.find("source_ips", source_ips);
        Some(Match {
            path: path?,
            methods: methods?.unwrap_or_default(),
            headers: headers?.unwrap_or_default(),
            cookies: cookies?.unwrap_or_default(),
            query: query?.unwrap_or_default(),
            source_ips: source_ips?.unwrap_or_default(),
        })
    })?;
    if matches.is_empty() {
        report.add(empty_list(node, "a match"));
        return None;
    }
    Some(matches)
}

fn source_ips(node: &Node, report: &mut Report<'_>) -> Option<Vec<Network>> {
    let networks = list(node, report, network)?;
    if networks.is_empty() {
        report.add(empty_list(node, "a network"));
        return None;
    }
    Some(networks)
}

fn path(node: &Node, report: &mut Report<'_>, regexes: &mut Regexes) -> Option<PathMatch> {
    if let Some(scalar) = node.as_scalar() {
        let message = format!("a path match is a map, not {}", node.describe());
        let path = scalar.text.escape_debug();
        let hint = format!("write `{{ prefix: {path} }}` or `{{ exact: {path} }}`");
        report.add(Problem::error(node.span, message).hint(hint));
        return None;
    }
    let mut fields = report.fields(node, &PATH)?;
    let exact = fields.find("exact", |n, r| text(n, r, "a path", parse_path));
    let prefix = fields.find("prefix", |n, r| text(n, r, "a path", parse_path));
    let regex = fields.find("regex", |node, report| regex(node, report, regexes));
    match (exact?, prefix?, regex?) {
        (Some(path), None, None) => Some(PathMatch::Exact(path)),
        (None, Some(path), None) => Some(PathMatch::Prefix(without_last_slash(path))),
        (None, None, Some(regex)) => Some(PathMatch::Regex(regex)),
        // The choice was reported when the object was opened.
        _ => None,
    }
}

fn methods(node: &Node, report: &mut Report<'_>) -> Option<Vec<String>> {
    let methods = list(node, report, |n, r| text(n, r, "a method", parse_method))?;
    if methods.is_empty() {
        report.add(empty_list(node, "a method"));
        return None;
    }
    Some(methods)
}

fn timeouts(node: &Node, report: &mut Report<'_>) -> Option<RouteTimeouts> {
    let mut fields = report.fields(node, &TIMEOUTS)?;
    let mut limit = |key| fields.get(key, |n, r| or_none(n, r, limit_duration));
    let response = limit("response");
    let stream_idle = limit("stream_idle");
    let total = limit("total");
    Some(RouteTimeouts { response: response?, stream_idle: stream_idle?, total: total? })
}

fn empty_list(node: &Node, what: &str) -> Problem {
    Problem::error(node.span, format!("an empty list matches nothing: name {what}"))
        .hint("left out, the key matches everything it can")
}

pub(crate) fn parse_host(given: &str) -> Result<HostPattern, Complaint> {
    if given == "*" {
        return Ok(HostPattern::Any);
    }
    let wrong = || Complaint::new(format!("{} is not a host", quoted(given)));
    let host = given.to_ascii_lowercase();
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').and_then(|ip| ip.parse::<std::net::Ipv6Addr>().ok());
        let address =
            inner.ok_or_else(|| wrong().hint("an IPv6 address is `\"[::1]\"`, without a port"))?;
        return Ok(HostPattern::Exact(format!("[{address}]")));
    }
    let (wildcard, domain) = match host.strip_prefix("*.") {
        Some(suffix) => (true, suffix),
        None => (false, host.as_str()),
    };
    match host_fault(domain) {
        Some(hint) => Err(wrong().hint(hint)),
        None if wildcard => Ok(HostPattern::Wildcard(domain.into())),
        None => Ok(HostPattern::Exact(domain.into())),
    }
}

/// Why a domain (in lower case) is none, as a hint.
fn host_fault(domain: &str) -> Option<&'static str> {
    const DOMAIN_BYTES_MAX: usize = 253; // RFC 1035 §2.3.4, as text
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if domain.contains('*') {
        return Some("a `*` stands alone, or first and before a dot: `\"*.example.com\"`");
    }
    if domain.contains("://") || domain.contains('/') {
        return Some("a host is without scheme and path");
    }
    if domain.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some("an IPv6 address stands in brackets: `\"[::1]\"`");
    }
    if domain.contains(':') {
        return Some("a host is without a port: requests are taken whatever theirs is");
    }
    if !domain.is_ascii() {
        return Some("write it as it stands in requests, in punycode: `xn--…`");
    }
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX || !domain.bytes().all(fits) {
        return Some("a host has letters, digits, `-`, `_` and dots, at most 253 of them");
    }
    if domain.ends_with('.') && !domain.ends_with("..") {
        return Some("leave the last dot out: requests are taken with it and without");
    }
    domain.split('.').any(str::is_empty).then_some("there is nothing between two of its dots")
}

pub(crate) fn parse_path(given: &str) -> Result<String, Complaint> {
    const PATH_BYTES_MAX: usize = 8 << 10;
    let wrong = || Complaint::new(format!("{} is not a path", quoted(given)));
    if !given.starts_with('/') {
        return Err(wrong().hint("a path begins with `/`"));
    }
    if given.contains(['?', '#']) {
        return Err(wrong().hint("a path ends before the `?`"));
    }
    if given.len() > PATH_BYTES_MAX {
        return Err(wrong().hint("a path has at most 8KiB"));
    }
    // RFC 3986 §3.3: what else may stand in a path arrives percent-encoded.
    if !given.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong().hint("write it as it stands in requests, percent-encoded: `%20`"));
    }
    Ok(given.into())
}

pub(crate) fn without_last_slash(path: String) -> String {
    match path.trim_end_matches('/') {
        "" => "/".into(),
        trimmed => trimmed.into(),
    }
}

fn parse_method(given: &str) -> Result<String, Complaint> {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let wrong = || Complaint::new(format!("{} is not a method", quoted(given)));
    let upper = given.to_ascii_uppercase();
    if upper != given && KNOWN.contains(&upper.as_str()) {
        return Err(wrong().hint(format!("methods are case-sensitive: `{upper}`")));
    }
    if given == "*" {
        return Err(wrong().hint("left out, `methods` is any but CONNECT"));
    }
    if !is_token(given) {
        return Err(wrong());
    }
    Ok(given.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let parse = |text| parse_host(text).unwrap();
        assert_eq!(parse("*"), HostPattern::Any);
        assert_eq!(parse("Reviews"), HostPattern::Exact("reviews".into()));
        assert_eq!(parse("*.Example.com"), HostPattern::Wildcard("example.com".into()));
        assert_eq!(parse("[0:0::1]"), HostPattern::Exact("[::1]".into()));
        for text in [
            "", ".", "a..b", "a.", "a:80", "http://a", "a/b", "*a", "a.*", "*.*.a", "[::1]:80",
            "é", "a b", "*.",
        ] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths() {
        for (text, prefix) in [("/", "/"), ("//", "/"), ("/api", "/api"), ("/api/", "/api")] {
            assert_eq!(without_last_slash(parse_path(text).unwrap()), prefix);
        }
        for text in ["", "api", "/a?b", "/a#b", "/a b", "/é", "*"] {
            assert!(parse_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn methods() {
        for text in ["GET", "CONNECT", "PROPFIND", "M-SEARCH", "custom"] {
            assert_eq!(parse_method(text).unwrap(), text);
        }
        for text in ["get", "Post", "", "A B", "GET\r\n"] {
            assert!(parse_method(text).is_err(), "{text}");
        }
    }
}
