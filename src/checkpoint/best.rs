//! Which checkpoint is the best.

use std::cell::Cell;
use std::collections::BTreeSet;

use crate::history::Record;

type Figure = dyn Fn(&[Record]) -> f64;

/// A figure of the history that tells the best checkpoint, which is kept beside the newest ones.
///
/// It is computed from the records up to a checkpoint, so that a resumed run needs nothing else to go on choosing. A
/// figure that is NaN is no candidate.
///
/// ```
/// use wgan::checkpoint::{Best, Checkpoints};
/// let checkpoints = Checkpoints::new("runs/mine/checkpoints").keep_best(Best::lowest_estimate(200));
/// // Any figure: the least generator loss of the last ten steps.
/// let figure = Best::lowest(|history| {
///     history.iter().rev().take(10).map(|record| record.generator_loss).fold(f64::NAN, f64::min)
/// });
/// # let _ = (checkpoints, figure);
/// ```
pub struct Best {
    figure: Box<Figure>,
    sign: f64,
}

impl Best {
    /// The checkpoint with the lowest figure. `figure` gets the records up to a checkpoint, oldest first, at least one.
    #[must_use]
    pub fn lowest(figure: impl Fn(&[Record]) -> f64 + 'static) -> Self {
        Self { figure: Box::new(figure), sign: 1.0 }
    }

    /// The checkpoint with the highest figure.
    #[must_use]
    pub fn highest(figure: impl Fn(&[Record]) -> f64 + 'static) -> Self {
        Self { sign: -1.0, ..Self::lowest(figure) }
    }

    /// The lowest size of the Wasserstein estimate, smoothed: the mean over the last `window` records. The estimate is
    /// also low before the critic has caught up: checkpoints with fewer records than `window` are no candidates. A
    /// window of 0 is one of 1.
    #[must_use]
    pub fn lowest_estimate(window: usize) -> Self {
        let window = window.max(1);
        Self::lowest(move |history| match history.len().checked_sub(window) {
            Some(first) => {
                let sum: f64 = history[first..].iter().map(|r| r.wasserstein_estimate).sum();
                (sum / window as f64).abs()
            }
            None => f64::NAN,
        })
    }

    /// The checkpoint with the lowest score of this name, which [`Scores`](crate::observers::Scores) measured right after the
    /// checkpoint's step; others are no candidates. So checkpoints are best written at the interval of the scores. Where
    /// scores are measured, and none has this name, a warning through `tracing` lists theirs.
    ///
    /// ```
    /// use wgan::checkpoint::{Best, Checkpoints};
    /// let checkpoints = Checkpoints::new("runs/mine/checkpoints")
    ///     .every_steps(1000)
    ///     .keep_best(Best::lowest_score("frechet_distance (mnist-cnn-1)"));
    /// # let _ = checkpoints;
    /// ```
    #[must_use]
    pub fn lowest_score(name: impl Into<String>) -> Self {
        Self::lowest(score(name.into()))
    }

    /// The same with the highest score.
    #[must_use]
    pub fn highest_score(name: impl Into<String>) -> Self {
        Self::highest(score(name.into()))
    }

    /// The one of these steps, given oldest first, whose records up to it have the best figure; the first of equals.
    pub(super) fn of(&self, steps: impl Iterator<Item = u64>, history: &[Record]) -> Option<u64> {
        let mut best: Option<(f64, u64)> = None;
        for step in steps {
            let records = &history[..history.partition_point(|record| record.step <= step)];
            if records.last().is_none_or(|record| record.step != step) {
                continue; // not of this history
            }
            let figure = self.sign * (self.figure)(records);
            if !figure.is_nan() && best.is_none_or(|(lowest, _)| figure < lowest) {
                best = Some((figure, step));
            }
        }
        best.map(|(_, step)| step)
    }
}

fn score(name: String) -> impl Fn(&[Record]) -> f64 {
    let warned = Cell::new(false);
    move |history| {
        let found = history.last().and_then(|record| record.scores.get(&name));
        if found.is_none() && !warned.get() {
            let names: BTreeSet<&str> = history
                .iter()
                .flat_map(|record| record.scores.keys().map(String::as_str))
                .collect();
            if !names.is_empty() && !names.contains(name.as_str()) {
                warned.set(true);
                tracing::warn!(
                    "no score {name:?} to choose the best checkpoint by so far: measured are {names:?}"
                );
            }
        }
        found.copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Debug for Best {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.sign > 0.0 { "Best::lowest(..)" } else { "Best::highest(..)" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::history_columns;
    use super::*;

    fn history(estimates: &[f64]) -> Vec<Record> {
        (1..).zip(estimates).map(|(step, &w)| history_columns::record(step, [w; 6])).collect()
    }

    #[test]
    fn the_lowest_smoothed_estimate_by_size() {
        let history = history(&[0.0, 5.0, -3.0, 1.0, -2.5, 9.0]);
        // Means of two: 2.5, 1, -1, -0.75, 3.25; step 1 has none.
        let best = Best::lowest_estimate(2);
        assert_eq!(best.of([1, 2, 3, 4, 5, 6].into_iter(), &history), Some(5));
        assert_eq!(best.of([1, 2, 3].into_iter(), &history), Some(3));
        assert_eq!(best.of([1].into_iter(), &history), None);
        assert_eq!(best.of([7, 900].into_iter(), &history), None);
        assert_eq!(Best::lowest_estimate(0).of([2, 3].into_iter(), &history), Some(3));
    }

    #[test]
    fn a_score_counts_at_its_step_only() {
        let mut history = history(&[1.0; 4]);
        for (step, score) in [(1, 3.0), (3, 2.0)] {
            history[step - 1].scores.insert("fid".into(), score);
        }
        assert_eq!(Best::lowest_score("fid").of(1..=4, &history), Some(3));
        assert_eq!(Best::highest_score("fid").of(1..=4, &history), Some(1));
        assert_eq!(Best::lowest_score("kid").of(1..=4, &history), None);
    }

    #[test]
    fn highest_nan_and_equals() {
        let history = history(&[1.0, f64::NAN, 7.0, 7.0]);
        let last = |history: &[Record]| history[history.len() - 1].penalty;
        assert_eq!(Best::highest(last).of(1..=4, &history), Some(3));
        assert_eq!(Best::lowest(last).of(1..=4, &history), Some(1));
        assert_eq!(Best::lowest(last).of(2..=2, &history), None);
    }
}
