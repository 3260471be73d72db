//! The linear transforms of minimal filtering, and what applies them to vectors of channels.

use std::array::from_fn;
use std::marker::PhantomData;

use pulp::{Simd, WithSimd};

use crate::kernels::Real;
use crate::kernels::lanes::{Lanes, lanes};
use crate::kernels::parallel::Shared;

/// Channels that are moved together: a block.
pub(super) const BLOCK: usize = 16;

/// A linear transform of a few values.
pub(in crate::kernels::convolution) trait Transform<const FROM: usize, const TO: usize> {
    fn line<T: Real, S: Simd>(simd: S, x: [T::Vector<S>; FROM]) -> [T::Vector<S>; TO];
}

/// Two outputs of a filter of `TAPS` taps by `POINTS = TAPS + 1` multiplications, where the definition takes `2 TAPS`:
/// `outputs((taps g) * (data d))`. By the transposition principle gradients are `taps'((data d) * (outputs' y))` for the taps and
/// `data'((taps g) * (outputs' y))` for the data, which may go by other transforms of the same kind.
pub(in crate::kernels::convolution) trait Filtering<const TAPS: usize, const POINTS: usize> {
    type Data: Transform<POINTS, POINTS>;
    type Taps: Transform<TAPS, POINTS>;
    type TapsTransposed: Transform<POINTS, TAPS>;
    type Outputs: Transform<POINTS, 2>;
    type OutputsTransposed: Transform<2, POINTS>;
    /// Of the transforms for the data's gradient.
    type TapsForData: Transform<TAPS, POINTS>;
    type OutputsTransposedForData: Transform<2, POINTS>;
    type DataTransposed: Transform<POINTS, POINTS>;
}

/// Declares transforms, a sum or difference for each of their results.
macro_rules! transforms {
    ($($name:ident: [$($x:ident),+] -> [$($result:expr),+];)+) => { $(
        #[derive(Debug)]
        pub(in crate::kernels::convolution) struct $name;

        impl Transform<{ [$(stringify!($x)),+].len() }, { [$(stringify!($result)),+].len() }> for $name {
            #[inline(always)]
            fn line<T: Real, S: Simd>(
                simd: S,
                [$($x),+]: [T::Vector<S>; [$(stringify!($x)),+].len()],
            ) -> [T::Vector<S>; [$(stringify!($result)),+].len()] {
                $(let $x = Value::<T, S>($x, simd);)+
                [$($result.0),+]
            }
        }
    )+ };
}

/// Vectors in formulas.
struct Value<T: Lanes, S: Simd>(T::Vector<S>, S);

impl<T: Lanes, S: Simd> Clone for Value<T, S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Lanes, S: Simd> Copy for Value<T, S> {}

impl<T: Real, S: Simd> Value<T, S> {
    /// Exact, but for the smallest of numbers.
    #[inline(always)]
    fn half(self) -> Self {
        let half = T::splat(self.1, T::one() / (T::one() + T::one()));
        let zero = T::splat(self.1, T::zero());
        Self(T::multiply_add(self.1, self.0, half, zero), self.1)
    }
}

impl<T: Lanes, S: Simd> std::ops::Add for Value<T, S> {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(T::add(self.1, self.0, other.0), self.1)
    }
}

impl<T: Lanes, S: Simd> std::ops::Sub for Value<T, S> {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(T::subtract(self.1, self.0, other.0), self.1)
    }
}

transforms! {
    Data2: [d0, d1, d2] -> [d0 - d1, d1, d2 - d1];
    Spread2: [x0, x1] -> [x0, x0 + x1, x1];
    Fold2: [m0, m1, m2] -> [m0 + m1, m1 + m2];
    SpreadTapsApart2: [g0, g1] -> [g0, g0 - g1, g1];
    SpreadApart2: [y0, y1] -> [y0, y1 - y0, y1];
    DataTransposed2: [m0, m1, m2] -> [m0, m1 + (m0 + m2), m2];
}

/// Two outputs of two taps, `d0 g0 + d1 g1` and `d1 g0 + d2 g1`, by `(d0 - d1) g0`, `d1 (g0 + g1)` and `(d2 - d1) g1`.
///
/// For the data's gradient by `(d0 + d1) g0`, `d1 (g0 - g1)` and `(d1 + d2) g1`, transposed: results are then subtracted on the way
/// to the points and not added, so that a mean, as maps of a transposed convolution have after a ReLU, does not grow there, to
/// cancel later.
#[derive(Debug)]
pub(in crate::kernels::convolution) struct TwoTaps;

impl Filtering<2, 3> for TwoTaps {
    type Data = Data2;
    type Taps = Spread2;
    type TapsTransposed = Fold2;
    type Outputs = Fold2;
    type OutputsTransposed = Spread2;
    type TapsForData = SpreadTapsApart2;
    type OutputsTransposedForData = SpreadApart2;
    type DataTransposed = DataTransposed2;
}

transforms! {
    Data3: [d0, d1, d2, d3] -> [d0 - d2, d1 + d2, d2 - d1, d3 - d1];
    DataTransposed3: [m0, m1, m2, m3] -> [m0, m1 - (m2 + m3), m1 + m2 - m0, m3];
    Taps3: [g0, g1, g2] -> [g0, (g0 + g2 + g1).half(), (g0 + g2 - g1).half(), g2];
    TapsTransposed3: [m0, m1, m2, m3] -> [m0 + (m1 + m2).half(), (m1 - m2).half(), (m1 + m2).half() + m3];
    Outputs3: [m0, m1, m2, m3] -> [m0 + (m1 + m2), m1 - m2 + m3];
    OutputsTransposed3: [y0, y1] -> [y0, y0 + y1, y0 - y1, y1];
}

/// Two outputs of three taps: `d0 g0 + d1 g1 + d2 g2` and `d1 g0 + d2 g1 + d3 g2`.
#[derive(Debug)]
pub(in crate::kernels::convolution) struct ThreeTaps;

impl Filtering<3, 4> for ThreeTaps {
    type Data = Data3;
    type Taps = Taps3;
    type TapsTransposed = TapsTransposed3;
    type Outputs = Outputs3;
    type OutputsTransposed = OutputsTransposed3;
    type TapsForData = Taps3;
    type OutputsTransposedForData = OutputsTransposed3;
    type DataTransposed = DataTransposed3;
}

/// Where some vectors are read, and where what a transform makes of them goes; offsets are those of the first block of channels.
#[derive(Debug)]
pub(super) struct Move<const FROM: usize, const TO: usize> {
    pub(super) from: [[usize; FROM]; FROM],
    pub(super) to: [[usize; TO]; TO],
    /// Blocks of channels, and the elements from one to the next where they are read and where they are written.
    pub(super) blocks: usize,
    pub(super) steps: (usize, usize),
}

/// Applies a transform to rows and columns of squares of vectors, and writes what it gives, or adds it to what is there where `ADDS`.
pub(super) fn apply<M, T, const FROM: usize, const TO: usize, const ADDS: bool>(
    from: &[T],
    to: &mut [T],
    moves: impl Iterator<Item = Move<FROM, TO>>,
) where
    M: Transform<FROM, TO>,
    T: Real,
{
    // SAFETY: nobody else uses what is borrowed mutably, and a slice has values.
    unsafe { apply_to_shared::<M, T, FROM, TO, ADDS>(from, &Shared::new(to), moves) };
}

/// The same to memory that others may write to beside what is written here.
///
/// # Safety
/// Nobody else may use what is written, and where `ADDS` it must have values.
pub(super) unsafe fn apply_to_shared<M, T, const FROM: usize, const TO: usize, const ADDS: bool>(
    from: &[T],
    to: &Shared<'_, T>,
    moves: impl Iterator<Item = Move<FROM, TO>>,
) where
    M: Transform<FROM, TO>,
    T: Real,
{
    // SAFETY: as the caller vouches.
    pulp::Arch::new().dispatch(unsafe { Apply::<M, _, _, FROM, TO, ADDS>::new(from, to, moves) });
}

struct Apply<'a, M, T, I, const FROM: usize, const TO: usize, const ADDS: bool> {
    from: &'a [T],
    to: &'a Shared<'a, T>,
    moves: I,
    map: PhantomData<M>,
}

impl<'a, M, T, I, const FROM: usize, const TO: usize, const ADDS: bool>
    Apply<'a, M, T, I, FROM, TO, ADDS>
{
    /// # Safety
    /// As of [`apply_to_shared`].
    unsafe fn new(from: &'a [T], to: &'a Shared<'a, T>, moves: I) -> Self {
        Self { from, to, moves, map: PhantomData }
    }
}

impl<const FROM: usize, const TO: usize> Move<FROM, TO> {
    /// From where it goes to where it comes from.
    pub(super) fn back(self) -> Move<TO, FROM> {
        let Self { from, to, blocks, steps } = self;
        Move { from: to, to: from, blocks, steps: (steps.1, steps.0) }
    }
}

impl<M, T, I, const FROM: usize, const TO: usize, const ADDS: bool> WithSimd
    for Apply<'_, M, T, I, FROM, TO, ADDS>
where
    M: Transform<FROM, TO>,
    T: Real,
    I: Iterator<Item = Move<FROM, TO>>,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { from, to, moves, .. } = self;
        let lanes = lanes::<S, T>();
        assert!(BLOCK.is_multiple_of(lanes), "groups of {BLOCK}");
        let most = |offsets: &[usize]| offsets.iter().fold(0, |most, &offset| most.max(offset));
        for Move { from: sources, to: places, blocks, steps } in moves {
            let Some(more) = blocks.checked_sub(1) else { continue };
            let reach = |offsets: &[usize], step: usize| most(offsets) + more * step + BLOCK;
            assert!(reach(sources.as_flattened(), steps.0) <= from.len(), "vectors in a buffer");
            let start = to.start(reach(places.as_flattened(), steps.1));
            // SAFETY: what is written is this one's alone, as the caller of `new` vouches; the furthest vector of the last block is inside,
            // as `start` and the assertion before hold. Vectors are plain floats, read and written without a demand on their
            // alignment.
            unsafe {
                for block in 0..blocks {
                    for lane in (0..BLOCK).step_by(lanes) {
                        let from = from.as_ptr().add(block * steps.0 + lane);
                        let to = start.add(block * steps.1 + lane);
                        square::<M, T, S, FROM, TO, ADDS>(simd, from, &sources, to, &places);
                    }
                }
            }
        }
    }
}

/// Applies a transform to rows and columns of a square of vectors.
///
/// # Safety
/// There must be a vector to be read at each offset from `from`, and one to be written at each from `to`.
#[inline(always)]
unsafe fn square<M, T, S, const FROM: usize, const TO: usize, const ADDS: bool>(
    simd: S,
    from: *const T,
    sources: &[[usize; FROM]; FROM],
    to: *mut T,
    places: &[[usize; TO]; TO],
) where
    M: Transform<FROM, TO>,
    T: Real,
    S: Simd,
{
    // SAFETY: as the caller vouches.
    unsafe {
        let rows: [[T::Vector<S>; TO]; FROM] = from_fn(
            #[inline(always)]
            |i| {
                let row = from_fn(
                    #[inline(always)]
                    |j| from.add(sources[i][j]).cast::<T::Vector<S>>().read_unaligned(),
                );
                M::line::<T, S>(simd, row)
            },
        );
        for j in 0..TO {
            let column = from_fn(
                #[inline(always)]
                |i| rows[i][j],
            );
            let column = M::line::<T, S>(simd, column);
            for (places, &value) in places.iter().zip(&column) {
                let to = to.add(places[j]).cast::<T::Vector<S>>();
                let value =
                    if ADDS { <T as Lanes>::add(simd, to.read_unaligned(), value) } else { value };
                to.write_unaligned(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};

    /// What a transform makes of a square of blocks, and of it and what is there, with these vectors.
    fn applied<M: Transform<FROM, TO>, T: Real, S: Simd, const FROM: usize, const TO: usize>(
        simd: S,
    ) -> Vec<T> {
        let x = values::<T>(FROM * FROM * 2 * BLOCK, 1);
        let mut y = values::<T>(TO * TO * 3 * BLOCK, 2);
        let moves = || {
            let from = from_fn(|i| from_fn(|j| (i * FROM + j) * 2 * BLOCK));
            let to = from_fn(|i| from_fn(|j| (i * TO + j) * 3 * BLOCK));
            std::iter::once(Move { from, to, blocks: 2, steps: (BLOCK, 2 * BLOCK) })
        };
        let to = &Shared::new(&mut y);
        // SAFETY: nobody else uses `y`.
        unsafe {
            simd.vectorize(Apply::<M, _, _, FROM, TO, false>::new(&x, to, moves()));
            simd.vectorize(Apply::<M, _, _, FROM, TO, true>::new(&x, to, moves()));
        }
        y
    }

    /// The transform's matrix on both sides of a square, from its rows; and the same bytes with all vector instructions.
    fn check<M: Transform<FROM, TO>, T: Real, const FROM: usize, const TO: usize>(
        matrix: [[f64; FROM]; TO],
    ) {
        let real = <T as candle_core::WithDType>::from_f64;
        let x = values::<T>(FROM * FROM * 2 * BLOCK, 1);
        let mut expected = values::<T>(TO * TO * 3 * BLOCK, 2);
        for (i, j) in (0..TO * TO).map(|place| (place / TO, place % TO)) {
            for (block, lane) in (0..2 * BLOCK).map(|at| (at / BLOCK, at % BLOCK)) {
                let products = (0..FROM * FROM).map(|from| {
                    let factor = matrix[i][from / FROM] * matrix[j][from % FROM];
                    real(2.0 * factor) * x[(from * 2 + block) * BLOCK + lane]
                });
                let sum = products.fold(T::zero(), |sum, x| sum + x);
                expected[((i * TO + j) * 3 + 2 * block) * BLOCK + lane] = sum;
            }
        }
        let got = applied::<M, T, _, FROM, TO>(pulp::Scalar::new());
        let rounding = candle_core::WithDType::to_f64(T::epsilon());
        assert_close(&got, &expected, 32.0 * rounding);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V3::try_new() {
                assert!(applied::<M, T, _, FROM, TO>(simd) == got, "with AVX2");
            }
            if let Some(simd) = pulp::x86::V4::try_new() {
                assert!(applied::<M, T, _, FROM, TO>(simd) == got, "with AVX-512");
            }
        }
    }

    fn transposed<const R: usize, const C: usize>(matrix: [[f64; C]; R]) -> [[f64; R]; C] {
        from_fn(|i| from_fn(|j| matrix[j][i]))
    }

    /// Matrices of data, taps and outputs.
    type Matrices<const R: usize, const N: usize> = ([[f64; N]; N], [[f64; R]; N], [[f64; N]; 2]);

    /// Transforms against their matrices as the literature has them, up to signs, and each gradient's against transposed ones.
    fn check_filtering<F: Filtering<R, N>, T: Real, const R: usize, const N: usize>(
        (data, taps, outputs): Matrices<R, N>,
        for_data: Matrices<R, N>,
    ) {
        check::<F::Data, T, N, N>(data);
        check::<F::Taps, T, R, N>(taps);
        check::<F::TapsTransposed, T, N, R>(transposed(taps));
        check::<F::Outputs, T, N, 2>(outputs);
        check::<F::OutputsTransposed, T, 2, N>(transposed(outputs));
        let (data, taps, outputs) = for_data;
        check::<F::TapsForData, T, R, N>(taps);
        check::<F::OutputsTransposedForData, T, 2, N>(transposed(outputs));
        check::<F::DataTransposed, T, N, N>(transposed(data));
    }

    #[test]
    fn transforms_are_their_matrices() {
        let two = (
            [[1.0, -1.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 1.0]],
            [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]],
            [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]],
        );
        let two_apart = (
            [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]],
            [[1.0, 0.0], [1.0, -1.0], [0.0, 1.0]],
            [[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]],
        );
        let three = (
            [
                [1.0, 0.0, -1.0, 0.0],
                [0.0, 1.0, 1.0, 0.0],
                [0.0, -1.0, 1.0, 0.0],
                [0.0, -1.0, 0.0, 1.0],
            ],
            [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]],
            [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 1.0]],
        );
        check_filtering::<TwoTaps, f32, 2, 3>(two, two_apart);
        check_filtering::<TwoTaps, f64, 2, 3>(two, two_apart);
        check_filtering::<ThreeTaps, f32, 3, 4>(three, three);
        check_filtering::<ThreeTaps, f64, 3, 4>(three, three);
    }

    /// Moves two blocks from memory of some elements to memory of some.
    fn moved(from: usize, to: usize) {
        let (x, mut y) = (vec![0f32; from], vec![0f32; to]);
        let (from, to) = ([[0, 100], [50, 3]], [[0, 40, 80], [120, 5, 6], [7, 8, 9]]);
        let moves = std::iter::once(Move { from, to, blocks: 2, steps: (30, 20) });
        apply::<Spread2, f32, 2, 3, false>(&x, &mut y, moves);
    }

    #[test]
    fn the_last_block_of_a_move_fits() {
        moved(100 + 30 + BLOCK, 120 + 20 + BLOCK);
    }

    #[test]
    #[should_panic(expected = "vectors in a buffer")]
    fn what_is_read_must_be_there() {
        moved(100 + 30 + BLOCK - 1, 120 + 20 + BLOCK);
    }

    #[test]
    #[should_panic(expected = "of 155")]
    fn what_is_written_must_be_there() {
        moved(100 + 30 + BLOCK, 120 + 20 + BLOCK - 1);
    }
}
