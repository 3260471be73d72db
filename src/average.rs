//! The moving average of the generator, which makes better samples than the generator of any one step.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::in_place;
use crate::parameters::Parameters;

/// An exponential moving average of the generator's parameters: after each generator step
/// `average = d average + (1 - d) parameters`. Samples are drawn from it where it is on.
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `decay` | 0.999 | \[0, 1) | `d`: what is left after a step |
/// | `ramp_up` | true | | at first `d` is `(1 + t) / (10 + t)` at step `t`, counted from 1, where that is less |
///
/// The average begins as a copy of the parameters after the first step. Without the ramp the first weights, which are
/// noise, are felt for some `3 / (1 - decay)` steps. Buffers, such as running means, are copied as they are.
///
/// ```
/// use wgan::Ema;
/// assert!((Ema::half_life(1000.0).decay.powi(1000) - 0.5).abs() < 1e-9);
/// assert_eq!(Ema::new(0.999).decay_at(1), 2.0 / 11.0);
/// assert_eq!(Ema::new(0.999).decay_at(100_000), 0.999);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ema {
    /// What is left of the average after a step.
    pub decay: f64,
    /// Whether the decay is less at first.
    pub ramp_up: bool,
}

impl Default for Ema {
    fn default() -> Self {
        Self::new(0.999)
    }
}

impl Ema {
    /// With this decay, and the ramp.
    #[must_use]
    pub const fn new(decay: f64) -> Self {
        Self { decay, ramp_up: true }
    }

    /// With the decay that leaves half of the average after so many steps, and the ramp. StyleGAN's figure, in samples, is
    /// to be divided by the batch size.
    #[must_use]
    pub fn half_life(steps: f64) -> Self {
        Self::new(0.5f64.powf(steps.recip()))
    }

    /// The decay at step `step`, counted from 1.
    #[must_use]
    pub fn decay_at(&self, step: u64) -> f64 {
        let step = step as f64;
        if self.ramp_up { self.decay.min((1.0 + step) / (10.0 + step)) } else { self.decay }
    }

    /// Checks the range.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the value and the range.
    pub fn check(&self) -> Result<()> {
        if (0.0..1.0).contains(&self.decay) {
            return Ok(());
        }
        Err(Error::config("ema.decay", self.decay, "a number in [0, 1)"))
    }
}

/// The average as it stands: nothing before the first step.
#[derive(Debug)]
pub(crate) struct Average {
    config: Ema,
    values: Option<Parameters>,
}

impl Average {
    pub(crate) fn new(config: Ema) -> Self {
        Self { config, values: None }
    }

    /// Follows the parameters after generator step `step`, counted from 1.
    pub(crate) fn follow(&mut self, parameters: &Parameters, step: u64) -> Result<()> {
        let Some(values) = &self.values else {
            self.values = Some(parameters.tensors().iter().map(copy).collect::<Result<_>>()?);
            return Ok(());
        };
        let decay = self.config.decay_at(step);
        for ((_, average), (_, parameter)) in values.trained().zip(parameters.trained()) {
            in_place::average(average, parameter, decay)?;
        }
        for ((_, average), (_, buffer)) in values.buffers().zip(parameters.buffers()) {
            average.set(buffer)?;
        }
        Ok(())
    }

    /// The average, once there is one.
    pub(crate) fn values(&self) -> Option<&Parameters> {
        self.values.as_ref()
    }

    /// Takes up saved tensors, or that there were none.
    ///
    /// # Errors
    /// [`Error::Weights`] with what does not fit the generator by name, shape or type; the average stays as it was.
    pub(crate) fn load(
        &mut self,
        generator: &Parameters,
        saved: Option<&BTreeMap<String, Tensor>>,
    ) -> Result<()> {
        self.values = match saved {
            Some(saved) => Some(generator.twin(saved, "the generator's average")?),
            None => None,
        };
        Ok(())
    }
}

fn copy((name, tensor): (&String, &Tensor)) -> Result<(String, Var)> {
    Ok((name.clone(), Var::from_tensor(&tensor.detach())?))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn parameters(value: f64) -> Parameters {
        let var = |name: &str, value: f64| {
            let tensor = Tensor::full(value, 3, &Device::Cpu).unwrap();
            (name.to_owned(), Var::from_tensor(&tensor).unwrap())
        };
        [var("fc.weight", value), var("bn.running_mean", 10.0 * value)].into_iter().collect()
    }

    fn value(average: &Average, name: &str) -> f64 {
        average.values().unwrap().tensors()[name].to_vec1::<f64>().unwrap()[2]
    }

    /// Against the definition, step by step; buffers are the last ones.
    #[test]
    fn the_average_is_that_of_the_formula() -> Result<()> {
        for ramp_up in [true, false] {
            let config = Ema { decay: 0.9, ramp_up };
            let mut average = Average::new(config);
            let generator = parameters(0.0);
            let mut expected = 0.0;
            for step in 1..=200u64 {
                let now = (step as f64).sin();
                for (name, tensor) in parameters(now).tensors() {
                    let (_, var) = (generator.trained().chain(generator.buffers()))
                        .find(|(known, _)| *known == name)
                        .unwrap();
                    var.set(&tensor)?;
                }
                average.follow(&generator, step)?;
                let t = step as f64;
                let decay = if ramp_up { ((1.0 + t) / (10.0 + t)).min(0.9) } else { 0.9 };
                expected = if step == 1 { now } else { decay * expected + (1.0 - decay) * now };
                assert!((value(&average, "fc.weight") - expected).abs() < 1e-14);
                assert_eq!(value(&average, "bn.running_mean"), 10.0 * now);
            }
        }
        Ok(())
    }

    /// Against `torch.optim.swa_utils.AveragedModel`.
    #[test]
    fn the_average_is_pytorchs() -> Result<()> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pytorch/schedules.json");
        let reference: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let rows = |name: &str| -> Vec<Vec<f64>> {
            serde_json::from_value(reference[name].clone()).unwrap()
        };
        let mut average = Average::new(Ema { decay: 0.95, ramp_up: false });
        let var = Var::zeros(2, DType::F64, &Device::Cpu)?;
        let generator: Parameters = [("weight".to_owned(), var.clone())].into_iter().collect();
        for (step, (values, expected)) in (1..).zip(rows("values").iter().zip(rows("ema_095"))) {
            var.set(&Tensor::new(values.as_slice(), &Device::Cpu)?)?;
            average.follow(&generator, step)?;
            let got = average.values().unwrap().tensors()["weight"].to_vec1::<f64>()?;
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-14, "step {step}: {got} for {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_loaded_must_be_the_generators() -> Result<()> {
        let generator = parameters(1.0);
        let mut average = Average::new(Ema::default());
        average.load(&generator, Some(&parameters(3.0).tensors()))?;
        assert_eq!(value(&average, "fc.weight"), 3.0);
        let mut wrong = parameters(4.0).tensors();
        wrong.insert("fc.weight".into(), Tensor::zeros(3, DType::F32, &Device::Cpu)?);
        let error = average.load(&generator, Some(&wrong)).unwrap_err().to_string();
        assert!(
            error.contains("the generator's average") && error.contains("fc.weight"),
            "{error}"
        );
        assert_eq!(value(&average, "fc.weight"), 3.0);
        average.load(&generator, None)?;
        assert!(average.values().is_none());
        Ok(())
    }

    #[test]
    fn a_decay_of_one_is_refused() {
        for decay in [1.0, -0.1, f64::NAN] {
            let error = Ema::new(decay).check().unwrap_err().to_string();
            assert!(error.starts_with("ema.decay is"), "{error}");
        }
    }
}
