//! Sums over windows that do not overlap, and their reverse.

use std::mem::MaybeUninit;

use super::parallel::{PIECE, SERIAL, made_in_chunks};
use super::{Real, vectorised};

/// The sum of each `down` x `right` window of planes of `width` columns whose height is a multiple of `down` and whose
/// width is one of `right`, times `scale`.
pub(crate) fn sum_windows<T: Real>(
    x: &[T],
    width: usize,
    [down, right]: [usize; 2],
    scale: T,
) -> Vec<T> {
    // SAFETY: each element that is given is written.
    unsafe {
        made_by_rows(
            x.len() / (down * right),
            width / right,
            #[inline(always)]
            move |number, out| {
                let rows = &x[number * down * width..][..down * width];
                if [down, right] == [2, 2] {
                    return sum_pairs(rows.split_at(width), scale, out);
                }
                for (i, out) in out.iter_mut().enumerate() {
                    let windows = rows.chunks_exact(width).map(|row| &row[i * right..][..right]);
                    out.write(windows.map(sum).fold(T::zero(), |sum, x| sum + x) * scale);
                }
            },
        )
    }
}

/// Each element of planes of `width` columns repeated `down` x `right` times, times `scale`.
pub(crate) fn repeat_windows<T: Real>(
    x: &[T],
    width: usize,
    [down, right]: [usize; 2],
    scale: T,
) -> Vec<T> {
    // SAFETY: a row is as many times as long as that of `x`, so each of its elements is written.
    unsafe {
        made_by_rows(
            x.len() * down * right,
            width * right,
            #[inline(always)]
            move |number, out| {
                let x = &x[number / down * width..][..width];
                if right == 2 {
                    return repeat_pairs(x, scale, out);
                }
                for (out, &x) in out.chunks_exact_mut(right).zip(x) {
                    out.fill(MaybeUninit::new(x * scale));
                }
            },
        )
    }
}

/// A vector of `len` elements in rows of `width`: `write_row` is given each row's number and memory.
///
/// # Safety
/// `write_row` must write every element that it is given.
unsafe fn made_by_rows<T: Real>(
    len: usize,
    width: usize,
    write_row: impl Fn(usize, &mut [MaybeUninit<T>]) + Copy + Sync,
) -> Vec<T> {
    if len == 0 {
        return Vec::new();
    }
    assert!(len.is_multiple_of(width), "{len} elements in rows of {width}");
    let work = |offset: usize, out: &mut [MaybeUninit<T>]| {
        vectorised(
            #[inline(always)]
            move || {
                let rows = out.chunks_exact_mut(width).zip(offset / width..);
                rows.for_each(|(out, number)| write_row(number, out));
            },
        );
    };
    let piece = PIECE.div_ceil(width) * width;
    // SAFETY: all pieces are whole rows, the last by the assertion, and each row is written, as the caller vouches.
    unsafe { made_in_chunks(len, piece, len <= SERIAL, work) }
}

#[inline(always)]
fn sum<T: Real>(window: &[T]) -> T {
    window.iter().fold(T::zero(), |sum, &x| sum + x)
}

/// The sums of the 2 x 2 windows of two rows, times `scale`: a size that the compiler knows becomes vectors.
#[inline(always)]
fn sum_pairs<T: Real>((top, bottom): (&[T], &[T]), scale: T, out: &mut [MaybeUninit<T>]) {
    let [top, bottom] = [top, bottom].map(|row| row.as_chunks::<2>().0);
    for (out, (top, bottom)) in out.iter_mut().zip(top.iter().zip(bottom)) {
        out.write((sum(top) + sum(bottom)) * scale);
    }
}

/// Each element of a row twice, times `scale`.
#[inline(always)]
fn repeat_pairs<T: Real>(row: &[T], scale: T, out: &mut [MaybeUninit<T>]) {
    for (out, &x) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
        *out = [MaybeUninit::new(x * scale); 2];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::values;
    use candle_core::WithDType;
    use proptest::prelude::*;

    /// By the definition, each row of a window added up before the rows are, to the bit.
    fn check<T: Real>([planes, height, width]: [usize; 3], window: [usize; 2]) {
        let [down, right] = window;
        let number = <T as WithDType>::from_f64;
        let mut small = values::<T>(planes * height * width, 1);
        let mut large = values::<T>(small.len() * down * right, 2);
        for x in [&mut small, &mut large] {
            let zeros = x.iter_mut().skip(planes % 5).step_by(3);
            zeros.enumerate().for_each(|(i, x)| *x = number([0.0, -0.0][i % 2]));
            let infinite = x.iter_mut().skip(height % 7).step_by(19);
            infinite.enumerate().for_each(|(i, x)| *x = [T::infinity(), -T::infinity()][i % 2]);
        }
        // A sum of 0 becomes -0.
        let scale = number(-0.3);
        let bits = |x: T| (!x.is_nan()).then(|| WithDType::to_f64(x).to_bits());
        let repeated = (0..large.len()).map(|i| {
            let (row, column) = (i / (width * right), i % (width * right));
            scale * small[row / down * width + column / right]
        });
        let got = repeat_windows(&small, width, window, scale);
        assert!(repeated.map(bits).eq(got.into_iter().map(bits)), "repeated");
        let sums = (0..small.len()).map(|i| {
            let (row, column) = (i / width * down, i % width * right);
            let row = |d: usize| {
                let start = (row + d) * width * right + column;
                large[start..start + right].iter().fold(T::zero(), |sum, &x| sum + x)
            };
            (0..down).map(row).fold(T::zero(), |sum, x| sum + x) * scale
        });
        let got = sum_windows(&large, width * right, window, scale);
        assert!(sums.map(bits).eq(got.into_iter().map(bits)), "sums");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_definition(
            planes in 0usize..80, height in 1usize..30, width in 1usize..50, down in 1usize..4, right in 1usize..4,
        ) {
            check::<f32>([planes, height, width], [down, right]);
            check::<f64>([planes, height, width], [down, right]);
        }
    }

    /// Rows shorter than a vector, as long, longer; of no columns; all on one thread and shared out.
    #[test]
    fn pairs_equal_the_definition() {
        for width in [0, 1, 7, 8, 9, 16, 33, 1000, 5000] {
            for planes in [1, SERIAL / (3 * width.max(1)) + 1] {
                check::<f32>([planes, 3, width], [2, 2]);
                check::<f64>([planes, 3, width], [2, 2]);
            }
        }
    }
}
