//! What the system's allocator does with the memory of a step.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// The largest block that the GNU C library takes from its heap by its own rules.
const LARGEST: usize = 32 << 20;

/// Lets the allocator keep some of what a training step frees for the next step, instead of giving it back to the system page
/// by page and asking for it again.
///
/// The GNU C library keeps up to twice the largest block that it had from the system and saw freed, and counts only blocks
/// of up to 32 MiB. So it is shown such a block, which nothing is written to and which therefore takes no memory. Other
/// allocators do not mind.
pub(crate) fn keep_for_next_step() {
    static ONCE: Once = Once::new();
    // With room for what the library puts in front.
    let len = LARGEST - (64 << 10);
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(len))));
}

/// While one of these lives, all that is freed stays with the process.
///
/// It is for passes that hold more than the library keeps of its own accord: pages that come and go, each zeroed, are a good
/// part of a wide pair's step. With the last of these the GNU C library is told to give back what is free, and from then on what is
/// freed, as usual. Its settings are those of the whole process. Threads other than the program's first have small heaps of their own,
/// for which they do less.
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

    use super::LARGEST;

    pub(super) fn may_be_told() -> bool {
        let tunables = std::env::var_os("GLIBC_TUNABLES").unwrap_or_default();
        let tunables = tunables.to_string_lossy();
        !["mmap_max", "mmap_threshold", "trim_threshold", "top_pad"].iter().any(|setting| {
            std::env::var_os(format!("MALLOC_{}_", setting.to_uppercase())).is_some()
                || tunables.contains(&format!("glibc.malloc.{setting}"))
        })
    }

    /// Blocks come from the heap instead of mappings of their own, which would end with them, and the heap does not shrink. What
    /// is free by now is mostly what it took to prepare the run.
    pub(super) fn keep() {
        trim();
        set(libc::M_MMAP_MAX, 0);
        set(libc::M_TRIM_THRESHOLD, -1);
    }

    /// What is free goes back, and the settings are those that [`keep_for_next_step`](super::keep_for_next_step) leads to.
    pub(super) fn give_back() {
        set(libc::M_MMAP_MAX, 1 << 16);
        set(libc::M_MMAP_THRESHOLD, LARGEST as c_int);
        set(libc::M_TRIM_THRESHOLD, 2 * LARGEST as c_int);
        trim();
    }

    fn trim() {
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
