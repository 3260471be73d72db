//! What a product is made of, and the memory that it is written to.

use std::marker::PhantomData;
use std::sync::atomic::AtomicBool;

use crate::kernels::Real;
use crate::kernels::parallel::{Shared, for_each_chunk};
use crate::kernels::prefetch::Prefetch;

/// Rows of a tile: with four vectors of columns they fill 24 of the 32 registers of AVX-512, and with two 12 of the 16 of
/// AVX2.
pub(crate) const ROWS: usize = 6;

/// The left operand: element `(row, p)` of tile `t` stands at `t * tile + row * row_stride + (p / segment) * segment_stride +
/// (p % segment) * step`.
///
/// Segments let the inner index run over the positions of one sample after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a, T> {
    pub(super) elements: &'a [T],
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) tile: usize,
    pub(super) row_stride: usize,
    pub(super) step: usize,
    pub(super) segment: usize,
    pub(super) segment_stride: usize,
}

impl<'a, T> Left<'a, T> {
    /// A matrix read where it lies, its rows `row_stride` apart and the elements of a row side by side.
    pub(crate) fn rows(elements: &'a [T], rows: usize, inner: usize, row_stride: usize) -> Self {
        Self::segments(elements, rows, row_stride, (1, inner, inner))
    }

    /// A matrix whose rows lie in `count` segments of `segment` elements, `segment_stride` apart.
    pub(crate) fn segments(
        elements: &'a [T],
        rows: usize,
        row_stride: usize,
        (count, segment, segment_stride): (usize, usize, usize),
    ) -> Self {
        let inner = count * segment;
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        assert!(
            rows * inner == 0
                || last(rows, row_stride) + last(count, segment_stride) + segment <= elements.len(),
            "{rows} rows, {row_stride} apart, of {count} segments of {segment}, {segment_stride} apart, in {} elements",
            elements.len()
        );
        let tile = ROWS * row_stride;
        Self { elements, rows, inner, tile, row_stride, step: 1, segment, segment_stride }
    }

    /// A matrix that was [packed](pack_left).
    pub(crate) fn packed(elements: &'a [T], rows: usize, inner: usize) -> Self {
        assert_eq!(elements.len(), packed_left_len(rows, inner), "{rows} x {inner}, packed");
        let tile = ROWS * inner;
        Self {
            elements,
            rows,
            inner,
            tile,
            row_stride: 1,
            step: ROWS,
            segment: inner,
            segment_stride: 0,
        }
    }
}

/// Elements of a packed left operand.
pub(crate) fn packed_left_len(rows: usize, inner: usize) -> usize {
    rows.div_ceil(ROWS) * ROWS * inner
}

/// Packs a matrix that is stored with its rows side by side, `rows` elements for each inner index, tile by tile. The inner index
/// runs over all of `parts`, one after the other.
pub(crate) fn pack_left<T: Real>(parts: &[&[T]], rows: usize, inner: usize, packed: &mut [T]) {
    /// Tiles that are packed at once, of whose rows whole lines are read.
    const TILES: usize = 8;
    /// Elements that are moved at once, in a vector or some: more than a tile has rows. Those beyond are written over by what comes next.
    const MOVED: usize = 8;
    /// Inner indices ahead of which lines are asked for.
    const AHEAD: usize = 8;
    for_each_chunk(packed, TILES * ROWS * inner, |offset, tiles| {
        let first = offset / inner;
        let prefetch = Prefetch::new();
        let stored = parts.iter().flat_map(|part| part.chunks_exact(rows));
        for (p, from) in stored.enumerate() {
            for (tile, row) in tiles.chunks_exact_mut(ROWS * inner).zip((first..).step_by(ROWS)) {
                let (from, out) = (&from[row..], &mut tile[p * ROWS..]);
                prefetch.to_write(out.as_ptr().wrapping_add(AHEAD * ROWS));
                prefetch.to_read(from.as_ptr().wrapping_add(AHEAD * rows));
                match (from.first_chunk::<MOVED>(), out.first_chunk_mut::<MOVED>()) {
                    (Some(from), Some(out)) => *out = *from,
                    _ => {
                        let count = from.len().min(ROWS);
                        out[..count].copy_from_slice(&from[..count]);
                        out[count..ROWS].fill(T::zero());
                    }
                }
            }
        }
    });
}

/// Columns of a full panel: 256 bytes, four vectors of AVX-512.
pub(crate) const fn full_width<T>() -> usize {
    256 / size_of::<T>()
}

/// The narrowest panel's width that holds this many columns, or the full one.
pub(crate) fn panel_width<T>(columns: usize) -> usize {
    let full = full_width::<T>();
    [full / 4, full / 2].into_iter().find(|&width| columns <= width).unwrap_or(full)
}

/// The right operand: panels of some columns each, element `(p, column)` of panel `j` at `(j * inner + p) * width + column`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels<'a, T> {
    pub(super) elements: &'a [T],
    pub(super) inner: usize,
    pub(super) width: usize,
}

impl<'a, T> Panels<'a, T> {
    /// `width` must come from [`panel_width`].
    pub(crate) fn new(elements: &'a [T], inner: usize, width: usize) -> Self {
        let full = full_width::<T>();
        assert!([full / 4, full / 2, full].contains(&width), "a panel of {width} columns");
        assert!(inner == 0 || elements.len().is_multiple_of(inner * width), "whole panels");
        Self { elements, inner, width }
    }
}

/// Memory for some rows of a product, of a panel's width and so many elements apart.
pub(crate) struct Place<'a, T> {
    pub(super) start: *mut T,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
    /// Whether sums are added to what is there.
    pub(super) adds: bool,
    /// Becomes false where something is written that is not finite.
    pub(super) finite: Option<&'a AtomicBool>,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T: Copy> Place<'a, T> {
    pub(crate) fn new(elements: &'a mut [T], rows: usize, stride: usize, width: usize) -> Self {
        assert!(
            rows > 0 && (rows - 1) * stride + width <= elements.len(),
            "{rows} rows of {width}, {stride} apart, in {} elements",
            elements.len()
        );
        let start = elements.as_mut_ptr();
        Self { start, rows, width, stride, adds: false, finite: None, memory: PhantomData }
    }

    /// One among those that others write to.
    ///
    /// # Safety
    /// Nobody else may use the rows, nor read them where no values are yet.
    pub(in crate::kernels) unsafe fn shared(
        whole: &Shared<'a, T>,
        start: usize,
        rows: usize,
        stride: usize,
        width: usize,
    ) -> Self {
        assert!(rows > 0, "rows of {width}");
        let last = start + (rows - 1) * stride;
        // SAFETY: as the caller vouches.
        let [start, _] = unsafe { [whole.at(start..start + width), whole.at(last..last + width)] };
        Self { start, rows, width, stride, adds: false, finite: None, memory: PhantomData }
    }

    /// The same, with something that becomes false where a value is written that is not finite.
    pub(crate) fn watched(self, finite: Option<&'a AtomicBool>) -> Self {
        Self { finite, ..self }
    }

    /// The same for sums that are added to what is there.
    pub(crate) fn added(self) -> Self {
        Self { adds: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::values;

    /// Element by element: tiles of rows, zeros for rows beyond the last.
    fn naive(parts: &[&[f64]], rows: usize) -> Vec<f64> {
        let stored: Vec<&[f64]> = parts.iter().flat_map(|part| part.chunks_exact(rows)).collect();
        let tile = |t: usize| {
            let row = move |from: &&[f64], i: usize| from.get(t * ROWS + i).copied().unwrap_or(0.0);
            stored.iter().flat_map(move |from| (0..ROWS).map(move |i| row(from, i)))
        };
        (0..rows.div_ceil(ROWS)).flat_map(tile).collect()
    }

    #[test]
    fn a_left_operand_is_packed_tile_by_tile() {
        for rows in (1..60).chain([95, 96, 97, 500]) {
            for inner in [[1, 0], [0, 2], [3, 40], [120, 1]] {
                let all = values::<f64>(rows * (inner[0] + inner[1]), 1);
                let (first, second) = all.split_at(rows * inner[0]);
                let inner = inner[0] + inner[1];
                let mut packed = vec![f64::NAN; packed_left_len(rows, inner)];
                pack_left(&[first, second], rows, inner, &mut packed);
                assert_eq!(packed, naive(&[first, second], rows), "{rows} x {inner}");
            }
        }
    }
}
