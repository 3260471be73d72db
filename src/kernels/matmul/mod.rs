//! Matrix products on row-major slices.
//!
//! The right operand is packed into panels of some columns, a copy that reads along its rows; the left one is read where it
//! lies. Where the right operand is stored transposed, as a layer's weight `(out, in)` is, reading along its rows would go
//! across memory. Then the operands change roles and the transposed product is made: the weight, now on the left, is read
//! as it lies, and what is turned is the batch, which is small.

mod operands;
mod registers;
mod strips;
mod tile;

pub(crate) use operands::{
    Left, Panels, Place, ROWS, full_width, pack_left, packed_left_len, panel_width,
};
use strips::{Stack, Strip, for_each_strip, packed_strips};
pub(crate) use tile::{Receiver, Rows, Sums, Tile, multiply};

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::finite::is_finite;
use super::parallel::Shared;
use super::prefetch::{LINE, Prefetch};
use super::scratch::with_scratch;
use super::{Real, vectorised};

/// A matrix operand: row-major in memory, `rows` x `columns` as the product sees it.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    elements: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// A `rows` x `columns` matrix stored row after row.
    pub(crate) fn new(elements: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(elements.len(), rows * columns, "a matrix of {rows} x {columns}");
        Self { elements, rows, columns, transposed: false }
    }

    /// The same memory read as the transposed matrix.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Elements from one stored row to the next.
    fn stride(&self) -> usize {
        if self.transposed { self.rows } else { self.columns }
    }
}

impl<T: Real> Matrix<'_, T> {
    /// Writes some rows of some columns, `(rows, width)`, with zeros for columns beyond the last.
    fn pack_panel(&self, rows: Range<usize>, first: usize, width: usize, out: &mut [T]) {
        let (count, stride) = (width.min(self.columns - first), self.stride());
        if self.transposed {
            let elements = &self.elements[first * stride + rows.start..];
            super::transpose::turn(elements, (count, rows.len()), stride, out, width);
            if count < width {
                out.chunks_exact_mut(width).for_each(|out| out[count..].fill(T::zero()));
            }
            return;
        }
        /// Rows ahead of which lines are asked for: each row begins on lines, often on a page, that nothing foretells.
        const AHEAD: usize = 6;
        vectorised(
            #[inline(always)]
            move || {
                let prefetch = Prefetch::new();
                for (p, out) in rows.clone().zip(out.chunks_exact_mut(width)) {
                    let ahead = self.elements.as_ptr().wrapping_add((p + AHEAD) * stride + first);
                    for line in (0..count).step_by(LINE / size_of::<T>()) {
                        prefetch.to_read(ahead.wrapping_add(line));
                    }
                    let from = &self.elements[p * stride + first..][..count];
                    copy_short(from, out);
                    out[count..].fill(T::zero());
                }
            },
        );
    }
}

/// Copies a few vectors, which a call of `memcpy` would take longer for.
#[inline(always)]
pub(crate) fn copy_short<T: Real>(from: &[T], to: &mut [T]) {
    const PIECE: usize = 16;
    let to = &mut to[..from.len()];
    let (pieces, rest) = from.as_chunks::<PIECE>();
    let (to, to_rest) = to.as_chunks_mut::<PIECE>();
    to.iter_mut().zip(pieces).for_each(|(to, from)| *to = *from);
    to_rest.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
}

/// `left right`, stored row after row.
pub(crate) fn product<T: Real>(left: Matrix<'_, T>, right: Matrix<'_, T>) -> Vec<T> {
    product_with_bias(left, right, None)
}

/// `left rightᵀ`, plus a bias for each column where there is one, all stored row after row: a linear layer, `left`
/// its input (batch, in) and `right` its weight (out, in).
pub(crate) fn product_nt<T: Real>(
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    bias: Option<&[T]>,
) -> Vec<T> {
    product_with_bias(left, right.t(), bias)
}

fn product_with_bias<T: Real>(
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    bias: Option<&[T]>,
) -> Vec<T> {
    assert_eq!(left.columns, right.rows, "inner dimensions");
    let (rows, columns) = (left.rows, right.columns);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), columns, "a bias for each column");
    }
    let len = rows * columns;
    if len == 0 || left.columns == 0 {
        return bias.map_or_else(|| vec![T::zero(); len], |bias| bias.repeat(rows));
    }
    let mut out = Vec::new();
    let whole = &Shared::spare(&mut out, len);
    if right.transposed && (left.transposed || rows <= 2 * columns) {
        for_each_strip(right.t(), left.t(), |strip| turned(whole, columns, strip, bias));
    } else {
        for_each_strip(left, right, |strip| straight(whole, columns, strip, bias, None));
    }
    // SAFETY: the strips cover the product, so each of its elements was written.
    unsafe { out.set_len(len) }
    out
}

/// Writes a strip where it belongs in the product, of `columns` columns. `finite` becomes false where something in it is not.
fn straight<T: Real>(
    out: &Shared<'_, T>,
    columns: usize,
    strip: Strip<'_, T>,
    bias: Option<&[T]>,
    finite: Option<&AtomicBool>,
) {
    let Strip { left, tiles, rows, right, columns: made, width } = strip;
    multiply(
        left,
        tiles,
        right,
        Straight { out, columns, end: rows.end, made, width, bias, finite },
    );
}

/// The columns `made` of the product, of which no other task writes any row before `end`.
struct Straight<'a, T> {
    out: &'a Shared<'a, T>,
    columns: usize,
    end: usize,
    made: Range<usize>,
    width: usize,
    bias: Option<&'a [T]>,
    finite: Option<&'a AtomicBool>,
}

impl<T: Real> Receiver<T> for Straight<'_, T> {
    #[inline(always)]
    fn place(&mut self, rows: Range<usize>, _panel: usize) -> Option<Place<'_, T>> {
        let whole = rows.end <= self.end && self.made.len() == self.width;
        (whole && self.bias.is_none()).then(|| {
            let start = rows.start * self.columns + self.made.start;
            // SAFETY: strips of a product do not overlap, and each is written by the one task that makes it, the first piece
            // before another is added.
            let place =
                unsafe { Place::shared(self.out, start, rows.len(), self.columns, self.width) };
            place.watched(self.finite)
        })
    }

    #[inline(always)]
    fn take(&mut self, tile: Tile<'_, T>) {
        for (i, values) in tile.values.chunks_exact(self.width).enumerate() {
            let start = (tile.row + i) * self.columns + self.made.start;
            let values = &values[..self.made.len()];
            if tile.first {
                // SAFETY: as in `place`.
                unsafe { self.out.write(start, values) };
            }
            // SAFETY: as in `place`; what came first has written it.
            let out = unsafe { self.out.slice(start..start + values.len()) };
            if !tile.first {
                out.iter_mut().zip(values).for_each(|(out, &x)| *out += x);
            } else if let Some(bias) = self.bias {
                let bias = &bias[self.made.clone()];
                out.iter_mut().zip(bias).for_each(|(out, &bias)| *out += bias);
            }
            if let Some(finite) = self.finite
                && !is_finite(out)
            {
                finite.store(false, Relaxed);
            }
        }
    }
}

/// Writes a strip of the transposed product where it belongs in the product, of `columns` columns.
fn turned<T: Real>(out: &Shared<'_, T>, columns: usize, strip: Strip<'_, T>, bias: Option<&[T]>) {
    let Strip { left, tiles, rows, right, columns: made, width } = strip;
    let count = rows.len();
    with_scratch(tiles.len() * ROWS * width, |values: &mut [T]| {
        let elements = &mut *values;
        multiply(left, tiles, right, Rows { first: rows.start, elements, stride: width, width });
        if let Some(bias) = bias {
            for (values, &bias) in values.chunks_exact_mut(width).zip(&bias[rows.clone()]) {
                values.iter_mut().for_each(|value| *value += bias);
            }
        }
        let (start, last) = (made.start * columns, (made.end - 1) * columns);
        // SAFETY: as in `straight`; rows and columns have changed roles. The first and the last row of the strip are inside.
        unsafe {
            let [to, _] = [start, last].map(|row| out.at(row + rows.start..row + rows.end));
            super::transpose::turn_to(values, (count, made.len()), width, to, columns);
        }
    });
}

/// The sum of `aᵀ b` over one or more pairs, (k, m) and (k, n) with each pair's own k, stored row after row, and whether all of it
/// is finite, which is looked at as it is written: the product of all a below each other, transposed, and all b.
pub(crate) fn sum_of_products<T: Real>(pairs: &[(Matrix<'_, T>, Matrix<'_, T>)]) -> (Vec<T>, bool) {
    let (lefts, rights): (Vec<_>, Vec<_>) = pairs.iter().map(|&(a, b)| (a.t(), b)).unzip();
    let (rows, columns) = (lefts[0].rows, rights[0].columns);
    for (left, right) in lefts.iter().zip(&rights) {
        assert!(left.transposed && !right.transposed, "stored row after row");
        assert_eq!((left.rows, right.columns), (rows, columns), "products of one shape");
        assert_eq!(left.columns, right.rows, "inner dimensions");
    }
    let (len, right) = (rows * columns, Stack(&rights));
    if len == 0 || right.rows() == 0 {
        return (vec![T::zero(); len], true);
    }
    let mut out = Vec::new();
    let (whole, finite) = (&Shared::spare(&mut out, len), AtomicBool::new(true));
    packed_strips(&lefts, right, |strip| straight(whole, columns, strip, None, Some(&finite)));
    // SAFETY: the strips cover the product, and each of them was written.
    unsafe { out.set_len(len) };
    (out, finite.into_inner())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};
    use candle_core::WithDType;
    use proptest::prelude::*;

    fn element<T: Real>(matrix: Matrix<'_, T>, row: usize, column: usize) -> f64 {
        let (row, column) = if matrix.transposed { (column, row) } else { (row, column) };
        WithDType::to_f64(matrix.elements[row * matrix.stride() + column])
    }

    /// The definition: a dot product for each element, summed in f64 and added to what is there.
    fn naive<T: Real>(out: &mut [T], left: Matrix<'_, T>, right: Matrix<'_, T>) {
        for i in 0..left.rows {
            for j in 0..right.columns {
                let mut sum = WithDType::to_f64(out[i * right.columns + j]);
                for k in 0..left.columns {
                    sum += element(left, i, k) * element(right, k, j);
                }
                out[i * right.columns + j] = <T as WithDType>::from_f64(sum);
            }
        }
    }

    /// On as many threads as share one packed copy, and on as few as pack for themselves.
    fn on_many_and_few(check: impl Fn() + Sync + Send) {
        for threads in [2, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(&check);
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
            m in 0usize..150, k in 0usize..70, n in 0usize..150, a in any::<bool>(), b in any::<bool>(),
        ) {
            check::<f64>(m, k, n, (a, b), 1e-14);
            check::<f32>(m, k, n, (a, b), 1e-6);
        }
    }

    /// Of full panels and one that is narrower, shared out, of each packed by one task and of packed ones.
    #[test]
    fn wide_products_equal_the_definition() {
        for (m, n) in [(64, 784), (64, 560), (300, 784), (100, 202), (300, 70), (190, 330)] {
            for t in [(false, false), (true, false), (false, true), (true, true)] {
                on_many_and_few(|| {
                    check::<f32>(m, 80, n, t, 1e-6);
                    check::<f64>(m, 80, n, t, 1e-14);
                });
            }
        }
    }

    /// Pairs of so many rows each, of values that differ from pair to pair.
    fn pairs<T: Real>(rows: &[usize], (m, n): (usize, usize)) -> Vec<(Vec<T>, Vec<T>)> {
        let pair = |(i, &k): (usize, &usize)| {
            (values(k * m, 2 * i as u64 + 1), values(k * n, 2 * i as u64 + 2))
        };
        rows.iter().enumerate().map(pair).collect()
    }

    fn summed<T: Real>(
        pairs: &[(Vec<T>, Vec<T>)],
        rows: &[usize],
        (m, n): (usize, usize),
    ) -> (Vec<T>, bool) {
        let matrices = pairs.iter().zip(rows);
        let matrices = matrices.map(|((a, b), &k)| (Matrix::new(a, k, m), Matrix::new(b, k, n)));
        sum_of_products(&matrices.collect::<Vec<_>>())
    }

    fn check_sum<T: Real>(rows: &[usize], (m, n): (usize, usize), tolerance: f64) {
        let pairs = pairs::<T>(rows, (m, n));
        let mut expected = vec![T::zero(); m * n];
        for ((a, b), &k) in pairs.iter().zip(rows) {
            naive(&mut expected, Matrix::new(a, k, m).t(), Matrix::new(b, k, n));
        }
        let (got, finite) = summed(&pairs, rows, (m, n));
        assert_close(&got, &expected, tolerance * (rows.iter().sum::<usize>() as f64).sqrt());
        assert!(finite);
        // To the bit what the product of all rows below each other is.
        let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (a, b, k) = (a.concat(), b.concat(), rows.iter().sum());
        assert!(got == product(Matrix::new(&a, k, m).t(), Matrix::new(&b, k, n)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_sum_of_products_equals_the_definition(
            rows in proptest::collection::vec(0usize..50, 1..4), m in 0usize..150, n in 0usize..150,
        ) {
            check_sum::<f64>(&rows, (m, n), 1e-14);
            check_sum::<f32>(&rows, (m, n), 1e-6);
        }
    }

    #[test]
    fn wide_sums_of_products_equal_the_definition() {
        for shape in [(512, 784), (300, 100), (1, 512), (784, 20), (100, 202)] {
            for rows in [[128, 64], [64, 300]] {
                on_many_and_few(|| {
                    check_sum::<f32>(&rows, shape, 1e-6);
                    check_sum::<f64>(&rows, shape, 1e-14);
                });
            }
        }
    }

    /// NaN and infinity in a factor, and a sum of finite ones that overflows, wherever it is.
    #[test]
    fn a_sum_of_products_that_is_not_finite_is_seen() {
        fn check<T: Real>(rows: [usize; 2], (m, n): (usize, usize), largest: T) {
            let last = (m - 1, n - 1);
            let places = [(0, 0), (5, n / 2), (6, n / 2 + 1), (m / 2, n - 2), (m - 2, 0), last];
            for (row, column) in places {
                for bad in [T::nan(), T::infinity(), T::neg_infinity(), largest] {
                    for pair in [0, 1] {
                        let mut pairs = pairs::<T>(&rows, (m, n));
                        pairs[pair].0[2 * m + row] = bad;
                        pairs[pair].1[2 * n..3 * n].fill(T::zero());
                        // Elsewhere 0 times the largest, which is finite.
                        pairs[pair].1[2 * n + column] = T::one() + T::one();
                        let (got, finite) = summed(&pairs, &rows, (m, n));
                        assert!(!got[row * n + column].is_finite());
                        let bad = WithDType::to_f64(bad);
                        assert!(!finite, "{bad} at {row}, {column} of {m} x {n}");
                    }
                }
            }
        }
        // One task, one for each panel, strips of long panels, and sums that are added up in two goes.
        for (rows, shape) in [
            ([7, 5], (90, 130)),
            ([12, 8], (512, 784)),
            ([128, 64], (784, 20)),
            ([300, 20], (90, 130)),
        ] {
            check(rows, shape, f32::MAX);
            check(rows, shape, f64::MAX);
        }
    }

    /// Large sums are finite, however many there are; two of them in one element are not, in one go or in two.
    #[test]
    fn only_an_element_that_overflows_is_not_finite() {
        fn check<T: Real>(rows: [usize; 2], (m, n): (usize, usize), largest: T) {
            let zeros = || rows.map(|k| (vec![T::zero(); k * m], vec![T::zero(); k * n])).to_vec();
            let mut pairs = zeros();
            pairs[0].0[2 * m..3 * m].fill(largest);
            pairs[0].1[2 * n..3 * n].fill(T::one());
            let (got, finite) = summed(&pairs, &rows, (m, n));
            assert!(finite && got == vec![largest; m * n]);
            for (row, column) in [(0, 0), (m / 2, n - 1), (m - 1, n / 2), (m - 1, n - 1)] {
                let mut pairs = zeros();
                for (a, b) in &mut pairs {
                    a[2 * m + row] = largest;
                    b[2 * n + column] = T::one();
                }
                assert!(!summed(&pairs, &rows, (m, n)).1, "{row}, {column} of {m} x {n}");
            }
        }
        for rows in [[12, 8], [300, 20]] {
            check(rows, (90, 130), f32::MAX);
            check(rows, (90, 130), f64::MAX);
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
        for shape in [(512, 784), (300, 100)] {
            let (rows, pairs) = ([128, 64], pairs::<f32>(&[128, 64], shape));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| summed(&pairs, &rows, shape))
            };
            let one = run(1);
            assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one), "{shape:?}");
        }
    }
}
