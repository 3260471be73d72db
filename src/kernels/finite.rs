//! Looking for NaN and infinity.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::parallel::{SERIAL, tasks};
use super::{CHUNK, Real, vectorised};

/// The first element that is not finite.
pub(crate) fn first_non_finite<T: Real>(x: &[T]) -> Option<T> {
    let clean = AtomicBool::new(true);
    tasks(x.len() <= SERIAL, x.len().div_ceil(CHUNK), |i| {
        let chunk = &x[i * CHUNK..x.len().min((i + 1) * CHUNK)];
        clean.fetch_and(is_finite(chunk), Relaxed);
    });
    if clean.into_inner() { None } else { x.iter().copied().find(|x| !x.is_finite()) }
}

/// A sum of 0 * x is 0 unless something is not finite, and vectorises where a search with an early end would not.
pub(super) fn is_finite<T: Real>(x: &[T]) -> bool {
    const LANES: usize = 64;
    vectorised(
        #[inline(always)]
        move || {
            let mut sums = [T::zero(); LANES];
            let (pieces, rest) = x.as_chunks::<LANES>();
            for piece in pieces {
                for (sum, &x) in sums.iter_mut().zip(piece) {
                    *sum += x * T::zero();
                }
            }
            for (sum, &x) in sums.iter_mut().zip(rest) {
                *sum += x * T::zero();
            }
            sums.iter().all(|sum| sum.is_finite())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_a_search() {
        for len in [1, 63, 64, 65, 200, SERIAL + 3] {
            for at in (0..len).step_by(len / 100 + 1) {
                for bad in [f64::NAN, f64::INFINITY] {
                    let mut x = vec![-1e300; len];
                    assert!(first_non_finite(&x).is_none());
                    x[at] = bad;
                    assert_eq!(first_non_finite(&x).map(f64::to_bits), Some(bad.to_bits()));
                }
            }
        }
        assert!(first_non_finite::<f32>(&[]).is_none());
    }
}
