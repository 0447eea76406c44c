//! Micro-benchmarks and baselines; see `benches/`.
