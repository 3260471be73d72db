//! A matrix transposed in memory.

use super::Real;
use super::parallel::for_each_chunk;

/// Side of a tile that is turned in registers.
const TILE: usize = 8;

/// The transposed of a `rows` x `columns` matrix, both stored row after row, with `bias[i]` added to all of row `i`
/// of the matrix.
pub(crate) fn transpose<T: Real>(
    matrix: &[T],
    rows: usize,
    columns: usize,
    bias: Option<&[T]>,
) -> Vec<T> {
    assert_eq!(matrix.len(), rows * columns, "a matrix of {rows} x {columns}");
    let mut out = vec![T::zero(); matrix.len()];
    if matrix.is_empty() {
        return out;
    }
    for_each_chunk(&mut out, TILE * rows, |offset, out| {
        let first = offset / rows;
        if out.len() == TILE * rows {
            strip(&matrix[first..], columns, out, rows);
        } else {
            for (j, out) in out.chunks_mut(rows).enumerate() {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = matrix[i * columns + first + j];
                }
            }
        }
        if let Some(bias) = bias {
            for row in out.chunks_mut(rows) {
                for (out, &bias) in row.iter_mut().zip(bias) {
                    *out += bias;
                }
            }
        }
    });
    out
}

/// Turns [`TILE`] columns into rows.
fn strip<T: Real>(matrix: &[T], columns: usize, out: &mut [T], rows: usize) {
    let whole = rows / TILE * TILE;
    for i in (0..whole).step_by(TILE) {
        let mut tile = [[T::zero(); TILE]; TILE];
        for down in 0..TILE {
            let row = &matrix[(i + down) * columns..][..TILE];
            for right in 0..TILE {
                tile[right][down] = row[right];
            }
        }
        for (right, tile) in tile.iter().enumerate() {
            out[right * rows + i..][..TILE].copy_from_slice(tile);
        }
    }
    for i in whole..rows {
        for right in 0..TILE {
            out[right * rows + i] = matrix[i * columns + right];
        }
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
            rows in 0usize..300, columns in 0usize..300, with_bias in any::<bool>(),
        ) {
            let (x, bias) = (values::<f32>(rows * columns, 1), values::<f32>(rows, 2));
            let bias = with_bias.then_some(bias.as_slice());
            let naive: Vec<f32> = (0..rows * columns)
                .map(|i| x[i % rows * columns + i / rows] + bias.map_or(0.0, |bias| bias[i % rows]))
                .collect();
            prop_assert_eq!(transpose(&x, rows, columns, bias), naive);
        }
    }
}
