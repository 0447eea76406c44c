//! A timeout that does not pass: set with the first wait, cancelled with the answer.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use reactor::{Backend, BufferOptions, Options};

/// Timeouts per loop, set and cancelled, beside ten thousand that stay.
fn timeouts(c: &mut Criterion) {
    const OTHERS: usize = 10_000;
    const EACH: u32 = 1_000;
    let options = Options { backend: Backend::Epoll, buffers: BufferOptions::default(), seed: 1 };
    c.bench_function("timeout, set and cancelled", |b| {
        b.iter_custom(|rounds| {
            let run = move |reactor: reactor::Reactor| async move {
                for n in 0..OTHERS {
                    let later = reactor.now() + Duration::from_millis(60_000 + n as u64);
                    let sleep = reactor.sleep_until(later);
                    reactor.spawn(sleep);
                }
                reactor.yield_now().await;
                let begun = reactor.clock();
                for _ in 0..rounds {
                    for n in 0..EACH {
                        let deadline = reactor.now() + Duration::from_millis(u64::from(1_000 + n));
                        let answer = reactor.yield_now();
                        reactor.timeout_at(deadline, answer).await;
                    }
                }
                (reactor.clock() - begun) / EACH
            };
            reactor::run(options, run).expect("epoll works")
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = timeouts
}
criterion_main!(benches);
