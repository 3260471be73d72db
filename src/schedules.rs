//! Settings that change in the course of a run, as functions of the step alone: a run that is continued needs no state of
//! theirs.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How `n_critic` changes in the course of a run. (Any function of the step goes to
/// [`WganTrainer::with_n_critic`](crate::WganTrainer::with_n_critic).)
///
/// ```
/// use wgan::schedules::NCriticSchedule;
/// let schedule = NCriticSchedule::authors_code();
/// assert_eq!([0, 24, 25, 499, 500, 501].map(|step| schedule.at(step, 5)), [100, 100, 5, 5, 100, 5]);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "schedule", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum NCriticSchedule {
    /// [`n_critic`](crate::TrainConfig::n_critic) before every generator step.
    #[default]
    Constant,
    /// The WGAN authors' code (`main.py`): many critic steps at first and now and then, to train the critic till
    /// optimality, [`n_critic`](crate::TrainConfig::n_critic) otherwise.
    AuthorsCode {
        /// The many critic steps, 1 or more. Default: 100.
        #[serde(default = "defaults::many")]
        many: usize,
        /// Generator steps at the start that have them. Default: 25.
        #[serde(default = "defaults::first")]
        first: u64,
        /// Each generator step whose number, counted from 0, is a multiple of this has them; 1 or more. Default: 500.
        #[serde(default = "defaults::every")]
        every: u64,
    },
}

/// The authors' values, for settings that leave a field out.
mod defaults {
    pub(super) fn many() -> usize {
        100
    }
    pub(super) fn first() -> u64 {
        25
    }
    pub(super) fn every() -> u64 {
        500
    }
}

impl NCriticSchedule {
    /// The schedule of the WGAN authors' code: 100 critic steps before each of the first 25 generator steps and before
    /// every 500th.
    #[must_use]
    pub fn authors_code() -> Self {
        Self::AuthorsCode {
            many: defaults::many(),
            first: defaults::first(),
            every: defaults::every(),
        }
    }

    /// Critic steps before generator step `step`, counted from 0, where the setting is `n_critic`.
    #[must_use]
    pub fn at(&self, step: u64, n_critic: usize) -> usize {
        match *self {
            Self::AuthorsCode { many, first, every }
                if step < first || step.is_multiple_of(every) =>
            {
                many
            }
            _ => n_critic,
        }
    }

    /// Checks the ranges given at each field.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field, its value and the range.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::AuthorsCode { many: 0, .. } => {
                Err(Error::config("n_critic_schedule.many", 0, "1 or more"))
            }
            Self::AuthorsCode { every: 0, .. } => {
                Err(Error::config("n_critic_schedule.every", 0, "1 or more"))
            }
            _ => Ok(()),
        }
    }
}

/// How a learning rate changes in the course of a run: what the optimiser's own is multiplied by at each step, counted
/// from 0. (Any function of the step goes to
/// [`WganTrainer::with_critic_schedule`](crate::WganTrainer::with_critic_schedule) or its twin for the generator; a warm-up
/// is in [`UpdateConfig`](crate::optimizers::UpdateConfig) and goes with all of them.)
///
/// | schedule | factor at step `t` | PyTorch |
/// |---|---|---|
/// | `Constant` | 1 | |
/// | `Linear` | 1 until `start`, on a line to `to` at `until`, `to` from there | `LambdaLR`, as in the WGAN-GP code |
/// | `Cosine` | 1 until `start`, on half a cosine to `to` at `until`, `to` from there | `CosineAnnealingLR` |
/// | `Step` | `gamma` to the power of `t / step_size`, rounded down | `StepLR` |
/// | `MultiStep` | `gamma` to the power of the milestones that are `t` or less | `MultiStepLR` |
///
/// ```
/// use wgan::schedules::RateSchedule;
/// let schedule = RateSchedule::linear(100, 200);
/// assert_eq!([0, 100, 150, 200, 999].map(|step| schedule.factor(step)), [1.0, 1.0, 0.5, 0.0, 0.0]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "schedule", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RateSchedule {
    /// No change.
    #[default]
    Constant,
    /// Linear decay.
    Linear {
        /// The step from which it falls. Default: 0.
        #[serde(default)]
        start: u64,
        /// The step from which it is at its end, above `start`.
        until: u64,
        /// The factor at the end, at least 0. Default: 0.
        #[serde(default)]
        to: f64,
    },
    /// Decay along half a cosine (Loshchilov and Hutter 2017, without restarts).
    Cosine {
        /// The step from which it falls. Default: 0.
        #[serde(default)]
        start: u64,
        /// The step from which it is at its end, above `start`.
        until: u64,
        /// The factor at the end, at least 0. Default: 0.
        #[serde(default)]
        to: f64,
    },
    /// A fall at regular intervals.
    Step {
        /// The interval, 1 or more.
        step_size: u64,
        /// What each multiplies by, above 0.
        gamma: f64,
    },
    /// A fall at given steps.
    MultiStep {
        /// The steps, each above the one before.
        milestones: Vec<u64>,
        /// What each multiplies by, above 0.
        gamma: f64,
    },
}

impl RateSchedule {
    /// Linear decay to 0 between two steps.
    #[must_use]
    pub fn linear(start: u64, until: u64) -> Self {
        Self::Linear { start, until, to: 0.0 }
    }

    /// Decay to 0 along half a cosine between two steps.
    #[must_use]
    pub fn cosine(start: u64, until: u64) -> Self {
        Self::Cosine { start, until, to: 0.0 }
    }

    /// What the learning rate is multiplied by at a step, counted from 0.
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        // The way gone from `start` to `until`, in [0, 1].
        let way = |start: u64, until: u64| match step {
            step if step >= until => 1.0,
            step if step <= start => 0.0,
            step => (step - start) as f64 / (until - start) as f64,
        };
        match self {
            Self::Constant => 1.0,
            Self::Linear { start, until, to } => 1.0 + (to - 1.0) * way(*start, *until),
            Self::Cosine { start, until, to } => match way(*start, *until) {
                1.0 => *to,
                way => to + (1.0 - to) * (1.0 + (PI * way).cos()) / 2.0,
            },
            Self::Step { step_size, gamma } => gamma.powf((step / step_size.max(&1)) as f64),
            Self::MultiStep { milestones, gamma } => {
                gamma.powf(milestones.iter().filter(|&&milestone| milestone <= step).count() as f64)
            }
        }
    }

    /// Checks the ranges given at each field; `owner` is the name of this setting in an error.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field, its value and the range.
    pub fn check(&self, owner: &str) -> Result<()> {
        let fail = |field: &str, value: String, expected: String| {
            Err(Error::config(format!("{owner}.{field}"), value, expected))
        };
        match self {
            Self::Constant => Ok(()),
            Self::Linear { start, until, .. } | Self::Cosine { start, until, .. }
                if until <= start =>
            {
                fail("until", until.to_string(), format!("more than start, {start}"))
            }
            Self::Linear { to, .. } | Self::Cosine { to, .. }
                if !(to.is_finite() && *to >= 0.0) =>
            {
                fail("to", to.to_string(), "a finite number of at least 0".into())
            }
            Self::Step { step_size: 0, .. } => fail("step_size", "0".into(), "1 or more".into()),
            Self::MultiStep { milestones, .. } if !milestones.is_sorted_by(|a, b| a < b) => {
                fail("milestones", format!("{milestones:?}"), "each above the one before".into())
            }
            Self::Step { gamma, .. } | Self::MultiStep { gamma, .. }
                if !(gamma.is_finite() && *gamma > 0.0) =>
            {
                fail("gamma", gamma.to_string(), "a finite number above 0".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_is_pytorchs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pytorch/schedules.json");
        let reference: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let schedules = [
            ("linear", RateSchedule::Linear { start: 40, until: 200, to: 0.1 }),
            ("linear_lr", RateSchedule::Linear { start: 0, until: 200, to: 0.25 }),
            ("cosine", RateSchedule::Cosine { start: 0, until: 200, to: 0.1 }),
            ("step", RateSchedule::Step { step_size: 70, gamma: 0.3 }),
            ("multi_step", RateSchedule::MultiStep { milestones: vec![20, 21, 250], gamma: 0.5 }),
        ];
        for (name, schedule) in schedules {
            let factors = reference[name].as_array().unwrap();
            assert!(factors.len() > 200, "{name}");
            for (step, factor) in factors.iter().enumerate() {
                let (got, expected) = (schedule.factor(step as u64), factor.as_f64().unwrap());
                assert!((got - expected).abs() < 1e-13, "{name} at {step}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn every_bad_value_is_named() {
        let linear = |start, until, to| RateSchedule::Linear { start, until, to };
        for (wrong, field) in [
            (linear(5, 5, 0.0), "s.until is 5; expected more than start, 5"),
            (RateSchedule::cosine(7, 5), "s.until is 5"),
            (linear(0, 5, f64::NAN), "s.to is NaN"),
            (RateSchedule::Cosine { start: 0, until: 5, to: -1.0 }, "s.to is -1"),
            (RateSchedule::Step { step_size: 0, gamma: 0.5 }, "s.step_size is 0"),
            (RateSchedule::Step { step_size: 1, gamma: 0.0 }, "s.gamma is 0"),
            (
                RateSchedule::MultiStep { milestones: vec![3, 3], gamma: 0.5 },
                "s.milestones is [3, 3]",
            ),
        ] {
            let error = wrong.check("s").unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        for (many, every, field) in [(0, 5, "many"), (5, 0, "every")] {
            let wrong = NCriticSchedule::AuthorsCode { many, first: 0, every };
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn no_value_of_any_field_makes_a_factor_panic() {
        let extremes = [0, 1, u64::MAX - 1, u64::MAX];
        for start in extremes {
            for until in extremes {
                for step in extremes {
                    let factor = RateSchedule::linear(start, until).factor(step);
                    assert!((0.0..=1.0).contains(&factor));
                    let factor = RateSchedule::cosine(start, until).factor(step);
                    assert!((0.0..=1.0).contains(&factor));
                    let schedule = RateSchedule::Step { step_size: until, gamma: 0.5 };
                    assert!((0.0..=1.0).contains(&schedule.factor(step)));
                    let schedule =
                        NCriticSchedule::AuthorsCode { many: 7, first: start, every: until };
                    assert!([5, 7].contains(&schedule.at(step, 5)));
                }
            }
        }
    }

    #[test]
    fn json_round_trip() {
        for schedule in [
            RateSchedule::Constant,
            RateSchedule::linear(3, 9),
            RateSchedule::Cosine { start: 1, until: 5, to: 0.1 },
            RateSchedule::Step { step_size: 3, gamma: 0.5 },
            RateSchedule::MultiStep { milestones: vec![1, 4], gamma: 0.1 },
        ] {
            let text = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<RateSchedule>(&text).unwrap(), schedule);
        }
        let short = r#"{"schedule": "linear", "until": 9}"#;
        assert_eq!(
            serde_json::from_str::<RateSchedule>(short).unwrap(),
            RateSchedule::linear(0, 9)
        );
        let short = r#"{"schedule": "authors_code"}"#;
        assert_eq!(
            serde_json::from_str::<NCriticSchedule>(short).unwrap(),
            NCriticSchedule::authors_code()
        );
        let typo = r#"{"schedule": "linear", "untill": 9}"#;
        assert!(serde_json::from_str::<RateSchedule>(typo).is_err());
    }
}
