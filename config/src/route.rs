//! Which requests go to which service, and how long they may take.

use std::time::Duration;

use crate::definition::{Key, Kind, Object};
use crate::diagnostic::quoted;
use crate::name::{Name, is_token, name};
use crate::names::Names;
use crate::reader::{list, or_none, text};
use crate::report::{Complaint, Problem, Report};
use crate::tree::Node;
use crate::units::limit_duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: Name,
    /// Indices into `Config::listeners`, ascending, each once, each an http listener, at least one.
    pub listeners: Vec<usize>,
    /// Any one of these; never empty.
    pub hosts: Vec<HostPattern>,
    /// Any one of these; never empty.
    pub matches: Vec<Match>,
    /// Index into `Config::services`.
    pub service: usize,
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
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// Begins with `/`.
    Exact(String),
    /// Whole segments: `/api` takes `/api` and `/api/x`, not `/apix`. Begins with `/` and does
    /// not end with one, except for `/` itself, which takes everything.
    Prefix(String),
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
    about: "Which requests go to which service.",
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
        Key::not_yet("priority"),
        Key::optional(
            "matches",
            Kind::List(&Kind::Object(&MATCH)),
            "Any one of these; left out: everything but CONNECT.",
        ),
        Key::optional(
            "backends",
            Kind::List(&Kind::Object(&BACKEND)),
            "Where it goes; today exactly one.",
        ),
        Key::not_yet("redirect"),
        Key::not_yet("respond"),
        Key::not_yet("sticky"),
        Key::not_yet("mirrors"),
        Key::not_yet("fault"),
        Key::not_yet("rewrite"),
        Key::not_yet("request_headers"),
        Key::not_yet("response_headers"),
        Key::default("timeouts", Kind::Object(&TIMEOUTS), "{}", "How long an exchange may take."),
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
        Key::not_yet("headers"),
        Key::not_yet("cookies"),
        Key::not_yet("query"),
        Key::not_yet("source_ips"),
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
        Key::not_yet("regex"),
    ],
};

pub(crate) const BACKEND: Object = Object {
    name: "a backend",
    about: "Where a route's requests go.",
    one_of: &[],
    keys: &[
        Key::required("service", Kind::Name, "The service."),
        Key::not_yet("labels"),
        Key::not_yet("weight"),
        Key::not_yet("request_headers"),
        Key::not_yet("response_headers"),
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

pub(crate) fn route(node: &Node, report: &mut Report<'_>, names: &Names) -> Option<Route> {
    let mut fields = report.fields(node, &ROUTE)?;
    let name = fields.get("name", name);
    let listeners = match fields.node("listeners") {
        Some(_) => fields.get("listeners", |node, report| listeners(node, report, names)),
        None => the_only_listener(&fields.span, fields.report, names),
    };
    let hosts = fields.find("hosts", hosts);
    let matches = fields.find("matches", matches);
    let service = fields.get("backends", |node, report| backends(node, report, names));
    let timeouts = fields.get("timeouts", timeouts);
    Some(Route {
        name: name?,
        listeners: listeners?,
        hosts: hosts?.unwrap_or_else(|| vec![HostPattern::Any]),
        matches: matches?.unwrap_or_else(|| vec![Match::default()]),
        service: service?,
        timeouts: timeouts?,
    })
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

fn matches(node: &Node, report: &mut Report<'_>) -> Option<Vec<Match>> {
    let matches = list(node, report, |node, report| {
        let mut fields = report.fields(node, &MATCH)?;
        let path = fields.find("path", path);
        let methods = fields.find("methods", methods);
        Some(Match { path: path?, methods: methods?.unwrap_or_default() })
    })?;
    if matches.is_empty() {
        report.add(empty_list(node, "a match"));
        return None;
    }
    Some(matches)
}

fn path(node: &Node, report: &mut Report<'_>) -> Option<PathMatch> {
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
    match (exact?, prefix?) {
        (Some(path), None) => Some(PathMatch::Exact(path)),
        (None, Some(path)) => Some(PathMatch::Prefix(without_last_slash(path))),
        // The choice was reported when the object was opened.
        (None, None) | (Some(_), Some(_)) => None,
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

fn backends(node: &Node, report: &mut Report<'_>, names: &Names) -> Option<usize> {
    let backends = list(node, report, |node, report| {
        let mut fields = report.fields(node, &BACKEND)?;
        fields.get("service", |node, report| names.service(node, report))
    })?;
    let message = match backends[..] {
        [service] => return Some(service),
        [] => "a route needs a backend",
        _ => "more than one backend is not supported yet",
    };
    report.add(Problem::error(node.span, message).hint("write `[{ service: NAME }]`"));
    None
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

fn parse_host(given: &str) -> Result<HostPattern, Complaint> {
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
    if domain.contains(':') {
        return Some("ports are ignored when hosts are compared: leave it out");
    }
    if !domain.is_ascii() {
        return Some("write it as it stands in requests, in punycode: `xn--…`");
    }
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX || !domain.bytes().all(fits) {
        return Some("a host has letters, digits, `-`, `_` and dots, at most 253 of them");
    }
    domain.split('.').any(str::is_empty).then_some("there is nothing between two of its dots")
}

fn parse_path(given: &str) -> Result<String, Complaint> {
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

fn without_last_slash(path: String) -> String {
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
