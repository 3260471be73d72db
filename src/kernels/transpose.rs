//! A matrix transposed in memory.

use super::{Real, vectorised};

/// Side of a block that is turned in registers.
const BLOCK: usize = 8;

/// The transposed of a `rows` x `columns` matrix whose rows begin `stride` elements apart, in rows `out_stride` apart.
pub(crate) fn turn<T: Real>(
    matrix: &[T],
    (rows, columns): (usize, usize),
    stride: usize,
    out: &mut [T],
    out_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(
        columns <= stride
            && rows <= out_stride
            && (rows - 1) * stride + columns <= matrix.len()
            && (columns - 1) * out_stride + rows <= out.len(),
        "{rows} x {columns}, {stride} apart, in {} elements, turned to {out_stride} apart, in {}",
        matrix.len(),
        out.len()
    );
    vectorised(
        #[inline(always)]
        move || {
            for top in (0..rows).step_by(BLOCK) {
                for left in (0..columns).step_by(BLOCK) {
                    if top + BLOCK <= rows && left + BLOCK <= columns {
                        let out = &mut out[left * out_stride + top..];
                        block(&matrix[top * stride + left..], stride, out, out_stride);
                    } else {
                        for row in top..rows.min(top + BLOCK) {
                            for column in left..columns.min(left + BLOCK) {
                                out[column * out_stride + row] = matrix[row * stride + column];
                            }
                        }
                    }
                }
            }
        },
    );
}

#[inline(always)]
fn block<T: Real>(matrix: &[T], stride: usize, out: &mut [T], out_stride: usize) {
    let mut turned = [[T::zero(); BLOCK]; BLOCK];
    for (down, row) in matrix.chunks(stride).take(BLOCK).enumerate() {
        for (right, &x) in row[..BLOCK].iter().enumerate() {
            turned[right][down] = x;
        }
    }
    for (row, out) in turned.iter().zip(out.chunks_mut(out_stride)) {
        out[..BLOCK].copy_from_slice(row);
    }
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
            rows in 0usize..70, columns in 0usize..70, more in 0usize..9, more_out in 0usize..9,
        ) {
            let (stride, out_stride) = (columns + more, rows + more_out);
            let x = values::<f32>(rows * stride, 1);
            let mut out = vec![0.0; columns * out_stride];
            turn(&x, (rows, columns), stride, &mut out, out_stride);
            for (i, &out) in out.iter().enumerate() {
                let (column, row) = (i / out_stride.max(1), i % out_stride.max(1));
                prop_assert_eq!(out, if row < rows { x[row * stride + column] } else { 0.0 });
            }
        }
    }
}
