//! Micro-benchmarks of what a request costs on its way: heads, choices, timers. They are in
//! `benches/`; `cargo bench -p benches` runs them.
