//! The innermost loop of every matrix product: tiles of a few rows and a few vectors of columns, kept in registers.
//!
//! An element of the left operand is spread over a vector and multiplied with vectors of the right one. So the left
//! operand is read where it lies, in any strides; only the right one is packed, into [panels](super::Panels).
//!
//! Each element of the product is summed from the first inner index to the last, whatever the vectors' length: the same
//! bytes with AVX2 and AVX-512.
//!
//! A core that another hardware thread shares gets half of the front end, where each instruction beside the multiplications costs.
//! So sixteen inner indices are written out, with addresses that the compiler knows.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use pulp::{Simd, WithSimd};

use super::operands::{Left, Place, ROWS};
use crate::kernels::Real;
use crate::kernels::lanes::{Lanes, lanes};
use crate::kernels::prefetch::{LINE, Prefetch};

/// Inner indices that are written out: a line of a row in `f32`, two in `f64`.
const WRITTEN_OUT: usize = 16;

/// Four calls, which the compiler would make a loop of.
#[inline(always)]
fn four(mut body: impl FnMut(usize)) {
    body(0);
    body(1);
    body(2);
    body(3);
}

/// Tiles of a product, one after the other, over some inner indices, which lie in one segment or are whole segments.
///
/// `STEP` is the left operand's.
pub(super) struct InRegisters<'a, T, const VECTORS: usize, const STEP: usize> {
    pub(super) left: Left<'a, T>,
    /// Either all of them have a tile's rows of the operand, or there is only one.
    pub(super) tiles: Range<usize>,
    pub(super) inner: Range<usize>,
    /// The panel's elements and its width.
    pub(super) panel: (&'a [T], usize),
    /// What the sums are written to, or added to.
    pub(super) place: Place<'a, T>,
}

impl<T: Real, const VECTORS: usize, const STEP: usize> WithSimd
    for InRegisters<'_, T, VECTORS, STEP>
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.panel.1 == VECTORS * lanes::<S, T>() {
            self.columns::<S, true>(simd);
        } else {
            self.columns::<S, false>(simd);
        }
    }
}

impl<T: Real, const VECTORS: usize, const STEP: usize> InRegisters<'_, T, VECTORS, STEP> {
    /// All columns of the panel, a few vectors at a time; `ALL` at once, so that the compiler knows how far rows are apart.
    #[inline(always)]
    fn columns<S: Simd, const ALL: bool>(&self, simd: S) {
        let Self { left, tiles, inner, panel: (panel, width), place } = self;
        let (count, lanes) = (inner.len(), lanes::<S, T>());
        let width = if ALL { VECTORS * lanes } else { *width };
        let segment = left.segment.min(count);
        let first =
            inner.start / left.segment * left.segment_stride + inner.start % left.segment * STEP;
        // Rows beyond the last are the last one again; nobody reads their values.
        let rows = ROWS.min(left.rows - tiles.start * ROWS);
        let offsets: [usize; ROWS] = std::array::from_fn(|i| {
            let row = if STEP == 1 { i.min(rows - 1) } else { i };
            first + row * left.row_stride
        });
        assert!(
            STEP == left.step
                && count.is_multiple_of(segment)
                && inner.end * width <= panel.len()
                && width.is_multiple_of(VECTORS * lanes)
                && tiles.len() * ROWS <= place.rows
                && width <= place.width
                && (tiles.len() == 1 || tiles.end * ROWS <= left.rows)
                && (tiles.end - 1) * left.tile
                    + offsets[ROWS - 1]
                    + (count / segment - 1) * left.segment_stride
                    + (segment - 1) * STEP
                    < left.elements.len()
        );
        // Stays 0 while all that is written is finite.
        let mut zeros = T::splat(simd, T::zero());
        let prefetch = Prefetch::new();
        // Short rows begin with each tile, of operand and product, and the processor notices a row only after some misses: so
        // lines of the next tile are asked for while this one is computed.
        for (tile, row) in tiles.clone().zip((0..).step_by(ROWS)) {
            for column in (0..width).step_by(VECTORS * lanes) {
                let zero = T::splat(simd, T::zero());
                let mut sums = [[zero; VECTORS]; ROWS];
                // SAFETY: the assertion holds the last element that is read of `left` and of `panel` to be inside them; offsets
                // grow with the row, indices with every loop. A place has so many rows of the panel's width for itself. Vectors
                // are plain floats, read and written without a demand on their alignment.
                unsafe {
                    let out = place.start.add(row * place.stride + column);
                    let mut asked = 0;
                    let mut from = left.elements.as_ptr().add(tile * left.tile);
                    let mut right = panel.as_ptr().add(inner.start * width + column);
                    for _ in 0..count / segment {
                        let mut at = from;
                        for _ in 0..segment / WRITTEN_OUT {
                            if STEP == 1 {
                                for line in (0..WRITTEN_OUT).step_by(LINE / size_of::<T>()) {
                                    let next = at.wrapping_add(left.tile + line);
                                    let rows = offsets.iter().map(|&o| next.wrapping_add(o));
                                    rows.for_each(|row| prefetch.to_read(row));
                                }
                            }
                            if asked < VECTORS {
                                let next = out.wrapping_add(ROWS * place.stride + asked * lanes);
                                (0..ROWS).for_each(|i| {
                                    prefetch.to_write(next.wrapping_add(i * place.stride))
                                });
                                asked += 1;
                            }
                            four(
                                #[inline(always)]
                                |i| {
                                    four(
                                        #[inline(always)]
                                        |j| {
                                            let p = 4 * i + j;
                                            let at = at.wrapping_add(p * STEP);
                                            let right = right.wrapping_add(p * width);
                                            add::<S, T, VECTORS>(
                                                simd, &mut sums, at, &offsets, right,
                                            );
                                        },
                                    );
                                },
                            );
                            at = at.wrapping_add(WRITTEN_OUT * STEP);
                            right = right.wrapping_add(WRITTEN_OUT * width);
                        }
                        for _ in 0..segment % WRITTEN_OUT {
                            add::<S, T, VECTORS>(simd, &mut sums, at, &offsets, right);
                            at = at.wrapping_add(STEP);
                            right = right.wrapping_add(width);
                        }
                        from = from.wrapping_add(left.segment_stride);
                    }
                    for (i, sums) in sums.iter().enumerate() {
                        for (v, &sum) in sums.iter().enumerate() {
                            let out = out.add(i * place.stride + v * lanes);
                            let out = out.cast::<T::Vector<S>>();
                            let sum = match place.adds {
                                true => <T as Lanes>::add(simd, out.read_unaligned(), sum),
                                false => sum,
                            };
                            out.write_unaligned(sum);
                            if place.finite.is_some() {
                                zeros = T::multiply_add(simd, sum, zero, zeros);
                            }
                        }
                    }
                }
            }
        }
        if let Some(finite) = place.finite
            && !T::all_finite(simd, zeros)
        {
            finite.store(false, Relaxed);
        }
    }
}

/// Adds the products of one inner index: each row's element, its offset from `at`, with the panel's vectors.
///
/// # Safety
/// All that is read must be there.
#[inline(always)]
unsafe fn add<S: Simd, T: Real, const VECTORS: usize>(
    simd: S,
    sums: &mut [[T::Vector<S>; VECTORS]; ROWS],
    at: *const T,
    offsets: &[usize; ROWS],
    right: *const T,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let vectors: [T::Vector<S>; VECTORS] = std::array::from_fn(
            #[inline(always)]
            |v| right.add(v * lanes::<S, T>()).cast::<T::Vector<S>>().read_unaligned(),
        );
        for (sums, &offset) in sums.iter_mut().zip(offsets) {
            let x = T::splat(simd, *at.add(offset));
            for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                *sum = T::multiply_add(simd, x, vector, *sum);
            }
        }
    }
}
