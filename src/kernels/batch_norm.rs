//! Batch normalisation over (batch, channels, positions), forward and backward, without transposing.

use rayon::prelude::*;

use super::Real;
use super::parallel::{SERIAL, for_each_chunk};

/// How a tensor is laid out around its channels: element `(n, c, p)` stands at `(n * channels + c) * positions + p`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) positions: usize,
}

impl Extent {
    /// Elements that share a channel's statistics.
    pub(crate) fn count(self) -> usize {
        self.batch * self.positions
    }
}

/// Channels that one task works on.
const CHANNELS: usize = 64;
/// Sums that a channel's positions are dealt out to, so that they can be added a vector at a time.
const LANES: usize = 16;

/// For each channel two sums over the batch and the positions: of `f(channel, x, y).0` and of `.1`.
///
/// Summed in f64, each channel by one task from the first sample to the last.
fn channel_sums<T: Real>(
    extent: Extent,
    x: &[T],
    y: &[T],
    f: impl Fn(usize, f64, f64) -> (f64, f64) + Sync,
) -> Vec<(f64, f64)> {
    let Extent { batch, channels, positions } = extent;
    let mut sums = vec![(0.0, 0.0); channels];
    let exact = |x: T| candle_core::WithDType::to_f64(x);
    // One value a channel and sample: channels side by side are a vector.
    let side_by_side = |first: usize, sums: &mut [(f64, f64)]| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for n in 0..batch {
                    let start = n * channels + first;
                    let (x, y) = (&x[start..][..sums.len()], &y[start..][..sums.len()]);
                    for (c, ((sum, &x), &y)) in sums.iter_mut().zip(x).zip(y).enumerate() {
                        let (a, b) = f(first + c, exact(x), exact(y));
                        sum.0 += a;
                        sum.1 += b;
                    }
                }
            },
        );
    };
    let one = |c: usize| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
                let mut add = |lane: usize, x: T, y: T| {
                    let (of_a, of_b) = f(c, exact(x), exact(y));
                    a[lane] += of_a;
                    b[lane] += of_b;
                };
                for n in 0..batch {
                    let start = (n * channels + c) * positions;
                    let x = x[start..][..positions].chunks_exact(LANES);
                    let y = y[start..][..positions].chunks_exact(LANES);
                    let rest = x.remainder().iter().zip(y.remainder());
                    for (x, y) in x.zip(y) {
                        (0..LANES).for_each(|lane| add(lane, x[lane], y[lane]));
                    }
                    rest.enumerate().for_each(|(lane, (&x, &y))| add(lane, x, y));
                }
                (a.iter().sum(), b.iter().sum())
            },
        )
    };
    let add_up = |first: usize, sums: &mut [(f64, f64)]| {
        if positions == 1 {
            side_by_side(first, sums);
        } else {
            sums.iter_mut().enumerate().for_each(|(c, sum)| *sum = one(first + c));
        }
    };
    if x.len() <= SERIAL {
        add_up(0, &mut sums);
    } else {
        let at_once = CHANNELS.min(channels.div_ceil(8));
        let tasks = sums.par_chunks_mut(at_once).enumerate();
        tasks.for_each(|(task, sums)| add_up(task * at_once, sums));
    }
    sums
}

/// The mean and the biased variance of each channel.
pub(crate) fn statistics<T: Real>(extent: Extent, x: &[T]) -> (Vec<f64>, Vec<f64>) {
    let count = extent.count() as f64;
    let mean: Vec<f64> =
        channel_sums(extent, x, x, |_, x, _| (x, 0.0)).iter().map(|sum| sum.0 / count).collect();
    let variance = channel_sums(extent, x, x, |c, x, _| ((x - mean[c]).powi(2), 0.0))
        .iter()
        .map(|sum| sum.0 / count)
        .collect();
    (mean, variance)
}

/// `x * scale + shift` with a scale and a shift for each channel.
pub(crate) fn scale_shift<T: Real>(extent: Extent, x: &[T], scale: &[T], shift: &[T]) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    for_each_sample(extent, &mut out, x, x, |c, x, _| x * scale[c] + shift[c]);
    out
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
    let sums =
        channel_sums(extent, x, gradient, |c, x, g| (g, g * (x - mean[c]) * inverse_deviation[c]));
    // dx = w s (g - mean(g) - xhat mean(g xhat)) = a g + b x + d for each channel.
    let coefficients: Vec<(T, T, T)> = sums
        .iter()
        .enumerate()
        .map(|(c, &(g, g_xhat))| {
            let s = inverse_deviation[c];
            let a = candle_core::WithDType::to_f64(weight[c]) * s;
            let b = -a * s * g_xhat / count;
            (real(a), real(b), real(-a * g / count - b * mean[c]))
        })
        .collect();
    let mut for_x = vec![T::zero(); x.len()];
    for_each_sample(extent, &mut for_x, x, gradient, |c, x, g| {
        let (a, b, d) = coefficients[c];
        a * g + b * x + d
    });
    Gradients {
        x: for_x,
        weight: sums.iter().map(|sum| real(sum.1)).collect(),
        bias: sums.iter().map(|sum| real(sum.0)).collect(),
    }
}

fn for_each_sample<T: Real>(
    extent: Extent,
    out: &mut [T],
    x: &[T],
    y: &[T],
    f: impl Fn(usize, T, T) -> T + Sync,
) {
    let Extent { channels, positions, .. } = extent;
    let sample = channels * positions;
    if sample == 0 {
        return;
    }
    for_each_chunk(out, sample, |offset, out| {
        let (x, y) = (&x[offset..][..sample], &y[offset..][..sample]);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                if positions == 1 {
                    for (c, ((out, &x), &y)) in out.iter_mut().zip(x).zip(y).enumerate() {
                        *out = f(c, x, y);
                    }
                    return;
                }
                let x = x.chunks_exact(positions).zip(y.chunks_exact(positions));
                for (c, (out, (x, y))) in out.chunks_exact_mut(positions).zip(x).enumerate() {
                    for (out, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
                        *out = f(c, x, y);
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let scale: Vec<f64> =
            variance.iter().zip(weight).map(|(v, w)| w / (v + EPS).sqrt()).collect();
        let shift: Vec<f64> =
            mean.iter().zip(&scale).zip(bias).map(|((m, s), b)| b - m * s).collect();
        scale_shift(extent, x, &scale, &shift)
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
