//! What a run does around an optimiser, as settings: schedules, groups of parameters, clipping of gradients.

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::schedules::RateSchedule;

/// What a run does around one network's optimiser.
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `schedule` | constant | see [`RateSchedule`] | the learning rate's factor at each step |
/// | `warm_up` | 0 | any | steps over which that factor rises from near 0 in proportion to the step |
/// | `groups` | none | see [`ParameterGroup`] | parameters with a learning rate or weight decay of their own |
/// | `clip_value` | none | above 0 | each element of a gradient is clamped to ± this |
/// | `clip_norm` | none | above 0 | all gradients together are scaled down to this norm where theirs is larger |
///
/// Steps are generator steps for both networks, so that their rates go together as in the WGAN-GP code; all critic steps
/// before generator step `t + 1` have the rate of `t`. Everything is a function of the step alone. Gradients are clipped
/// first by value, then by norm (`torch.nn.utils.clip_grad_value_` and `clip_grad_norm_`); the norm is over all parameters
/// of the network, before any rate.
///
/// ```
/// use wgan::TrainConfig;
/// use wgan::optimizers::{ParameterGroup, UpdateConfig};
/// use wgan::schedules::RateSchedule;
/// let config = TrainConfig {
///     generator_updates: UpdateConfig {
///         schedule: RateSchedule::linear(0, 10_000),
///         warm_up: 500,
///         groups: vec![ParameterGroup::new("out.*").learning_rate(2e-5)],
///         clip_norm: Some(1.0),
///         ..Default::default()
///     },
///     ..TrainConfig::wgan_gp()
/// };
/// assert!(config.check().is_ok());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateConfig {
    /// The learning rate's factor at each step.
    pub schedule: RateSchedule,
    /// Steps over which the factor rises in proportion to the step: step `t`, from 0, has `(t + 1) / warm_up` of it.
    pub warm_up: u64,
    /// Parameters with settings of their own; the first group that a name fits holds.
    pub groups: Vec<ParameterGroup>,
    /// The largest element of a gradient.
    pub clip_value: Option<f64>,
    /// The largest Euclidean norm of all gradients together.
    pub clip_norm: Option<f64>,
}

/// Parameters, by their names, with a learning rate or a weight decay of their own.
///
/// In the pattern `*` stands for any run of characters, dots too, and `?` for any one: `fc1.*`, `*.bias`, `blocks.?.conv*`.
/// Schedules multiply a group's rate as they do the others'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// The pattern that the names of the group's parameters fit as a whole.
    pub names: String,
    /// The learning rate in place of the optimiser's, at least 0; at 0 the group's parameters stay as they are.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// The decoupled weight decay in place of the optimiser's, at least 0.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

impl ParameterGroup {
    /// The parameters whose names fit this pattern, with nothing of their own yet.
    #[must_use]
    pub fn new(names: impl Into<String>) -> Self {
        Self { names: names.into(), learning_rate: None, weight_decay: None }
    }

    /// The same with this learning rate.
    #[must_use]
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate: Some(learning_rate), ..self }
    }

    /// The same with this weight decay.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }

    pub(super) fn holds(&self, parameter: &str) -> bool {
        WildMatch::new(&self.names).matches(parameter)
    }
}

impl UpdateConfig {
    /// Checks the ranges; `owner` is the name of this setting in an error.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field, its value and the range.
    pub fn check(&self, owner: &str) -> Result<()> {
        self.schedule.check(&format!("{owner}.schedule"))?;
        let not_negative = |field: String, value: Option<f64>| match value {
            Some(value) if !(value.is_finite() && value >= 0.0) => {
                Err(Error::config(field, value, "a finite number of at least 0"))
            }
            _ => Ok(()),
        };
        for (i, group) in self.groups.iter().enumerate() {
            let field = |name: &str| format!("{owner}.groups[{i}].{name}");
            if group.names.is_empty() {
                return Err(Error::config(field("names"), "empty", "a pattern such as fc1.*"));
            }
            not_negative(field("learning_rate"), group.learning_rate)?;
            not_negative(field("weight_decay"), group.weight_decay)?;
        }
        for (name, value) in [("clip_value", self.clip_value), ("clip_norm", self.clip_norm)] {
            if let Some(value) = value.filter(|&value| !(value.is_finite() && value > 0.0)) {
                let field = format!("{owner}.{name}");
                return Err(Error::config(field, value, "a finite number above 0"));
            }
        }
        Ok(())
    }

    /// Holds every group to have a parameter.
    pub(super) fn check_names(&self, owner: &str, parameters: &Parameters) -> Result<()> {
        for (i, group) in self.groups.iter().enumerate() {
            if !parameters.trained().any(|(name, _)| group.holds(name)) {
                let names: Vec<&str> = parameters.trained().map(|(name, _)| name).collect();
                return Err(Error::config(
                    format!("{owner}.groups[{i}].names"),
                    format!("{:?}", group.names),
                    format!("a pattern that a parameter fits: {}", names.join(", ")),
                ));
            }
        }
        Ok(())
    }

    /// What the learning rate is multiplied by at a generator step, counted from 0.
    ///
    /// ```
    /// use wgan::optimizers::UpdateConfig;
    /// use wgan::schedules::RateSchedule;
    /// let schedule = RateSchedule::linear(10, 20);
    /// let updates = UpdateConfig { schedule, warm_up: 4, ..Default::default() };
    /// assert_eq!([0, 3, 15, 99].map(|step| updates.factor(step)), [0.25, 1.0, 0.5, 0.0]);
    /// ```
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        let warm_up = match self.warm_up {
            steps if step < steps => (step + 1) as f64 / steps as f64,
            _ => 1.0,
        };
        warm_up * self.schedule.factor(step)
    }
}
