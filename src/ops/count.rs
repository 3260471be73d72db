//! How many convolutions and matrix products were run: what the documentation says a penalty costs, held to it by a test.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static COUNTS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Notes a convolution, on the thread that asked for it; nothing outside of tests.
pub(super) fn convolution() {
    #[cfg(test)]
    COUNTS.with(|counts| counts.set((counts.get().0 + 1, counts.get().1)));
}

/// Notes a matrix product, or each of those that are made as one.
pub(super) fn matrix_product() {
    #[cfg(test)]
    COUNTS.with(|counts| counts.set((counts.get().0, counts.get().1 + 1)));
}

/// The convolutions and matrix products that a function runs on this thread.
#[cfg(test)]
pub(crate) fn counted<T>(run: impl FnOnce() -> T) -> (T, (usize, usize)) {
    COUNTS.with(|counts| counts.set((0, 0)));
    let result = run();
    (result, COUNTS.with(Cell::get))
}
