//! A matrix transposed in memory.

use super::{Real, vectorised};

/// The transposed of a `rows` x `columns` matrix whose rows begin `stride` elements apart, in rows `out_stride` apart.
pub(crate) fn turn<T: Real>(
    matrix: &[T],
    (rows, columns): (usize, usize),
    stride: usize,
    out: &mut [T],
    out_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(
        rows <= out_stride && (columns - 1) * out_stride + rows <= out.len(),
        "{columns} rows of {rows}, {out_stride} apart, in {} elements",
        out.len()
    );
    // SAFETY: the last row of the result ends inside `out`, as the assertion has it.
    unsafe { turn_to(matrix, (rows, columns), stride, out.as_mut_ptr(), out_stride) };
}

/// The same to memory that others may write to around the result's rows.
///
/// # Safety
/// At `out` there must be memory for `columns` rows of `rows` elements, `out_stride` apart, that nobody else uses.
pub(in crate::kernels) unsafe fn turn_to<T: Real>(
    matrix: &[T],
    (rows, columns): (usize, usize),
    stride: usize,
    out: *mut T,
    out_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(
        columns <= stride && (rows - 1) * stride + columns <= matrix.len(),
        "{rows} rows of {columns}, {stride} apart, in {} elements",
        matrix.len()
    );
    let matrix = matrix.as_ptr();
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == 4 && std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the machine has the instructions; elements of four bytes are moved as they are; the matrix is inside its slice
        // by the assertion, the result's memory as the caller vouches.
        return unsafe {
            in_registers::turn(matrix.cast(), (rows, columns), stride, out.cast(), out_stride)
        };
    }
    /// Side of a block, whose rows stay in the cache.
    const BLOCK: usize = 8;
    vectorised(
        #[inline(always)]
        move || {
            for top in (0..rows).step_by(BLOCK) {
                for left in (0..columns).step_by(BLOCK) {
                    let (bottom, right) = (rows.min(top + BLOCK), columns.min(left + BLOCK));
                    for column in left..right {
                        for row in top..bottom {
                            // SAFETY: as above.
                            unsafe {
                                *out.add(column * out_stride + row) =
                                    *matrix.add(row * stride + column);
                            }
                        }
                    }
                }
            }
        },
    );
}

#[cfg(target_arch = "x86_64")]
mod in_registers {
    use std::arch::x86_64::*;

    /// Side of a block: a register of so many elements.
    const BLOCK: usize = 16;

    /// Blocks of 16 x 16 elements; those beyond the matrix's edge are neither read nor written.
    ///
    /// # Safety
    /// As of [`turn_to`](super::turn_to), and the matrix must be at `matrix`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn turn(
        matrix: *const f32,
        (rows, columns): (usize, usize),
        stride: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        for top in (0..rows).step_by(BLOCK) {
            for left in (0..columns).step_by(BLOCK) {
                let (down, right) = (BLOCK.min(rows - top), BLOCK.min(columns - left));
                // SAFETY: inside the matrix and the result.
                unsafe {
                    let from = matrix.add(top * stride + left);
                    let to = out.add(left * out_stride + top);
                    if (down, right) == (BLOCK, BLOCK) {
                        whole(from, stride, to, out_stride);
                    } else {
                        part(from, (down, right), stride, to, out_stride);
                    }
                }
            }
        }
    }

    /// A whole block, which stays in registers.
    ///
    /// # Safety
    /// The block must be there, and its place.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn whole(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: as the caller vouches.
        unsafe {
            let mut block = [_mm512_setzero_ps(); BLOCK];
            for (i, row) in block.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * stride));
            }
            for (i, &column) in turned(block).iter().enumerate() {
                _mm512_storeu_ps(to.add(i * to_stride), column);
            }
        }
    }

    /// The part of a block that is inside the matrix.
    ///
    /// # Safety
    /// As of [`whole`], for so many rows and columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn part(
        from: *const f32,
        (down, right): (usize, usize),
        stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        let mask = |len: usize| if len >= BLOCK { u16::MAX } else { (1 << len) - 1 };
        let mut block = [_mm512_setzero_ps(); BLOCK];
        // SAFETY: as the caller vouches; masked to what is inside.
        unsafe {
            for (i, row) in block.iter_mut().enumerate().take(down) {
                *row = _mm512_maskz_loadu_ps(mask(right), from.add(i * stride));
            }
            for (i, &column) in turned(block).iter().enumerate().take(right) {
                _mm512_mask_storeu_ps(to.add(i * to_stride), mask(down), column);
            }
        }
    }

    /// Pairs of neighbouring rows, then pairs of those, then quarters of a register.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turned(rows: [__m512; BLOCK]) -> [__m512; BLOCK] {
        let mut pairs = rows;
        for i in (0..BLOCK).step_by(2) {
            pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        // Quarter `q` of `fours[4 g + j]` is column `4 q + j` of rows `4 g..4 g + 4`.
        let mut fours = rows;
        for g in (0..BLOCK).step_by(4) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| _mm512_castps_pd(pairs[g + i]));
            fours[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            fours[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            fours[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            fours[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
        let mut columns = rows;
        for j in 0..4 {
            let [a, b, c, d] = [0, 4, 8, 12].map(|g| fours[g + j]);
            let (ab, cd) = (_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(c, d, 0x44));
            columns[j] = _mm512_shuffle_f32x4(ab, cd, 0x88);
            columns[4 + j] = _mm512_shuffle_f32x4(ab, cd, 0xdd);
            let (ab, cd) = (_mm512_shuffle_f32x4(a, b, 0xee), _mm512_shuffle_f32x4(c, d, 0xee));
            columns[8 + j] = _mm512_shuffle_f32x4(ab, cd, 0x88);
            columns[12 + j] = _mm512_shuffle_f32x4(ab, cd, 0xdd);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::values;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_definition(
            rows in 0usize..70, columns in 0usize..70, more in 0usize..9, more_out in 0usize..9,
        ) {
            let (stride, out_stride) = (columns + more, rows + more_out);
            check::<f32>((rows, columns), stride, out_stride);
            check::<f64>((rows, columns), stride, out_stride);
        }
    }

    fn check<T: Real>((rows, columns): (usize, usize), stride: usize, out_stride: usize) {
        let x = values::<T>(rows * stride, 1);
        let mut out = vec![T::one(); columns * out_stride];
        turn(&x, (rows, columns), stride, &mut out, out_stride);
        for (i, &out) in out.iter().enumerate() {
            let (column, row) = (i / out_stride.max(1), i % out_stride.max(1));
            let expected = if row < rows { x[row * stride + column] } else { T::one() };
            assert!(out == expected, "element {i}: {out} for {expected}");
        }
    }
}
