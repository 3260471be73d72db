//! Normalisation of rows to mean 0 and variance 1 with its first two derivatives, and a choice of rows.
//!
//! A tensor is seen as rows of one size, one behind the other. Sums are taken in `f64`, in lanes whose number is that of no
//! machine, and each by one thread.

use std::mem::MaybeUninit;

use candle_core::WithDType;

use super::parallel::{SERIAL, for_each_chunk_of, made_in_chunks};
use super::{Real, vectorised};

/// Partial sums of a row, so that the loop over it vectorises.
const LANES: usize = 16;

/// The sums over a row of what `f` makes of the elements at one place.
///
/// Elements are widened before they are added up: a row may be long.
#[inline(always)]
pub(super) fn row_sums<T: Real, const INPUTS: usize, const SUMS: usize>(
    rows: [&[T]; INPUTS],
    f: impl Fn([f64; INPUTS]) -> [f64; SUMS],
) -> [f64; SUMS] {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len), "rows of one length");
    let mut lanes = [[0.0; LANES]; SUMS];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let pieces: [&[T; LANES]; INPUTS] =
            rows.map(|row| row[start..].first_chunk().expect("a whole piece"));
        for lane in 0..LANES {
            let terms = f(pieces.map(|piece| WithDType::to_f64(piece[lane])));
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[lane] += term;
            }
        }
    }
    for i in whole..len {
        let terms = f(rows.map(|row| WithDType::to_f64(row[i])));
        for (lanes, term) in lanes.iter_mut().zip(terms) {
            lanes[i - whole] += term;
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

/// The rows of `x` with these indices, one after the other.
pub(crate) fn gathered<T: Real>(x: &[T], size: usize, indices: &[usize]) -> Vec<T> {
    let len = indices.len() * size;
    let work = |offset: usize, out: &mut [MaybeUninit<T>]| {
        let row = &x[indices[offset / size] * size..][..size];
        out.iter_mut().zip(row).for_each(|(out, &x)| _ = out.write(x));
    };
    // SAFETY: a piece is one row, which is copied whole.
    unsafe { made_in_chunks(len, size, len <= SERIAL, work) }
}

/// The rows of `x` at mean 0 and variance 1, and the number that each was multiplied by: `1 / sqrt(variance + eps)`, with
/// the biased variance.
pub(crate) fn standardise<T: Real>(x: &[T], size: usize, eps: f64) -> (Vec<T>, Vec<T>) {
    let real = <T as WithDType>::from_f64;
    let (len, count) = (x.len(), x.len() / size.max(1));
    let (mut out, mut scales) = (Vec::with_capacity(len), Vec::with_capacity(count));
    let work = |x: &[T], out: &mut [MaybeUninit<T>], scale: &mut MaybeUninit<T>| {
        vectorised(
            #[inline(always)]
            move || {
                let count = size as f64;
                let mean = row_sums([x], |[x]| [x])[0] / count;
                let variance = row_sums([x], |[x]| [(x - mean) * (x - mean)])[0] / count;
                let (mean, scale) = (real(mean), *scale.write(real(1.0 / (variance + eps).sqrt())));
                for (out, &x) in out.iter_mut().zip(x) {
                    out.write((x - mean) * scale);
                }
            },
        );
    };
    if size == 0 {
        assert!(x.is_empty(), "{len} elements in rows of none");
        return (out, scales);
    }
    let rows = &mut out.spare_capacity_mut()[..len];
    let pieces = [(rows, size), (&mut scales.spare_capacity_mut()[..count], 1)];
    for_each_chunk_of(len <= SERIAL, pieces, |row, [out, scale]| {
        work(&x[row * size..][..size], out, &mut scale[0]);
    });
    // SAFETY: whole rows, as there is a scale for each piece, cover all elements; each was written, and its scale.
    unsafe {
        out.set_len(len);
        scales.set_len(count);
    }
    (out, scales)
}

/// The gradient of [`standardise`] for its input, given that for its output: `s (g - mean(g) - y mean(g y))` in each row,
/// where `y` are the standardised rows and `s` their scales.
pub(crate) fn standardise_gradient<T: Real>(
    gradient: &[T],
    y: &[T],
    scales: &[T],
    size: usize,
) -> Vec<T> {
    let real = <T as WithDType>::from_f64;
    assert!(gradient.len() == y.len() && scales.len() * size == y.len(), "a gradient for each");
    let work = |offset: usize, out: &mut [MaybeUninit<T>]| {
        let (g, y) = (&gradient[offset..][..size], &y[offset..][..size]);
        let scale = scales[offset / size];
        vectorised(
            #[inline(always)]
            move || {
                let [mean, along] = row_sums([g, y], |[g, y]| [g, g * y]).map(|s| s / size as f64);
                let (mean, along) = (real(mean), real(along));
                for (out, (&g, &y)) in out.iter_mut().zip(g.iter().zip(y)) {
                    out.write(scale * (g - mean - y * along));
                }
            },
        );
    };
    // SAFETY: a piece is one row, as long as those of `g` and `y`, so every element is written.
    unsafe { made_in_chunks(y.len(), size, y.len() <= SERIAL, work) }
}

/// The gradient of `sum(u * standardise_gradient(g))` for the input of [`standardise`].
///
/// With row means written as `<>`, `p = <u y>` and `q = <g y>`: `s^2 (y (3 p q + <u> <g> - <u g>) - q (u - <u>) - p (g - <g>))`.
pub(crate) fn standardise_second<T: Real>(
    u: &[T],
    gradient: &[T],
    y: &[T],
    scales: &[T],
    size: usize,
) -> Vec<T> {
    let real = <T as WithDType>::from_f64;
    assert!(gradient.len() == y.len() && u.len() == y.len(), "a gradient for each");
    assert!(scales.len() * size == y.len(), "a scale for each row");
    let work = |offset: usize, out: &mut [MaybeUninit<T>]| {
        let [u, g, y] = [u, gradient, y].map(|x| &x[offset..][..size]);
        let scale = scales[offset / size];
        vectorised(
            #[inline(always)]
            move || {
                let sums = row_sums([u, g, y], |[u, g, y]| [u, g, u * g, u * y, g * y]);
                let [mean_u, mean_g, ug, p, q] = sums.map(|sum| sum / size as f64);
                let for_y = real(3.0 * p * q + mean_u * mean_g - ug);
                let shift = real(q * mean_u + p * mean_g);
                let (p, q, factor) = (real(p), real(q), scale * scale);
                for (out, (&u, (&g, &y))) in out.iter_mut().zip(u.iter().zip(g.iter().zip(y))) {
                    out.write(factor * (y * for_y - q * u - p * g + shift));
                }
            },
        );
    };
    // SAFETY: a piece is one row, as long as those of `u`, `g` and `y`, so every element is written.
    unsafe { made_in_chunks(y.len(), size, y.len() <= SERIAL, work) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};

    const EPS: f64 = 1e-2;
    const SHAPES: [(usize, usize); 7] =
        [(1, 1), (3, 1), (2, 5), (4, 16), (3, 67), (70, 1000), (2, 40_000)];

    fn mean(x: impl Iterator<Item = f64>, size: usize) -> f64 {
        x.sum::<f64>() / size as f64
    }

    fn naive_standardise(x: &[f64], size: usize) -> Vec<f64> {
        let rows = x.chunks_exact(size).flat_map(|row| {
            let centre = mean(row.iter().copied(), size);
            let variance = mean(row.iter().map(|x| (x - centre).powi(2)), size);
            row.iter().map(move |x| (x - centre) / (variance + EPS).sqrt())
        });
        rows.collect()
    }

    /// By the Jacobian of the definition, written out: `s (delta_ij - 1/n - y_i y_j / n)`.
    fn naive_gradient(g: &[f64], x: &[f64], size: usize) -> Vec<f64> {
        let y = naive_standardise(x, size);
        let rows = (0..x.len()).map(|i| {
            let row = i / size * size..(i / size + 1) * size;
            let centre = mean(x[row.clone()].iter().copied(), size);
            let variance = mean(x[row.clone()].iter().map(|x| (x - centre).powi(2)), size);
            let spread = row.map(|j| g[j] * (1.0 + y[i] * y[j]) / size as f64).sum::<f64>();
            (g[i] - spread) / (variance + EPS).sqrt()
        });
        rows.collect()
    }

    /// On this thread, and shared out.
    #[test]
    fn gathered_rows_equal_the_definition() {
        for (rows, size, chosen) in
            [(5, 0, 3), (0, 4, 0), (7, 3, 20), (30, 784, 100), (3, 1, SERIAL + 9)]
        {
            let x = values::<f32>(rows * size, 1);
            let indices: Vec<usize> = (0..chosen).map(|i| i * 11 % rows).collect();
            let naive = indices.iter().flat_map(|&n| (0..size).map(move |i| n * size + i));
            let naive: Vec<f32> = naive.map(|i| x[i]).collect();
            assert_eq!(gathered(&x, size, &indices), naive, "{chosen} of {rows} x {size}");
        }
    }

    #[test]
    fn standardised_rows_equal_the_definition() {
        for (rows, size) in SHAPES {
            let (x, g) = (values::<f64>(rows * size, 1), values::<f64>(rows * size, 2));
            let (y, scales) = standardise(&x, size, EPS);
            assert_close(&y, &naive_standardise(&x, size), 1e-12);
            if size <= 1000 {
                let small = size * rows.min(3);
                let got = standardise_gradient(&g, &y, &scales, size);
                assert_close(&got[..small], &naive_gradient(&g[..small], &x[..small], size), 1e-12);
            }
        }
    }

    /// All rows of a loop that is shared out, each to the bit what it is by itself.
    #[test]
    fn each_row_is_made_for_itself() {
        let (rows, size) = (70, 1000);
        let [x, g, u] = [1, 2, 3].map(|seed| values::<f32>(rows * size, seed));
        let (y, scales) = standardise(&x, size, EPS);
        let gradient = standardise_gradient(&g, &y, &scales, size);
        let second = standardise_second(&u, &g, &y, &scales, size);
        for row in 0..rows {
            let of = |x: &[f32]| x[row * size..][..size].to_vec();
            let (alone, scale) = standardise(&of(&x), size, EPS);
            assert_eq!((&alone, scale[0]), (&of(&y), scales[row]), "row {row}");
            let alone = standardise_gradient(&of(&g), &of(&y), &scale, size);
            assert_eq!(alone, of(&gradient), "row {row}");
            let alone = standardise_second(&of(&u), &of(&g), &of(&y), &scale, size);
            assert_eq!(alone, of(&second), "row {row}");
        }
    }

    #[test]
    fn there_may_be_no_rows() {
        for size in [0, 5] {
            assert_eq!(standardise::<f32>(&[], size, EPS), (vec![], vec![]));
            assert!(standardise_gradient::<f32>(&[], &[], &[], size).is_empty());
            assert!(standardise_second::<f32>(&[], &[], &[], &[], size).is_empty());
        }
    }

    /// Against central differences of the naive first derivative.
    #[test]
    fn the_second_derivative_equals_differences_of_the_first() {
        for (rows, size) in [(1, 1), (3, 2), (2, 5), (2, 23)] {
            let [x, g, u] = [1, 2, 3].map(|seed| values::<f64>(rows * size, seed));
            let (y, scales) = standardise(&x, size, EPS);
            let total = |x: &[f64]| -> f64 {
                naive_gradient(&g, x, size).iter().zip(&u).map(|(d, u)| d * u).sum()
            };
            let differences: Vec<f64> = (0..x.len())
                .map(|i| {
                    let at = |h: f64| {
                        let mut x = x.clone();
                        x[i] += h;
                        total(&x)
                    };
                    (at(1e-6) - at(-1e-6)) / 2e-6
                })
                .collect();
            assert_close(&standardise_second(&u, &g, &y, &scales, size), &differences, 1e-6);
        }
    }

    /// The kernels in f32 against f64, which sees a sum that loses digits.
    #[test]
    fn single_precision_keeps_its_digits() {
        let size = 50_000;
        let x: Vec<f32> = values::<f32>(2 * size, 1).iter().map(|x| x + 30.0).collect();
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let y: Vec<f64> = standardise(&x, size, EPS).0.iter().map(|&y| f64::from(y)).collect();
        assert_close(&y, &naive_standardise(&wide, size), 1e-5);
    }
}
