//! The weights of SRV records (RFC 2782) as weights of addresses.
//!
//! A record's weight is that of its target, so the addresses of the target share it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The greatest weight of an endpoint.
const WEIGHT_MAX: u128 = 65_535;
/// Stands for a common factor that would be too large; weights are then exact to 2^-32.
const FACTOR_ROUGH: u64 = 1 << 32;

/// A record's weight, and where its target is; no address twice.
pub(super) struct Target {
    pub(super) weight: u16,
    pub(super) addresses: Vec<SocketAddr>,
}

/// The weight of each address, `1..=65535`. The shares of the targets are exactly those of their
/// weights, or as near as that range lets them be. An address of a target of weight 0 has 1, beside
/// others as little as can be.
pub(super) fn shares(targets: &[Target]) -> BTreeMap<SocketAddr, u32> {
    let is_empty = |target: &&Target| target.addresses.is_empty();
    let targets: Vec<&Target> = targets.iter().filter(|target| !is_empty(target)).collect();
    let are_all_0 = targets.iter().all(|target| target.weight == 0);
    let weight_of = |target: &Target| if are_all_0 { 1 } else { u64::from(target.weight) };
    // Times this, each address has a whole number.
    let mut factor: u64 = 1;
    for target in targets.iter().filter(|target| weight_of(target) > 0) {
        let count = target.addresses.len() as u64;
        let needed = count / gcd(weight_of(target).into(), count.into()) as u64;
        let common = gcd(factor.into(), needed.into()) as u64;
        factor = factor.checked_mul(needed / common).unwrap_or(FACTOR_ROUGH);
        if factor >= FACTOR_ROUGH {
            factor = FACTOR_ROUGH;
            break;
        }
    }
    let mut weights: BTreeMap<SocketAddr, u128> = BTreeMap::new();
    for target in &targets {
        let weight = u128::from(weight_of(target)) * u128::from(factor);
        for address in &target.addresses {
            *weights.entry(*address).or_default() += weight / target.addresses.len() as u128;
        }
    }
    let common = weights.values().copied().fold(0, gcd).max(1);
    let most = weights.values().copied().max().unwrap_or_default();
    let fit = |weight: u128| match most {
        0..=WEIGHT_MAX => weight,
        _ if most / common <= WEIGHT_MAX => weight / common,
        _ => (weight * WEIGHT_MAX + most / 2) / most,
    };
    // `fit` leaves nothing above the greatest weight.
    weights.into_iter().map(|(address, weight)| (address, fit(weight).max(1) as u32)).collect()
}

/// The greatest common divisor; of 0 and another that one.
fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights of targets with these weights and so many addresses each, target by target.
    fn weights(targets: &[(u16, u8)]) -> Vec<Vec<u32>> {
        let address = |target: usize, n: u8| SocketAddr::from(([10, 0, target as u8, n], 80));
        let list: Vec<Target> = targets
            .iter()
            .enumerate()
            .map(|(target, (weight, count))| Target {
                weight: *weight,
                addresses: (0..*count).map(|n| address(target, n)).collect(),
            })
            .collect();
        let shares = shares(&list);
        list.iter()
            .map(|target| target.addresses.iter().map(|address| shares[address]).collect())
            .collect()
    }

    #[test]
    fn addresses_share_the_weight_of_their_target() {
        assert_eq!(weights(&[(50, 3), (50, 1)]), [vec![50; 3], vec![150]]);
        assert_eq!(weights(&[(60, 3), (5, 1)]), [vec![20; 3], vec![5]], "whole as they are");
        assert_eq!(weights(&[(1, 2), (1, 3)]), [vec![3; 2], vec![2; 3]]);
        assert_eq!(weights(&[(3, 1), (0, 1)]), [[3], [1]]);
        assert_eq!(weights(&[(50, 3), (50, 1), (0, 2)]), [vec![50; 3], vec![150], vec![1; 2]]);
        assert_eq!(weights(&[(0, 2), (0, 1)]), [vec![1; 2], vec![2]], "none is preferred");
        assert_eq!(weights(&[(7, 1), (9, 0)]), [vec![7], vec![]]);
        assert_eq!(weights(&[]), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn weights_stay_in_their_range() {
        assert_eq!(weights(&[(65_535, 1), (65_535, 2)]), [vec![2], vec![1; 2]]);
        assert_eq!(weights(&[(65_535, 1), (1, 2)]), [vec![65_535], vec![1; 2]]);
        assert_eq!(weights(&[(65_534, 1), (32_767, 2)]), [vec![4], vec![1; 2]]);
        assert_eq!(weights(&[(65_535, 1), (60_001, 2)])[1], [30_001; 2]);
        // The common factor of these is past 2^32.
        let many: Vec<(u16, u8)> =
            [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31].map(|n| (1_000, n)).into();
        for (target, (_, count)) in weights(&many).into_iter().zip(many) {
            let sum: u32 = target.iter().sum();
            assert!(sum.abs_diff(131_070) <= u32::from(count), "{count}: {sum}");
        }
    }

    #[test]
    fn an_address_of_two_targets_has_both_their_shares() {
        let target = |weight, ports: &[u16]| Target {
            weight,
            addresses: ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect(),
        };
        let shares = shares(&[target(4, &[1, 2]), target(5, &[2]), target(0, &[1])]);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [2, 7]);
    }
}
