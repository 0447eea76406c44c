//! What is done with the requests of a route: sent to a service, or answered at once.

use crate::definition::{Key, Kind, Object, Words};
use crate::diagnostic::quoted;
use crate::edits::{EDITS, HeaderEdits, edits};
use crate::labels::{Labels, labels};
use crate::names::Names;
use crate::reader::{list, text, word};
use crate::report::{Complaint, Problem, Report};
use crate::route::{HostPattern, parse_host, parse_path, without_last_slash};
use crate::tree::Node;
use crate::units::number;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Never empty; the weights' sum is above 0.
    Forward(Vec<Backend>),
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Index into `Config::services`.
    pub service: usize,
    /// Only endpoints that have all of these; empty: any.
    pub labels: Labels,
    /// Its share beside the others'; 0 gets nothing. At most 1,000,000.
    pub weight: u32,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

/// A new address for the request; what is `None` stays as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    /// In lower case, without a port.
    pub host: Option<String>,
    /// Where neither this nor scheme or host is given, the request's own stays; else it is the
    /// scheme's.
    pub port: Option<u16>,
    pub path: Option<RedirectPath>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// The query stays in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    Whole(String),
    /// In place of what the match took, as [`Rewrite::prefix`].
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// At most 64 KiB.
    pub body: String,
}

/// What of a request is made anew before it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// In place of what the match took: its prefix, or its exact path. Begins with `/`, and ends
    /// with one only as a whole.
    pub prefix: Option<String>,
    pub host: Option<String>,
}

const SCHEME: Words<Scheme> =
    Words { accepted: &[("http", Scheme::Http), ("https", Scheme::Https)], not_yet: &[] };

const REDIRECT_STATUS: Words<u16> = Words {
    accepted: &[("301", 301), ("302", 302), ("303", 303), ("307", 307), ("308", 308)],
    not_yet: &[],
};

pub(crate) const BACKEND: Object = Object {
    name: "a backend",
    about: "Where a route's requests go.",
    one_of: &[],
    keys: &[
        Key::required("service", Kind::Name, "The service."),
        Key::default("labels", Kind::Labels, "{}", "Only endpoints that have all of these."),
        Key::default("weight", Kind::Number, "1", "Its share beside the others'; 0 parks it."),
        Key::default("request_headers", Kind::Object(&EDITS), "{}", "Changes on the way there."),
        Key::default("response_headers", Kind::Object(&EDITS), "{}", "Changes on the way back."),
    ],
};

pub(crate) const REDIRECT: Object = Object {
    name: "a redirect",
    about: "A new address; what is left out stays as it was asked for, the query always.",
    one_of: &[],
    keys: &[
        Key::optional("scheme", Kind::Word(&SCHEME), "The new scheme."),
        Key::optional("host", Kind::Host, "The new host."),
        Key::optional(
            "port",
            Kind::Number,
            "The new port; left out, the scheme's, if that or the host is new.",
        ),
        Key::optional("path", Kind::Path, "The new path.").not_with("prefix"),
        Key::optional("prefix", Kind::Path, "What stands for the prefix that matched.")
            .not_with("path"),
        Key::default("status", Kind::Word(&REDIRECT_STATUS), "302", "The status."),
    ],
};

pub(crate) const RESPOND: Object = Object {
    name: "a response",
    about: "An answer without a service.",
    one_of: &[],
    keys: &[
        Key::default("status", Kind::Status, "200", "200 to 599."),
        Key::optional(
            "body",
            Kind::Text,
            "At most 64KiB, `text/plain` unless `response_headers` say otherwise; left out: none.",
        ),
    ],
};

pub(crate) const REWRITE: Object = Object {
    name: "a rewrite",
    about: "What is made anew before a request goes on.",
    one_of: &[],
    keys: &[
        Key::optional(
            "prefix",
            Kind::Path,
            "What stands for the prefix that matched, or the exact path.",
        ),
        Key::optional("host", Kind::Host, "The Host that the service gets."),
    ],
};

pub(crate) fn backends(
    node: &Node,
    report: &mut Report<'_>,
    names: &Names,
) -> Option<Vec<Backend>> {
    let backends = list(node, report, |node, report| {
        let mut fields = report.fields(node, &BACKEND)?;
        let service = fields.get("service", |node, report| names.service(node, report));
        let labels = fields.get("labels", labels);
        let weight = fields.get("weight", |node, report| number(node, report, 0, 1_000_000));
        let request_headers = fields.get("request_headers", edits);
        let response_headers = fields.get("response_headers", edits);
        Some(Backend {
            service: service?,
            labels: labels?,
            weight: weight? as u32,
            request_headers: request_headers?,
            response_headers: response_headers?,
        })
    })?;
    let (message, hint) = match backends.as_slice() {
        [] => ("a route needs a backend", "write `[{ service: NAME }]`"),
        all if all.iter().all(|backend| backend.weight == 0) => (
            "the weights of the backends are 0 in sum, so nothing can go anywhere",
            "give one of them a weight; to answer by ringside itself, use `respond`",
        ),
        all if all.len() > 1_000 => {
            ("a route has at most 1000 backends", "put endpoints into one service")
        }
        _ => return Some(backends),
    };
    report.add(Problem::error(node.span, message).hint(hint));
    None
}

pub(crate) fn redirect(node: &Node, report: &mut Report<'_>) -> Option<Redirect> {
    let mut fields = report.fields(node, &REDIRECT)?;
    let scheme = fields.find("scheme", |n, r| word(n, r, &SCHEME));
    let host = fields.find("host", host);
    let port = fields.find("port", |n, r| number(n, r, 1, 65_535));
    let path = fields.find("path", |n, r| text(n, r, "a path", parse_path));
    let prefix = fields.find("prefix", prefix);
    let status = fields.get("status", |n, r| word(n, r, &REDIRECT_STATUS));
    let path = match (path?, prefix?) {
        (Some(_), Some(_)) => {
            let message = "a redirect has a new `path` or a new `prefix`, not both";
            let span = fields.key_span("prefix").unwrap_or(node.span);
            fields.report.add(Problem::error(span, message));
            return None;
        }
        (Some(path), None) => Some(RedirectPath::Whole(path)),
        (None, prefix) => prefix.map(RedirectPath::Prefix),
    };
    let (scheme, host, port, status) = (scheme?, host?, port?, status?);
    if scheme.is_none() && host.is_none() && port.is_none() && path.is_none() {
        let message = "this redirect leads to where it came from";
        let hint = "give it a `scheme`, `host`, `port`, `path` or `prefix`";
        fields.report.add(Problem::error(node.span, message).hint(hint));
        return None;
    }
    Some(Redirect { scheme, host, port: port.map(|port| port as u16), path, status })
}

pub(crate) fn respond(node: &Node, report: &mut Report<'_>) -> Option<Respond> {
    const BODY_BYTES_MAX: usize = 64 << 10;
    let mut fields = report.fields(node, &RESPOND)?;
    let status = fields.get("status", |n, r| number(n, r, 200, 599));
    let body = fields.find("body", |n, r| {
        text(n, r, "a body", |given| match given.len() <= BODY_BYTES_MAX {
            true => Ok(given.to_owned()),
            false => Err(Complaint::new("a body has at most 64KiB")
                .hint("larger ones are for a service to send")),
        })
    });
    let (status, body) = (status? as u16, body?.unwrap_or_default());
    // RFC 9110 §15.3.5, §15.3.6, §15.4.5.
    if matches!(status, 204 | 205 | 304) && !body.is_empty() {
        let span = fields.key_span("body").unwrap_or(node.span);
        let message = format!("a response with the status {status} has no body");
        fields.report.add(Problem::error(span, message).hint("take one of them out"));
        return None;
    }
    Some(Respond { status, body })
}

pub(crate) fn rewrite(node: &Node, report: &mut Report<'_>) -> Option<Rewrite> {
    let mut fields = report.fields(node, &REWRITE)?;
    let prefix = fields.find("prefix", prefix);
    let host = fields.find("host", host);
    Some(Rewrite { prefix: prefix?, host: host? })
}

fn prefix(node: &Node, report: &mut Report<'_>) -> Option<String> {
    text(node, report, "a path", parse_path).map(without_last_slash)
}

/// What is made, and not compared, has a port elsewhere.
fn without(complaint: Complaint, given: &str) -> Complaint {
    let port = given.rsplit_once(':').filter(|(host, port)| {
        !host.contains(':') && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    match port {
        Some((_, port)) => complaint
            .hint(format!("a host is without a port; a redirect has its own key, `port: {port}`")),
        None => complaint,
    }
}

fn host(node: &Node, report: &mut Report<'_>) -> Option<String> {
    text(node, report, "a host", |given| {
        match parse_host(given).map_err(|it| without(it, given))? {
            HostPattern::Exact(host) => Ok(host),
            HostPattern::Any | HostPattern::Wildcard(_) => {
                let message = format!("{} is not one host", quoted(given));
                Err(Complaint::new(message).hint("write it whole, without `*`"))
            }
        }
    })
}
