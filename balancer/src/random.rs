//! Drawing a number below a bound from 64 random bits.

/// A number in `0..bound`, `bound > 0`.
///
/// Lemire's multiply and shift, without the rejection step: the bias is below `bound / 2^64`,
/// which nobody will ever measure.
pub(crate) fn below(bound: u64, rng: &mut impl FnMut() -> u64) -> u64 {
    debug_assert!(bound > 0);
    ((u128::from(rng()) * u128::from(bound)) >> 64) as u64
}
