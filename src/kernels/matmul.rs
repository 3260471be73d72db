//! Matrix products on row-major slices, by the gemm crate.

use gemm::Parallelism;

use super::Real;

/// A matrix operand: row-major in memory, `rows` x `columns` as the product sees it.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    elements: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A `rows` x `columns` matrix stored row after row.
    pub(crate) fn new(elements: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(elements.len(), rows * columns, "a matrix of {rows} x {columns}");
        Self { elements, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same memory read as the transposed matrix.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// What a product does with the values its output holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Ignores them.
    Overwrite,
    /// Adds to them.
    Accumulate,
}

/// `out = left right` or `out += left right`, `out` stored row after row.
pub(crate) fn matmul<T: Real>(
    out: &mut [T],
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    output: Output,
) {
    assert_eq!(left.columns, right.rows, "inner dimensions");
    assert_eq!(out.len(), left.rows * right.columns, "output size");
    // SAFETY: `Matrix::new` and `Matrix::t` keep every index `row * row_stride + column * column_stride`
    // inside `elements`; `out` was checked above to hold exactly rows * columns elements and, being a
    // mutable borrow, overlaps neither operand. gemm reads `out` only when it accumulates. T is f32 or f64,
    // for which gemm has kernels.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            out.as_mut_ptr(),
            1,
            right.columns as isize,
            output == Output::Accumulate,
            left.elements.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.elements.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};
    use proptest::prelude::*;

    /// The definition: a dot product for each element, summed in f64.
    fn naive<T: Real>(out: &mut [T], left: Matrix<'_, T>, right: Matrix<'_, T>, output: Output) {
        for i in 0..left.rows {
            for j in 0..right.columns {
                let mut sum = 0.0;
                for k in 0..left.columns {
                    let a = left.elements[i * left.row_stride + k * left.column_stride];
                    let b = right.elements[k * right.row_stride + j * right.column_stride];
                    sum += WithDType::to_f64(a) * WithDType::to_f64(b);
                }
                let old = match output {
                    Output::Overwrite => 0.0,
                    Output::Accumulate => WithDType::to_f64(out[i * right.columns + j]),
                };
                out[i * right.columns + j] = <T as WithDType>::from_f64(old + sum);
            }
        }
    }
    use candle_core::WithDType;

    fn check<T: Real>(
        m: usize,
        k: usize,
        n: usize,
        t: (bool, bool),
        output: Output,
        tolerance: f64,
    ) {
        let (a, b) = (values::<T>(m * k, 1), values::<T>(k * n, 2));
        let left = if t.0 { Matrix::new(&a, k, m).t() } else { Matrix::new(&a, m, k) };
        let right = if t.1 { Matrix::new(&b, n, k).t() } else { Matrix::new(&b, k, n) };
        let mut fast = values::<T>(m * n, 3);
        let mut slow = fast.clone();
        matmul(&mut fast, left, right, output);
        naive(&mut slow, left, right, output);
        assert_close(&fast, &slow, tolerance * (k as f64).sqrt().max(1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_definition(
            m in 0usize..70, k in 0usize..70, n in 0usize..70,
            a in any::<bool>(), b in any::<bool>(), accumulate in any::<bool>(),
        ) {
            let output = if accumulate { Output::Accumulate } else { Output::Overwrite };
            check::<f64>(m, k, n, (a, b), output, 1e-14);
            check::<f32>(m, k, n, (a, b), output, 1e-6);
        }
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads() {
        for (m, k, n) in [(128, 784, 512), (512, 128, 784), (64, 1024, 784), (7, 3000, 5)] {
            let (a, b) = (values::<f32>(m * k, 1), values::<f32>(k * n, 2));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut out = vec![0f32; m * n];
                pool.install(|| {
                    matmul(
                        &mut out,
                        Matrix::new(&a, m, k),
                        Matrix::new(&b, k, n),
                        Output::Overwrite,
                    )
                });
                out
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                assert_eq!(one, run(threads), "{m} x {k} x {n} on {threads} threads");
            }
        }
    }
}
