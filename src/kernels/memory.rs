//! What the system's allocator does with the memory of a step.

/// While one of these lives, what is freed stays with the process, for the next allocation.
///
/// A training step frees what the next one asks for again. The GNU C library gives most of it back to the system in between, and
/// the system hands it out page by page, each zeroed: for a wide convolutional pair a fifth of a step. With the last of these
/// the library is told to give back what is free, and from then on what is freed, as usual. Both are settings of the whole process; who
/// has chosen some by `MALLOC_..._` or `GLIBC_TUNABLES` keeps them. Other allocators do not mind.
#[derive(Debug)]
pub(crate) struct Kept(());

impl Kept {
    pub(crate) fn new() -> Self {
        system::count(|holders| {
            if *holders == 0 {
                system::keep();
            }
            *holders += 1;
        });
        Self(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        system::count(|holders| {
            *holders -= 1;
            if *holders == 0 {
                system::give_back();
            }
        });
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod system {
    use std::ffi::c_int;
    use std::sync::{Mutex, PoisonError};

    /// Calls `then` with the number of those who want memory kept, unless the user has chosen how the allocator works.
    pub(super) fn count(then: impl FnOnce(&mut usize)) {
        static HOLDERS: Mutex<usize> = Mutex::new(0);
        let chosen = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            name.as_encoded_bytes().starts_with(b"MALLOC_")
                || name == "GLIBC_TUNABLES" && value.to_string_lossy().contains("malloc")
        };
        if !std::env::vars_os().any(chosen) {
            then(&mut HOLDERS.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// No block has a mapping of its own, which ends with it, and the heap does not shrink.
    pub(super) fn keep() {
        set(libc::M_MMAP_MAX, 0);
        set(libc::M_TRIM_THRESHOLD, -1);
    }

    /// What is free goes back, and the settings are those that the library comes to by itself once it has seen large blocks freed.
    pub(super) fn give_back() {
        const LARGEST: c_int = 32 << 20;
        set(libc::M_MMAP_MAX, 1 << 16);
        set(libc::M_MMAP_THRESHOLD, LARGEST);
        set(libc::M_TRIM_THRESHOLD, 2 * LARGEST);
        // SAFETY: it takes the allocator's own locks, and touches free memory only.
        unsafe { libc::malloc_trim(0) };
    }

    fn set(parameter: c_int, value: c_int) {
        // SAFETY: it writes a number of the allocator's, as freeing a large block does on any thread. It may refuse; then
        // steps are slower.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod system {
    pub(super) fn count(_: impl FnOnce(&mut usize)) {}

    pub(super) fn keep() {}

    pub(super) fn give_back() {}
}
