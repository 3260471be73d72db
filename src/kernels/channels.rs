//! Sums and products by channel of `(batch, channels, positions)`: statistics, bias gradients, scales, shifts and mixtures.

use std::mem::MaybeUninit;

use candle_core::WithDType;

use super::parallel::{self, Shared, made_in_chunks, tasks};
use super::rows::row_sums;
use super::{CHUNK, Real, vectorised};

/// How a tensor is laid out around its channels: element `(n, c, p)` stands at `(n * channels + c) * positions + p`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) positions: usize,
}

impl Extent {
    /// Elements of a channel.
    pub(crate) fn count(self) -> usize {
        self.batch * self.positions
    }
}

/// For each channel the sums over the batch and the positions of what `f` makes of the elements at one place and of the
/// channel's own numbers.
///
/// They are taken in `f64`, each channel by one task, the samples from first to last.
pub(super) fn sums<T: Real, const INPUTS: usize, const NUMBERS: usize, const SUMS: usize>(
    extent: Extent,
    inputs: [&[T]; INPUTS],
    numbers: [&[f64]; NUMBERS],
    f: impl Fn([f64; INPUTS], [f64; NUMBERS]) -> [f64; SUMS] + Sync,
) -> Vec<[f64; SUMS]> {
    /// The most channels that one task takes.
    const CHANNELS: usize = 64;
    let Extent { batch, channels, positions } = extent;
    let (len, f) = (batch * channels * positions, &f);
    assert!(inputs.iter().all(|input| input.len() == len), "tensors of {extent:?}");
    let mut sums = vec![[0.0; SUMS]; channels];
    let add = |first: usize, sums: &mut [[f64; SUMS]]| {
        vectorised(
            #[inline(always)]
            move || {
                let count = sums.len();
                let numbers = numbers.map(|numbers| &numbers[first..][..count]);
                for n in 0..batch {
                    let start = (n * channels + first) * positions;
                    let inputs = inputs.map(|input| &input[start..][..count * positions]);
                    if positions == 1 {
                        // Channels side by side are what a vector is made of.
                        let inputs = inputs.map(|input| &input[..count]);
                        for c in 0..count {
                            let terms = inputs.map(|input| WithDType::to_f64(input[c]));
                            add_up(&mut sums[c], f(terms, numbers.map(|numbers| numbers[c])));
                        }
                    } else {
                        for c in 0..count {
                            let numbers = numbers.map(|numbers| numbers[c]);
                            let rows = inputs.map(|input| &input[c * positions..][..positions]);
                            add_up(&mut sums[c], row_sums(rows, |terms| f(terms, numbers)));
                        }
                    }
                }
            },
        );
    };
    /// Elements up to which one thread is faster, whose sums need not be fetched from another.
    const SERIAL: usize = 128 * 1024;
    let at_once = if len <= SERIAL { channels } else { CHANNELS.min(channels.div_ceil(8)) };
    let shared = Shared::new(&mut sums);
    tasks(len <= SERIAL, channels.div_ceil(at_once.max(1)), |task| {
        let channels = task * at_once..channels.min((task + 1) * at_once);
        // SAFETY: each task has channels of its own.
        add(channels.start, unsafe { shared.slice(channels) });
    });
    sums
}

#[inline(always)]
fn add_up<const SUMS: usize>(sums: &mut [f64; SUMS], terms: [f64; SUMS]) {
    sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}

/// What `f` makes of the elements at one place and of the channel's own numbers.
pub(super) fn map<T: Real, const INPUTS: usize, const NUMBERS: usize>(
    extent: Extent,
    inputs: [&[T]; INPUTS],
    numbers: [&[T]; NUMBERS],
    f: impl Fn([T; INPUTS], [T; NUMBERS]) -> T + Copy + Sync,
) -> Vec<T> {
    let Extent { batch, channels, positions } = extent;
    let len = batch * channels * positions;
    assert!(inputs.iter().all(|input| input.len() == len), "tensors of {extent:?}");
    if len == 0 {
        return Vec::new();
    }
    // A piece holds whole rows: of one channel's positions, or, where that would be one, of all channels.
    let row = if positions == 1 { channels } else { positions };
    let work = |offset: usize, out: &mut [MaybeUninit<T>]| {
        vectorised(
            #[inline(always)]
            move || {
                let numbers = numbers.map(|numbers| &numbers[..channels]);
                for (i, out) in out.chunks_exact_mut(row).enumerate() {
                    let inputs = inputs.map(|input| &input[offset + i * row..][..row]);
                    if positions == 1 {
                        let numbers = numbers.map(|numbers| &numbers[..row]);
                        for c in 0..row {
                            out[c].write(f(inputs.map(|x| x[c]), numbers.map(|x| x[c])));
                        }
                    } else {
                        let channel = (offset / row + i) % channels;
                        let numbers = numbers.map(|numbers| numbers[channel]);
                        for p in 0..row {
                            out[p].write(f(inputs.map(|x| x[p]), numbers));
                        }
                    }
                }
            },
        );
    };
    // SAFETY: a piece is made of whole rows, each of whose elements is written.
    unsafe { made_in_chunks(len, row * (CHUNK / row).max(1), len <= parallel::SERIAL, work) }
}

/// `x * weight + bias` by channel; no bias is none.
pub(crate) fn scale<T: Real>(extent: Extent, x: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    match bias {
        Some(bias) => map(extent, [x], [weight, bias], |[x], [weight, bias]| x * weight + bias),
        None => map(extent, [x], [weight], |[x], [weight]| x * weight),
    }
}

/// `a * weight_a + b * weight_b` by channel.
pub(crate) fn mix<T: Real>(extent: Extent, [a, b]: [&[T]; 2], weights: [&[T]; 2]) -> Vec<T> {
    map(extent, [a, b], weights, |[a, b], [weight_a, weight_b]| a * weight_a + b * weight_b)
}

/// The sum of each channel.
pub(crate) fn totals<T: Real>(extent: Extent, x: &[T]) -> Vec<T> {
    rounded(sums(extent, [x], [], |x, []| x))
}

/// The sum of `a * b` over each channel.
pub(crate) fn products<T: Real>(extent: Extent, a: &[T], b: &[T]) -> Vec<T> {
    rounded(sums(extent, [a, b], [], |[a, b], []| [a * b]))
}

fn rounded<T: Real>(sums: Vec<[f64; 1]>) -> Vec<T> {
    sums.into_iter().map(|[sum]| <T as WithDType>::from_f64(sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};

    #[test]
    fn channels_equal_a_loop() {
        for (batch, channels, positions) in [
            (0, 3, 4),
            (2, 0, 3),
            (3, 5, 0),
            (2, 3, 1),
            (3, 70, 1),
            (1, 1, 1),
            (2, 3, 37),
            (900, 80, 1),
            (9, 80, 130),
            (1, 7, 40_000),
            (5, 1000, 16),
        ] {
            let extent = Extent { batch, channels, positions };
            let count = extent.count() * channels;
            let (a, b) = (values::<f64>(count, 1), values::<f64>(count, 2));
            let (w, c) = (values::<f64>(channels, 3), values::<f64>(channels, 4));
            let of = |i: usize| i / positions % channels;
            let naive: Vec<f64> = (0..count).map(|i| a[i] * w[of(i)] + c[of(i)]).collect();
            assert_eq!(scale(extent, &a, &w, Some(&c)), naive);
            let naive: Vec<f64> = (0..count).map(|i| a[i] * w[of(i)]).collect();
            assert_eq!(scale(extent, &a, &w, None), naive);
            let naive: Vec<f64> = (0..count).map(|i| a[i] * w[of(i)] + b[i] * c[of(i)]).collect();
            assert_eq!(mix(extent, [&a, &b], [&w, &c]), naive);
            let (mut naive, mut naive_totals) = (vec![0.0; channels], vec![0.0; channels]);
            for i in 0..count {
                naive[of(i)] += a[i] * b[i];
                naive_totals[of(i)] += a[i];
            }
            assert_close(&products(extent, &a, &b), &naive, 1e-13);
            assert_close(&totals(extent, &a), &naive_totals, 1e-13);
        }
    }
}
