//! Asking for memory ahead of time.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Asks for a line of memory, to be read or to be written, without waiting for it; the address may be any.
#[inline(always)]
pub(super) fn prefetch<T>(address: *const T, to_write: bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instructions, or takes them for none; they read nothing, and an address that is nobody's
    // will do.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        match to_write {
            true => _mm_prefetch::<_MM_HINT_ET0>(address.cast()),
            false => _mm_prefetch::<_MM_HINT_T0>(address.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, to_write);
}
