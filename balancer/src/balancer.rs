//! The endpoints of one service on one worker, and the policy that picks among them.

use crate::endpoint::Endpoint;
use crate::least_request::LeastRequest;
use crate::round_robin::RoundRobin;

/// How a balancer picks; the words of the config key `balance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, each as often as its weight says.
    #[default]
    RoundRobin,
    /// The less busy of two drawn at random.
    LeastRequest,
}

/// Picks endpoints of one service for one worker.
#[derive(Clone, Debug)]
pub struct Balancer {
    endpoints: Vec<Endpoint>,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    RoundRobin(RoundRobin),
    LeastRequest(LeastRequest),
}

impl Balancer {
    /// `rng` decides where a round robin begins: workers and proxies that start together must not
    /// all begin with the first endpoint.
    pub fn new(
        policy: Policy,
        endpoints: Vec<Endpoint>,
        rng: &mut impl FnMut() -> u64,
    ) -> Balancer {
        let state = match policy {
            Policy::RoundRobin => State::RoundRobin(RoundRobin::new(&endpoints, rng)),
            Policy::LeastRequest => State::LeastRequest(LeastRequest::new(&endpoints)),
        };
        Balancer { endpoints, state }
    }

    /// The endpoint for the next request, by index, or `None` if none is usable.
    ///
    /// Picking does not count: call [`Balancer::started`] when the request goes out.
    pub fn pick(
        &mut self,
        rng: &mut impl FnMut() -> u64,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match &mut self.state {
            State::RoundRobin(state) => state.pick(usable),
            State::LeastRequest(state) => state.pick(&self.endpoints, rng, usable),
        }
    }

    /// A request goes out to endpoint `index`. Each call is followed by one `finished`.
    pub fn started(&mut self, index: usize) {
        self.endpoints[index].active += 1;
    }

    /// A request to endpoint `index` has ended, however it ended.
    pub fn finished(&mut self, index: usize) {
        let active = &mut self.endpoints[index].active;
        debug_assert!(*active > 0, "finished without started");
        *active = active.saturating_sub(1);
    }

    /// The endpoints in the order they were given, with their requests in flight.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policies() -> impl Strategy<Value = Policy> {
        prop_oneof![Just(Policy::RoundRobin), Just(Policy::LeastRequest)]
    }

    proptest! {
        #[test]
        fn a_pick_is_usable_and_there_is_one_if_any_is(
            policy in policies(),
            endpoints in prop::collection::vec((0u32..6, any::<bool>()), 0..12),
            seed in any::<u64>(),
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut rng = || rng.u64(..);
            let weights = endpoints.iter().map(|(weight, _)| Endpoint::new(*weight)).collect();
            let mut balancer = Balancer::new(policy, weights, &mut rng);
            let any = endpoints.iter().any(|(weight, up)| *weight > 0 && *up);
            for _ in 0..64 {
                let pick = balancer.pick(&mut rng, |i| endpoints[i].1);
                prop_assert_eq!(pick.is_some(), any);
                if let Some(index) = pick {
                    prop_assert!(endpoints[index].0 > 0 && endpoints[index].1);
                    balancer.started(index);
                }
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_picks(
            policy in policies(),
            weights in prop::collection::vec(0u32..100, 1..9),
            seed in any::<u64>(),
        ) {
            let run = || {
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut rng = || rng.u64(..);
                let endpoints = weights.iter().map(|w| Endpoint::new(*w)).collect();
                let mut balancer = Balancer::new(policy, endpoints, &mut rng);
                let mut picks = Vec::new();
                for _ in 0..50 {
                    let pick = balancer.pick(&mut rng, |_| true);
                    pick.inspect(|index| balancer.started(*index));
                    picks.push(pick);
                }
                picks
            };
            prop_assert_eq!(run(), run());
        }
    }

    #[test]
    fn active_requests_are_counted_per_endpoint() {
        let endpoints = vec![Endpoint::new(1); 2];
        let mut balancer = Balancer::new(Policy::LeastRequest, endpoints, &mut || 0);
        balancer.started(1);
        balancer.started(1);
        balancer.finished(1);
        let active: Vec<u32> = balancer.endpoints().iter().map(|e| e.active).collect();
        assert_eq!(active, [0, 1]);
    }
}
