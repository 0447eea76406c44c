//! What a balancer knows of one endpoint.

/// One replica, as seen by one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its share of the traffic in proportion to the others'. 0: never picked.
    pub weight: u32,
    /// Requests of this worker that were sent to it and have not ended.
    pub active: u32,
}

impl Endpoint {
    /// An endpoint without requests in flight.
    pub fn new(weight: u32) -> Endpoint {
        Endpoint { weight, active: 0 }
    }

    /// Whether `self` has fewer requests in flight for its weight than `other`, or as many.
    ///
    /// `active / weight` compared without a division. The products of two `u32` fit.
    pub(crate) fn at_most_as_busy_as(&self, other: &Endpoint) -> bool {
        let ours = u64::from(self.active) * u64::from(other.weight);
        let theirs = u64::from(other.active) * u64::from(self.weight);
        ours <= theirs
    }
}
