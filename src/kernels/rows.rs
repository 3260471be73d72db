//! Normalisation of rows to mean 0 and variance 1 with its first two derivatives, and products by channel.
//!
//! A tensor is seen as rows of one size, one behind the other, or as `(batch, channels, positions)`. Sums are taken in `f64`,
//! in lanes whose number is that of no machine, and each by one thread.

use candle_core::WithDType;
use rayon::prelude::*;

use super::Real;
use super::parallel::{SERIAL, for_each_chunk};

/// Partial sums of a row, so that the loop over it vectorises.
const LANES: usize = 16;

/// The sums over a row of what `f` makes of the elements at one place.
///
/// Elements are widened before they are added up: a row may be long.
#[inline(always)]
fn row_sums<T: Real, const INPUTS: usize, const SUMS: usize>(
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

/// The rows of `x` at mean 0 and variance 1, and the number that each was multiplied by: `1 / sqrt(variance + eps)`, with
/// the biased variance.
pub(crate) fn standardise<T: Real>(x: &[T], size: usize, eps: f64) -> (Vec<T>, Vec<T>) {
    let real = <T as WithDType>::from_f64;
    let mut out = vec![T::zero(); x.len()];
    let mut scales = vec![T::zero(); x.len() / size.max(1)];
    let work = |x: &[T], out: &mut [T], scale: &mut T| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let count = size as f64;
                let mean = row_sums([x], |[x]| [x])[0] / count;
                let variance = row_sums([x], |[x]| [(x - mean) * (x - mean)])[0] / count;
                *scale = real(1.0 / (variance + eps).sqrt());
                let (mean, scale) = (real(mean), *scale);
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = (x - mean) * scale;
                }
            },
        );
    };
    if size == 0 {
        return (out, scales);
    }
    let rows = out.chunks_exact_mut(size).zip(&mut scales).zip(x.chunks_exact(size));
    if x.len() <= SERIAL {
        rows.for_each(|((out, scale), x)| work(x, out, scale));
    } else {
        let rows = out.par_chunks_exact_mut(size).zip(&mut scales).zip(x.par_chunks_exact(size));
        let rows = rows.with_min_len((SERIAL / 4).div_ceil(size));
        rows.for_each(|((out, scale), x)| work(x, out, scale));
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
    let mut out = vec![T::zero(); y.len()];
    assert!(gradient.len() == y.len() && scales.len() * size == y.len(), "a gradient for each");
    for_each_chunk(&mut out, size, |offset, out| {
        let (g, y) = (&gradient[offset..][..size], &y[offset..][..size]);
        let scale = scales[offset / size];
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let [mean, along] = row_sums([g, y], |[g, y]| [g, g * y]).map(|s| s / size as f64);
                let (mean, along) = (real(mean), real(along));
                for (out, (&g, &y)) in out.iter_mut().zip(g.iter().zip(y)) {
                    *out = scale * (g - mean - y * along);
                }
            },
        );
    });
    out
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
    let mut out = vec![T::zero(); y.len()];
    assert!(gradient.len() == y.len() && u.len() == y.len(), "a gradient for each");
    assert!(scales.len() * size == y.len(), "a scale for each row");
    for_each_chunk(&mut out, size, |offset, out| {
        let [u, g, y] = [u, gradient, y].map(|x| &x[offset..][..size]);
        let scale = scales[offset / size];
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let sums = row_sums([u, g, y], |[u, g, y]| [u, g, u * g, u * y, g * y]);
                let [mean_u, mean_g, ug, p, q] = sums.map(|sum| sum / size as f64);
                let for_y = real(3.0 * p * q + mean_u * mean_g - ug);
                let shift = real(q * mean_u + p * mean_g);
                let (p, q, factor) = (real(p), real(q), scale * scale);
                for (out, (&u, (&g, &y))) in out.iter_mut().zip(u.iter().zip(g.iter().zip(y))) {
                    *out = factor * (y * for_y - q * u - p * g + shift);
                }
            },
        );
    });
    out
}

/// `x * weight + bias` by channel; no bias is none.
pub(crate) fn scale_channels<T: Real>(
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    positions: usize,
) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let channels = weight.len();
    if x.is_empty() {
        return out;
    }
    if positions == 1 {
        for_each_chunk(&mut out, channels, |offset, out| {
            let x = &x[offset..][..channels];
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || match bias {
                    Some(bias) => {
                        for (out, (&x, (&w, &b))) in
                            out.iter_mut().zip(x.iter().zip(weight.iter().zip(bias)))
                        {
                            *out = x * w + b;
                        }
                    }
                    None => {
                        for (out, (&x, &w)) in out.iter_mut().zip(x.iter().zip(weight)) {
                            *out = x * w;
                        }
                    }
                },
            );
        });
        return out;
    }
    for_each_chunk(&mut out, positions, |offset, out| {
        let channel = offset / positions % channels;
        let (x, weight) = (&x[offset..][..positions], weight[channel]);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || match bias {
                Some(bias) => {
                    let bias = bias[channel];
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = x * weight + bias;
                    }
                }
                None => {
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = x * weight;
                    }
                }
            },
        );
    });
    out
}

/// The sum of `a * b` over the batch and the positions of each channel, the samples from first to last.
pub(crate) fn channel_products<T: Real>(
    a: &[T],
    b: &[T],
    channels: usize,
    positions: usize,
) -> Vec<T> {
    /// Channels that one task takes where a channel has one position: some cache lines.
    const COLUMNS: usize = 64;
    assert_eq!(a.len(), b.len(), "two tensors of one shape");
    let mut sums = vec![0.0; channels];
    if a.is_empty() {
        return vec![T::zero(); channels];
    }
    let sample = channels * positions;
    let add = |first: usize, sums: &mut [f64]| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (a, b) in a.chunks_exact(sample).zip(b.chunks_exact(sample)) {
                    if positions == 1 {
                        for (sum, (&a, &b)) in
                            sums.iter_mut().zip(a[first..].iter().zip(&b[first..]))
                        {
                            *sum += WithDType::to_f64(a) * WithDType::to_f64(b);
                        }
                        continue;
                    }
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let start = (first + i) * positions;
                        let rows = [&a[start..][..positions], &b[start..][..positions]];
                        *sum += row_sums(rows, |[a, b]| [a * b])[0];
                    }
                }
            },
        );
    };
    if a.len() <= SERIAL {
        add(0, &mut sums);
    } else {
        let size = if positions == 1 { COLUMNS } else { 1 };
        let tasks = sums.par_chunks_mut(size).enumerate();
        tasks.for_each(|(task, sums)| add(task * size, sums));
    }
    sums.into_iter().map(<T as WithDType>::from_f64).collect()
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
        assert_eq!(standardise::<f32>(&[], 0, EPS), (vec![], vec![]));
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

    #[test]
    fn channels_equal_a_loop() {
        for (batch, channels, positions) in
            [(0, 3, 4), (2, 3, 1), (3, 70, 1), (1, 1, 1), (2, 3, 37), (900, 80, 1), (9, 80, 130)]
        {
            let count = batch * channels * positions;
            let (a, b) = (values::<f64>(count, 1), values::<f64>(count, 2));
            let (w, c) = (values::<f64>(channels, 3), values::<f64>(channels, 4));
            let of = |i: usize| i / positions % channels;
            let naive: Vec<f64> = (0..count).map(|i| a[i] * w[of(i)] + c[of(i)]).collect();
            assert_eq!(scale_channels(&a, &w, Some(&c), positions), naive);
            let naive: Vec<f64> = (0..count).map(|i| a[i] * w[of(i)]).collect();
            assert_eq!(scale_channels(&a, &w, None, positions), naive);
            let mut naive = vec![0.0; channels];
            (0..count).for_each(|i| naive[of(i)] += a[i] * b[i]);
            assert_close(&channel_products(&a, &b, channels, positions), &naive, 1e-12);
        }
    }
}
