//! Sums over the rows of a matrix and over the channels of a batch: every bias gradient.

use rayon::prelude::*;

use super::Real;
use super::parallel::SERIAL;

/// Columns that one task sums: a few cache lines wide, so that tasks do not share one.
const COLUMNS: usize = 128;

/// The sum of each column of a row-major matrix. Rows are added from first to last for any number of threads.
pub(crate) fn sum_rows<T: Real>(matrix: &[T], columns: usize) -> Vec<T> {
    let mut sums = vec![T::zero(); columns];
    if columns == 0 {
        return sums;
    }
    let add = |first: usize, sums: &mut [T]| {
        pulp::Arch::new().dispatch(|| {
            for row in matrix.chunks_exact(columns) {
                for (sum, &x) in sums.iter_mut().zip(&row[first..]) {
                    *sum += x;
                }
            }
        });
    };
    if matrix.len() <= SERIAL {
        add(0, &mut sums);
    } else {
        let tasks = sums.par_chunks_mut(COLUMNS).enumerate();
        tasks.for_each(|(task, sums)| add(task * COLUMNS, sums));
    }
    sums
}

/// The sum of each channel of `(batch, channels, positions)`, each by one thread, the samples from first to last.
pub(crate) fn sum_channels<T: Real>(x: &[T], channels: usize, positions: usize) -> Vec<T> {
    const LANES: usize = 16;
    let mut sums = vec![T::zero(); channels];
    if positions == 0 {
        return sums;
    }
    let add = |channel: usize, total: &mut T| {
        pulp::Arch::new().dispatch(|| {
            let mut lanes = [T::zero(); LANES];
            for sample in x.chunks_exact(channels * positions) {
                let pieces = sample[channel * positions..][..positions].chunks_exact(LANES);
                let rest = pieces.remainder();
                for piece in pieces {
                    lanes.iter_mut().zip(piece).for_each(|(lane, &x)| *lane += x);
                }
                lanes.iter_mut().zip(rest).for_each(|(lane, &x)| *lane += x);
            }
            *total = lanes.iter().fold(T::zero(), |sum, &lane| sum + lane);
        });
    };
    if x.len() <= SERIAL {
        sums.iter_mut().enumerate().for_each(|(channel, total)| add(channel, total));
    } else {
        sums.par_iter_mut().enumerate().for_each(|(channel, total)| add(channel, total));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::values;

    #[test]
    fn equals_a_loop_over_columns() {
        for (rows, columns) in [(0, 3), (1, 1), (5, 127), (64, 128), (33, 300), (3, 0), (700, 300)]
        {
            let x = values::<f64>(rows * columns, 1);
            let naive: Vec<f64> = (0..columns)
                .map(|j| (0..rows).map(|i| x[i * columns + j]).fold(0.0, |a, b| a + b))
                .collect();
            assert_eq!(sum_rows(&x, columns), naive);
        }
    }

    #[test]
    fn channels_equal_a_loop() {
        for (batch, channels, positions) in
            [(0, 3, 4), (2, 0, 3), (3, 5, 1), (4, 3, 37), (9, 80, 130)]
        {
            let x = values::<f64>(batch * channels * positions, 1);
            for (channel, &sum) in sum_channels(&x, channels, positions).iter().enumerate() {
                let naive: f64 = (0..batch)
                    .flat_map(|n| &x[(n * channels + channel) * positions..][..positions])
                    .sum();
                assert!((sum - naive).abs() < 1e-12);
            }
        }
    }
}
