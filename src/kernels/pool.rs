//! Sums over windows that do not overlap, and their reverse.

use super::Real;
use super::parallel::for_each_chunk;

/// The sum of each `down` x `right` window of planes of `width` columns whose height is a multiple of `down` and whose
/// width is one of `right`, times `scale`.
pub(crate) fn sum_windows<T: Real>(
    x: &[T],
    width: usize,
    [down, right]: [usize; 2],
    scale: T,
) -> Vec<T> {
    let mut out = vec![T::zero(); x.len() / (down * right)];
    let out_width = width / right;
    for_each_chunk(&mut out, out_width, |offset, out| {
        let first = offset / out_width.max(1) * down * width;
        for row in x[first..][..down * width].chunks_exact(width) {
            for (out, window) in out.iter_mut().zip(row.chunks_exact(right)) {
                *out += window.iter().fold(T::zero(), |sum, &x| sum + x);
            }
        }
        out.iter_mut().for_each(|out| *out *= scale);
    });
    out
}

/// Each element of planes of `width` columns repeated `down` x `right` times, times `scale`.
pub(crate) fn repeat_windows<T: Real>(
    x: &[T],
    width: usize,
    [down, right]: [usize; 2],
    scale: T,
) -> Vec<T> {
    let mut out = vec![T::zero(); x.len() * down * right];
    let out_width = width * right;
    for_each_chunk(&mut out, out_width, |offset, out| {
        let row = &x[offset / out_width.max(1) / down * width..][..width];
        for (out, &x) in out.chunks_exact_mut(right).zip(row) {
            out.fill(x * scale);
        }
    });
    out
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
            planes in 0usize..80, height in 1usize..30, width in 1usize..30, down in 1usize..4, right in 1usize..4,
        ) {
            let small = values::<f64>(planes * height * width, 1);
            let large = values::<f64>(small.len() * down * right, 2);
            let small_of = |i: usize| {
                let (row, column) = (i / (width * right), i % (width * right));
                row / down * width + column / right
            };
            let repeated: Vec<f64> = (0..large.len()).map(|i| 0.5 * small[small_of(i)]).collect();
            prop_assert_eq!(repeat_windows(&small, width, [down, right], 0.5), repeated);
            let mut sums = vec![0.0; small.len()];
            for (i, &x) in large.iter().enumerate() {
                sums[small_of(i)] += 0.5 * x;
            }
            for (got, expected) in sum_windows(&large, width * right, [down, right], 0.5).iter().zip(sums) {
                prop_assert!((got - expected).abs() < 1e-14);
            }
        }
    }
}
