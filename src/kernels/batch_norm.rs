//! Batch normalisation over (batch, channels, positions), forward and backward, without transposing.

use super::Real;
use super::channels::{Extent, map, sums};

/// The mean and the biased variance of each channel.
pub(crate) fn statistics<T: Real>(extent: Extent, x: &[T]) -> (Vec<f64>, Vec<f64>) {
    let count = extent.count() as f64;
    let means = |sums: Vec<[f64; 1]>| sums.into_iter().map(|[sum]| sum / count).collect();
    let mean: Vec<f64> = means(sums(extent, [x], [], |x, []| x));
    let variance = means(sums(extent, [x], [&mean], |[x], [mean]| [(x - mean) * (x - mean)]));
    (mean, variance)
}

/// What the backward pass gives: the gradients for the input, the weight and the bias.
pub(crate) struct Gradients<T> {
    pub(crate) x: Vec<T>,
    pub(crate) weight: Vec<T>,
    pub(crate) bias: Vec<T>,
}

/// The gradients of `weight * (x - mean) / sqrt(variance + eps) + bias` with the batch's own statistics.
pub(crate) fn backward<T: Real>(
    extent: Extent,
    x: &[T],
    gradient: &[T],
    mean: &[f64],
    inverse_deviation: &[f64],
    weight: &[T],
) -> Gradients<T> {
    let real = <T as candle_core::WithDType>::from_f64;
    let count = extent.count() as f64;
    let numbers = [mean, inverse_deviation];
    let sums = sums(extent, [x, gradient], numbers, |[x, g], [mean, s]| [g, g * (x - mean) * s]);
    // dx = w s (g - mean(g) - xhat mean(g xhat)) = a g + b x + d for each channel.
    let mut coefficients = [(); 3].map(|()| Vec::with_capacity(sums.len()));
    for (c, &[g, g_xhat]) in sums.iter().enumerate() {
        let s = inverse_deviation[c];
        let a = candle_core::WithDType::to_f64(weight[c]) * s;
        let b = -a * s * g_xhat / count;
        let d = -a * g / count - b * mean[c];
        coefficients.iter_mut().zip([a, b, d]).for_each(|(all, one)| all.push(real(one)));
    }
    let coefficients = coefficients.each_ref().map(Vec::as_slice);
    Gradients {
        x: map(extent, [x, gradient], coefficients, |[x, g], [a, b, d]| a * g + b * x + d),
        weight: sums.iter().map(|sum| real(sum[1])).collect(),
        bias: sums.iter().map(|sum| real(sum[0])).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::channels::scale;
    use crate::kernels::tests::{assert_close, values};

    const EPS: f64 = 1e-5;

    fn extents() -> [Extent; 4] {
        [(4, 3, 1), (5, 70, 1), (2, 3, 6), (3, 65, 4)].map(|(batch, channels, positions)| Extent {
            batch,
            channels,
            positions,
        })
    }

    /// The definition, channel by channel.
    fn naive(extent: Extent, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let Extent { batch, channels, positions } = extent;
        let mut out = vec![0.0; x.len()];
        for c in 0..channels {
            let index = |i: usize| (i / positions * channels + c) * positions + i % positions;
            let n = batch * positions;
            let mean = (0..n).map(|i| x[index(i)]).sum::<f64>() / n as f64;
            let variance = (0..n).map(|i| (x[index(i)] - mean).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let normal = (x[index(i)] - mean) / (variance + EPS).sqrt();
                out[index(i)] = weight[c] * normal + bias[c];
            }
        }
        out
    }

    fn fast(extent: Extent, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let (mean, variance) = statistics(extent, x);
        let factor: Vec<f64> =
            variance.iter().zip(weight).map(|(v, w)| w / (v + EPS).sqrt()).collect();
        let shift: Vec<f64> =
            mean.iter().zip(&factor).zip(bias).map(|((m, s), b)| b - m * s).collect();
        scale(extent, x, &factor, Some(&shift))
    }

    #[test]
    fn forward_equals_the_definition() {
        for extent in extents() {
            let x = values::<f64>(extent.count() * extent.channels, 1);
            let (w, b) = (values(extent.channels, 2), values(extent.channels, 3));
            assert_close(&fast(extent, &x, &w, &b), &naive(extent, &x, &w, &b), 1e-13);
        }
    }

    #[test]
    fn backward_equals_central_differences() {
        for extent in extents() {
            let x = values::<f64>(extent.count() * extent.channels, 1);
            let g = values::<f64>(x.len(), 4);
            let (w, b) = (values::<f64>(extent.channels, 2), values::<f64>(extent.channels, 3));
            let loss = |x: &[f64], w: &[f64], b: &[f64]| -> f64 {
                naive(extent, x, w, b).iter().zip(&g).map(|(y, g)| y * g).sum()
            };
            let difference = |v: &[f64], f: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
                let h = 1e-6;
                (0..v.len())
                    .map(|i| {
                        let mut v = v.to_vec();
                        v[i] += h;
                        let above = f(&v);
                        v[i] -= 2.0 * h;
                        (above - f(&v)) / (2.0 * h)
                    })
                    .collect()
            };
            let (mean, variance) = statistics(extent, &x);
            let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
            let got = backward(extent, &x, &g, &mean, &inverse, &w);
            assert_close(&got.x, &difference(&x, &|x| loss(x, &w, &b)), 1e-7);
            assert_close(&got.weight, &difference(&w, &|w| loss(&x, w, &b)), 1e-7);
            assert_close(&got.bias, &difference(&b, &|b| loss(&x, &w, b)), 1e-7);
        }
    }
}
