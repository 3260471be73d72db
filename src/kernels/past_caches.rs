//! Writing to memory past the caches.
//!
//! A core that writes to a line of memory has to have it for itself. Where others have read the line, they are told to let go of it
//! first, and the stores after it wait: between cores that do not share a cache, for longer than memory takes. What is written past the
//! caches is on its way to memory at once, and nobody waits. Whoever reads it next reads it from there.
//!
//! Between cores that share their last cache the lines come sooner than from memory. Then it is better left to the caches.

/// Whether to write past the caches what all cores have read, as far as the processor tells: on AMD's, whose cores sit in groups with a
/// cache each, it was measured to pay, and on Intel's, whose cores share the last one, to cost.
pub(super) fn better_past_caches() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::LazyLock;
        static IS_AMD: LazyLock<bool> = LazyLock::new(|| {
            let vendor = raw_cpuid::CpuId::new().get_vendor_info();
            vendor.is_some_and(|vendor| vendor.as_str() == "AuthenticAMD")
        });
        *IS_AMD
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Writes a vector past the caches, where the machine has an instruction for it.
///
/// # Safety
/// There must be memory for it at `to`, a multiple of the vector's size. Before anyone, this thread included, uses that memory in another
/// way, this thread must [`fence`]. And `V` must be a vector of instructions that this machine has, not one put together from
/// narrower ones: of AVX-512 where it has 64 bytes, and of AVX where it has 32.
#[inline(always)]
pub(super) unsafe fn write_past_caches<V: Copy>(to: *mut V, vector: V) {
    // SAFETY: as the caller vouches; vectors of one size are moved alike, whatever they are made of.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_mm256_stream_ps, _mm512_stream_ps};
        use std::mem::transmute_copy;
        match size_of::<V>() {
            64 => return _mm512_stream_ps(to.cast(), transmute_copy(&vector)),
            32 => return _mm256_stream_ps(to.cast(), transmute_copy(&vector)),
            _ => {}
        }
    }
    // SAFETY: as the caller vouches.
    unsafe { to.write_unaligned(vector) };
}

/// Waits until what this thread has written past the caches can be seen by others.
#[inline(always)]
pub(super) fn fence() {
    // SAFETY: every x86-64 has the instruction.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
