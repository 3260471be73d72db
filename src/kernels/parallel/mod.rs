//! Sharing work between threads without letting the result depend on their number.

mod team;

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Elements up to which a kernel stays on its thread. To share a loop with a helper, and to fetch what other cores have written,
/// takes about as long as a vectorised loop over so many.
pub(super) const SERIAL: usize = 48 * 1024;

/// Elements that a task takes at least, to pay for being handed over.
pub(super) const PIECE: usize = 4 * 1024;

/// Cuts `out` into pieces of `size` elements and calls `work` with each piece and its offset.
///
/// What `work` writes to an element must depend on nothing that another piece writes; then the result is the same
/// for any number of threads.
pub(super) fn for_each_chunk<T: Copy + Send>(
    out: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let serial = out.len() <= SERIAL;
    for_each_chunk_of(serial, [(out, size)], |i, [out]| work(i * size.max(1), out));
}

/// Cuts each of some slices into pieces of its own size, as many of each, and calls `work` with the number of a piece and that
/// piece of each slice; on this thread where `serial`.
pub(super) fn for_each_chunk_of<T: Copy + Send, const N: usize>(
    serial: bool,
    slices: [(&mut [T], usize); N],
    work: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let pieces = |(slice, size): &(&mut [T], usize)| slice.len().div_ceil((*size).max(1));
    let count = pieces(&slices[0]);
    assert!(slices.iter().all(|slice| pieces(slice) == count), "as many pieces of each");
    // Pieces may be small, a row say: a task takes enough of them to pay for the hand-over.
    let at_once = if serial { count } else { PIECE.div_ceil(slices[0].1.max(1)) };
    let shared = slices.map(|(slice, size)| (slice.len(), size.max(1), Shared::new(slice)));
    tasks(serial, count.div_ceil(at_once.max(1)), |task| {
        for i in task * at_once..count.min((task + 1) * at_once) {
            // SAFETY: pieces of one slice do not overlap, and each is given to `work` once.
            let piece = shared.each_ref().map(|(len, size, slice)| unsafe {
                slice.slice(i * size..(*len).min((i + 1) * size))
            });
            work(i, piece);
        }
    });
}

/// A vector of `len` elements that is made in pieces of `size`: `work` is given each piece's offset and memory;
/// all on this thread where `serial`.
///
/// # Safety
/// `work` must write every element of each piece that it is given.
pub(super) unsafe fn made_in_chunks<T: Copy + Send>(
    len: usize,
    size: usize,
    serial: bool,
    work: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    let pieces = [(&mut out.spare_capacity_mut()[..len], size)];
    for_each_chunk_of(serial, pieces, |i, [out]| work(i * size.max(1), out));
    // SAFETY: the pieces cover all elements, each of which was written, as the caller vouches.
    unsafe { out.set_len(len) };
    out
}

/// Calls `work` with each number below `count`, on any thread and in any order; on this one where `serial`.
pub(super) fn tasks(serial: bool, count: usize, work: impl Fn(usize) + Sync) {
    if serial || count <= 1 {
        (0..count).for_each(work);
    } else {
        team::team().share(count, team::helpers(), &work);
    }
}

/// Calls two functions, beside each other where a thread is free for the second. Their loops are shared out as everywhere.
pub(crate) fn beside<A, B: Send>(
    work: impl FnOnce() -> A,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    team::team().beside(team::helpers(), work, other)
}

/// Whether another thread may take part in what this one does.
pub(crate) fn has_helpers() -> bool {
    helpers() > 0
}

/// How many other threads may.
pub(super) fn helpers() -> usize {
    team::helpers()
}

/// A slice whose parts are written by several tasks at once, where no slice of slices can tell them apart: blocks of a
/// matrix, say.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of `[T]`, which may go to another thread; several threads get parts of it only
// by pointers and slices whose users vouch for them not to overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Copy> Shared<'a, T> {
    pub(super) fn new(whole: &'a mut [T]) -> Self {
        Self { start: whole.as_mut_ptr(), len: whole.len(), whole: PhantomData }
    }

    /// The memory behind an empty vector's end, of no values yet.
    pub(super) fn spare(vector: &'a mut Vec<T>, len: usize) -> Self {
        vector.clear();
        vector.reserve_exact(len);
        Self { start: vector.as_mut_ptr(), len, whole: PhantomData }
    }

    /// Where the memory begins, of which so many elements are there. What is used from here on must be nobody else's.
    #[inline(always)]
    pub(super) fn start(&self, len: usize) -> *mut T {
        assert!(len <= self.len, "{len} of {}", self.len);
        self.start
    }

    /// Where a part begins.
    ///
    /// # Safety
    /// Nobody else may use a part that overlaps it, and what is read must have values.
    #[inline(always)]
    pub(super) unsafe fn at(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the memory, by the assertion.
        unsafe { self.start.add(range.start) }
    }

    /// Writes a part.
    ///
    /// # Safety
    /// Nobody else may use a part that overlaps it.
    #[inline(always)]
    pub(super) unsafe fn write(&self, start: usize, values: &[T]) {
        const PIECE: usize = 16;
        let (pieces, rest) = values.as_chunks::<PIECE>();
        // SAFETY: inside the memory; not used by anybody else, as the caller vouches, so it does not overlap
        // `values` either. `T` is `Copy`: nothing is dropped.
        unsafe {
            let mut to = self.at(start..start + values.len());
            // A few vectors, which a call of `memcpy` would take longer for.
            for piece in pieces {
                to.cast::<[T; PIECE]>().write_unaligned(*piece);
                to = to.add(PIECE);
            }
            std::ptr::copy_nonoverlapping(rest.as_ptr(), to, rest.len());
        }
    }

    /// A part to write to, of copies of an element at first.
    ///
    /// # Safety
    /// Nobody else may use a part that overlaps it.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for it")]
    pub(super) unsafe fn filled(&self, range: Range<usize>, x: T) -> &mut [T] {
        // SAFETY: inside the memory, as `at` asserts; not used by anybody else, as the caller vouches, and read only once it
        // has values.
        unsafe {
            let start = self.at(range.clone()).cast::<MaybeUninit<T>>();
            std::slice::from_raw_parts_mut(start, range.len()).fill(MaybeUninit::new(x));
            std::slice::from_raw_parts_mut(start.cast(), range.len())
        }
    }

    /// A part to write to.
    ///
    /// # Safety
    /// Nobody else may use a part that overlaps it, and it must have values: in a [`spare`](Self::spare) one, those that were
    /// written.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for it")]
    pub(super) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        // SAFETY: inside the memory; not used by anybody else, and with values, as the caller vouches.
        unsafe { std::slice::from_raw_parts_mut(self.at(range.clone()), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_visited_once_with_its_offset() {
        for len in [0, 1, 7, SERIAL, SERIAL + 1, 3 * SERIAL + 5] {
            for size in [0, 1, 10, 1000, SERIAL] {
                let mut out = vec![0usize; len];
                for_each_chunk(&mut out, size, |offset, piece| {
                    for (i, element) in piece.iter_mut().enumerate() {
                        *element += offset + i + 1;
                    }
                });
                assert!(out.iter().enumerate().all(|(i, &element)| element == i + 1));
            }
        }
    }
}
