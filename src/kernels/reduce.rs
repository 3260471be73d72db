//! Sums over the rows of a matrix: every bias gradient.

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
}
