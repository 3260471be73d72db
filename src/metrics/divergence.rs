//! Divergences between discrete distributions, in nats.
//!
//! Each takes two lists of numbers for the same outcomes: probabilities, or counts, which are divided by their sum. Nothing here
//! is ever NaN. `0 ln 0` is 0; where `p` puts mass on an outcome that `q` rules out, the Kullback-Leibler divergence is
//! infinite by definition, and infinity is what [`kl`] returns.
//!
//! Divergences of normal distributions are methods of [`Gaussian`](super::Gaussian).

use super::weights::{check, probabilities};
use crate::error::{Error, Result};

/// The Kullback-Leibler divergence `KL(p || q)`, the sum of `p ln(p / q)`; infinite where `q` is 0 and `p` is not.
///
/// ```
/// use wgan::metrics::divergence::kl;
/// # fn main() -> wgan::Result<()> {
/// assert_eq!(kl(&[1.0, 0.0], &[0.5, 0.5])?, std::f64::consts::LN_2);
/// assert_eq!(kl(&[0.5, 0.5], &[1.0, 0.0])?, f64::INFINITY);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`] unless both are of one length, at least 1; [`Error::NonFiniteData`] for NaN and infinity;
/// [`Error::InvalidConfig`] for a negative number, or where all are 0.
pub fn kl(p: &[f64], q: &[f64]) -> Result<f64> {
    let (p, q) = both(p, q)?;
    Ok(relative_entropy(&p, &q))
}

/// The reverse divergence `KL(q || p)`; infinite where `p` is 0 and `q` is not.
///
/// # Errors
/// As [`kl`].
pub fn reverse_kl(p: &[f64], q: &[f64]) -> Result<f64> {
    kl(q, p)
}

/// The Jensen-Shannon divergence, `KL(p || m) / 2 + KL(q || m) / 2` with `m = (p + q) / 2`: from 0 to `ln 2`.
///
/// Its square root is a metric (SciPy's `jensenshannon`).
///
/// # Errors
/// As [`kl`].
pub fn jensen_shannon(p: &[f64], q: &[f64]) -> Result<f64> {
    let (p, q) = both(p, q)?;
    let middle: Vec<f64> = p.iter().zip(&q).map(|(p, q)| 0.5 * p + 0.5 * q).collect();
    Ok(0.5 * relative_entropy(&p, &middle) + 0.5 * relative_entropy(&q, &middle))
}

/// The total variation, half the sum of `|p - q|`: from 0 to 1.
///
/// # Errors
/// As [`kl`].
pub fn total_variation(p: &[f64], q: &[f64]) -> Result<f64> {
    let (p, q) = both(p, q)?;
    Ok(0.5 * p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum::<f64>())
}

fn both(p: &[f64], q: &[f64]) -> Result<(Vec<f64>, Vec<f64>)> {
    if p.is_empty() || p.len() != q.len() {
        return Err(Error::Shape {
            what: "the second distribution".into(),
            got: vec![q.len()],
            expected: format!("[{}], as the first has, and at least [1]", p.len()),
        });
    }
    check("the first distribution", p)?;
    check("the second distribution", q)?;
    Ok((probabilities(p), probabilities(q)))
}

/// The sum of `p ln(p / q) - p + q`, no term of which is negative.
fn relative_entropy(p: &[f64], q: &[f64]) -> f64 {
    let term = |(&p, &q): (&f64, &f64)| {
        let excess = (p - q) / q;
        if p == q {
            0.0
        } else if p == 0.0 {
            q
        } else if q == 0.0 {
            f64::INFINITY
        } else if excess.abs() < 0.5 {
            // Where both are nearly the same, the logarithm of their quotient would have lost their difference.
            q * ((1.0 + excess) * excess.ln_1p() - excess).max(0.0)
        } else {
            // Not of the quotient, which may overflow.
            p * (p.ln() - q.ln()) - p + q
        }
    };
    p.iter().zip(q).map(term).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeros_are_taken_as_the_definitions_have_them() {
        let (p, q) = ([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(kl(&p, &q).unwrap(), f64::INFINITY);
        assert_eq!(reverse_kl(&p, &q).unwrap(), f64::INFINITY);
        assert_eq!(jensen_shannon(&p, &q).unwrap(), 0.5 * 2f64.ln());
        assert_eq!(total_variation(&p, &q).unwrap(), 0.5);
        assert_eq!(kl(&[1.0, 0.0], &[1.0, 1.0]).unwrap(), 2f64.ln());
        let disjoint = [[1.0, 0.0], [0.0, 3.0]];
        assert_eq!(jensen_shannon(&disjoint[0], &disjoint[1]).unwrap(), 2f64.ln());
        assert_eq!(total_variation(&disjoint[0], &disjoint[1]).unwrap(), 1.0);
    }

    #[test]
    fn extreme_quotients_are_neither_nan_nor_infinite() {
        let tiny = [1.0, 5e-324];
        let got = kl(&[1.0, 1.0], &tiny).unwrap();
        let expected = 0.5 * 0.5f64.ln() + 0.5 * (0.5f64.ln() - 5e-324f64.ln());
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        assert!(kl(&tiny, &[1.0, 1.0]).unwrap().is_finite());
    }

    #[test]
    fn near_equality_keeps_its_digits() {
        // To the second order it is the sum of (p - q)^2 / (2 q), here with differences of 1e-9.
        let got = kl(&[0.5 + 1e-9, 0.5 - 1e-9], &[0.5, 0.5]).unwrap();
        assert!((got - 2e-18).abs() < 1e-6 * 2e-18, "{got:e}");
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for divergence in [kl, reverse_kl, jensen_shannon, total_variation] {
            for (p, q) in [(&[][..], &[][..]), (&[1.0], &[1.0, 1.0])] {
                assert!(matches!(divergence(p, q), Err(Error::Shape { .. })));
            }
            for bad in [[1.0, -1.0], [0.0, 0.0]] {
                assert!(matches!(divergence(&bad, &[1.0; 2]), Err(Error::InvalidConfig { .. })));
                assert!(matches!(divergence(&[1.0; 2], &bad), Err(Error::InvalidConfig { .. })));
            }
            let bad = [1.0, f64::NAN];
            assert!(matches!(divergence(&bad, &[1.0; 2]), Err(Error::NonFiniteData { .. })));
        }
    }

    fn distributions() -> impl Strategy<Value = Vec<(f64, f64)>> {
        let number = || prop_oneof![Just(0.0), 1e-6..1.0];
        prop::collection::vec((number(), number()), 1..30).prop_filter("mass", |list| {
            list.iter().any(|x| x.0 > 0.0) && list.iter().any(|x| x.1 > 0.0)
        })
    }

    proptest! {
        #[test]
        fn the_known_inequalities_hold(pairs in distributions()) {
            let (p, q): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let (kl_pq, kl_qp) = (kl(&p, &q).unwrap(), reverse_kl(&p, &q).unwrap());
            let (js, tv) = (jensen_shannon(&p, &q).unwrap(), total_variation(&p, &q).unwrap());
            let slack = 1e-12;
            // Pinsker, for each of the three.
            prop_assert!(2.0 * tv * tv <= kl_pq.min(kl_qp) + slack);
            prop_assert!(0.5 * tv * tv <= js + slack && js <= tv * 2f64.ln() + slack);
            prop_assert_eq!(jensen_shannon(&q, &p).unwrap(), js);
            prop_assert_eq!(total_variation(&q, &p).unwrap(), tv);
            prop_assert_eq!(kl(&p, &p).unwrap(), 0.0);
            let counts: Vec<f64> = p.iter().map(|x| x * 1000.0).collect();
            prop_assert!((jensen_shannon(&counts, &q).unwrap() - js).abs() < slack);
        }
    }
}
