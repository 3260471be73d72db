//! Matrix products on row-major slices, by the gemm crate.

use gemm::Parallelism;

use super::Real;
use super::transpose::transpose;

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

    /// A `rows` x `columns` matrix whose rows begin `row_stride` elements apart, of which it may be a part of the columns.
    pub(crate) fn with_row_stride(
        elements: &'a [T],
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> Self {
        let needed = if rows == 0 { 0 } else { (rows - 1) * row_stride + columns };
        assert!(
            columns <= row_stride && needed <= elements.len(),
            "a matrix of {rows} x {columns}, {row_stride} apart, in {} elements",
            elements.len()
        );
        Self { elements, rows, columns, row_stride, column_stride: 1 }
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

/// `left right`, stored row after row.
pub(crate) fn product<T: Real>(left: Matrix<'_, T>, right: Matrix<'_, T>) -> Vec<T> {
    assert_eq!(left.columns, right.rows, "inner dimensions");
    let len = left.rows * right.columns;
    if left.columns == 0 {
        return vec![T::zero(); len];
    }
    let mut out = Vec::with_capacity(len);
    // SAFETY: `out` has room for exactly the product's elements; gemm does not read it, and writes all of it since
    // the inner dimension is not 0.
    unsafe {
        let into = Destination { row_stride: right.columns, add: false };
        gemm(out.as_mut_ptr(), into, left, right, Parallelism::Rayon(0));
        out.set_len(len);
    }
    out
}

/// Where a product goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    /// Elements from the beginning of a row to that of the next.
    pub(crate) row_stride: usize,
    /// Whether it is added to what is there.
    pub(crate) add: bool,
}

/// `left right` into the first columns of rows in `out`, on this thread alone: for kernels that share their work out by
/// themselves.
pub(crate) fn product_into<T: Real>(
    out: &mut [T],
    into: Destination,
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
) {
    assert_eq!(left.columns, right.rows, "inner dimensions");
    let (rows, columns) = (left.rows, right.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(
        columns <= into.row_stride && (rows - 1) * into.row_stride + columns <= out.len(),
        "room for a product of {rows} x {columns}, {} apart, in {} elements",
        into.row_stride,
        out.len()
    );
    if left.columns == 0 {
        if !into.add {
            for row in out.chunks_mut(into.row_stride).take(rows) {
                row[..columns].fill(T::zero());
            }
        }
        return;
    }
    // SAFETY: the last element written is within `out`, which is borrowed mutably and so overlaps neither operand, and
    // holds values where they are added to.
    unsafe { gemm(out.as_mut_ptr(), into, left, right, Parallelism::None) }
}

/// `left rightᵀ`, plus a bias for each column where there is one, all stored row after row: a linear layer, `left`
/// its input (batch, in) and `right` its weight (out, in).
///
/// Gemm packs its left operand, and reading a weight across its rows to do so is a large share of the product's cost at
/// the small batches of a GAN. So the roles are swapped: the input is packed, the product comes out transposed, and
/// what is transposed in memory is the small output.
pub(crate) fn product_nt<T: Real>(
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    bias: Option<&[T]>,
) -> Vec<T> {
    let (rows, columns) = (left.rows, right.rows);
    let transposed = product(right, left.t());
    transpose(&transposed, columns, rows, bias)
}

/// # Safety
/// `out` must have room for `left.rows` rows of `right.columns` elements, `into.row_stride` apart, overlap neither operand,
/// and hold values where they are added to; the inner dimensions must agree.
unsafe fn gemm<T: Real>(
    out: *mut T,
    into: Destination,
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    parallelism: Parallelism,
) {
    // SAFETY: `Matrix`'s constructors keep every index `row * row_stride + column * column_stride` inside `elements`; the
    // caller vouches for `out`, which is read only where it is added to. T is f32 or f64, for which gemm has kernels.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            out,
            1,
            into.row_stride as isize,
            into.add,
            left.elements.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.elements.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            // out = alpha * out + beta * left * right
            if into.add { T::one() } else { T::zero() },
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};
    use candle_core::WithDType;
    use proptest::prelude::*;

    /// The definition: a dot product for each element, summed in f64 and added to what is there.
    fn naive<T: Real>(out: &mut [T], left: Matrix<'_, T>, right: Matrix<'_, T>) {
        for i in 0..left.rows {
            for j in 0..right.columns {
                let mut sum = WithDType::to_f64(out[i * right.columns + j]);
                for k in 0..left.columns {
                    let a = left.elements[i * left.row_stride + k * left.column_stride];
                    let b = right.elements[k * right.row_stride + j * right.column_stride];
                    sum += WithDType::to_f64(a) * WithDType::to_f64(b);
                }
                out[i * right.columns + j] = <T as WithDType>::from_f64(sum);
            }
        }
    }

    fn check<T: Real>(m: usize, k: usize, n: usize, t: (bool, bool), tolerance: f64) {
        let (a, b) = (values::<T>(m * k, 1), values::<T>(k * n, 2));
        let left = if t.0 { Matrix::new(&a, k, m).t() } else { Matrix::new(&a, m, k) };
        let right = if t.1 { Matrix::new(&b, n, k).t() } else { Matrix::new(&b, k, n) };
        let tolerance = tolerance * (k as f64).sqrt().max(1.0);
        let mut expected = vec![T::zero(); m * n];
        naive(&mut expected, left, right);
        assert_close(&product(left, right), &expected, tolerance);

        if t == (false, true) {
            let bias = values::<T>(n, 3);
            let fast = product_nt(left, Matrix::new(&b, n, k), Some(&bias));
            let mut expected = bias.repeat(m);
            naive(&mut expected, left, right);
            assert_close(&fast, &expected, tolerance);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_definition(
            m in 0usize..70, k in 0usize..70, n in 0usize..70, a in any::<bool>(), b in any::<bool>(),
        ) {
            check::<f64>(m, k, n, (a, b), 1e-14);
            check::<f32>(m, k, n, (a, b), 1e-6);
        }
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads() {
        for (m, k, n) in [(128, 784, 512), (512, 128, 784), (64, 1024, 784), (7, 3000, 5)] {
            let (a, b) = (values::<f32>(m * k, 1), values::<f32>(k * n, 2));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| product(Matrix::new(&a, m, k), Matrix::new(&b, k, n)))
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                assert_eq!(one, run(threads), "{m} x {k} x {n} on {threads} threads");
            }
        }
    }
}
