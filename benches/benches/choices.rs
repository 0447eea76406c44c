//! What is chosen for a request: route, endpoint, idle connection.

use std::hint::black_box;
use std::time::Duration;

use balancer::{Balancer, Endpoint, Policy};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringside::http1::head::RequestHead;
use ringside::pool::{IdlePool, PoolLimits};
use ringside::route::{HostPattern, Match, PathPattern, Request, Route, RouteId, Router};

/// `hosts` services with `paths` prefixes each.
fn router(hosts: u32, paths: u32) -> Router {
    let route = |n: u32| Route {
        id: RouteId(n),
        name: format!("route-{n}"),
        priority: 0,
        hosts: vec![HostPattern::Exact(format!("service-{}.example.com", n / paths))],
        matches: vec![Match {
            path: PathPattern::Prefix(format!("/api/v{}/resource-{}", n % paths, n % paths)),
            ..Match::default()
        }],
    };
    let routes: Vec<Route> = (0..hosts * paths).map(route).collect();
    Router::new(&routes, 1)
}

/// Requests for routes drawn at random: their hosts and their paths.
fn requests(hosts: u32, paths: u32, count: usize) -> Vec<(String, String)> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut request = || {
        let (host, path) = (random.u32(..hosts), random.u32(..paths));
        let target = format!("/api/v{path}/resource-{path}/reviews/17");
        (format!("service-{host}.example.com:8080"), target)
    };
    (0..count).map(|_| request()).collect()
}

fn routes(c: &mut Criterion) {
    let head = RequestHead::default();
    let mut group = c.benchmark_group("route, looked up among");
    let shapes = [(1, 10), (100, 100), (1_000, 10), (1_000, 100), (10_000, 10), (1, 100_000)];
    // So many that no route is in the nearest cache; and few, as of a service with few clients.
    let counts = [(8_192, "all asked for"), (16, "16 asked for")];
    for ((hosts, paths), (count, asked)) in
        shapes.iter().flat_map(|shape| counts.map(|count| (*shape, count)))
    {
        let (router, requests) = (router(hosts, paths), requests(hosts, paths, count));
        let mut next = requests.iter().cycle();
        let name = format!("{}: {hosts} hosts, {paths} paths, {asked}", hosts * paths);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let (host, path) = next.next().expect("they go round");
                let request = Request {
                    host: host.as_bytes(),
                    path: path.as_bytes(),
                    method: b"GET",
                    query: b"",
                    fields: head.fields.shown(&[], false),
                    source_ip: None,
                };
                router.lookup(black_box(&request)).expect("one fits")
            });
        });
    }
    group.finish();
}

fn endpoints(c: &mut Criterion) {
    let mut group = c.benchmark_group("endpoint, picked of 10 by");
    for (name, policy) in
        [("round_robin", Policy::RoundRobin), ("least_request", Policy::LeastRequest)]
    {
        let mut random = fastrand::Rng::with_seed(1);
        let mut rng = || random.u64(..);
        let mut balancer = Balancer::new(policy, vec![Endpoint::new(1); 10], &mut rng);
        group.bench_function(name, |b| {
            b.iter(|| {
                let picked = balancer.pick(&mut rng, |_| true).expect("all are usable");
                balancer.started(picked);
                balancer.finished(picked);
                picked
            });
        });
    }
    group.finish();
}

fn pool(c: &mut Criterion) {
    let limits = PoolLimits { idle: 64, idle_timeout: Some(Duration::from_secs(5)) };
    let mut pool = IdlePool::new(limits);
    for n in 0..32u64 {
        assert!(pool.put(n, Duration::ZERO, None).is_none());
    }
    let now = Duration::from_millis(1);
    c.bench_function("idle connection, taken and put back", |b| {
        b.iter(|| {
            let taken = pool.take(black_box(now), |_| true).expect("there are idle ones");
            assert!(pool.put(taken, now, None).is_none());
        });
    });
}

criterion_group!(benches, routes, endpoints, pool);
criterion_main!(benches);
