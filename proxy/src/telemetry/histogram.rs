//! Latency histograms with fixed bounds.
//!
//! The bounds rise by at least a factor of two, so no more than one of them lies above the power
//! of two at or below a value: the bucket is found by counting leading zeros, one look into a small
//! table and one comparison.

use std::time::Duration;

/// How many finite bounds a histogram has.
const BOUNDS: usize = 18;
/// One more bucket for what is above all bounds.
const BUCKETS: usize = BOUNDS + 1;

/// The upper bounds of a histogram's buckets, and the table to find a bucket with.
#[derive(Debug)]
pub struct Scale {
    /// In nanoseconds, inclusive; each at least twice the one before.
    bounds_ns: [u64; BOUNDS],
    /// By the number of a value's significant bits: the first bucket that may hold it.
    first: [u8; 65],
}

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// For what a client waits for: 100 µs to 60 s.
#[rustfmt::skip]
pub static EXCHANGE: Scale = Scale::new([
    100 * US, 250 * US, 500 * US,
    MS, 2_500 * US, 5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, 500 * MS,
    S, 2_500 * MS, 5 * S, 10 * S, 30 * S, 60 * S,
]);

/// For what ringside itself takes: 1 µs to 500 ms.
#[rustfmt::skip]
pub static OWN: Scale = Scale::new([
    US, 2_500, 5 * US, 10 * US, 25 * US, 50 * US, 100 * US, 250 * US, 500 * US,
    MS, 2_500 * US, 5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, 500 * MS,
]);

impl Scale {
    const fn new(bounds_ns: [u64; BOUNDS]) -> Scale {
        let mut first = [0; 65];
        let mut bits = 0;
        while bits <= 64 {
            // The smallest value with so many bits.
            let least = if bits == 0 { 0 } else { 1u64 << (bits - 1) };
            let mut bucket = 0;
            while bucket < BOUNDS && bounds_ns[bucket] < least {
                bucket += 1;
            }
            first[bits] = bucket as u8;
            bits += 1;
        }
        let mut bound = 1;
        while bound < BOUNDS {
            assert!(bounds_ns[bound] / 2 >= bounds_ns[bound - 1], "bounds rise by two or more");
            bound += 1;
        }
        Scale { bounds_ns, first }
    }

    /// The bucket of a value: the first whose bound is not below it.
    fn bucket(&self, value_ns: u64) -> usize {
        let bits = 64 - value_ns.leading_zeros() as usize;
        let bucket = usize::from(self.first[bits]);
        match self.bounds_ns.get(bucket) {
            Some(bound) if value_ns > *bound => bucket + 1,
            _ => bucket,
        }
    }
}

/// Counts of durations by bucket, and their sum.
#[derive(Clone, Debug)]
pub struct Histogram {
    scale: &'static Scale,
    /// The last one is for what is above all bounds.
    counts: [u64; BUCKETS],
    /// 128 bits: ten thousand exchanges at a time would fill 64 within three weeks.
    sum_ns: u128,
}

impl Histogram {
    pub fn new(scale: &'static Scale) -> Histogram {
        Histogram { scale, counts: [0; BUCKETS], sum_ns: 0 }
    }

    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[self.scale.bucket(ns)] += 1;
        self.sum_ns += u128::from(ns);
    }

    /// Adds another histogram of the same scale.
    pub fn merge(&mut self, other: &Histogram) {
        debug_assert!(std::ptr::eq(self.scale, other.scale));
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.sum_ns += other.sum_ns;
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Each finite bound in seconds, with the number of durations at or below it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        self.scale.bounds_ns.iter().zip(&self.counts).map(move |(bound, count)| {
            below += count;
            (*bound as f64 / 1e9, below)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow_bucket(scale: &Scale, ns: u64) -> usize {
        scale.bounds_ns.iter().position(|bound| ns <= *bound).unwrap_or(BOUNDS)
    }

    #[test]
    fn at_and_around_every_bound() {
        for scale in [&EXCHANGE, &OWN] {
            let edges = scale.bounds_ns.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            for ns in edges.chain([0, 1, u64::MAX]) {
                assert_eq!(scale.bucket(ns), slow_bucket(scale, ns), "{ns}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_finds_the_right_bucket(ns in any::<u64>(), shift in 0u32..64) {
            for scale in [&EXCHANGE, &OWN] {
                prop_assert_eq!(scale.bucket(ns >> shift), slow_bucket(scale, ns >> shift));
            }
        }
    }

    #[test]
    fn merging_is_recording_both() {
        let (mut all, mut one, mut two) =
            (Histogram::new(&OWN), Histogram::new(&OWN), Histogram::new(&OWN));
        for us in [1, 7, 900, 1_000_000] {
            let part = if us % 2 == 0 { &mut one } else { &mut two };
            for histogram in [part, &mut all] {
                histogram.record(Duration::from_micros(us));
            }
        }
        one.merge(&two);
        assert_eq!(one.counts, all.counts);
        assert_eq!(one.count(), 4);
        assert_eq!(one.sum_seconds(), 1.000908);
        assert_eq!(one.cumulative().last(), Some((0.5, 3)));
    }
}
