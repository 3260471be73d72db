//! Sharing work between threads without letting the result depend on their number.

use rayon::prelude::*;

/// Elements below which a kernel stays on its thread. Waking another one takes about as long as a
/// vectorised loop over so many.
pub(super) const SERIAL: usize = 64 * 1024;

/// Cuts `out` into pieces of `size` elements and calls `work` with each piece and its offset.
///
/// What `work` writes to an element must depend on nothing that another piece writes; then the result is the same
/// for any number of threads.
pub(super) fn for_each_chunk<T: Send>(
    out: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let size = size.max(1);
    if out.len() <= SERIAL {
        for (i, piece) in out.chunks_mut(size).enumerate() {
            work(i * size, piece);
        }
    } else {
        // Pieces may be small, a row say: a task takes enough of them to pay for the hand-over.
        let pieces = out.par_chunks_mut(size).with_min_len((SERIAL / 4).div_ceil(size));
        pieces.enumerate().for_each(|(i, piece)| work(i * size, piece));
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
