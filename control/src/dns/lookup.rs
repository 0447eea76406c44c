//! One question to DNS, from its name to endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, fs};

use config::{Address, Dns, Endpoint, Labels};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::chain::{Chains, Records};
use super::shares::{Target, shares};

/// For one try at one server; there are two tries.
const TRY_WITHIN: Duration = Duration::from_secs(2);
/// For all that one answer takes: a search list, a second server, the targets of SRV records.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// The targets of SRV records that are looked up.
const TARGETS_MAX: usize = 1_000;

/// Where the system says which servers there are.
const SYSTEM: &str = "/etc/resolv.conf";

/// Which servers there are: those of the config, or the system's, which may become others.
pub(super) struct Servers {
    named: Option<Client>,
    system: Mutex<Option<(Vec<u8>, Client)>>,
}

impl Servers {
    pub(super) fn new(resolver: &config::Resolver) -> Result<Servers, Failure> {
        let servers = resolver.servers.iter().map(|server| {
            let mut one = NameServerConfig::udp_and_tcp(server.ip());
            one.connections.iter_mut().for_each(|way| way.port = server.port());
            one
        });
        let named = match &resolver.servers[..] {
            [] => None,
            _ => {
                let servers = ResolverConfig::from_name_servers(servers.collect());
                Some(Client::new(servers, ResolverOpts::default())?)
            }
        };
        Ok(Servers { named, system: Mutex::default() })
    }

    /// Whom to ask now.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.client_by(Path::new(SYSTEM))
    }

    fn client_by(&self, system: &Path) -> Result<Client, Failure> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let none = |why: String| Failure::NoServer(format!("{}: {why}", system.display()));
        let text = fs::read(system).map_err(|error| none(error.to_string()))?;
        let mut known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = known.as_ref().filter(|(known, _)| *known == text) {
            return Ok(client.clone());
        }
        let (servers, options) =
            parse_resolv_conf(&text).map_err(|error| none(error.to_string()))?;
        let client = Client::new(servers, options)?;
        *known = Some((text, client.clone()));
        Ok(client)
    }
}

/// Whom to ask. Keeps no answer: those who ask know how long theirs counts.
#[derive(Clone)]
pub(super) struct Client {
    resolver: Arc<TokioResolver>,
    chains: Chains,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such name.
    NoName(String),
    /// It has no records of this kind.
    NoRecords {
        name: String,
        kind: &'static str,
    },
    /// The server says that it cannot tell.
    Refused {
        name: String,
        code: String,
    },
    NoAnswer(String),
    /// There is no server to ask.
    NoServer(String),
    Other {
        name: String,
        why: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoName(name) => write!(f, "NXDOMAIN: there is no name {name}"),
            Failure::NoRecords { name, kind } => write!(f, "{name} has no {kind} record"),
            Failure::Refused { name, code } => write!(f, "{name}: the DNS server says {code}"),
            Failure::NoAnswer(name) => write!(f, "{name}: no DNS server answers"),
            Failure::NoServer(why) => {
                write!(f, "no DNS server is known: {why}; name some in `resolver: {{ servers }}`")
            }
            Failure::Other { name, why } => write!(f, "{name}: {why}"),
        }
    }
}

/// What was found.
pub(super) struct Answer<T> {
    pub(super) found: T,
    /// How long it counts.
    pub(super) ttl: Duration,
    /// What could not be told beside it.
    pub(super) broken: Option<Broken>,
}

/// Of a part of the addresses nobody can tell whether there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) part: Part,
    pub(super) why: Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    V4,
    V6,
    /// What some of an SRV record's targets stand for.
    Targets,
}

impl Part {
    /// Whether an address may be of it.
    pub(super) fn has(self, address: &Address) -> bool {
        match (self, address) {
            (Part::Targets, _) => true,
            (Part::V4, Address::Ip(ip)) => ip.is_ipv4(),
            (Part::V6, Address::Ip(ip)) => ip.is_ipv6(),
            (Part::V4 | Part::V6, Address::Unix(_) | Address::Abstract(_)) => false,
        }
    }
}

impl Client {
    fn new(servers: ResolverConfig, mut options: ResolverOpts) -> Result<Client, Failure> {
        options.timeout = TRY_WITHIN;
        options.attempts = 2;
        options.cache_size = 0;
        options.max_active_requests = 4096;
        let chains = Chains::new(&servers, &options)?;
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(servers, provider).with_options(options);
        let resolver = builder.build().map_err(|error| Failure::NoServer(error.to_string()))?;
        Ok(Client { resolver: Arc::new(resolver), chains })
    }

    /// The endpoints that the records say, sorted by address; never empty.
    pub(super) async fn ask(&self, question: &Dns) -> Result<Answer<Vec<Endpoint>>, Failure> {
        let (Dns::Host { name, .. } | Dns::Srv { name }) = question;
        let answered = async {
            match question {
                Dns::Host { name, port } => {
                    let Answer { found, ttl, broken } = self.addresses(name).await?;
                    let addresses = found.into_iter().map(|ip| (SocketAddr::new(ip, *port), 1));
                    Ok(Answer { found: endpoints(addresses.collect()), ttl, broken })
                }
                Dns::Srv { name } => self.service(name).await,
            }
        };
        let late = |_| Err(Failure::NoAnswer(name.clone()));
        timeout(ANSWER_WITHIN, answered).await.unwrap_or_else(late)
    }

    /// A and AAAA records: both are asked for, and one that fails does not take the other along.
    async fn addresses(&self, name: &str) -> Result<Answer<Vec<IpAddr>>, Failure> {
        let (a, aaaa) = tokio::join!(
            self.resolver.lookup(name, RecordType::A),
            self.resolver.lookup(name, RecordType::AAAA),
        );
        let broken = [(Part::V4, "A", &a), (Part::V6, "AAAA", &aaaa)].into_iter().find_map(|of| {
            let (part, kind, answer) = of;
            let why = failure(name, kind, answer.as_ref().err()?);
            let is_known = matches!(why, Failure::NoName(_) | Failure::NoRecords { .. });
            (!is_known).then_some(Broken { part, why })
        });
        let (lookups, failures): (Vec<_>, Vec<_>) = [a, aaaa].into_iter().partition(Result::is_ok);
        let lookups: Vec<Lookup> = lookups.into_iter().flatten().collect();
        let ips = lookups.iter().flat_map(|lookup| lookup.answers()).filter_map(|r| ip(&r.data));
        let ips = with_a_way(ips.collect());
        if ips.is_empty() {
            let failures = failures.into_iter().filter_map(Result::err);
            let failures = failures.map(|error| failure(name, "A or AAAA", &error));
            // That there is none says less than that something is broken.
            let worst = failures.max_by_key(|failure| match failure {
                Failure::NoRecords { .. } => 0,
                Failure::NoName(_) => 1,
                _ => 2,
            });
            let none = || Failure::NoRecords { name: name.to_owned(), kind: "A or AAAA" };
            return Err(worst.unwrap_or_else(none));
        }
        Ok(Answer { found: ips, ttl: lookups.iter().map(ttl).min().unwrap_or_default(), broken })
    }

    /// SRV records, and where their targets are: of the lowest priority number of which there are any
    /// (RFC 2782).
    async fn service(&self, name: &str) -> Result<Answer<Vec<Endpoint>>, Failure> {
        let Records { srv: mut records, additional, ttl } = self.chains.records(name).await?;
        // The root as a target says that there is no such service.
        records.retain(|srv| !srv.target.is_root() && srv.port != 0);
        records.sort_by_key(|srv| srv.priority);
        records.truncate(TARGETS_MAX);
        let mut kind = "SRV";
        for group in records.chunk_by(|one, next| one.priority == next.priority) {
            let mut answer = self.targets(group, &additional).await?;
            answer.ttl = answer.ttl.min(ttl);
            if !answer.found.is_empty() {
                return Ok(answer);
            }
            kind = "A or AAAA";
        }
        Err(Failure::NoRecords { name: name.to_owned(), kind })
    }

    /// Where the targets of SRV records are. A target that is gone is no replica; one that cannot be
    /// told may be: where there is no other, that is the failure.
    async fn targets(
        &self,
        records: &[SRV],
        additional: &[Record],
    ) -> Result<Answer<Vec<Endpoint>>, Failure> {
        let mut ttl = Duration::MAX;
        let mut places: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for record in additional {
            if let Some(ip) = ip(&record.data) {
                ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                places.entry(record.name.clone()).or_default().push(ip);
            }
        }
        let mut broken = None;
        let mut asked = JoinSet::new();
        for srv in records {
            if !places.contains_key(&srv.target) {
                let (client, target) = (self.clone(), srv.target.clone());
                places.insert(target.clone(), Vec::new());
                asked.spawn(async move {
                    let found = client.addresses(&target.to_string()).await;
                    (target, found)
                });
            }
        }
        while let Some(answered) = asked.join_next().await {
            let Ok((target, found)) = answered else { continue };
            match found {
                Ok(answer) => {
                    ttl = ttl.min(answer.ttl);
                    broken = broken.or(answer.broken);
                    places.insert(target, answer.found);
                }
                Err(Failure::NoName(_) | Failure::NoRecords { .. }) => {}
                Err(why) => broken = Some(Broken { part: Part::Targets, why }),
            }
        }
        let targets = records.iter().map(|srv| {
            let ips = with_a_way(places.get(&srv.target).cloned().unwrap_or_default());
            let addresses: BTreeSet<SocketAddr> =
                ips.into_iter().map(|ip| SocketAddr::new(ip, srv.port)).collect();
            Target { weight: srv.weight, addresses: addresses.into_iter().collect() }
        });
        let found = endpoints(shares(&targets.collect::<Vec<_>>()));
        match broken {
            Some(Broken { why, .. }) if found.is_empty() => Err(why),
            broken => Ok(Answer { found, ttl, broken }),
        }
    }
}

/// In order.
fn endpoints(weights: BTreeMap<SocketAddr, u32>) -> Vec<Endpoint> {
    let endpoint = |(address, weight)| Endpoint {
        address: Address::Ip(address),
        weight,
        labels: Labels::default(),
    };
    weights.into_iter().map(endpoint).collect()
}

fn ip(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        // One that is IPv4 in IPv6 clothes is the same replica as without them.
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0).to_canonical()),
        _ => None,
    }
}

/// The smallest TTL of all records, those of aliases too.
fn ttl(lookup: &Lookup) -> Duration {
    let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
    Duration::from_secs(ttl.into())
}

/// Leaves addresses of a family out that this machine has no route to, if there are others: as
/// getaddrinfo does it (`AI_ADDRCONFIG`).
fn with_a_way(ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let first = |is_v4: bool| ips.iter().find(|ip| ip.is_ipv4() == is_v4);
    let (Some(v4), Some(v6)) = (first(true), first(false)) else { return ips };
    let (v4, v6) = (has_route(*v4), has_route(*v6));
    ips.into_iter().filter(|ip| v4 == v6 || if ip.is_ipv4() { v4 } else { v6 }).collect()
}

/// A connected UDP socket sends nothing, but has to have a way.
fn has_route(ip: IpAddr) -> bool {
    let any: SocketAddr = match ip {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    UdpSocket::bind(any).and_then(|socket| socket.connect((ip, 9))).is_ok()
}

pub(super) fn failure(name: &str, kind: &'static str, error: &NetError) -> Failure {
    let name = name.to_owned();
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Failure::NoName(name),
            ResponseCode::NoError => Failure::NoRecords { name, kind },
            code => Failure::Refused { name, code: code_name(code) },
        },
        NetError::Dns(DnsError::ResponseCode(code)) => {
            Failure::Refused { name, code: code_name(*code) }
        }
        NetError::Timeout | NetError::NoConnections => Failure::NoAnswer(name),
        other => Failure::Other { name, why: other.to_string() },
    }
}

/// As `dig` spells it.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_servers_may_change_and_may_be_late() {
        let resolver = config::parse(
            "a",
            "version: 1\nlisteners: [{ name: a, address: 127.0.0.1:1, http: {} }]\n",
            config::Format::Yaml,
        );
        let servers = Servers::new(&resolver.unwrap().config.resolver).unwrap();
        let path = std::env::temp_dir().join(format!("ringside-resolv-{}", std::process::id()));
        let failed = servers.client_by(&path).err().unwrap().to_string();
        assert!(failed.contains("No such file") && failed.contains("resolver: {"), "{failed}");
        let same = |a: &Client, b: &Client| Arc::ptr_eq(&a.resolver, &b.resolver);
        fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
        let first = servers.client_by(&path).unwrap();
        assert!(same(&first, &servers.client_by(&path).unwrap()));
        fs::write(&path, "nameserver 127.0.0.2\n").unwrap();
        let second = servers.client_by(&path).unwrap();
        assert!(!same(&first, &second) && same(&second, &servers.client_by(&path).unwrap()));
        fs::remove_file(&path).unwrap();
        assert!(servers.client_by(&path).is_err());
    }
}
