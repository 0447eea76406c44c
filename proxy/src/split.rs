//! Which of a route's backends a request goes to, by weight.
//!
//! Each worker keeps, per route, a point on a circle that moves on by the golden ratio of its round
//! with every request (a Kronecker sequence: of any points in a row, every arc gets its share to within
//! two or three). The weights lay the backends out as arcs. So the point needs to know nothing of
//! the weights, and a plan that changes them, or does not, goes on where the last one was; and workers
//! that begin at random points err in all directions.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::telemetry::names::{Names, RouteId};

/// 2^64 divided by the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// How backends share what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Where the arc of each ends; the last one is the sum, above 0.
    ends: Box<[u64]>,
}

impl Weights {
    /// Their sum is above 0.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Weights {
        let mut sum = 0;
        let ends = weights.into_iter().map(|weight| {
            sum += u64::from(weight);
            sum
        });
        Weights { ends: ends.collect() }
    }

    /// Whose arc the point is in. One of weight 0 has none.
    pub fn pick(&self, point: u64) -> usize {
        let sum = self.ends.last().copied().unwrap_or(0);
        let at = (u128::from(point) * u128::from(sum)) >> 64;
        self.ends.partition_point(|end| u128::from(*end) <= at)
    }

    /// The share of each, from 0 to 1.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        let sum = self.ends.last().map_or(1.0, |sum| *sum as f64);
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(move |(start, end)| (end - start) as f64 / sum)
    }
}

/// The points of one worker, of each route that was asked for.
#[derive(Debug, Default)]
pub struct Points {
    points: HashMap<RouteId, u64, FixedState>,
}

impl Points {
    /// The next point of a route; a new route begins at a random one.
    pub fn next(&mut self, route: RouteId, rng: impl FnOnce() -> u64) -> u64 {
        let point = self.points.entry(route).and_modify(|point| *point = point.wrapping_add(STEP));
        *point.or_insert_with(rng)
    }

    /// What [`Points::next`] would be.
    pub fn peek(&self, route: RouteId, rng: impl FnOnce() -> u64) -> u64 {
        self.points.get(&route).map_or_else(rng, |point| point.wrapping_add(STEP))
    }

    /// Drops those of routes that are forgotten.
    pub fn forget(&mut self, names: &Names) {
        self.points.retain(|route, _| !names.route_name(*route).is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn arcs() {
        let weights = Weights::new([0, 1, 0, 3, 0]);
        let quarter = 1 << 62;
        for (point, expect) in
            [(0, 1), (quarter - 1, 1), (quarter, 3), (2 * quarter, 3), (u64::MAX, 3)]
        {
            assert_eq!(weights.pick(point), expect);
        }
        assert_eq!(weights.shares().collect::<Vec<_>>(), [0.0, 0.25, 0.0, 0.75, 0.0]);
    }

    #[test]
    fn a_route_goes_on_where_it_was() {
        let (mut points, mut names) = (Points::default(), Names::default());
        let (three, zero) = (names.route("three"), names.route("zero"));
        let first = points.next(three, || 7);
        points.next(zero, || 1);
        assert_eq!((first, points.next(three, || unreachable!())), (7, 7 + STEP));
    }

    proptest! {
        #[test]
        fn shares_are_kept_to_half_a_percent_by_any_number_of_workers(
            weights in prop::collection::vec(0u32..1000, 1..6),
            workers in 1usize..129,
            seed: u64,
        ) {
            const REQUESTS: usize = 10_000;
            prop_assume!(weights.iter().sum::<u32>() > 0);
            let split = Weights::new(weights.iter().copied());
            let mut state = seed;
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state
            };
            let mut points: Vec<Points> = (0..workers).map(|_| Points::default()).collect();
            let mut counts = vec![0usize; weights.len()];
            for request in 0..REQUESTS {
                let worker = &mut points[request % workers];
                counts[split.pick(worker.next(Names::default().route("only"), &mut random))] += 1;
            }
            for ((count, share), weight) in counts.iter().zip(split.shares()).zip(&weights) {
                let off = (*count as f64 - share * REQUESTS as f64).abs();
                prop_assert!(off <= 0.005 * REQUESTS as f64, "{off} of {weights:?}");
                prop_assert!(*weight > 0 || *count == 0);
            }
        }

        #[test]
        fn few_in_a_row_are_spread(weight in 1u32..100, start: u64, before in 0usize..1000) {
            // A tenth is never missing for long.
            let split = Weights::new([9 * weight, weight]);
            let only = Names::default().route("only");
            let mut points = Points::default();
            for _ in 0..before {
                points.next(only, || start);
            }
            let count = (0..100).filter(|_| split.pick(points.next(only, || start)) == 1).count();
            prop_assert!((8..=12).contains(&count), "{count}");
        }
    }
}
