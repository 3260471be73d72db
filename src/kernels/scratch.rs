//! Buffers that a thread keeps, so that a kernel does not ask the system for memory at every call.

use std::cell::RefCell;

use super::Real;
use super::prefetch::LINE;

thread_local! {
    static F32: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    static F64: RefCell<Vec<Vec<f64>>> = const { RefCell::new(Vec::new()) };
}

/// Element types with a stack of buffers on each thread.
pub(crate) trait Scratch: Sized {
    fn with_stack<R>(f: impl FnOnce(&RefCell<Vec<Vec<Self>>>) -> R) -> R;
}

impl Scratch for f32 {
    fn with_stack<R>(f: impl FnOnce(&RefCell<Vec<Vec<Self>>>) -> R) -> R {
        F32.with(f)
    }
}

impl Scratch for f64 {
    fn with_stack<R>(f: impl FnOnce(&RefCell<Vec<Vec<Self>>>) -> R) -> R {
        F64.with(f)
    }
}

/// Calls `work` with a buffer of `len` elements of any values. Calls may be nested: each has a buffer of its own.
///
/// It begins on a line of the cache, so that a vector, at most as long as a line, is not read from two nor written to two.
pub(crate) fn with_scratch<T: Real, R>(len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    let line = LINE / size_of::<T>();
    let mut buffer = T::with_stack(|stack| stack.borrow_mut().pop()).unwrap_or_default();
    if buffer.len() < len + line {
        buffer.resize(len + line, T::zero());
    }
    let start = buffer.as_ptr().align_offset(LINE).min(line);
    // In tests, so that what a kernel reads before it has written it shows.
    #[cfg(test)]
    buffer[start..][..len].fill(T::nan());
    let result = work(&mut buffer[start..][..len]);
    T::with_stack(|stack| stack.borrow_mut().push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_buffers_are_different_ones() {
        with_scratch(3, |outer: &mut [f32]| {
            outer.fill(1.0);
            with_scratch(5, |inner: &mut [f32]| inner.fill(2.0));
            assert_eq!(outer, [1.0; 3]);
        });
    }

    #[test]
    fn buffers_begin_on_lines() {
        fn check<T: Real>(len: usize) {
            with_scratch(len, |buffer: &mut [T]| {
                assert!(buffer.len() == len && buffer.as_ptr().addr().is_multiple_of(LINE));
            });
        }
        // From a few elements to a mapping of its own, shrinking and growing.
        for len in [0, 1, 7, 100, 5, 3000, 1 << 20, 12] {
            check::<f32>(len);
            check::<f64>(len);
        }
    }
}
