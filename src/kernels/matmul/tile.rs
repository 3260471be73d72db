//! The innermost loop of every matrix product: a tile of a few rows and a few vectors of columns, kept in registers.
//!
//! An element of the left operand is spread over a vector and multiplied with vectors of the right one. So the left
//! operand is read where it lies, in any strides; only the right one is packed, into [panels](Panels).
//!
//! Each element of the product is summed from the first inner index to the last, whatever the vectors' length: the same
//! bytes with AVX2 and AVX-512.

use std::marker::PhantomData;

use pulp::Simd;

use crate::kernels::Real;
use crate::kernels::parallel::{Shared, for_each_chunk};

/// Rows of a tile: with four vectors of columns they fill 24 of the 32 registers of AVX-512, and with two 12 of the 16 of
/// AVX2.
pub(crate) const ROWS: usize = 6;

/// Inner indices of one go: the rows of a tile then stay in the first level of the cache.
const GO: usize = 256;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for a line of memory, to be read or to be written, without waiting for it; the address may be any.
#[inline(always)]
fn prefetch<T>(address: *const T, to_write: bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instructions, or takes them for none; they read nothing, and an address that is nobody's
    // will do.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        match to_write {
            true => _mm_prefetch::<_MM_HINT_ET0>(address.cast()),
            false => _mm_prefetch::<_MM_HINT_T0>(address.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, to_write);
}

/// The vector instructions that a tile needs, for `f32` and `f64`.
pub(crate) trait Lanes: Copy + 'static {
    /// A vector of these elements.
    type Vector<S: Simd>: Copy;
    /// A vector of copies of an element.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// `a * b + c`, rounded once where the machine has an instruction for it.
    fn multiply_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    fn add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
}

impl Lanes for f32 {
    type Vector<S: Simd> = S::f32s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f32s {
        simd.splat_f32s(x)
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, c)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }
}

impl Lanes for f64 {
    type Vector<S: Simd> = S::f64s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f64s {
        simd.splat_f64s(x)
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
        simd.mul_add_e_f64s(a, b, c)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.add_f64s(a, b)
    }
}

/// The left operand: element `(row, p)` of tile `t` stands at `t * tile + row * row_stride + (p / segment) * segment_stride +
/// (p % segment) * step`.
///
/// Segments let the inner index run over the positions of one sample after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a, T> {
    elements: &'a [T],
    rows: usize,
    inner: usize,
    tile: usize,
    row_stride: usize,
    step: usize,
    segment: usize,
    segment_stride: usize,
}

impl<'a, T> Left<'a, T> {
    /// A matrix read where it lies, its rows `row_stride` apart and the elements of a row side by side.
    pub(crate) fn rows(elements: &'a [T], rows: usize, inner: usize, row_stride: usize) -> Self {
        Self::segments(elements, rows, row_stride, (1, inner, inner))
    }

    /// A matrix whose rows lie in `count` segments of `segment` elements, `segment_stride` apart.
    pub(crate) fn segments(
        elements: &'a [T],
        rows: usize,
        row_stride: usize,
        (count, segment, segment_stride): (usize, usize, usize),
    ) -> Self {
        let inner = count * segment;
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        assert!(
            rows * inner == 0
                || last(rows, row_stride) + last(count, segment_stride) + segment <= elements.len(),
            "{rows} rows, {row_stride} apart, of {count} segments of {segment}, {segment_stride} apart, in {} elements",
            elements.len()
        );
        let tile = ROWS * row_stride;
        Self { elements, rows, inner, tile, row_stride, step: 1, segment, segment_stride }
    }

    /// A matrix that was [packed](pack_left).
    pub(crate) fn packed(elements: &'a [T], rows: usize, inner: usize) -> Self {
        assert_eq!(elements.len(), packed_left_len(rows, inner), "{rows} x {inner}, packed");
        let tile = ROWS * inner;
        Self {
            elements,
            rows,
            inner,
            tile,
            row_stride: 1,
            step: ROWS,
            segment: inner,
            segment_stride: 0,
        }
    }
}

/// Elements of a packed left operand.
pub(crate) fn packed_left_len(rows: usize, inner: usize) -> usize {
    rows.div_ceil(ROWS) * ROWS * inner
}

/// Packs a matrix that is stored with its rows side by side, element `(row, p)` at `p * stride + row`, tile by tile.
pub(crate) fn pack_left<T: Real>(
    elements: &[T],
    rows: usize,
    inner: usize,
    stride: usize,
    packed: &mut [T],
) {
    for_each_chunk(packed, ROWS * inner, |offset, tile| {
        let first = offset / inner;
        let count = ROWS.min(rows - first);
        for (p, out) in tile.chunks_exact_mut(ROWS).enumerate() {
            let from = &elements[p * stride + first..][..count];
            if count == ROWS {
                out.copy_from_slice(from);
            } else {
                out[..count].copy_from_slice(from);
                out[count..].fill(T::zero());
            }
        }
    });
}

/// Columns of a full panel: 256 bytes, four vectors of AVX-512.
pub(crate) const fn full_width<T>() -> usize {
    256 / size_of::<T>()
}

/// The narrowest panel's width that holds this many columns, or the full one.
pub(crate) fn panel_width<T>(columns: usize) -> usize {
    let full = full_width::<T>();
    [full / 4, full / 2].into_iter().find(|&width| columns <= width).unwrap_or(full)
}

/// The right operand: panels of some columns each, element `(p, column)` of panel `j` at `(j * inner + p) * width + column`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels<'a, T> {
    elements: &'a [T],
    inner: usize,
    width: usize,
}

impl<'a, T> Panels<'a, T> {
    /// `width` must come from [`panel_width`].
    pub(crate) fn new(elements: &'a [T], inner: usize, width: usize) -> Self {
        let full = full_width::<T>();
        assert!([full / 4, full / 2, full].contains(&width), "a panel of {width} columns");
        assert!(inner == 0 || elements.len().is_multiple_of(inner * width), "whole panels");
        Self { elements, inner, width }
    }
}

/// A finished piece of a product: the rows from `row` on, `width` elements each, summed over some of the inner indices.
#[derive(Debug)]
pub(crate) struct Tile<'a, T> {
    /// The first row, as the product counts them.
    pub(crate) row: usize,
    /// Which panel's columns these are.
    pub(crate) panel: usize,
    /// The valid rows one after another.
    pub(crate) values: &'a [T],
    /// Whether the sum begins with this piece; later ones are to be added.
    pub(crate) first: bool,
}

/// Memory for a piece of a product: as many rows as a tile has, of a panel's width, so many elements apart.
pub(crate) struct Place<'a, T> {
    start: *mut T,
    stride: usize,
    /// Whether even the first piece is added to what is there.
    adds: bool,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T: Copy> Place<'a, T> {
    pub(crate) fn new(elements: &'a mut [T], stride: usize, width: usize) -> Self {
        assert!((ROWS - 1) * stride + width <= elements.len(), "rows of {width}, {stride} apart");
        Self { start: elements.as_mut_ptr(), stride, adds: false, memory: PhantomData }
    }

    /// One among those that others write to.
    ///
    /// # Safety
    /// Nobody else may use the rows, nor read them where no values are yet.
    pub(in crate::kernels) unsafe fn shared(
        whole: &Shared<'a, T>,
        start: usize,
        stride: usize,
        width: usize,
    ) -> Self {
        let last = start + (ROWS - 1) * stride;
        // SAFETY: as the caller vouches.
        let [start, _] = unsafe { [whole.at(start..start + width), whole.at(last..last + width)] };
        Self { start, stride, adds: false, memory: PhantomData }
    }

    /// The same for pieces that are all added to what is there.
    pub(crate) fn added(self) -> Self {
        Self { adds: true, ..self }
    }
}

/// What becomes of the pieces of a product, whose order is that of the inner index.
pub(crate) trait Receiver<T> {
    /// Memory that a piece of whole rows `row..row + ROWS` in this panel is written to, or added to where it is not the first.
    /// `None`, as for every piece with rows beyond the last, for one to [`take`](Self::take).
    #[inline(always)]
    fn place(&mut self, _row: usize, _panel: usize) -> Option<Place<'_, T>> {
        None
    }

    fn take(&mut self, tile: Tile<'_, T>);
}

/// Rows in memory of their own, a whole number of tiles, in which panels lie side by side.
pub(crate) struct Rows<'a, T> {
    /// The product's row that comes first.
    pub(crate) first: usize,
    pub(crate) elements: &'a mut [T],
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    pub(crate) width: usize,
}

impl<T: Copy> Receiver<T> for Rows<'_, T> {
    #[inline(always)]
    fn place(&mut self, row: usize, panel: usize) -> Option<Place<'_, T>> {
        let start = (row - self.first) * self.stride + panel * self.width;
        Some(Place::new(&mut self.elements[start..], self.stride, self.width))
    }

    fn take(&mut self, _tile: Tile<'_, T>) {}
}

/// Multiplies some tiles of the left operand with all panels of the right one, on this thread, and gives each piece of the
/// product to the receiver.
pub(crate) fn multiply<T: Real>(
    left: Left<'_, T>,
    tiles: std::ops::Range<usize>,
    right: Panels<'_, T>,
    receiver: impl Receiver<T>,
) {
    assert_eq!(left.inner, right.inner, "inner dimensions");
    assert!(tiles.end <= left.rows.div_ceil(ROWS), "tiles of {} rows", left.rows);
    if left.inner == 0 || left.rows == 0 {
        return;
    }
    pulp::Arch::new().dispatch(Multiply { left, tiles, right, receiver });
}

struct Multiply<'a, T, R> {
    left: Left<'a, T>,
    tiles: std::ops::Range<usize>,
    right: Panels<'a, T>,
    receiver: R,
}

impl<T: Real, R: Receiver<T>> pulp::WithSimd for Multiply<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
        // A register for each row and vector, and some to spare.
        let vectors = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        match (self.right.width / lanes).min(vectors) {
            4 => self.run::<S, 4>(simd),
            2 => self.run::<S, 2>(simd),
            _ => self.run::<S, 1>(simd),
        }
    }
}

impl<T: Real, R: Receiver<T>> Multiply<'_, T, R> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) {
        let Self { left, tiles, right, mut receiver } = self;
        let Panels { width, inner, .. } = right;
        // Goes end where segments do, if segments are short.
        let go = if left.segment >= GO { GO } else { GO / left.segment * left.segment };
        let mut values = [T::zero(); ROWS * 64];
        for (panel, elements) in right.elements.chunks_exact(inner * width).enumerate() {
            let mut start = 0;
            while start < inner {
                let in_segment = start % left.segment;
                let count = if left.segment >= GO {
                    GO.min(left.segment - in_segment)
                } else {
                    go.min(inner - start)
                };
                for tile in tiles.clone() {
                    let row = tile * ROWS;
                    let rows = ROWS.min(left.rows - row);
                    let (operands, inner) = ((left, tile, rows), start..start + count);
                    let panel_of = (elements, width);
                    if let Some(place) = receiver.place(row, panel) {
                        let place = Place { adds: place.adds || start > 0, ..place };
                        product::<T, S, VECTORS>(simd, operands, inner, panel_of, place);
                        continue;
                    }
                    let place = Place::new(&mut values[..ROWS * width], width, width);
                    product::<T, S, VECTORS>(simd, operands, inner, panel_of, place);
                    let values = &values[..rows * width];
                    receiver.take(Tile { row, panel, values, first: start == 0 });
                }
                start += count;
            }
        }
    }
}

/// One tile of the product over some inner indices, which lie in one segment or are whole segments: written, or added to
/// what is there.
#[inline(always)]
fn product<T: Real, S: Simd, const VECTORS: usize>(
    simd: S,
    (left, tile, rows): (Left<'_, T>, usize, usize),
    inner: std::ops::Range<usize>,
    (panel, width): (&[T], usize),
    place: Place<'_, T>,
) {
    let lanes = size_of::<T::Vector<S>>() / size_of::<T>();
    let count = inner.len();
    let segment = left.segment.min(count);
    let first =
        inner.start / left.segment * left.segment_stride + inner.start % left.segment * left.step;
    // Rows beyond the last are the last one again; nobody reads their values.
    let offsets: [usize; ROWS] = std::array::from_fn(|i| {
        let row = if left.step == 1 { i.min(rows - 1) } else { i };
        tile * left.tile + row * left.row_stride + first
    });
    assert!(
        count.is_multiple_of(segment)
            && inner.end * width <= panel.len()
            && width.is_multiple_of(VECTORS * lanes)
            && offsets[ROWS - 1]
                + (count / segment - 1) * left.segment_stride
                + (segment - 1) * left.step
                < left.elements.len()
    );
    // Short rows begin with each tile, of operand and product, and the processor notices a row only after some misses: so lines
    // of the next tile are asked for while this one is computed.
    let line = LINE / size_of::<T>();
    let ahead = left.step == 1 && segment >= line;
    for column in (0..width).step_by(VECTORS * lanes) {
        let zero = T::splat(simd, T::zero());
        let mut sums = [[zero; VECTORS]; ROWS];
        // SAFETY: the assertion holds the last element that is read of `left` and of `panel` to be inside them; offsets grow with
        // the row, indices with every loop. A place has a tile's rows of the panel's width for itself. Vectors are plain floats,
        // read and written without a demand on their alignment.
        unsafe {
            let out = place.start.add(column);
            let mut asked = 0;
            let mut from = left.elements.as_ptr();
            let mut right = panel.as_ptr().add(inner.start * width + column);
            for _ in 0..count / segment {
                let mut at = from;
                let mut done = 0;
                while done < segment {
                    if ahead {
                        let next = offsets.iter().map(|&o| at.wrapping_add(o + left.tile));
                        next.for_each(|address| prefetch(address, false));
                    }
                    if asked < VECTORS {
                        let next = (ROWS..2 * ROWS).map(|row| row * place.stride + asked * lanes);
                        next.for_each(|offset| prefetch(out.wrapping_add(offset), true));
                        asked += 1;
                    }
                    let line = line.min(segment - done);
                    for _ in 0..line {
                        let mut vectors = [zero; VECTORS];
                        for (v, vector) in vectors.iter_mut().enumerate() {
                            *vector = right.add(v * lanes).cast::<T::Vector<S>>().read_unaligned();
                        }
                        for (sums, &offset) in sums.iter_mut().zip(&offsets) {
                            let x = T::splat(simd, *at.add(offset));
                            for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                                *sum = T::multiply_add(simd, x, vector, *sum);
                            }
                        }
                        at = at.wrapping_add(left.step);
                        right = right.wrapping_add(width);
                    }
                    done += line;
                }
                from = from.wrapping_add(left.segment_stride);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    let out = out.add(i * place.stride + v * lanes).cast::<T::Vector<S>>();
                    let sum = match place.adds {
                        true => <T as Lanes>::add(simd, out.read_unaligned(), sum),
                        false => sum,
                    };
                    out.write_unaligned(sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::kernels::tests::{assert_close, values};

    /// A product that is put together from pieces.
    struct Taken<'a, T>(&'a mut [T], usize);

    impl<T: Real> Receiver<T> for Taken<'_, T> {
        fn take(&mut self, tile: Tile<'_, T>) {
            let out = &mut self.0[tile.row * self.1..][..tile.values.len()];
            out.iter_mut().zip(tile.values).for_each(|(out, &x)| *out += x);
        }
    }

    /// The product of `rows` x `inner` and a panel of `width` columns, made with these vectors.
    fn made<T: Real, S: Simd>(simd: S, (rows, inner, width): (usize, usize, usize)) -> Vec<T> {
        let (a, b) = (values::<T>(rows * inner, 1), values::<T>(inner * width, 2));
        let mut out = vec![T::zero(); rows * width];
        simd.vectorize(Multiply {
            left: Left::rows(&a, rows, inner, inner),
            tiles: 0..rows.div_ceil(ROWS),
            right: Panels::new(&b, inner, width),
            receiver: Taken(&mut out, width),
        });
        let (tiles, gap) = (rows.div_ceil(ROWS), 3);
        let mut placed = vec![T::one(); tiles * ROWS * (width + gap)];
        let elements = &mut placed[..];
        let place = Rows { first: 0, elements, stride: width + gap, width };
        let (left, right) = (Left::rows(&a, rows, inner, inner), Panels::new(&b, inner, width));
        simd.vectorize(Multiply { left, tiles: 0..tiles, right, receiver: place });
        for (out, placed) in out.chunks_exact(width).zip(placed.chunks_exact(width + gap)) {
            assert!(*out == placed[..width] && placed[width..] == [T::one(); 3]);
        }
        out
    }

    /// What a machine without AVX-512 runs, and one without AVX2: the first gives the same bytes, the second, which rounds a
    /// product before it is added, nearly the same.
    fn check<T: Real>(tolerance: f64) {
        for rows in [1, 5, 6, 7, 20] {
            for inner in [1, 16, 255, 256, 700] {
                for width in [4, 2, 1].map(|parts| full_width::<T>() / parts) {
                    let shape = (rows, inner, width);
                    let here = pulp::Arch::new().dispatch(Made::<T>(shape, Default::default()));
                    assert_close(&made::<T, _>(pulp::Scalar::new(), shape), &here, tolerance);
                    #[cfg(target_arch = "x86_64")]
                    if let Some(simd) = pulp::x86::V3::try_new() {
                        assert!(made::<T, _>(simd, shape) == here, "{shape:?} with AVX2");
                    }
                }
            }
        }
    }

    /// [`made`] with the vectors of this machine.
    struct Made<T>((usize, usize, usize), std::marker::PhantomData<T>);

    impl<T: Real> WithSimd for Made<T> {
        type Output = Vec<T>;

        fn with_simd<S: Simd>(self, simd: S) -> Vec<T> {
            made(simd, self.0)
        }
    }

    #[test]
    fn other_vector_instructions_give_the_same() {
        check::<f32>(1e-5);
        check::<f64>(1e-13);
    }
}
