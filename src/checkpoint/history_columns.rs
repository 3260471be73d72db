//! The history as columns.

use crate::history::Record;

/// The columns of numbers beside `step`, by name.
pub(super) type Figures = [(&'static str, f64); 6];

/// One record, taken apart.
pub(super) fn figures(record: &Record) -> (u64, Figures) {
    // All fields by name, so that a new one cannot be forgotten. Scores, which most records have none of, are written by step.
    let &Record {
        step,
        wasserstein_estimate,
        critic_loss,
        penalty,
        generator_loss,
        gradient_norm,
        seconds,
        scores: _,
    } = record;
    let figures = [
        ("wasserstein_estimate", wasserstein_estimate),
        ("critic_loss", critic_loss),
        ("penalty", penalty),
        ("generator_loss", generator_loss),
        ("gradient_norm", gradient_norm),
        ("seconds", seconds),
    ];
    (step, figures)
}

/// The names of the columns of [`figures`], in their order.
pub(super) fn names() -> [&'static str; 6] {
    figures(&record(0, [0.0; 6])).1.map(|(name, _)| name)
}

/// One record, put together from figures in the order of [`names`].
pub(super) fn record(step: u64, figures: [f64; 6]) -> Record {
    let [wasserstein_estimate, critic_loss, penalty, generator_loss, gradient_norm, seconds] =
        figures;
    Record {
        step,
        wasserstein_estimate,
        critic_loss,
        penalty,
        generator_loss,
        gradient_norm,
        seconds,
        scores: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back() {
        let numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (step, figures) = figures(&record(7, numbers));
        assert_eq!((step, figures.map(|(_, number)| number)), (7, numbers));
        assert_eq!(figures.map(|(name, _)| name), names());
    }
}
