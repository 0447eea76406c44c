//! Micro-benchmarks of what a request costs on its way: heads, choices, timers. They are in
//! `benches/`; `cargo bench -p benches` runs them.
//!
//! `loops/` is a program: the same echo server and HTTP proxy on our reactor, on monoio and on
//! glommio. `cargo run --release -p benches --features loops --bin loops -- compare` says what each
//! costs.
