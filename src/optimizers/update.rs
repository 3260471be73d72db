//! What a run does around an optimiser: schedules, groups of parameters, clipping of gradients.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::Optimizer;
use crate::error::{Error, Result};
use crate::ops::first_non_finite;
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

/// Holds the parameters to be finite after an update, which overflows where a learning rate is beyond all measure.
fn finite(parameters: &Parameters, step: u64) -> Result<()> {
    for (name, parameter) in parameters.trained() {
        if let Some(value) = first_non_finite(parameter)? {
            return Err(Error::NonFinite {
                step: step + 1,
                quantity: format!("the parameter {name} after its update"),
                value,
                first: None,
                cause: "the update overflows: lower the learning rate".into(),
            });
        }
    }
    Ok(())
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
        self.optimizer.step(parameters, &gradients, &rates)?;
        finite(parameters, step)
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

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::super::OptimizerConfig;
    use super::*;
    use crate::schedules::RateSchedule;

    fn reference() -> BTreeMap<String, Tensor> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pytorch/optimizers.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
    }

    fn parameters(reference: &BTreeMap<String, Tensor>) -> Parameters {
        let var = |name: &str| {
            (name.to_owned(), Var::from_tensor(&reference[&format!("init.{name}")]).unwrap())
        };
        [var("a"), var("b")].into_iter().collect()
    }

    fn gradients(
        reference: &BTreeMap<String, Tensor>,
        parameters: &Parameters,
        step: usize,
    ) -> GradStore {
        let mut store = GradStore::default();
        for (name, var) in parameters.trained() {
            store.insert(var, reference[&format!("grads.{name}")].get(step % 50).unwrap());
        }
        store
    }

    /// Groups, a warm-up with a linear decay, and clipping, against PyTorch's parameter groups, `LambdaLR` and
    /// `clip_grad_*_` over 500 steps.
    #[test]
    fn everything_around_an_optimiser_is_pytorchs() -> Result<()> {
        let reference = reference();
        let distance = |parameters: &Parameters, setting: &str, step: usize| -> Result<f64> {
            let mut worst: f64 = 0.0;
            for (name, var) in parameters.trained() {
                let expected = &reference[&format!("updates.{setting}.after_{step}.{name}")];
                worst = worst.max(var.sub(expected)?.abs()?.flatten_all()?.max(0)?.to_scalar()?);
            }
            Ok(worst)
        };
        let settings = [
            ("groups", None, None),
            ("clip_value", Some(0.5), None),
            ("clip_norm", None, Some(1.0)),
            ("clip_both", Some(0.5), Some(0.3)),
        ];
        for (setting, clip_value, clip_norm) in settings {
            let config = UpdateConfig {
                schedule: RateSchedule::linear(0, 400),
                warm_up: 20,
                groups: vec![ParameterGroup::new("b*").learning_rate(3e-2).weight_decay(0.5)],
                clip_value,
                clip_norm,
            };
            config.check("updates")?;
            let parameters = parameters(&reference);
            let optimizer = OptimizerConfig::adam_w(1e-2, 0.5, 0.9, 0.1).build();
            let mut updater = Updater::new("critic", optimizer, config, &parameters)?;
            for step in 0..500 {
                let gradients = gradients(&reference, &parameters, step);
                updater.step(&parameters, gradients, step as u64)?;
                if [1, 2, 10, 50, 500].contains(&(step + 1)) {
                    let away = distance(&parameters, setting, step + 1)?;
                    assert!(away < 1e-12, "{setting} after {}: {away:e}", step + 1);
                }
            }
            for (other, ..) in settings.iter().filter(|(other, ..)| *other != setting) {
                let away = distance(&parameters, other, 500)?;
                assert!(away > 1e-6, "{setting} and {other}: {away:e}");
            }
        }
        Ok(())
    }

    /// Of two parameters that have one gradient between them, each has it scaled once.
    #[test]
    fn a_gradient_that_two_parameters_share_is_clipped_once() -> Result<()> {
        let var = |name: &str| (name.to_owned(), Var::zeros(2, DType::F64, &Device::Cpu).unwrap());
        let parameters: Parameters = [var("a"), var("b")].into_iter().collect();
        let shared = Tensor::new(&[3.0, 4.0], &Device::Cpu)?;
        let mut gradients = GradStore::default();
        for (_, var) in parameters.trained() {
            gradients.insert(var, shared.clone());
        }
        let config = UpdateConfig { clip_norm: Some(1.0), ..Default::default() };
        config.clip(&parameters, &mut gradients)?;
        let expected = 3.0 / (50f64.sqrt() + 1e-6);
        for (_, var) in parameters.trained() {
            let gradient = gradients.get(var).unwrap().to_vec1::<f64>()?;
            assert!((gradient[0] - expected).abs() < 1e-15, "{gradient:?}");
        }
        assert_eq!(shared.to_vec1::<f64>()?, [3.0, 4.0]);
        Ok(())
    }

    #[test]
    fn a_norm_neither_overflows_nor_underflows() -> Result<()> {
        for size in [1e-30f32, 1.0, 1e30] {
            let x = Tensor::new(&[[3.0 * size, 0.0], [0.0, -4.0 * size]], &Device::Cpu)?;
            let norm = tensor_norm(&x.t()?)?;
            assert!((norm / f64::from(size) - 5.0).abs() < 1e-5, "{norm}");
        }
        assert_eq!(tensor_norm(&Tensor::zeros((2, 0), DType::F32, &Device::Cpu)?)?, 0.0);
        assert_eq!(tensor_norm(&Tensor::zeros(3, DType::F32, &Device::Cpu)?)?, 0.0);
        let infinite = Tensor::new(&[1.0, f64::INFINITY], &Device::Cpu)?;
        assert_eq!(tensor_norm(&infinite)?, f64::INFINITY);
        Ok(())
    }

    #[test]
    fn patterns_take_whole_names_and_the_first_holds() {
        let groups = [
            ParameterGroup::new("fc?.bias").learning_rate(1.0),
            ParameterGroup::new("*.bias").learning_rate(2.0).weight_decay(0.0),
            ParameterGroup::new("fc1.*").weight_decay(3.0),
        ];
        let rates = Rates::new(1.0, &groups);
        for (name, rate, decay) in [
            ("fc1.bias", 1.0, 9.0),
            ("block.0.fc1.bias", 2.0, 0.0),
            ("fc1.weight", 9.0, 3.0),
            ("fc1", 9.0, 9.0),
            ("fc10.bias", 2.0, 0.0),
        ] {
            let got = (rates.learning_rate(name, 9.0), rates.weight_decay(name, 9.0));
            assert_eq!(got, (rate, decay), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        let reference = reference();
        let base = UpdateConfig::default();
        let group = |group| UpdateConfig { groups: vec![group], ..base.clone() };
        for (wrong, field) in [
            (UpdateConfig { clip_norm: Some(0.0), ..base.clone() }, "u.clip_norm is 0"),
            (UpdateConfig { clip_value: Some(f64::NAN), ..base.clone() }, "u.clip_value is NaN"),
            (group(ParameterGroup::new("")), "u.groups[0].names is empty"),
            (
                group(ParameterGroup::new("a").learning_rate(-1.0)),
                "u.groups[0].learning_rate is -1",
            ),
            (group(ParameterGroup::new("a").weight_decay(-1.0)), "u.groups[0].weight_decay is -1"),
            (
                UpdateConfig { schedule: RateSchedule::linear(5, 5), ..base.clone() },
                "u.schedule.until is 5",
            ),
        ] {
            let error = wrong.check("u").unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        let parameters = parameters(&reference);
        let build = || OptimizerConfig::sgd(1.0, 0.0).build();
        let new = |config| Updater::new("critic", build(), config, &parameters);
        let error = new(group(ParameterGroup::new("fc*"))).err().unwrap().to_string();
        let expected = "critic_updates.groups[0].names is \"fc*\"; expected a pattern that a \
                        parameter fits: a, b";
        assert_eq!(error, expected);
        let mut updater = new(base).unwrap();
        updater.set_schedule(Box::new(|step| if step == 3 { f64::NAN } else { 1.0 }));
        for step in 0..5 {
            let result = updater.step(&parameters, gradients(&reference, &parameters, 0), step);
            assert_eq!(result.is_err(), step == 3);
        }
    }
}
