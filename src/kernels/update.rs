//! Formulas that change tensors in place, element by element, in one pass over memory.

use std::ops::{Add, Div, Mul, Sub};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use candle_core::WithDType;
use num_traits::Float;

use super::parallel::{SERIAL, for_each_chunk_of};
use super::prefetch::{LINE, prefetch};
use super::{CHUNK, Real, vectorised};

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
        if self > high {
            high
        } else if self < low {
            low
        } else {
            self
        }
    }
}

/// What becomes of one element of each target, given those of the sources at the same place.
pub(crate) trait Formula<const TARGETS: usize, const SOURCES: usize>: Copy + Sync {
    fn apply<N: Number>(&self, targets: [N; TARGETS], sources: [N; SOURCES]) -> [N; TARGETS];
}

/// Elements between one look ahead and the next.
const PIECE: usize = 16;

/// How many elements ahead memory is asked for: a processor's own look-ahead ends at each page of 4 KiB.
const AHEAD: usize = 512;

/// Applies a formula to every place, and says whether the first target is finite then, in the same pass. All slices have one
/// length.
pub(crate) fn update<T: Real, const TARGETS: usize, const SOURCES: usize>(
    targets: [&mut [T]; TARGETS],
    sources: [&[T]; SOURCES],
    formula: &impl Formula<TARGETS, SOURCES>,
) -> bool {
    let finite = AtomicBool::new(true);
    let len = targets[0].len();
    let lens = targets.iter().map(|target| target.len()).chain(sources.map(<[T]>::len));
    assert!({ lens }.all(|other| other == len), "tensors of different sizes");
    let pieces = targets.map(|target| (target, CHUNK));
    for_each_chunk_of(len <= SERIAL, pieces, |number, mut targets| {
        let clean = vectorised(
            #[inline(always)]
            move || {
                let (formula, len) = (*formula, targets[0].len());
                let sources = sources.map(|source| &source[number * CHUNK..][..len]);
                let (whole, mut zeros) = (len / PIECE * PIECE, [T::zero(); PIECE]);
                for first in (0..whole).step_by(PIECE) {
                    for line in (first..first + PIECE).step_by(LINE / size_of::<T>()) {
                        let at = line + AHEAD;
                        targets.iter().for_each(|x| prefetch(x.as_ptr().wrapping_add(at), true));
                        sources.iter().for_each(|x| prefetch(x.as_ptr().wrapping_add(at), false));
                    }
                    let targets = targets.each_mut().map(|x| &mut x[first..first + PIECE]);
                    apply(formula, targets, sources.map(|x| &x[first..first + PIECE]), &mut zeros);
                }
                let targets = targets.each_mut().map(|x| &mut x[whole..]);
                apply(formula, targets, sources.map(|x| &x[whole..]), &mut zeros);
                zeros.iter().all(|zero| zero.is_finite())
            },
        );
        finite.fetch_and(clean, Relaxed);
    });
    finite.into_inner()
}

/// Applies a formula to some places. Adds 0 times the first target to `zeros`, which stay 0 while that is finite.
#[inline(always)]
fn apply<T: Real, const TARGETS: usize, const SOURCES: usize>(
    formula: impl Formula<TARGETS, SOURCES>,
    mut targets: [&mut [T]; TARGETS],
    sources: [&[T]; SOURCES],
    zeros: &mut [T; PIECE],
) {
    for (i, zero) in (0..targets[0].len()).zip(zeros) {
        let now = targets.each_ref().map(|target| target[i]);
        let new = formula.apply(now, sources.map(|source| source[i]));
        *zero += new[0] * T::zero();
        targets.iter_mut().zip(new).for_each(|(target, new)| target[i] = new);
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

    #[test]
    fn every_element_has_its_formula() {
        for n in [0, 1, 7, CHUNK, CHUNK + 1, SERIAL, 5 * CHUNK + 5] {
            let start = [values::<f64>(n, 1), values::<f64>(n, 2)];
            let (a, b) = (values::<f64>(n, 3), values::<f64>(n, 4));
            let [mut x, mut y] = start.clone();
            assert!(update([&mut x, &mut y], [&a, &b], &Everything));
            for i in 0..n {
                let root = (start[0][i] * start[0][i] + a[i] + 2.0).sqrt();
                assert_eq!(x[i], start[0][i] * 0.5 - b[i] / root);
                assert_eq!(y[i], (start[1][i] * b[i] + root).clamp(-0.25, 1.5));
            }
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
                    let (mut a, b) = (vec![f32::MAX; n], vec![f32::MAX; n]);
                    assert!(
                        update([&mut x, &mut y], [&a, &b], &Sums),
                        "the second may be infinite"
                    );
                    a[at] = bad;
                    x.fill(1.0);
                    assert!(!update([&mut x, &mut y], [&a, &b], &Sums), "{bad} at {at} of {n}");
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
