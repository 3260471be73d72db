//! Asking for memory ahead of time.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Asks for a line of memory, to be read or to be written, without waiting for it; the address may be any.
#[inline(always)]
pub(super) fn prefetch<T>(address: *const T, to_write: bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instructions read nothing, and an address that is nobody's will do. The oldest x86-64 may lack the one for lines to be
    // written; with AVX2 a machine has it, or takes it for none.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // The intrinsic for lines to be written compiles to the instruction for lines to be read, as long as the compiler is not
        // told that the machine has the other one.
        match to_write && std::arch::is_x86_feature_detected!("avx2") {
            true => std::arch::asm!(
                "prefetchw [{}]", in(reg) address.addr(), options(nomem, nostack, preserves_flags)
            ),
            false => _mm_prefetch::<_MM_HINT_T0>(address.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, to_write);
}
