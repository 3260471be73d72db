//! What a function makes of each element, and the arithmetic of two tensors of one shape.

use std::mem::MaybeUninit;

use super::parallel::{SERIAL, made_in_chunks};
use super::{CHUNK, Real, vectorised};

/// What `f` makes of each element.
pub(super) fn each<T: Real>(x: &[T], f: impl Fn(T) -> T + Copy + Sync) -> Vec<T> {
    each_in(CHUNK, x, f)
}

/// The same in pieces of some elements.
pub(super) fn each_in<T: Real>(piece: usize, x: &[T], f: impl Fn(T) -> T + Copy + Sync) -> Vec<T> {
    let work = |offset: usize, out: &mut [MaybeUninit<T>]| {
        let x = &x[offset..][..out.len()];
        vectorised(
            #[inline(always)]
            move || out.iter_mut().zip(x).for_each(|(out, &x)| _ = out.write(f(x))),
        );
    };
    // SAFETY: `x` is as long as the piece, so every element is written.
    unsafe { made_in_chunks(x.len(), piece, x.len() <= SERIAL.min(4 * piece), work) }
}

/// What `f` makes of the elements at each place.
pub(super) fn each_pair<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Copy + Sync) -> Vec<T> {
    assert_eq!(a.len(), b.len(), "as many elements of each");
    let work = |offset: usize, out: &mut [MaybeUninit<T>]| {
        let [a, b] = [a, b].map(|x| &x[offset..][..out.len()]);
        vectorised(
            #[inline(always)]
            move || {
                let pairs = a.iter().zip(b);
                out.iter_mut().zip(pairs).for_each(|(out, (&a, &b))| _ = out.write(f(a, b)));
            },
        );
    };
    // SAFETY: both operands are as long as the piece, so every element is written.
    unsafe { made_in_chunks(a.len(), CHUNK, a.len() <= SERIAL, work) }
}

/// The arithmetic of two tensors of one shape.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pair {
    Sum,
    Difference,
    Product,
}

/// `a + b`, `a - b` or `a * b` at each place.
pub(crate) fn pair<T: Real>(pair: Pair, a: &[T], b: &[T]) -> Vec<T> {
    match pair {
        Pair::Sum => each_pair(a, b, |a, b| a + b),
        Pair::Difference => each_pair(a, b, |a, b| a - b),
        Pair::Product => each_pair(a, b, |a, b| a * b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::values;

    #[test]
    fn vectorised_loops_equal_the_scalar_operations() {
        for n in [0, 1, 15, SERIAL, SERIAL + 1, 5 * CHUNK + 7] {
            let (a, b) = (values::<f32>(n, 1), values::<f32>(n, 2));
            let naive = |f: fn(f32, f32) -> f32| -> Vec<f32> {
                a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect()
            };
            assert_eq!(pair(Pair::Sum, &a, &b), naive(|a, b| a + b));
            assert_eq!(pair(Pair::Difference, &a, &b), naive(|a, b| a - b));
            assert_eq!(pair(Pair::Product, &a, &b), naive(|a, b| a * b));
        }
    }
}
