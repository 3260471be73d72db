//! What the system's allocator does with the memory of a step.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// While one of these lives, what is freed stays with the process, for the next allocation.
///
/// A training step frees what the next one asks for again. The GNU C library gives most of it back to the system in between, and
/// the system hands it out page by page, each zeroed: up to a fifth of a wide pair's step. With the last of these the library is told
/// to give back what is free, and from then on what is freed, as usual. Its settings are those of the whole process. Threads other than
/// the program's first have small heaps of their own, for which they do less.
#[derive(Debug)]
pub(crate) struct Kept(());

impl Kept {
    /// `None` for another library, and where the environment says what this one is to keep.
    pub(crate) fn new() -> Option<Self> {
        if !system::may_be_told() {
            return None;
        }
        let mut living = living();
        if *living == 0 {
            system::keep();
        }
        *living += 1;
        Some(Self(()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut living = living();
        *living -= 1;
        if *living == 0 {
            system::give_back();
        }
    }
}

fn living() -> MutexGuard<'static, usize> {
    static LIVING: Mutex<usize> = Mutex::new(0);
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod system {
    use std::ffi::c_int;

    pub(super) fn may_be_told() -> bool {
        let tunables = std::env::var_os("GLIBC_TUNABLES").unwrap_or_default();
        let tunables = tunables.to_string_lossy();
        !["mmap_max", "mmap_threshold", "trim_threshold", "top_pad"].iter().any(|setting| {
            std::env::var_os(format!("MALLOC_{}_", setting.to_uppercase())).is_some()
                || tunables.contains(&format!("glibc.malloc.{setting}"))
        })
    }

    /// Blocks come from the heap instead of mappings of their own, which would end with them, and the heap does not shrink.
    pub(super) fn keep() {
        set(libc::M_MMAP_MAX, 0);
        set(libc::M_TRIM_THRESHOLD, -1);
    }

    /// What is free goes back, and the settings are those that the library comes to by itself where large blocks are freed.
    pub(super) fn give_back() {
        const LARGEST: c_int = 32 << 20;
        set(libc::M_MMAP_MAX, 1 << 16);
        set(libc::M_MMAP_THRESHOLD, LARGEST);
        set(libc::M_TRIM_THRESHOLD, 2 * LARGEST);
        // SAFETY: it takes the allocator's own locks, and touches free memory only.
        unsafe { libc::malloc_trim(0) };
    }

    fn set(parameter: c_int, value: c_int) {
        // SAFETY: it writes a number of the allocator's, holding the lock of its main heap. Other threads may read the number
        // meanwhile, as they do when the allocator changes its thresholds itself; old and new ones are valid in any mixture.
        // It may refuse; then steps are slower.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod system {
    pub(super) fn may_be_told() -> bool {
        false
    }

    pub(super) fn keep() {}

    pub(super) fn give_back() {}
}
