//! Services that are found by DNS, and who is asked.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::definition::{Key, Kind, Object};
use crate::diagnostic::quoted;
use crate::reader::{list, text};
use crate::report::{Complaint, Problem, Report};
use crate::tree::Node;
use crate::units::{duration, number};

/// Who is asked, and for how long an answer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Empty: those of `/etc/resolv.conf`, with its search list.
    pub servers: Vec<SocketAddr>,
    /// An answer is not asked for again before that, whatever its TTL.
    pub min_ttl: Duration,
    /// An answer is asked for again after that, whatever its TTL. `>= min_ttl`
    pub max_ttl: Duration,
}

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dns {
    /// A and AAAA records; the port is ours to say.
    Host { name: String, port: u16 },
    /// SRV records (RFC 2782), which say ports and weights.
    Srv { name: String },
}

pub(crate) const RESOLVER: Object = Object {
    name: "resolver",
    about: "Who answers for services with `dns`, and how long that counts.",
    one_of: &[],
    keys: &[
        Key::default(
            "servers",
            Kind::List(&Kind::Address),
            "[]",
            "DNS servers, each an IP with or without a port; empty: those of `/etc/resolv.conf`.",
        ),
        Key::default("min_ttl", Kind::Duration, "1s", "A shorter TTL counts as this."),
        Key::default("max_ttl", Kind::Duration, "5m", "A longer TTL counts as this."),
    ],
};

pub(crate) const DNS: Object = Object {
    name: "dns",
    about: "The name that a service's replicas are found by.",
    one_of: &["name", "srv"],
    keys: &[
        Key::optional("name", Kind::Text, "Its A and AAAA records are the replicas."),
        Key::optional("port", Kind::Number, "Their port, 1 to 65535; with `name`.")
            .only_with("name"),
        Key::optional(
            "srv",
            Kind::Text,
            "Its SRV records are the replicas: those of the lowest priority number whose targets have an address.",
        ),
    ],
};

pub(crate) fn resolver(tree: &Node, report: &mut Report<'_>) -> Option<Resolver> {
    let mut fields = report.fields(tree, &RESOLVER)?;
    let servers = fields.get("servers", |node, report| list(node, report, server));
    let min_ttl = fields.get("min_ttl", ttl);
    let max_ttl = fields.get("max_ttl", ttl);
    let (servers, min_ttl, max_ttl) = (servers?, min_ttl?, max_ttl?);
    if min_ttl > max_ttl {
        let message = "`min_ttl` is longer than `max_ttl`";
        let hint = "an answer counts for its TTL, but from `min_ttl` to `max_ttl`";
        fields.report.add(Problem::error(fields.span, message).hint(hint));
        return None;
    }
    Some(Resolver { servers, min_ttl, max_ttl })
}

fn ttl(node: &Node, report: &mut Report<'_>) -> Option<Duration> {
    match duration(node, report)? {
        Duration::ZERO => {
            let message = "with zero, DNS would be asked without a pause";
            report.add(Problem::error(node.span, message).hint("write a duration such as `1s`"));
            None
        }
        ttl => Some(ttl),
    }
}

pub(crate) fn dns(tree: &Node, report: &mut Report<'_>) -> Option<Dns> {
    let mut fields = report.fields(tree, &DNS)?;
    let name = fields.find("name", domain);
    let port_at = fields.key_span("port");
    let port = fields.find("port", |node, report| number(node, report, 1, 65_535));
    let srv = fields.find("srv", domain);
    match (name?, srv?, port?) {
        (Some(name), None, Some(port)) => Some(Dns::Host { name, port: port as u16 }),
        (Some(_), None, None) => {
            let message = "A and AAAA records do not say a port, so `dns` needs the key `port`";
            fields.report.add(Problem::error(fields.span, message));
            None
        }
        (None, Some(name), None) => Some(Dns::Srv { name }),
        (None, Some(_), Some(_)) => {
            let message = "SRV records say their ports";
            let problem = Problem::error(port_at.unwrap_or(fields.span), message);
            fields.report.add(problem.hint("take `port` out"));
            None
        }
        // The choice was reported when the object was opened.
        (None, None, _) | (Some(_), Some(_), _) => None,
    }
}

fn server(node: &Node, report: &mut Report<'_>) -> Option<SocketAddr> {
    text(node, report, "a DNS server such as `10.96.0.10`", |given| {
        let address = given.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
        let address = address.or_else(|_| given.parse());
        address.ok().filter(|address| address.port() != 0).ok_or_else(|| {
            let message = format!("{} is not the address of a DNS server", quoted(given));
            Complaint::new(message).hint("write an IP, with a port if it is not 53: `10.96.0.10`")
        })
    })
}

fn domain(node: &Node, report: &mut Report<'_>) -> Option<String> {
    text(node, report, "a DNS name", |given| {
        if given.parse::<IpAddr>().is_ok() || given.parse::<SocketAddr>().is_ok() {
            let message = format!("{} is an address, not a DNS name", quoted(given));
            return Err(Complaint::new(message).hint("addresses stand in `endpoints`"));
        }
        match domain_fault(given) {
            None => Ok(given.to_owned()),
            Some(fault) => Err(Complaint::new(format!("{} {fault}", quoted(given)))
                .hint("write it as `catalog.default.svc.cluster.local`")),
        }
    })
}

/// RFC 1035, section 2.3.4, for its lengths; underscores are usual in the names of services.
fn domain_fault(given: &str) -> Option<&'static str> {
    let absolute = given.strip_suffix('.').unwrap_or(given);
    if absolute.len() > 253 {
        return Some("is longer than the 253 bytes that a DNS name has");
    }
    absolute.split('.').find_map(|label| match label.as_bytes() {
        [] => Some("has an empty label, so it is no DNS name"),
        [_, ..] if label.len() > 63 => Some("has a label of more than 63 bytes"),
        [b'-', ..] | [.., b'-'] => Some("has a label that begins or ends with `-`"),
        bytes if bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) => {
            None
        }
        _ => Some("has a byte that is not of a DNS name"),
    })
}
