//! SRV records, and the aliases that lead to them.
//!
//! The resolver takes the target of an SRV record for one more alias, and so loses records that are
//! behind a CNAME. They are asked for below it, with the same servers and the same search list.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer, RetryDnsHandle};
use hickory_resolver::proto::op::{DnsRequestOptions, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::lookup::{Failure, failure};

/// So many aliases are followed from one name.
const ALIASES_MAX: usize = 8;

/// Asks for SRV records.
#[derive(Clone)]
pub(super) struct Chains {
    servers: RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>,
    options: DnsRequestOptions,
    /// What short names are tried under, in order.
    domains: Arc<[Name]>,
    /// A name with more labels is tried as it is first.
    ndots: usize,
}

/// The records at the end of a chain.
pub(super) struct Records {
    pub(super) srv: Vec<SRV>,
    /// What the server said unasked, such as where the targets are.
    pub(super) additional: Vec<Record>,
    /// The smallest of the records and of the aliases before them.
    pub(super) ttl: Duration,
}

/// Where aliases lead.
#[derive(Debug, PartialEq, Eq)]
struct End {
    name: Name,
    aliases: usize,
    /// The smallest of the aliases, in seconds.
    ttl: u32,
}

impl Chains {
    pub(super) fn new(config: &ResolverConfig, options: &ResolverOpts) -> Result<Chains, Failure> {
        let tls = TlsConfig::new().map_err(|error| Failure::NoServer(error.to_string()))?;
        let context = Arc::new(PoolContext::new(options.clone(), tls));
        let servers = config.name_servers().to_vec();
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        let mut asks = DnsRequestOptions::default();
        asks.recursion_desired = options.recursion_desired;
        asks.use_edns = options.edns0;
        asks.edns_payload_len = options.edns_payload_len;
        Ok(Chains {
            servers: RetryDnsHandle::new(pool, options.attempts),
            options: asks,
            domains: config.domain().into_iter().chain(config.search()).cloned().collect(),
            ndots: options.ndots,
        })
    }

    /// The SRV records of a name; never empty.
    pub(super) async fn records(&self, name: &str) -> Result<Records, Failure> {
        let other = |why: String| Failure::Other { name: name.to_owned(), why };
        let asked = Name::from_utf8(name).map_err(|error| other(error.to_string()))?;
        let mut failed = none(name);
        for full in full_names(&asked, &self.domains, self.ndots) {
            match self.records_of(name, full).await {
                Ok(records) => return Ok(records),
                Err(why) => failed = why,
            }
        }
        Err(failed)
    }

    /// Of a full name, which `told` calls it.
    async fn records_of(&self, told: &str, mut name: Name) -> Result<Records, Failure> {
        let mut told = told.to_owned();
        let (mut aliases, mut counts) = (0, u32::MAX);
        loop {
            let question = Query::query(name.clone(), RecordType::SRV);
            let answer = self.servers.lookup(question, self.options).first_answer().await;
            let answer = answer.map_err(|error| failure(&told, "SRV", &error))?.into_message();
            let Some(end) = follow(&answer.answers, &name, ALIASES_MAX - aliases) else {
                let why = format!("aliases lead from there over more than {ALIASES_MAX} steps");
                return Err(Failure::Other { name: told, why });
            };
            counts = counts.min(end.ttl);
            let mut srv = Vec::new();
            for record in &answer.answers {
                if let RData::SRV(one) = &record.data
                    && record.name == end.name
                {
                    counts = counts.min(record.ttl);
                    srv.push(one.clone());
                }
            }
            if !srv.is_empty() {
                let ttl = Duration::from_secs(counts.into());
                return Ok(Records { srv, additional: answer.additionals, ttl });
            }
            if end.aliases > 0 {
                told = end.name.to_string();
            }
            if answer.metadata.response_code == ResponseCode::NXDomain {
                return Err(Failure::NoName(told));
            }
            if end.aliases == 0 {
                return Err(none(&told));
            }
            // The server leaves it to us to ask for the rest.
            (name, aliases) = (end.name, aliases + end.aliases);
        }
    }
}

fn none(name: &str) -> Failure {
    Failure::NoRecords { name: name.to_owned(), kind: "SRV" }
}

/// Where the aliases of an answer lead from a name; `None` if that takes more than so many.
fn follow(records: &[Record], from: &Name, aliases_max: usize) -> Option<End> {
    let mut end = End { name: from.clone(), aliases: 0, ttl: u32::MAX };
    let next = |name: &Name| {
        records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name => Some((target.0.clone(), record.ttl)),
            _ => None,
        })
    };
    while let Some((target, ttl)) = next(&end.name) {
        if end.aliases == aliases_max {
            return None;
        }
        end = End { name: target, aliases: end.aliases + 1, ttl: end.ttl.min(ttl) };
    }
    Some(end)
}

/// What a name may stand for, in the order of trying: resolv.conf(5), `search` and `ndots`.
fn full_names(name: &Name, domains: &[Name], ndots: usize) -> Vec<Name> {
    let mut itself = name.clone();
    itself.set_fqdn(true);
    if name.is_fqdn() {
        return vec![itself];
    }
    // One that becomes too long is none.
    let under = domains.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
    let mut names: Vec<Name> = under.collect();
    match usize::from(name.num_labels()) > ndots {
        true => names.insert(0, itself),
        false => names.push(itself),
    }
    let mut tried = Vec::new();
    for name in names {
        if !tried.contains(&name) {
            tried.push(name);
        }
    }
    tried
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::CNAME;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn alias(from: &str, to: &str, ttl: u32) -> Record {
        Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_not_in_circles() {
        let records = [alias("b.", "c.", 5), alias("A.", "b.", 9), alias("x.", "y.", 1)];
        let end = |name: Name, aliases, ttl| Some(End { name, aliases, ttl });
        assert_eq!(follow(&records, &name("a."), 2), end(name("c."), 2, 5));
        assert_eq!(follow(&records, &name("c."), 2), end(name("c."), 0, u32::MAX));
        assert_eq!(follow(&records, &name("a."), 1), None);
        let circle = [alias("a.", "b.", 5), alias("b.", "a.", 5)];
        assert_eq!(follow(&circle, &name("a."), ALIASES_MAX), None);
    }

    #[test]
    fn short_names_are_tried_under_the_search_list() {
        let domains = [name("ns.svc."), name("svc."), name("svc.")];
        let tried = |text: &str, ndots| {
            let names = full_names(&name(text), &domains, ndots);
            names.iter().map(Name::to_string).collect::<Vec<_>>()
        };
        assert_eq!(tried("_a._tcp.b", 5), ["_a._tcp.b.ns.svc.", "_a._tcp.b.svc.", "_a._tcp.b."]);
        assert_eq!(tried("_a._tcp.b", 1), ["_a._tcp.b.", "_a._tcp.b.ns.svc.", "_a._tcp.b.svc."]);
        assert_eq!(tried("_a._tcp.b.", 5), ["_a._tcp.b."]);
    }
}
