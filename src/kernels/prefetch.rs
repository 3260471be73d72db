//! Asking for memory ahead of time.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// How this machine is asked for lines of memory, without waiting for them; addresses may be any.
///
/// To be made outside of a loop: to find out what the machine has is a call, which the compiler would keep room for in each round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefetch {
    /// Whether it has an instruction for lines that are to be written.
    #[cfg(target_arch = "x86_64")]
    writes: bool,
}

impl Prefetch {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            // The oldest x86-64 may lack it. With AVX2 a machine has it, or takes it for none.
            #[cfg(target_arch = "x86_64")]
            writes: std::arch::is_x86_feature_detected!("avx2"),
        }
    }

    /// Asks for a line to be read.
    #[inline(always)]
    pub(super) fn to_read<T>(self, address: *const T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: it reads nothing, and an address that is nobody's will do.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// Asks for a line to be written.
    #[inline(always)]
    pub(super) fn to_write<T>(self, address: *const T) {
        // The intrinsic compiles to the instruction for lines to be read, as long as the compiler is not told that the machine has the
        // other one.
        #[cfg(target_arch = "x86_64")]
        if self.writes {
            // SAFETY: as above; the machine has the instruction.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]", in(reg) address.addr(), options(nomem, nostack, preserves_flags)
                );
            }
            return;
        }
        self.to_read(address);
    }
}
