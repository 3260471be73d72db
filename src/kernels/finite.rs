//! Looking for NaN and infinity.

use super::Real;

/// The first element that is not finite.
pub(crate) fn first_non_finite<T: Real>(x: &[T]) -> Option<T> {
    // A sum of 0 * x is 0 unless something is not finite, and vectorises where a search with an early end would not.
    const LANES: usize = 16;
    let clean = pulp::Arch::new().dispatch(|| {
        let mut sums = [T::zero(); LANES];
        let (pieces, rest) = x.as_chunks::<LANES>();
        for piece in pieces {
            for (sum, &x) in sums.iter_mut().zip(piece) {
                *sum += x * T::zero();
            }
        }
        sums.iter().all(|sum| sum.is_finite()) && rest.iter().all(|x| x.is_finite())
    });
    if clean { None } else { x.iter().copied().find(|x| !x.is_finite()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_a_search() {
        for len in [1, 15, 16, 17, 100] {
            for at in 0..len {
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
