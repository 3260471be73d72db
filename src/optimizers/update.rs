//! What a run does around an optimiser: schedules, groups of parameters, clipping of gradients.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::Optimizer;
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

    fn holds(&self, parameter: &str) -> bool {
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
    fn check_names(&self, owner: &str, parameters: &Parameters) -> Result<()> {
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

    /// What the learning rate is multiplied by at a step.
    fn factor(&self, step: u64) -> f64 {
        let warm_up = match self.warm_up {
            steps if step < steps => (step + 1) as f64 / steps as f64,
            _ => 1.0,
        };
        warm_up * self.schedule.factor(step)
    }

    /// Clips gradients, first by value, then by norm. A parameter without one is left to the optimiser to report.
    fn clip(&self, parameters: &Parameters, gradients: &mut GradStore) -> Result<()> {
        if let Some(bound) = self.clip_value {
            replace(parameters, gradients, |gradient| Ok(gradient.clamp(-bound, bound)?))?;
        }
        if let Some(bound) = self.clip_norm {
            let norm = norm(parameters, gradients)?;
            // As PyTorch has it, with its guard against a norm of 0.
            let factor = bound / (norm + 1e-6);
            if factor < 1.0 {
                replace(parameters, gradients, |gradient| Ok(gradient.affine(factor, 0.0)?))?;
            }
        }
        Ok(())
    }
}

/// Two parameters may have one gradient tensor between them, so gradients are not changed in place.
fn replace(
    parameters: &Parameters,
    gradients: &mut GradStore,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    for (_, var) in parameters.trained() {
        if let Some(gradient) = gradients.get(var) {
            let gradient = f(gradient)?;
            gradients.insert(var, gradient);
        }
    }
    Ok(())
}

/// The Euclidean norm of all gradients together.
fn norm(parameters: &Parameters, gradients: &GradStore) -> Result<f64> {
    let mut sum = 0.0;
    for (_, var) in parameters.trained() {
        if let Some(gradient) = gradients.get(var) {
            sum += tensor_norm(gradient)?.powi(2);
        }
    }
    Ok(sum.sqrt())
}

/// The Euclidean norm of a tensor. Its largest element comes out of the sum of squares, which would overflow otherwise.
pub(crate) fn tensor_norm(x: &Tensor) -> Result<f64> {
    let number = |x: Tensor| -> Result<f64> {
        Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar()?)
    };
    let x = x.detach().flatten_all()?;
    if x.elem_count() == 0 {
        return Ok(0.0);
    }
    let largest = number(x.abs()?.max(0)?)?;
    if largest == 0.0 || !largest.is_finite() {
        return Ok(largest);
    }
    Ok(largest * number(x.affine(largest.recip(), 0.0)?.sqr()?.sum_all()?)?.sqrt())
}

/// The learning rates and weight decays of one step.
///
/// The default changes nothing: every parameter has the optimiser's own.
#[derive(Debug, Clone, Copy)]
pub struct Rates<'a> {
    factor: f64,
    groups: &'a [ParameterGroup],
}

impl Default for Rates<'_> {
    fn default() -> Self {
        Self { factor: 1.0, groups: &[] }
    }
}

impl<'a> Rates<'a> {
    /// Those of a step at which every rate is multiplied by `factor`, with these groups of parameters.
    ///
    /// ```
    /// use wgan::optimizers::{ParameterGroup, Rates};
    /// let groups = [ParameterGroup::new("*.bias").learning_rate(0.5)];
    /// let rates = Rates::new(0.1, &groups);
    /// assert_eq!(rates.learning_rate("fc1.bias", 3.0), 0.1 * 0.5);
    /// assert_eq!(rates.learning_rate("fc1.weight", 3.0), 0.1 * 3.0);
    /// ```
    #[must_use]
    pub fn new(factor: f64, groups: &'a [ParameterGroup]) -> Self {
        Self { factor, groups }
    }

    /// The learning rate of a parameter at this step, where the optimiser's own is `base`.
    #[must_use]
    pub fn learning_rate(&self, parameter: &str, base: f64) -> f64 {
        self.factor * self.group(parameter).and_then(|group| group.learning_rate).unwrap_or(base)
    }

    /// The weight decay of a parameter, where the optimiser's own is `base`.
    #[must_use]
    pub fn weight_decay(&self, parameter: &str, base: f64) -> f64 {
        self.group(parameter).and_then(|group| group.weight_decay).unwrap_or(base)
    }

    fn group(&self, parameter: &str) -> Option<&ParameterGroup> {
        self.groups.iter().find(|group| group.holds(parameter))
    }
}

/// One network's optimiser with what a run does around it.
pub(crate) struct Updater {
    owner: &'static str,
    optimizer: Box<dyn Optimizer>,
    config: UpdateConfig,
    own_schedule: Option<Box<dyn Fn(u64) -> f64>>,
}

impl Updater {
    /// `owner` names the network in errors.
    pub(crate) fn new(
        owner: &'static str,
        optimizer: Box<dyn Optimizer>,
        config: UpdateConfig,
        parameters: &Parameters,
    ) -> Result<Self> {
        config.check_names(&format!("{owner}_updates"), parameters)?;
        Ok(Self { owner, optimizer, config, own_schedule: None })
    }

    pub(crate) fn set_optimizer(&mut self, optimizer: Box<dyn Optimizer>) {
        self.optimizer = optimizer;
    }

    pub(crate) fn set_schedule(&mut self, schedule: Box<dyn Fn(u64) -> f64>) {
        self.own_schedule = Some(schedule);
    }

    /// One update of every parameter, at generator step `step`, counted from 0.
    pub(crate) fn step(
        &mut self,
        parameters: &Parameters,
        mut gradients: GradStore,
        step: u64,
    ) -> Result<()> {
        let factor = self.factor(step)?;
        self.config.clip(parameters, &mut gradients)?;
        let rates = Rates::new(factor, &self.config.groups);
        self.optimizer.step(parameters, &gradients, &rates)
    }

    fn factor(&self, step: u64) -> Result<f64> {
        let configured = self.config.factor(step);
        let Some(own) = &self.own_schedule else {
            return Ok(configured);
        };
        let factor = own(step);
        if factor.is_finite() && factor >= 0.0 {
            return Ok(configured * factor);
        }
        Err(Error::config(
            format!("the {}'s own learning-rate schedule at step {step}", self.owner),
            factor,
            "a finite factor of at least 0",
        ))
    }

    pub(crate) fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.optimizer.state()
    }

    pub(crate) fn load_state(
        &mut self,
        parameters: &Parameters,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        self.optimizer.load_state(parameters, state)
    }
}
