//! Weights and histograms: what can be normalised to probabilities.

use crate::error::{Error, Result};

/// Refuses what cannot be normalised: `what` names the numbers in the error.
pub(super) fn check(what: &str, weights: &[f64]) -> Result<()> {
    if let Some(at) = weights.iter().position(|weight| !weight.is_finite()) {
        return Err(Error::NonFiniteData {
            what: what.into(),
            value: weights[at],
            position: vec![at],
        });
    }
    if let Some(at) = weights.iter().position(|&weight| weight < 0.0) {
        return Err(Error::config(
            format!("number {at} of {what}"),
            weights[at],
            "no negative number",
        ));
    }
    if weights.iter().all(|&weight| weight == 0.0) {
        return Err(Error::config(format!("the sum of {what}"), 0, "a positive number"));
    }
    Ok(())
}

/// Weights that [`check`] let pass, divided by their sum.
pub(super) fn probabilities(weights: &[f64]) -> Vec<f64> {
    // By the largest first: a sum of large numbers may overflow.
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let total: f64 = weights.iter().map(|weight| weight / largest).sum();
    weights.iter().map(|weight| weight / largest / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_normalised_is_refused() {
        for (weights, part) in [
            (vec![], "the sum of weights is 0"),
            (vec![0.0, 0.0], "the sum of weights is 0"),
            (vec![1.0, -0.5], "number 1 of weights is -0.5"),
            (vec![1.0, f64::NAN], "weights holds NaN at [1]"),
            (vec![f64::INFINITY], "weights holds inf at [0]"),
        ] {
            let message = check("weights", &weights).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_largest_and_the_smallest_numbers_are_normalised() {
        assert_eq!(probabilities(&[f64::MAX, 0.0, f64::MAX]), [0.5, 0.0, 0.5]);
        assert_eq!(probabilities(&[5e-324, 5e-324]), [0.5, 0.5]);
    }
}
