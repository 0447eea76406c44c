//! Asking for memory before it is needed.
//!
//! With thousands of connections none of what a task reads is in the cache when its turn comes. The
//! loop knows which tasks come next, so their memory can be on its way while the ones before them
//! run. A hint only: it changes nothing but the time.

/// Bytes that come together.
const LINE: usize = 64;

/// Asks for `size` bytes from `address` on, which may be anything.
pub(crate) fn prefetch(address: *const u8, size: usize) {
    for offset in (0..size).step_by(LINE) {
        line(address.wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
fn line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch accesses nothing: of an address that is not mapped it is ignored.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[cfg(target_arch = "aarch64")]
fn line(address: *const u8) {
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn line(_: *const u8) {}
