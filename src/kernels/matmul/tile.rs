//! A product tile by tile: over which inner indices at a time, and what becomes of the pieces.

use std::ops::Range;

use pulp::Simd;

use super::operands::{Left, Panels, Place, ROWS};
use super::registers::InRegisters;
use crate::kernels::Real;
use crate::kernels::lanes::lanes;
use crate::kernels::prefetch::LINE;

/// Inner indices of one go: the rows of a tile then stay in the first level of the cache.
const GO: usize = 256;

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

/// What becomes of the pieces of a product, whose order is that of the inner index.
pub(crate) trait Receiver<T> {
    /// Memory that some tiles' rows in this panel are written to, or added to where they are not the first. `rows` is a whole
    /// number of tiles, and may end beyond the last row. `None` where there is no memory for all of them: then the tiles are
    /// [taken](Self::take) one by one.
    #[inline(always)]
    fn place(&mut self, _rows: Range<usize>, _panel: usize) -> Option<Place<'_, T>> {
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
    fn place(&mut self, rows: Range<usize>, panel: usize) -> Option<Place<'_, T>> {
        let start = (rows.start - self.first) * self.stride + panel * self.width;
        Some(Place::new(&mut self.elements[start..], rows.len(), self.stride, self.width))
    }

    fn take(&mut self, _tile: Tile<'_, T>) {}
}

/// Adds products to what is there, one panel wide.
pub(crate) struct Sums<'a, T> {
    pub(crate) elements: &'a mut [T],
    pub(crate) width: usize,
}

impl<T: Real> Receiver<T> for Sums<'_, T> {
    #[inline(always)]
    fn place(&mut self, rows: Range<usize>, panel: usize) -> Option<Place<'_, T>> {
        assert_eq!(panel, 0, "sums of one panel");
        let out = self.elements.get_mut(rows.start * self.width..rows.end * self.width)?;
        Some(Place::new(out, rows.len(), self.width, self.width).added())
    }

    #[inline(always)]
    fn take(&mut self, tile: Tile<'_, T>) {
        let out = &mut self.elements[tile.row * self.width..][..tile.values.len()];
        out.iter_mut().zip(tile.values).for_each(|(out, &x)| *out += x);
    }
}

/// Multiplies some tiles of the left operand with all panels of the right one, on this thread, and gives each piece of the
/// product to the receiver.
pub(crate) fn multiply<T: Real>(
    left: Left<'_, T>,
    tiles: Range<usize>,
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

/// Something that begins on a line of the cache, so that no vector of it lies on two.
#[repr(align(64))]
struct OnLines<T>(T);

const _: () = assert!(align_of::<OnLines<u8>>() == LINE);

struct Multiply<'a, T, R> {
    left: Left<'a, T>,
    tiles: Range<usize>,
    right: Panels<'a, T>,
    receiver: R,
}

impl<T: Real, R: Receiver<T>> pulp::WithSimd for Multiply<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = lanes::<S, T>();
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
        let Panels { width, inner: all, .. } = right;
        // Goes end where segments do, if segments are short.
        let go = if left.segment >= GO { GO } else { GO / left.segment * left.segment };
        let mut values = OnLines([T::zero(); ROWS * 64]);
        let values = &mut values.0;
        // The last tile may have fewer rows than the others.
        let whole = tiles.end.min(left.rows / ROWS).max(tiles.start);
        for (panel, elements) in right.elements.chunks_exact(all * width).enumerate() {
            let mut start = 0;
            while start < all {
                let in_segment = start % left.segment;
                let count = if left.segment >= GO {
                    GO.min(left.segment - in_segment)
                } else {
                    go.min(all - start)
                };
                let inner = start..start + count;
                let of_panel = (elements, width);
                for tiles in [tiles.start..whole, whole..tiles.end] {
                    let rows = tiles.start * ROWS..tiles.end * ROWS;
                    if tiles.is_empty() {
                        continue;
                    }
                    if let Some(place) = receiver.place(rows, panel) {
                        let place = if start > 0 { place.added() } else { place };
                        let inner = inner.clone();
                        in_registers::<S, T, VECTORS>(simd, left, tiles, inner, of_panel, place);
                        continue;
                    }
                    for tile in tiles {
                        let (row, tile, inner) = (tile * ROWS, tile..tile + 1, inner.clone());
                        let place = Place::new(&mut values[..ROWS * width], ROWS, width, width);
                        in_registers::<S, T, VECTORS>(simd, left, tile, inner, of_panel, place);
                        let values = &values[..ROWS.min(left.rows - row) * width];
                        receiver.take(Tile { row, panel, values, first: start == 0 });
                    }
                }
                start += count;
            }
        }
    }
}

/// Multiplies some inner indices of some tiles.
#[inline(always)]
fn in_registers<S: Simd, T: Real, const VECTORS: usize>(
    simd: S,
    left: Left<'_, T>,
    tiles: Range<usize>,
    inner: Range<usize>,
    panel: (&[T], usize),
    place: Place<'_, T>,
) {
    match left.step {
        1 => simd.vectorize(InRegisters::<T, VECTORS, 1> { left, tiles, inner, panel, place }),
        _ => simd.vectorize(InRegisters::<T, VECTORS, ROWS> { left, tiles, inner, panel, place }),
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::kernels::matmul::{full_width, pack_left, packed_left_len};
    use crate::kernels::tests::{assert_close, values};

    /// A product that is put together from pieces.
    struct Taken<'a, T>(&'a mut [T], usize);

    impl<T: Real> Receiver<T> for Taken<'_, T> {
        fn take(&mut self, tile: Tile<'_, T>) {
            let out = &mut self.0[tile.row * self.1..][..tile.values.len()];
            out.iter_mut().zip(tile.values).for_each(|(out, &x)| *out += x);
        }
    }

    /// The product of `rows` x `inner` and a panel of `width` columns, made with these vectors: of an operand that is read where it
    /// lies, in one segment and in some, and of a packed one.
    fn made<T: Real, S: Simd>(simd: S, (rows, inner, width): (usize, usize, usize)) -> Vec<T> {
        let (a, b) = (values::<T>(rows * inner, 1), values::<T>(inner * width, 2));
        let turned: Vec<T> = (0..rows * inner).map(|i| a[i % rows * inner + i / rows]).collect();
        let mut packed = vec![T::zero(); packed_left_len(rows, inner)];
        pack_left(&[&turned], rows, inner, &mut packed);
        let segments = [5, 16, 35].into_iter().filter(|&segment| inner.is_multiple_of(segment));
        let segments = segments.map(|len| Left::segments(&a, rows, inner, (inner / len, len, len)));
        let lefts = [Left::rows(&a, rows, inner, inner), Left::packed(&packed, rows, inner)];
        let products = lefts.into_iter().chain(segments).map(|left| {
            let (right, tiles) = (Panels::new(&b, inner, width), rows.div_ceil(ROWS));
            let mut out = vec![T::zero(); rows * width];
            let receiver = Taken(&mut out, width);
            simd.vectorize(Multiply { left, tiles: 0..tiles, right, receiver });
            let gap = 3;
            let mut placed = vec![T::one(); tiles * ROWS * (width + gap)];
            let elements = &mut placed[..];
            let receiver = Rows { first: 0, elements, stride: width + gap, width };
            simd.vectorize(Multiply { left, tiles: 0..tiles, right, receiver });
            let mut sums = out.clone();
            let receiver = Sums { elements: &mut sums, width };
            simd.vectorize(Multiply { left, tiles: 0..tiles, right, receiver });
            let twice: Vec<T> = out.iter().map(|&x| x + x).collect();
            let rounding = candle_core::WithDType::to_f64(T::epsilon());
            assert_close(&sums, &twice, 8.0 * rounding);
            for (out, placed) in out.chunks_exact(width).zip(placed.chunks_exact(width + gap)) {
                assert!(*out == placed[..width] && placed[width..] == [T::one(); 3]);
            }
            out
        });
        products.collect::<Vec<_>>().concat()
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
