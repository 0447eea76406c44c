//! What is chosen for a request: route, endpoint, idle connection.

use std::hint::black_box;
use std::time::Duration;

use balancer::{Balancer, Endpoint, Policy};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringside::pool::{IdlePool, PoolLimits};
use ringside::route::{HostPattern, Match, PathPattern, Route, RouteId, Router};

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route, looked up among");
    for count in [10u32, 1_000, 100_000] {
        let routes: Vec<Route> = (0..count)
            .map(|n| Route {
                id: RouteId(n),
                name: format!("route-{n}"),
                priority: 0,
                hosts: vec![HostPattern::Exact(format!("service-{}.example.com", n / 10))],
                matches: vec![Match {
                    path: PathPattern::Prefix(format!("/api/v{}", n % 10)),
                    methods: Vec::new(),
                }],
            })
            .collect();
        let router = Router::new(&routes, 1);
        let host = format!("service-{}.example.com:8080", count / 20);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let host = black_box(host.as_bytes());
                router.lookup(host, b"/api/v3/reviews/17", b"GET").expect("one fits")
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
