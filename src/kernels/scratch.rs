//! Buffers that a thread keeps, so that a kernel does not ask the system for memory at every call.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Real;
use super::prefetch::LINE;

/// The buffers of one thread.
pub(crate) struct Buffers<T> {
    /// Free ones.
    stack: Vec<Vec<T>>,
    /// Of each slot the one that was filled last, with the number of its [`PerThread`].
    filled: [(Option<u64>, Vec<T>); 2],
}

impl<T> Buffers<T> {
    const fn new() -> Self {
        Self { stack: Vec::new(), filled: [(None, Vec::new()), (None, Vec::new())] }
    }
}

thread_local! {
    static F32: RefCell<Buffers<f32>> = const { RefCell::new(Buffers::new()) };
    static F64: RefCell<Buffers<f64>> = const { RefCell::new(Buffers::new()) };
}

/// Element types with buffers on each thread.
pub(crate) trait Scratch: Sized {
    fn with_buffers<R>(f: impl FnOnce(&mut Buffers<Self>) -> R) -> R;
}

impl Scratch for f32 {
    fn with_buffers<R>(f: impl FnOnce(&mut Buffers<Self>) -> R) -> R {
        F32.with_borrow_mut(f)
    }
}

impl Scratch for f64 {
    fn with_buffers<R>(f: impl FnOnce(&mut Buffers<Self>) -> R) -> R {
        F64.with_borrow_mut(f)
    }
}

/// Calls `work` with a buffer of `len` elements of any values. Calls may be nested: each has a buffer of its own.
///
/// It begins on a line of the cache, so that a vector, at most as long as a line, is not read from two nor written to two.
pub(crate) fn with_scratch<T: Real, R>(len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    let mut buffer = T::with_buffers(|buffers| buffers.stack.pop()).unwrap_or_default();
    let result = work(of_any_values(&mut buffer, len));
    T::with_buffers(|buffers| buffers.stack.push(buffer));
    result
}

/// So many elements of a buffer, from where a line begins.
fn of_any_values<T: Real>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    let line = LINE / size_of::<T>();
    if buffer.len() < len + line {
        buffer.resize(len + line, T::zero());
    }
    let elements = on_lines(buffer, len);
    // In tests, so that what a kernel reads before it has written it shows.
    #[cfg(test)]
    elements.fill(T::nan());
    elements
}

fn on_lines<T: Real>(buffer: &mut [T], len: usize) -> &mut [T] {
    let start = buffer.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
    &mut buffer[start..][..len]
}

/// A buffer that each thread fills for itself, at the first piece of a loop that it takes.
///
/// What one thread wrote for all would have to be fetched from its core, and to write it anew for the next loop, once others have it in
/// their caches, takes longer than to fill it for each.
#[derive(Debug)]
pub(crate) struct PerThread {
    number: u64,
    slot: usize,
    len: usize,
}

impl PerThread {
    /// Of `len` elements. A thread keeps, as long as it lives, the buffer that was filled last of each slot, of two, 0 and 1: those that
    /// are used together want different ones.
    pub(crate) fn new(slot: usize, len: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { number: NEXT.fetch_add(1, Relaxed), slot, len }
    }

    /// Calls `work` with this thread's buffer. Where the thread does not have it any more, or yet, `fill` writes it first.
    pub(crate) fn with<T: Real, R>(
        &self,
        fill: impl FnOnce(&mut [T]),
        work: impl FnOnce(&[T]) -> R,
    ) -> R {
        let take = |Buffers { filled, .. }: &mut Buffers<T>| std::mem::take(&mut filled[self.slot]);
        let (number, mut buffer) = T::with_buffers(take);
        if number != Some(self.number) {
            fill(of_any_values(&mut buffer, self.len));
        }
        let result = work(on_lines(&mut buffer, self.len));
        T::with_buffers(|buffers| buffers.filled[self.slot] = (Some(self.number), buffer));
        result
    }
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

    #[test]
    fn a_thread_fills_its_buffer_once() {
        use std::cell::Cell;

        let new = |(slot, len)| PerThread::new(slot, len);
        let [a, b, c] = [(0, 3), (1, 5), (0, 4)].map(new);
        let fills = Cell::new(0);
        let sum = |per_thread: &PerThread, x: f64| {
            per_thread.with(
                |elements: &mut [f64]| {
                    fills.set(fills.get() + 1);
                    elements.fill(x);
                },
                |elements| elements.iter().sum::<f64>(),
            )
        };
        for _ in 0..3 {
            assert_eq!((sum(&a, 1.0), sum(&b, 2.0)), (3.0, 10.0));
        }
        assert_eq!(fills.get(), 2);
        // One within another of its slot.
        let outer = a.with(|_: &mut [f64]| unreachable!(), |a| (sum(&c, 7.0), a.to_vec()));
        assert_eq!(outer, (28.0, vec![1.0; 3]));
        assert_eq!((sum(&b, 2.0), sum(&c, 7.0), sum(&a, 1.0)), (10.0, 28.0, 3.0));
        assert_eq!(fills.get(), 5);
    }

    #[test]
    fn what_a_panic_left_is_filled_again() {
        use std::panic::catch_unwind;

        let buffer = PerThread::new(0, 3);
        let ones = |elements: &mut [f64]| elements.fill(1.0);
        let sum = |elements: &[f64]| elements.iter().sum::<f64>();
        assert!(
            catch_unwind(|| buffer.with(|_: &mut [f64]| panic!("while it is filled"), sum))
                .is_err()
        );
        assert_eq!(buffer.with(ones, sum), 3.0);
        assert!(catch_unwind(|| buffer.with::<f64, ()>(ones, |_| panic!("at work"))).is_err());
        assert_eq!(buffer.with(ones, sum), 3.0);
    }
}
