//! One network's optimiser in a run.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::{Optimizer, Rates, UpdateConfig};
use crate::error::{Error, Result};
use crate::ops::first_non_finite;
use crate::parameters::Parameters;

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

    /// One update of every parameter, at generator step `step`, counted from 0, and the clamp to `[-bound, bound]`; an infinite bound
    /// holds nothing back.
    pub(crate) fn step(
        &mut self,
        parameters: &Parameters,
        mut gradients: GradStore,
        step: u64,
        bound: f64,
    ) -> Result<()> {
        let factor = self.factor(step)?;
        self.config.clip(parameters, &mut gradients)?;
        let rates = Rates::new(factor, &self.config.groups).within(bound);
        let seen = self.optimizer.step(parameters, &gradients, &rates)?;
        if !seen {
            finite(parameters, step)?;
        }
        let clamped = seen && self.optimizer.clamps();
        if bound == f64::INFINITY || clamped { Ok(()) } else { parameters.clamp(bound) }
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
                checkpoint: None,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::{OptimizerConfig, ParameterGroup};
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
                updater.step(&parameters, gradients, step as u64, f64::INFINITY)?;
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

    /// An optimiser that knows of no bound, and says what it likes.
    struct Own {
        seen: bool,
        clamps: bool,
    }

    impl Optimizer for Own {
        fn step(&mut self, all: &Parameters, g: &GradStore, _: &Rates<'_>) -> Result<bool> {
            for (_, parameter, gradient) in crate::optimizers::with_gradients(all, g)? {
                parameter.set(&(parameter.as_tensor() - gradient)?.detach())?;
            }
            Ok(self.seen)
        }

        fn clamps(&self) -> bool {
            self.clamps
        }

        fn state(&self) -> Result<BTreeMap<String, Tensor>> {
            Ok(BTreeMap::new())
        }

        fn load_state(&mut self, _: &Parameters, _: &BTreeMap<String, Tensor>) -> Result<()> {
            Ok(())
        }
    }

    /// One parameter of `n` elements after a step along gradients of `slope` times 1, 2, ..
    fn after(
        optimizer: Box<dyn Optimizer>,
        (n, dtype): (u32, DType),
        slope: f64,
        bound: f64,
    ) -> Result<Vec<f64>> {
        let ramp = Tensor::arange(0, n, &Device::Cpu)?.to_dtype(DType::F64)?;
        let parameter = Var::from_tensor(&ramp.affine(1e-3, -0.02)?.to_dtype(dtype)?)?;
        let parameters = [("a".to_owned(), parameter.clone())].into_iter().collect();
        let mut gradients = GradStore::default();
        gradients.insert(&parameter, ramp.affine(slope, slope)?.to_dtype(dtype)?);
        let mut updater = Updater::new("critic", optimizer, UpdateConfig::default(), &parameters)?;
        updater.step(&parameters, gradients, 0, bound)?;
        Ok(parameter.to_dtype(DType::F64)?.to_vec1()?)
    }

    /// As clipping's own method does it.
    fn clamped(values: &[f64], dtype: DType) -> Result<Vec<f64>> {
        let parameter = Tensor::from_slice(values, values.len(), &Device::Cpu)?.to_dtype(dtype)?;
        let parameter = Var::from_tensor(&parameter)?;
        let parameters = [("a".to_owned(), parameter.clone())].into_iter().collect();
        crate::Lipschitz::Clip { c: 0.01 }.constrain(&parameters)?;
        Ok(parameter.to_dtype(DType::F64)?.to_vec1()?)
    }

    #[test]
    fn parameters_are_clamped_after_a_step_whoever_does_it() -> Result<()> {
        let rms_prop = |momentum, centered| OptimizerConfig::RmsProp {
            learning_rate: 1e-3,
            alpha: 0.9,
            eps: 1e-8,
            momentum,
            centered,
            weight_decay: 0.0,
        };
        let configs = [
            rms_prop(0.0, false),
            rms_prop(0.0, true),
            rms_prop(0.5, false),
            rms_prop(0.5, true),
            OptimizerConfig::adam(1e-3, 0.0, 0.9),
            OptimizerConfig::adam(1e-3, 0.5, 0.9),
            OptimizerConfig::sgd(0.1, 0.5),
            OptimizerConfig::sgd(0.1, 0.0),
        ];
        // Large enough to be shared out, too, and without a kernel.
        for of in [(40, DType::F32), (70_000, DType::F32), (70_000, DType::F64), (40, DType::F16)] {
            for config in &configs {
                let free = after(config.build(), of, 0.1, f64::INFINITY)?;
                let expected = clamped(&free, of.1)?;
                assert!(expected != free && expected.iter().all(|x| x.abs() <= 0.0101), "{of:?}");
                let got = after(config.build(), of, 0.1, 0.01)?;
                assert!(got == expected, "{config:?} of {of:?}");
                let error = after(config.build(), of, f64::MAX, 0.01).unwrap_err();
                assert!(matches!(error, Error::NonFinite { .. }), "{config:?}: {error}");
            }
        }
        let of = (40, DType::F32);
        for (seen, clamps) in [(true, false), (false, false), (false, true)] {
            let clamped = after(Box::new(Own { seen, clamps }), of, 0.1, 0.01)?;
            assert!(clamped.iter().all(|x| x.abs() <= 0.01), "{seen} {clamps}: {clamped:?}");
        }
        let trusted = after(Box::new(Own { seen: true, clamps: true }), of, 0.1, 0.01)?;
        assert!(trusted.iter().any(|x| x.abs() > 0.01));
        Ok(())
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
            let result = updater.step(
                &parameters,
                gradients(&reference, &parameters, 0),
                step,
                f64::INFINITY,
            );
            assert_eq!(result.is_err(), step == 3);
        }
    }
}
