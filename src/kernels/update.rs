//! Formulas that change tensors in place, element by element, in one pass over memory.

use std::ops::{Add, Div, Mul, Range, Sub};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use candle_core::WithDType;
use num_traits::Float;
use pulp::{Simd, WithSimd};

use super::lanes::{Lanes, lanes};
use super::parallel::{SERIAL, for_each_chunk_of, has_helpers};
use super::past_caches::{better_past_caches, fence, write_past_caches};
use super::prefetch::{LINE, Prefetch};
use super::{CHUNK, Real};

/// What a [`Formula`] is written in: a number, or something that stands for a tensor of them.
pub(crate) trait Number:
    Clone + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn scale(self, factor: f64) -> Self;

    fn plus(self, term: f64) -> Self;

    fn sqrt(self) -> Self;

    /// NaN stays NaN, so that it is seen.
    fn clamp(self, low: f64, high: f64) -> Self;
}

impl<T: Real> Number for T {
    #[inline(always)]
    fn scale(self, factor: f64) -> Self {
        self * <T as WithDType>::from_f64(factor)
    }

    #[inline(always)]
    fn plus(self, term: f64) -> Self {
        self + <T as WithDType>::from_f64(term)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Float::sqrt(self)
    }

    #[inline(always)]
    fn clamp(self, low: f64, high: f64) -> Self {
        let [low, high] = [low, high].map(<T as WithDType>::from_f64);
        let below = if self > high { high } else { self };
        if below < low { low } else { below }
    }
}

/// What becomes of one element of each target, given those of the sources at the same place.
pub(crate) trait Formula<const TARGETS: usize, const SOURCES: usize>: Copy + Sync {
    fn apply<N: Number>(&self, targets: [N; TARGETS], sources: [N; SOURCES]) -> [N; TARGETS];
}

/// How many elements ahead memory is asked for: a processor's own look-ahead ends at each page of 4 KiB.
const AHEAD: usize = 512;

/// Applies a formula to every place, and says whether the first target is finite then, in the same pass. All slices have one
/// length.
///
/// With a bound the first target is a parameter, whose finite elements are clamped to `[-bound, bound]`. Where threads share the work, it
/// is [written past their caches](super::past_caches) if that pays: each core has read all of it.
pub(crate) fn update<T: Real, const TARGETS: usize, const SOURCES: usize>(
    targets: [&mut [T]; TARGETS],
    sources: [&[T]; SOURCES],
    formula: &impl Formula<TARGETS, SOURCES>,
    bound: Option<f64>,
) -> bool {
    let past_caches = bound.is_some() && has_helpers() && better_past_caches();
    update_with(targets, sources, formula, bound, past_caches)
}

fn update_with<T: Real, const TARGETS: usize, const SOURCES: usize>(
    targets: [&mut [T]; TARGETS],
    sources: [&[T]; SOURCES],
    formula: &impl Formula<TARGETS, SOURCES>,
    bound: Option<f64>,
    past_caches: bool,
) -> bool {
    let finite = AtomicBool::new(true);
    let len = targets[0].len();
    let lens = targets.iter().map(|target| target.len()).chain(sources.map(<[T]>::len));
    assert!({ lens }.all(|other| other == len), "tensors of different sizes");
    let serial = len <= SERIAL;
    let past_caches = past_caches && !serial;
    let bound = bound.unwrap_or(f64::INFINITY);
    let pieces = targets.map(|target| (target, CHUNK));
    for_each_chunk_of(serial, pieces, |number, targets| {
        let places = number * CHUNK..number * CHUNK + targets[0].len();
        let sources = sources.map(|source| &source[places.clone()]);
        let piece = Piece { targets, sources, formula: *formula, bound, past_caches };
        finite.fetch_and(pulp::Arch::new().dispatch(piece), Relaxed);
    });
    finite.into_inner()
}

/// Slices of one length.
struct Piece<'a, T, F, const TARGETS: usize, const SOURCES: usize> {
    targets: [&'a mut [T]; TARGETS],
    sources: [&'a [T]; SOURCES],
    formula: F,
    /// What finite elements of the first target are clamped to.
    bound: f64,
    /// Whether the first target is written past the caches.
    past_caches: bool,
}

impl<T: Real, F, const TARGETS: usize, const SOURCES: usize> WithSimd
    for Piece<'_, T, F, TARGETS, SOURCES>
where
    F: Formula<TARGETS, SOURCES>,
{
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> bool {
        let lens = self.targets.iter().map(|x| x.len()).chain(self.sources.map(<[T]>::len));
        let len = self.targets[0].len();
        assert!({ lens }.all(|other| other == len), "slices of different sizes");
        let lanes = lanes::<S, T>();
        // Vectors of the first target begin on its lines.
        let first = self.targets[0].as_ptr().align_offset(LINE).min(len);
        let vectors = first..first + (len - first) / lanes * lanes;
        let mut finite = self.one_by_one(0..vectors.start);
        finite &= match self.past_caches {
            true => self.by_vectors::<S, true>(simd, vectors.clone()),
            false => self.by_vectors::<S, false>(simd, vectors.clone()),
        };
        finite & self.one_by_one(vectors.end..len)
    }
}

impl<T: Real, F, const TARGETS: usize, const SOURCES: usize> Piece<'_, T, F, TARGETS, SOURCES>
where
    F: Formula<TARGETS, SOURCES>,
{
    #[inline(always)]
    fn one_by_one(&mut self, places: Range<usize>) -> bool {
        let Self { targets, sources, formula, bound, .. } = self;
        let mut finite = true;
        for i in places {
            let mut new = formula.apply(targets.each_ref().map(|x| x[i]), sources.map(|x| x[i]));
            finite &= new[0].is_finite();
            if new[0].is_finite() {
                new[0] = Number::clamp(new[0], -*bound, *bound);
            }
            targets.iter_mut().zip(new).for_each(|(target, new)| target[i] = new);
        }
        finite
    }

    /// The same for whole vectors of places. What shows whether all are finite stays in a register: in memory it would wait there, with
    /// each vector anew, until the targets' lines before it had come.
    #[inline(always)]
    fn by_vectors<S: Simd, const PAST_CACHES: bool>(
        &mut self,
        simd: S,
        places: Range<usize>,
    ) -> bool {
        let to = self.targets.each_mut().map(|x| x[places.clone()].as_mut_ptr());
        let from = self.sources.map(|x| x[places.clone()].as_ptr());
        let lanes = lanes::<S, T>();
        assert!(places.len().is_multiple_of(lanes), "whole vectors");
        let on_vector = to[0].addr().is_multiple_of(size_of::<T::Vector<S>>());
        assert!(!PAST_CACHES || on_vector || places.is_empty(), "a vector begins on its size");
        let (formula, bound) = (self.formula, self.bound);
        let zero = T::splat(simd, T::zero());
        let prefetch = Prefetch::new();
        // Stays 0 while the first target is finite.
        let mut zeros = zero;
        for i in (0..places.len()).step_by(lanes) {
            if (i * size_of::<T>()).is_multiple_of(LINE) {
                let written = if PAST_CACHES { &to[1..] } else { &to[..] };
                written.iter().for_each(|x| prefetch.to_write(x.wrapping_add(i + AHEAD)));
                let read = to[..TARGETS - written.len()].iter().map(|x| x.cast_const());
                read.chain(from).for_each(|x| prefetch.to_read(x.wrapping_add(i + AHEAD)));
            }
            // SAFETY: all slices have these places, in whole vectors. Vectors are plain floats, read and written without a demand on
            // their alignment, but for those that go past the caches: by the assertion the first begins at a multiple of its size, and each
            // is a whole number of vectors further. They are those of `pulp::Arch`, which are one register each.
            unsafe {
                let vector = |x: *const T| Vector::<S, T> {
                    simd,
                    vector: x.add(i).cast::<T::Vector<S>>().read_unaligned(),
                };
                let mut new = formula.apply(to.map(|x| vector(x)), from.map(vector));
                zeros = T::multiply_add(simd, new[0].vector, zero, zeros);
                new[0] = new[0].clone().finite_within(bound);
                for (target, (x, new)) in to.iter().zip(new).enumerate() {
                    let x = x.add(i).cast::<T::Vector<S>>();
                    match PAST_CACHES && target == 0 {
                        true => write_past_caches(x, new.vector),
                        false => x.write_unaligned(new.vector),
                    }
                }
            }
        }
        if PAST_CACHES {
            fence();
        }
        T::all_finite(simd, zeros)
    }
}

/// A [`Number`] for each element of a vector; rounded as one by one.
struct Vector<S: Simd, T: Lanes> {
    simd: S,
    vector: T::Vector<S>,
}

impl<S: Simd, T: Lanes> Clone for Vector<S, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

/// An operator of two vectors.
macro_rules! operator {
    ($operator:ident, $of_numbers:ident, $of_vectors:ident) => {
        impl<S: Simd, T: Lanes> $operator for Vector<S, T> {
            type Output = Self;

            #[inline(always)]
            fn $of_numbers(self, other: Self) -> Self {
                let vector = T::$of_vectors(self.simd, self.vector, other.vector);
                Self { vector, ..self }
            }
        }
    };
}

operator!(Add, add, add);
operator!(Sub, sub, subtract);
operator!(Mul, mul, multiply);
operator!(Div, div, divide);

impl<S: Simd, T: Real> Vector<S, T> {
    #[inline(always)]
    fn all(&self, x: f64) -> Self {
        Self { vector: T::splat(self.simd, <T as WithDType>::from_f64(x)), ..*self }
    }

    #[inline(always)]
    fn if_less(&self, [a, b]: [&Self; 2], then: &Self, otherwise: &Self) -> Self {
        let vector = T::if_less(self.simd, [a.vector, b.vector], then.vector, otherwise.vector);
        Self { vector, ..*self }
    }

    /// Clamped to `[-bound, bound]` where it is finite.
    #[inline(always)]
    fn finite_within(self, bound: f64) -> Self {
        let clamped = self.clone().clamp(-bound, bound);
        let below = self.if_less([&self, &self.all(f64::INFINITY)], &clamped, &self);
        self.if_less([&self.all(f64::NEG_INFINITY), &self], &below, &self)
    }
}

impl<S: Simd, T: Real> Number for Vector<S, T> {
    #[inline(always)]
    fn scale(self, factor: f64) -> Self {
        let factor = self.all(factor);
        self * factor
    }

    #[inline(always)]
    fn plus(self, term: f64) -> Self {
        let term = self.all(term);
        self + term
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self { vector: T::square_root(self.simd, self.vector), ..self }
    }

    #[inline(always)]
    fn clamp(self, low: f64, high: f64) -> Self {
        let (low, high) = (self.all(low), self.all(high));
        let below = self.if_less([&high, &self], &high, &self);
        self.if_less([&below, &low], &low, &below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::values;

    #[derive(Clone, Copy)]
    struct Everything;

    impl Formula<2, 2> for Everything {
        fn apply<N: Number>(&self, [x, y]: [N; 2], [a, b]: [N; 2]) -> [N; 2] {
            let root = (x.clone() * x.clone() + a).plus(2.0).sqrt();
            [x.scale(0.5) - b.clone() / root.clone(), (y * b + root).clamp(-0.25, 1.5)]
        }
    }

    /// What becomes of an element: the formula, then the bound.
    fn naive<T: Real>([x, y]: [T; 2], [a, b]: [T; 2], bound: f64) -> [T; 2] {
        let number = |x: f64| <T as WithDType>::from_f64(x);
        let root = Float::sqrt(x * x + a + number(2.0));
        let (x, y) = (x * number(0.5) - b / root, y * b + root);
        let bounded = num_traits::clamp(x, number(-bound), number(bound));
        let x = if x.is_infinite() || x.is_nan() { x } else { bounded };
        [x, num_traits::clamp(y, number(-0.25), number(1.5))]
    }

    /// Nobody knows where on a line of the cache a tensor begins.
    fn check<T: Real>(n: usize, bound: Option<f64>, update: impl Fn([&mut [T]; 2], [&[T]; 2])) {
        let [mut x, mut y, mut a, b] = [1, 2, 3, 4].map(|seed| values::<T>(n + 9, seed));
        (a[n / 2], a[n / 3]) = (T::infinity(), T::nan());
        for (i, bad) in [T::infinity(), T::neg_infinity(), T::nan()].into_iter().enumerate() {
            x.iter_mut().skip(i).step_by(11).for_each(|x| *x = bad);
        }
        let (begin, old) = ([3, 5, 0, 9], [x.clone(), y.clone()]);
        let [p, q, r, s] = begin.map(|begin| begin..begin + n);
        update([&mut x[p], &mut y[q]], [&a[r], &b[s]]);
        for i in 0..n {
            let targets = [old[0][3 + i], old[1][5 + i]];
            let expected = naive(targets, [a[i], b[9 + i]], bound.unwrap_or(f64::INFINITY));
            let same = |x: T, y: T| x == y || x.is_nan() && y.is_nan();
            let as_expected = same(x[3 + i], expected[0]) && same(y[5 + i], expected[1]);
            assert!(as_expected, "{} and {} at {i} of {n} with {bound:?}", x[3 + i], y[5 + i]);
        }
        let bits = |x: &[T]| x.iter().map(|&x| WithDType::to_f64(x).to_bits()).collect::<Vec<_>>();
        assert!(bits(&x[..3]) == bits(&old[0][..3]) && bits(&x[3 + n..]) == bits(&old[0][3 + n..]));
    }

    #[test]
    fn every_element_has_its_formula() {
        for n in [0, 1, 7, 40, CHUNK, CHUNK + 1, SERIAL, 5 * CHUNK + 5] {
            for bound in [None, Some(f64::INFINITY), Some(0.3)] {
                for past_caches in [false, true] {
                    let (f, with) = (&Everything, past_caches);
                    check::<f32>(n, bound, |to, from| _ = update_with(to, from, f, bound, with));
                    check::<f64>(n, bound, |to, from| _ = update_with(to, from, f, bound, with));
                }
            }
        }
    }

    fn check_with<T: Real, S: Simd>(simd: S) {
        for (n, past_caches) in
            [0, 1, 15, 16, 50, 1000].into_iter().flat_map(|n| [(n, false), (n, true)])
        {
            let piece = |targets: [&mut [T]; 2], sources: [&[T]; 2]| {
                let formula = Everything;
                simd.vectorize(Piece { targets, sources, formula, bound: 0.3, past_caches })
            };
            check::<T>(n, Some(0.3), |targets, sources| _ = piece(targets, sources));
            for at in (0..n).step_by(7) {
                let [mut x, mut y] = [1, 2].map(|seed| values::<T>(n, seed));
                let [a, b] = [3, 4].map(|seed| values::<T>(n, seed));
                assert!(piece([&mut x, &mut y], [&a, &b]), "all of {n}");
                x[at] = T::infinity();
                assert!(!piece([&mut x, &mut y], [&a, &b]), "at {at} of {n}");
            }
        }
    }

    /// With the vectors of this machine and with those of an older one, past the caches and through them.
    #[test]
    fn other_vector_instructions_give_the_same() {
        struct Check;

        impl WithSimd for Check {
            type Output = ();

            fn with_simd<S: Simd>(self, simd: S) {
                check_with::<f32, S>(simd);
                check_with::<f64, S>(simd);
            }
        }

        pulp::Arch::new().dispatch(Check);
        Check.with_simd(pulp::Scalar::new());
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            Check.with_simd(simd);
        }
    }

    #[derive(Clone, Copy)]
    struct Sums;

    impl Formula<2, 2> for Sums {
        fn apply<N: Number>(&self, [x, y]: [N; 2], [a, b]: [N; 2]) -> [N; 2] {
            [x + a, y + b]
        }
    }

    #[test]
    fn what_is_not_finite_in_the_first_target_is_told() {
        for n in [1, 16, 100, CHUNK + 1, SERIAL + 20] {
            for at in (0..n).step_by(n / 40 + 1).chain([n - 1]) {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let [mut x, mut y] = [vec![0.0; n], vec![f32::MAX; n]];
                    let (mut a, b) = (vec![0.25 * f32::MAX; n], vec![f32::MAX; n]);
                    let told = |x: &mut [f32], y: &mut [f32], a: &[f32]| {
                        [None, Some(0.5)]
                            .map(|bound| update([&mut *x, &mut *y], [a, &b], &Sums, bound))
                    };
                    assert_eq!(told(&mut x, &mut y, &a), [true; 2], "the second may be infinite");
                    a[at] = bad;
                    x.fill(1.0);
                    assert_eq!(told(&mut x, &mut y, &a), [false; 2], "{bad} at {at} of {n}");
                }
            }
        }
    }

    #[test]
    fn clamp_keeps_nan() {
        assert!(Number::clamp(f32::NAN, -1.0, 1.0).is_nan());
        assert_eq!(Number::clamp(f32::INFINITY, -1.0, 1.0), 1.0);
    }
}
