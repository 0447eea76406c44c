//! Round robin: in turn, each endpoint as often as its weight says.
//!
//! With equal weights it is a cursor. With unequal ones each endpoint has evenly spaced turns in
//! a round of length 1: an endpoint of weight `w` at `1/2w, 3/2w, … (2w-1)/2w`, so exactly `w` in a
//! round, and the earliest turn is next. That is as smooth as nginx's algorithm (5:1:1 gives
//! `a a a b c a a`, not `a a a a a b c`), but costs O(log n) instead of O(n).
//!
//! An unusable endpoint loses the turns that it could not take; the others keep their proportions
//! among themselves exactly, and when it is back it takes no more than its share.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::endpoint::Endpoint;
use crate::random::below;

#[derive(Clone, Debug)]
pub(crate) enum RoundRobin {
    Equal { endpoints: usize, next: usize },
    Weighted(Weighted),
}

impl RoundRobin {
    pub(crate) fn new(endpoints: &[Endpoint], rng: &mut impl FnMut() -> u64) -> RoundRobin {
        let first = endpoints.first().map_or(0, |e| e.weight);
        if first > 0 && endpoints.iter().all(|e| e.weight == first) {
            let next = below(endpoints.len() as u64, rng) as usize;
            return RoundRobin::Equal { endpoints: endpoints.len(), next };
        }
        RoundRobin::Weighted(Weighted::new(endpoints, rng))
    }

    pub(crate) fn pick(&mut self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            RoundRobin::Equal { endpoints, next } => {
                let index = (*next..*endpoints).chain(0..*next).find(|index| usable(*index))?;
                *next = if index + 1 == *endpoints { 0 } else { index + 1 };
                Some(index)
            }
            RoundRobin::Weighted(weighted) => weighted.pick(usable),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Weighted {
    /// One turn, its next, for each endpoint whose weight is not 0; the earliest on top.
    turns: BinaryHeap<Reverse<Turn>>,
    /// The turns that a pick has looked at and passed over; empty between picks. Its capacity is
    /// that of `turns`, so no pick allocates.
    passed: Vec<Turn>,
}

impl Weighted {
    fn new(endpoints: &[Endpoint], rng: &mut impl FnMut() -> u64) -> Weighted {
        let weighted = endpoints.iter().enumerate().filter(|(_, e)| e.weight > 0);
        let turns: BinaryHeap<_> =
            weighted.map(|(index, e)| Reverse(Turn::first(index, e.weight))).collect();
        let passed = Vec::with_capacity(turns.len());
        let mut this = Weighted { turns, passed };
        this.skip_ahead(rng);
        this
    }

    /// Begins at a random point of the round, as a cursor begins at a random index.
    fn skip_ahead(&mut self, rng: &mut impl FnMut() -> u64) {
        let turn = below(u64::from(u32::MAX), rng) as u32;
        let start = Turn { index: usize::MAX, weight: u32::MAX, round: 0, turn };
        let mut turns = std::mem::take(&mut self.turns).into_vec();
        for Reverse(turn) in &mut turns {
            turn.pass(&start);
        }
        self.turns = turns.into();
    }

    fn pick(&mut self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let taken = loop {
            let Some(mut top) = self.turns.peek_mut() else { break None };
            if usable(top.0.index) {
                let taken = top.0;
                top.0.advance();
                break Some(taken);
            }
            self.passed.push(PeekMut::pop(top).0);
        };
        for mut turn in self.passed.drain(..) {
            if let Some(taken) = &taken {
                turn.pass(taken);
            }
            self.turns.push(Reverse(turn));
        }
        taken.map(|turn| turn.index)
    }
}

/// The next turn of one endpoint: the point `round + (2 * turn + 1) / (2 * weight)` in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    index: usize,
    /// > 0
    weight: u32,
    round: u64,
    /// `turn < weight`
    turn: u32,
}

impl Turn {
    fn first(index: usize, weight: u32) -> Turn {
        Turn { index, weight, round: 0, turn: 0 }
    }

    fn advance(&mut self) {
        self.turn += 1;
        if self.turn == self.weight {
            self.turn = 0;
            self.round += 1;
        }
    }

    /// Gives up the turns before `now`: the next is the first that comes after it.
    fn pass(&mut self, now: &Turn) {
        if *self > *now {
            return;
        }
        // The number of our turns at or before `now` within its round: those with
        // (2t + 1) / 2w <= (2n + 1) / 2m, so t <= ((2n + 1) * w / m - 1) / 2.
        let point = u128::from(now.odd()) * u128::from(self.weight) / u128::from(now.weight);
        let before = point.div_ceil(2) as u32; // <= weight, since now.odd() < 2 * now.weight
        self.round = now.round;
        self.turn = before.saturating_sub(1);
        while *self <= *now {
            self.advance();
        }
    }

    /// The numerator of the turn's place within the round.
    fn odd(&self) -> u64 {
        2 * u64::from(self.turn) + 1
    }
}

impl Ord for Turn {
    /// By time; turns at the same time by index, so that the order is total and the picks repeat
    /// exactly with every round.
    fn cmp(&self, other: &Turn) -> Ordering {
        let place = |a: &Turn, b: &Turn| u128::from(a.odd()) * u128::from(b.weight);
        (self.round.cmp(&other.round))
            .then_with(|| place(self, other).cmp(&place(other, self)))
            .then_with(|| self.index.cmp(&other.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_robin(weights: &[u32], seed: u64) -> RoundRobin {
        let endpoints: Vec<Endpoint> = weights.iter().map(|w| Endpoint::new(*w)).collect();
        RoundRobin::new(&endpoints, &mut || seed)
    }

    fn picks(weights: &[u32], count: usize) -> String {
        let mut state = round_robin(weights, 0);
        (0..count).map(|_| char::from(b'a' + state.pick(|_| true).unwrap() as u8)).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(picks(&[1, 1, 1], 6), "abcabc");
        assert_eq!(picks(&[7, 7], 4), "abab");
    }

    #[test]
    fn unequal_weights_are_spread() {
        assert_eq!(picks(&[5, 1, 1], 7), "aaabcaa");
        assert_eq!(picks(&[2, 1], 6), "abaaba");
        assert_eq!(picks(&[90, 10], 20), "aaaaabaaaaaaaaabaaaa");
        assert_eq!(picks(&[0, 3], 3), "bbb");
    }

    #[test]
    fn none_without_an_endpoint() {
        for weights in [&[][..], &[0], &[0, 0]] {
            assert_eq!(round_robin(weights, 0).pick(|_| true), None);
        }
        let mut state = round_robin(&[1, 2, 3], 0);
        assert_eq!(state.pick(|_| false), None);
        assert!(state.pick(|_| true).is_some());
    }

    #[test]
    fn who_was_away_does_not_catch_up() {
        let mut state = round_robin(&[1_000_000, 1], 0);
        for _ in 0..10_000 {
            assert_eq!(state.pick(|i| i != 0), Some(1));
        }
        let light = (0..1_000).filter(|_| state.pick(|_| true) == Some(1)).count();
        assert!(light <= 1, "{light}");
    }

    proptest! {
        /// Any window of one round, whatever came before, holds each endpoint `weight` times.
        #[test]
        fn every_round_is_exact(
            weights in prop::collection::vec(0u32..20, 1..10),
            seed in any::<u64>(),
            skipped in 0usize..100,
        ) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let mut state = round_robin(&weights, seed);
            let all_equal = weights.iter().all(|w| *w == weights[0]);
            let round = if all_equal { weights.len() as u32 } else { total };
            for _ in 0..skipped {
                state.pick(|_| true);
            }
            let mut got = vec![0; weights.len()];
            for _ in 0..round {
                got[state.pick(|_| true).unwrap()] += 1;
            }
            let want = if all_equal { vec![1; weights.len()] } else { weights };
            prop_assert_eq!(got, want);
        }

        /// With some endpoints away for good, the others share exactly by their weights.
        #[test]
        fn the_usable_share_exactly(
            endpoints in prop::collection::vec((1u32..20, any::<bool>()), 1..10),
            seed in any::<u64>(),
        ) {
            let weights: Vec<u32> = endpoints.iter().map(|(weight, _)| *weight).collect();
            let usable = |index: usize| endpoints[index].1;
            let total: u32 = endpoints.iter().filter(|e| e.1).map(|e| e.0).sum();
            prop_assume!(total > 0);
            let mut state = round_robin(&weights, seed);
            let rounds = if weights.iter().all(|w| *w == weights[0]) { 1 } else { weights[0] };
            let mut got = vec![0u64; weights.len()];
            for _ in 0..u64::from(total) * u64::from(rounds) {
                got[state.pick(usable).unwrap()] += 1;
            }
            for (index, (weight, up)) in endpoints.iter().enumerate() {
                let want = if *up { u64::from(*weight) * u64::from(rounds) } else { 0 };
                prop_assert_eq!(got[index], want);
            }
        }

        /// At no point of time is an endpoint more than one turn away from its share.
        #[test]
        fn turns_are_spread(
            weights in prop::collection::vec(1u32..30, 2..6),
            seed in any::<u64>(),
        ) {
            let total: u32 = weights.iter().sum();
            let mut state = round_robin(&weights, seed);
            let mut got = vec![0u32; weights.len()];
            for picks in 1..=total {
                got[state.pick(|_| true).unwrap()] += 1;
                for (got, weight) in got.iter().zip(&weights) {
                    let share = f64::from(picks) * f64::from(*weight) / f64::from(total);
                    let away = (f64::from(*got) - share).abs();
                    prop_assert!(away <= weights.len() as f64, "{} of {}", got, share);
                }
            }
        }

        #[test]
        fn passing_lands_on_the_first_turn_after(
            weight in 1u32..50, now_weight in 1u32..50,
            turn in 0u32..50, round in 0u64..4, index in 0usize..3,
        ) {
            let now = Turn { index: 1, weight: now_weight, round, turn: turn % now_weight };
            let mut quick = Turn::first(index, weight);
            quick.pass(&now);
            let mut slow = Turn::first(index, weight);
            while slow <= now {
                slow.advance();
            }
            prop_assert_eq!(quick, slow);
        }
    }
}
