//! A hierarchical timing wheel (Varghese and Lauck, 1987): insert and cancel are O(1), and the
//! loop hands one deadline, [`Wheel::next_deadline`], to the wait call.
//!
//! A tick is one millisecond. Level `l` has 64 slots of 64^l ticks each; five levels reach 12 days,
//! and what is later waits in the last slot of the top level and is looked at again from there. A
//! timer never fires early; it fires at most one tick late.

use std::task::Waker;

use slotmap::{SlotMap, new_key_type};

use crate::time::Instant;

const TICK_NANOS: u64 = 1_000_000;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 5;
/// Ticks that the wheel spans.
const HORIZON: u64 = 1 << (SLOT_BITS * LEVELS as u32);

new_key_type! {
    /// Names a timer; stale once it fired or was cancelled.
    pub(crate) struct TimerKey;
}

struct Timer {
    /// The tick at which it is due, rounded up.
    due: u64,
    waker: Waker,
    level: u8,
    slot: u8,
    prev: Option<TimerKey>,
    next: Option<TimerKey>,
}

/// The timers of one worker.
pub(crate) struct Wheel {
    timers: SlotMap<TimerKey, Timer>,
    heads: [[Option<TimerKey>; SLOTS]; LEVELS],
    /// Bit `s` of `occupied[l]` is set while slot `s` of level `l` holds a timer.
    occupied: [u64; LEVELS],
    /// Every timer due at or before this tick has fired.
    tick: u64,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Wheel {
        Wheel {
            timers: SlotMap::with_key(),
            heads: [[None; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            tick: now.as_nanos() / TICK_NANOS,
        }
    }

    /// How many timers are set.
    pub(crate) fn len(&self) -> usize {
        self.timers.len()
    }

    /// Wakes `waker` once `deadline` has passed.
    pub(crate) fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerKey {
        let due = deadline.as_nanos().div_ceil(TICK_NANOS).max(self.tick + 1);
        let timer = Timer { due, waker, level: 0, slot: 0, prev: None, next: None };
        let key = self.timers.insert(timer);
        self.link(key);
        key
    }

    /// Forgets the timer. Returns whether it was still set.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> bool {
        if !self.timers.contains_key(key) {
            return false;
        }
        self.unlink(key);
        self.timers.remove(key);
        true
    }

    /// Replaces the waker of a timer that is still set. Returns whether it was.
    pub(crate) fn rewake(&mut self, key: TimerKey, waker: &Waker) -> bool {
        let Some(timer) = self.timers.get_mut(key) else { return false };
        timer.waker.clone_from(waker);
        true
    }

    /// No timer fires before this; `None` when none is set. Exact within the lowest level, a lower
    /// bound above it (the loop then wakes to cascade, and asks again).
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let mut earliest: Option<u64> = None;
        for level in 0..LEVELS {
            let shift = SLOT_BITS * level as u32;
            let here = self.tick >> shift;
            let position = (here % SLOTS as u64) as u32;
            // Slots in the order in which they come up, beginning after the present one.
            let ahead = self.occupied[level].rotate_right((position + 1) % SLOTS as u32);
            if ahead != 0 {
                let start = (here + 1 + u64::from(ahead.trailing_zeros())) << shift;
                earliest = Some(earliest.map_or(start, |e| e.min(start)));
            }
        }
        earliest.map(|tick| Instant::from_nanos(tick.saturating_mul(TICK_NANOS)))
    }

    /// Wakes everything due at or before `now`.
    pub(crate) fn expire(&mut self, now: Instant) {
        let target = now.as_nanos() / TICK_NANOS;
        while self.tick < target {
            let Some(next) = self.next_deadline() else {
                self.tick = target;
                return;
            };
            let next = next.as_nanos() / TICK_NANOS;
            if next > target {
                // Nothing comes up on the way, so no slot boundary with timers is crossed.
                self.tick = target;
                return;
            }
            self.tick = next;
            self.cascade();
            self.fire();
        }
    }

    /// Moves the timers of the higher-level slots that begin at this tick down to where they belong.
    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            let shift = SLOT_BITS * level as u32;
            if self.tick & ((1 << shift) - 1) != 0 {
                continue;
            }
            let slot = ((self.tick >> shift) % SLOTS as u64) as usize;
            let mut cursor = self.take_slot(level, slot);
            while let Some(key) = cursor {
                cursor = self.timers[key].next;
                self.link(key);
            }
        }
    }

    fn fire(&mut self) {
        let slot = (self.tick % SLOTS as u64) as usize;
        let mut cursor = self.take_slot(0, slot);
        while let Some(key) = cursor {
            let timer = self.timers.remove(key).expect("a linked timer is in the map");
            debug_assert_eq!(timer.due, self.tick, "level 0 holds one tick per slot");
            cursor = timer.next;
            timer.waker.wake();
        }
    }

    fn take_slot(&mut self, level: usize, slot: usize) -> Option<TimerKey> {
        self.occupied[level] &= !(1 << slot);
        self.heads[level][slot].take()
    }

    /// Puts the timer into the slot for its distance from the present tick.
    fn link(&mut self, key: TimerKey) {
        let due = self.timers[key].due;
        let distance = due.saturating_sub(self.tick);
        // Beyond the horizon: the farthest slot that is not the present one.
        let (distance, position) = if distance >= HORIZON {
            (HORIZON - 1, self.tick + HORIZON - 1)
        } else {
            (distance, due)
        };
        let level = (0..LEVELS)
            .find(|&level| distance < 1 << (SLOT_BITS * (level as u32 + 1)))
            .expect("below the horizon");
        let slot = ((position >> (SLOT_BITS * level as u32)) % SLOTS as u64) as usize;
        let head = self.heads[level][slot].replace(key);
        self.occupied[level] |= 1 << slot;
        if let Some(head) = head {
            self.timers[head].prev = Some(key);
        }
        let timer = &mut self.timers[key];
        (timer.level, timer.slot) = (level as u8, slot as u8);
        (timer.prev, timer.next) = (None, head);
    }

    fn unlink(&mut self, key: TimerKey) {
        let Timer { level, slot, prev, next, .. } = self.timers[key];
        let (level, slot) = (usize::from(level), usize::from(slot));
        match prev {
            Some(prev) => self.timers[prev].next = next,
            None => self.heads[level][slot] = next,
        }
        if let Some(next) = next {
            self.timers[next].prev = prev;
        }
        if self.heads[level][slot].is_none() {
            self.occupied[level] &= !(1 << slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ms(n: u64) -> Instant {
        Instant::from_nanos(n * TICK_NANOS)
    }

    #[test]
    fn fires_in_time_never_early_and_lets_go_of_cancelled_timers() {
        let mut rng = fastrand::Rng::with_seed(7);
        let start = 123_456_789;
        let mut wheel = Wheel::new(ms(start));
        let mut set = Vec::new();
        for _ in 0..5_000 {
            let after = match rng.u8(0..4) {
                0 => rng.u64(0..64),
                1 => rng.u64(0..5_000),
                2 => rng.u64(0..400_000),
                _ => rng.u64(0..HORIZON * 2),
            };
            let count = Arc::new(Count::default());
            let key = wheel.insert(ms(start + after), count.clone().into());
            set.push((start + after, count, key));
        }
        for _ in 0..1_000 {
            let (_, count, key) = set.swap_remove(rng.usize(0..set.len()));
            assert!(wheel.cancel(key));
            assert!(!wheel.cancel(key));
            assert_eq!(Arc::strong_count(&count), 1, "the waker is dropped");
        }
        let mut now = start;
        while wheel.len() > 0 {
            // Either to the deadline the wheel asks for, or somewhere past it.
            now = match rng.bool() {
                true => wheel.next_deadline().unwrap().as_nanos() / TICK_NANOS,
                false => now + rng.u64(1..HORIZON / 4),
            };
            wheel.expire(ms(now));
            for (due, count, _) in &set {
                let fired = count.0.load(Ordering::Relaxed);
                assert_eq!(fired, u64::from(*due.max(&(start + 1)) <= now), "due {due} at {now}");
            }
        }
    }

    #[test]
    fn the_next_deadline_is_exact_within_64_ms() {
        let mut wheel = Wheel::new(ms(1_000));
        assert_eq!(wheel.next_deadline(), None);
        wheel.insert(ms(1_000) + Duration::from_micros(12_300), Waker::noop().clone());
        assert_eq!(wheel.next_deadline(), Some(ms(1_013)));
    }
}
