//! What ends a run, and why it ended.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::history::Record;

/// What ends a run before its [`generator_steps`](crate::TrainConfig::generator_steps) are done. Whatever comes first ends
/// it, always after a whole generator step.
///
/// | field | default | range | the run ends |
/// |---|---|---|---|
/// | `epochs` | none | 1 or more | after the critic has seen the data so many times |
/// | `seconds` | none | above 0 | once this call of `fit` has taken so long |
/// | `window` | 100 | 1 or more | (generator steps that the Wasserstein estimate is averaged over for the two below) |
/// | `target` | none | finite | once the smoothed estimate has fallen to this, from above |
/// | `patience` | none | 1 or more | after so many generator steps without progress of the smoothed estimate |
/// | `min_delta` | 0 | at least 0 | (by how much the estimate must move to count as progress) |
///
/// The estimate rises while the critic catches up and falls as the samples get better. Progress is therefore a smoothed
/// estimate above its highest so far, or below its lowest since that highest.
///
/// All but `seconds` depend on the records and the counters of the run alone, so that a run that was interrupted ends where
/// it would have ended; a run that has ended by one of them does no further step. The time is that of one call: a run that
/// goes on has as much again.
///
/// ```
/// use wgan::TrainConfig;
/// use wgan::stop::StopConfig;
/// let stop = StopConfig { seconds: Some(3600.0), patience: Some(2_000), ..Default::default() };
/// let config = TrainConfig { generator_steps: 100_000, stop, ..TrainConfig::wgan_gp() };
/// assert!(config.check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopConfig {
    /// Times that the critic sees the data, in full batches.
    pub epochs: Option<u64>,
    /// Wall-clock seconds of one call of `fit`.
    pub seconds: Option<f64>,
    /// Generator steps that the Wasserstein estimate is averaged over.
    pub window: usize,
    /// The smoothed estimate that is good enough.
    pub target: Option<f64>,
    /// Generator steps without progress.
    pub patience: Option<u64>,
    /// By how much the smoothed estimate must move to count as progress.
    pub min_delta: f64,
}

impl Default for StopConfig {
    fn default() -> Self {
        Self {
            epochs: None,
            seconds: None,
            window: 100,
            target: None,
            patience: None,
            min_delta: 0.0,
        }
    }
}

impl StopConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field, its value and the range.
    pub fn check(&self) -> Result<()> {
        let hold = |field: &str, value: f64, inside: bool, expected: &str| {
            if inside {
                Ok(())
            } else {
                Err(Error::config(format!("stop.{field}"), value, expected))
            }
        };
        for (field, count) in [("epochs", self.epochs), ("patience", self.patience)] {
            hold(field, 0.0, count != Some(0), "1 or more")?;
        }
        let seconds = self.seconds.unwrap_or(1.0);
        hold("seconds", seconds, seconds.is_finite() && seconds > 0.0, "a finite number above 0")?;
        hold("window", 0.0, self.window > 0, "1 or more")?;
        let target = self.target.unwrap_or_default();
        hold("target", target, target.is_finite(), "a finite number")?;
        let (delta, expected) = (self.min_delta, "a finite number of at least 0");
        hold("min_delta", delta, delta.is_finite() && delta >= 0.0, expected)
    }
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Ended {
    /// All generator steps are done.
    Steps(u64),
    /// The critic has seen the data so many times.
    Epochs(u64),
    /// The time is over: the seconds that this call of `fit` took.
    Seconds(f64),
    /// The smoothed Wasserstein estimate, given here, has fallen to the target.
    Target(f64),
    /// The smoothed Wasserstein estimate has made no progress for so many generator steps.
    NoProgress(u64),
    /// An observer ended it, for this reason.
    Observer(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "all {steps} generator steps are done"),
            Self::Epochs(epochs) => write!(f, "the critic has seen the data {epochs} times"),
            Self::Seconds(seconds) => write!(f, "the time is over: {seconds:.0} seconds"),
            Self::Target(estimate) => {
                write!(f, "the smoothed Wasserstein estimate has reached its target: {estimate}")
            }
            Self::NoProgress(steps) => write!(
                f,
                "the smoothed Wasserstein estimate has made no progress for {steps} generator steps"
            ),
            Self::Observer(reason) => write!(f, "an observer ended it: {reason}"),
        }
    }
}

/// Follows a run from its first record.
pub(crate) struct Stop {
    config: StopConfig,
    total_steps: u64,
    batches_per_epoch: u64,
    /// Seconds that earlier calls of `fit` took.
    earlier: f64,
    window: VecDeque<f64>,
    highest: f64,
    /// Since the highest.
    lowest: f64,
    /// The step of the last progress, or that before the first full window.
    progress: u64,
    was_above_target: bool,
    /// The smoothed estimate that reached the target.
    reached: Option<f64>,
    last: Option<Record>,
}

impl Stop {
    /// `history` holds the records of the run so far.
    pub(crate) fn new(
        config: StopConfig,
        total_steps: u64,
        batches_per_epoch: usize,
        history: &[Record],
    ) -> Self {
        let mut stop = Self {
            config,
            total_steps,
            batches_per_epoch: batches_per_epoch as u64,
            earlier: history.last().map_or(0.0, |record| record.seconds),
            window: VecDeque::new(),
            highest: f64::NEG_INFINITY,
            lowest: f64::INFINITY,
            progress: 0,
            was_above_target: false,
            reached: None,
            last: None,
        };
        history.iter().for_each(|record| stop.follow(record));
        stop
    }

    /// Takes the record of one more step.
    pub(crate) fn follow(&mut self, record: &Record) {
        self.last = Some(record.clone());
        let StopConfig { window, target, patience, min_delta, .. } = self.config;
        if target.is_none() && patience.is_none() {
            return;
        }
        self.window.push_back(record.wasserstein_estimate);
        if self.window.len() < window {
            self.progress = record.step;
            return;
        }
        // Summed anew each time: what it is must not depend on where a run was interrupted.
        let smoothed = self.window.iter().sum::<f64>() / window as f64;
        self.window.pop_front();
        if smoothed > self.highest + min_delta {
            (self.highest, self.lowest, self.progress) = (smoothed, smoothed, record.step);
        } else if smoothed < self.lowest - min_delta {
            (self.lowest, self.progress) = (smoothed, record.step);
        }
        match target {
            Some(target) if smoothed > target => self.was_above_target = true,
            Some(_) if self.was_above_target && self.reached.is_none() => {
                self.reached = Some(smoothed);
            }
            _ => {}
        }
    }

    /// Why the run ends here, if it does, after so many steps of the critic in all.
    pub(crate) fn reached(&self, critic_steps: u64) -> Option<Ended> {
        let StopConfig { epochs, seconds, patience, .. } = self.config;
        let step = self.last.as_ref().map_or(0, |record| record.step);
        let taken = self.last.as_ref().map_or(0.0, |record| record.seconds) - self.earlier;
        let epochs_done = critic_steps / self.batches_per_epoch.max(1);
        if step >= self.total_steps {
            Some(Ended::Steps(step))
        } else if epochs.is_some_and(|epochs| epochs_done >= epochs) {
            Some(Ended::Epochs(epochs_done))
        } else if let Some(estimate) = self.reached {
            Some(Ended::Target(estimate))
        } else if patience.is_some_and(|patience| step - self.progress >= patience) {
            Some(Ended::NoProgress(step - self.progress))
        } else if seconds.is_some_and(|seconds| taken >= seconds) {
            Some(Ended::Seconds(taken))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, wasserstein_estimate: f64) -> Record {
        Record { step, wasserstein_estimate, seconds: step as f64, ..Default::default() }
    }

    /// The step at which a run with these estimates ends and why; every way of interrupting it must agree.
    fn ends(config: StopConfig, estimates: &[f64]) -> Option<(u64, Ended)> {
        let records: Vec<Record> =
            (1..).zip(estimates).map(|(step, &estimate)| record(step, estimate)).collect();
        let run = |known: usize| {
            let mut stop = Stop::new(config, u64::MAX, 10, &records[..known]);
            if known > 0 {
                let step = known as u64;
                if let Some(ended) = stop.reached(step * 5) {
                    return Some((step, ended));
                }
            }
            records[known..].iter().find_map(|record| {
                stop.follow(record);
                stop.reached(record.step * 5).map(|ended| (record.step, ended))
            })
        };
        let whole = run(0);
        let last = whole.as_ref().map_or(records.len(), |(step, _)| *step as usize);
        for known in 1..=last {
            assert_eq!(run(known), whole, "interrupted after {known}");
        }
        whole
    }

    proptest::proptest! {
        /// Wherever a run is interrupted, it ends where it would have ended: `ends` tries every place.
        #[test]
        fn where_a_run_was_interrupted_does_not_matter(
            estimates in proptest::collection::vec(-5.0f64..5.0, 1..40),
            window in 1usize..5,
            patience in proptest::option::of(1u64..8),
            target in proptest::option::of(-3.0f64..3.0),
            epochs in proptest::option::of(1u64..15),
            min_delta in 0.0f64..1.0,
        ) {
            let config =
                StopConfig { epochs, seconds: None, window, target, patience, min_delta };
            if let Some((step, ended)) = ends(config, &estimates) {
                let reason = match ended {
                    Ended::Target(estimate) => target.is_some_and(|target| estimate <= target),
                    Ended::NoProgress(steps) => Some(steps) == patience,
                    Ended::Epochs(done) => Some(done) == epochs && step * 5 / 10 == done,
                    _ => false,
                };
                assert!(reason, "{ended}");
            }
        }
    }

    #[test]
    fn patience_waits_for_the_rise_and_follows_the_fall() {
        let config =
            StopConfig { window: 2, patience: Some(3), min_delta: 0.0, ..Default::default() };
        // Rises to 9, falls to 4, then stays: the mean of two is lowest at step 9.
        let estimates = [1.0, 5.0, 9.0, 9.0, 8.0, 7.0, 6.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0];
        assert_eq!(ends(config, &estimates), Some((12, Ended::NoProgress(3))));
        assert_eq!(ends(config, &estimates[..11]), None);
        // Noise below min_delta is no progress.
        let config = StopConfig { min_delta: 0.5, ..config };
        let noisy = [1.0, 9.0, 9.0, 8.9, 8.8, 8.7, 8.8];
        assert_eq!(ends(config, &noisy), Some((6, Ended::NoProgress(3))));
    }

    #[test]
    fn a_target_counts_once_it_was_above() {
        let config = StopConfig { window: 2, target: Some(3.0), ..Default::default() };
        let estimates = [0.0, 0.0, 1.0, 8.0, 8.0, 4.0, 3.0, 3.0, 9.0];
        assert_eq!(ends(config, &estimates), Some((8, Ended::Target(3.0))));
        assert_eq!(ends(config, &[1.0; 20]), None);
    }

    #[test]
    fn epochs_count_the_critics_batches() {
        // Five critic steps each, ten batches an epoch.
        let config = StopConfig { epochs: Some(3), ..Default::default() };
        assert_eq!(ends(config, &[1.0; 10]), Some((6, Ended::Epochs(3))));
    }

    #[test]
    fn the_time_is_that_of_one_call_and_the_steps_are_those_of_the_run() {
        let config = StopConfig { seconds: Some(3.0), ..Default::default() };
        let history: Vec<Record> = (1..=10).map(|step| record(step, 0.0)).collect();
        let mut stop = Stop::new(config, 100, 10, &history);
        assert_eq!(stop.reached(0), None);
        stop.follow(&record(11, 0.0));
        stop.follow(&record(12, 0.0));
        assert_eq!(stop.reached(0), None);
        stop.follow(&record(13, 0.0));
        assert_eq!(stop.reached(0), Some(Ended::Seconds(3.0)));
        let stop = Stop::new(StopConfig::default(), 10, 10, &history);
        assert_eq!(stop.reached(0), Some(Ended::Steps(10)));
    }

    #[test]
    fn every_bad_value_is_named() {
        let base = StopConfig::default();
        for (wrong, field) in [
            (StopConfig { epochs: Some(0), ..base }, "stop.epochs is 0"),
            (StopConfig { patience: Some(0), ..base }, "stop.patience is 0"),
            (StopConfig { seconds: Some(-1.0), ..base }, "stop.seconds is -1"),
            (StopConfig { window: 0, ..base }, "stop.window is 0"),
            (StopConfig { target: Some(f64::NAN), ..base }, "stop.target is NaN"),
            (StopConfig { min_delta: -1.0, ..base }, "stop.min_delta is -1"),
        ] {
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        assert!(base.check().is_ok());
    }
}
