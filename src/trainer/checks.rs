//! What must hold before the first step.

use candle_core::{DType, Device, Tensor};

use super::WganTrainer;
use crate::critic::Critic;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::generator::Generator;
use crate::parameters::Parameters;

/// The device and the type that both models share.
pub(super) fn common_place(generator: &Parameters, critic: &Parameters) -> Result<(Device, DType)> {
    let place = |parameters: &Parameters, name: &str| {
        parameters.place().map(|(device, dtype)| (device.clone(), dtype)).ok_or_else(|| {
            Error::config(name, "a model without trained parameters", "at least one to train")
        })
    };
    let (device, dtype) = place(generator, "the generator")?;
    let (critic_device, critic_dtype) = place(critic, "the critic")?;
    if !device.same_device(&critic_device) {
        return Err(Error::DeviceMismatch {
            first: "the generator".into(),
            first_device: format!("{:?}", device.location()),
            second: "the critic".into(),
            second_device: format!("{:?}", critic_device.location()),
        });
    }
    if !matches!(dtype, DType::F32 | DType::F64) || dtype != critic_dtype {
        return Err(Error::DType {
            what: "the pair of models".into(),
            got: format!("{dtype:?} (generator) and {critic_dtype:?} (critic)"),
            expected: "F32 for both or F64 for both".into(),
        });
    }
    Ok((device, dtype))
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// Runs both models once on samples of the data's shape, without leaving a trace in them.
    pub(super) fn check_models<D: Dataset + ?Sized>(&self, data: &D) -> Result<()> {
        const PROBES: usize = 2;
        let samples = [&[PROBES], data.sample_shape()].concat();

        let latent =
            Tensor::zeros((PROBES, self.generator.model().latent_dim()), self.dtype, &self.device)?;
        let fake = self.generator.model().forward(&latent, false)?;
        if fake.dims() != samples {
            return Err(Error::Shape {
                what: "the generator's output for two latent points".into(),
                got: fake.dims().to_vec(),
                expected: format!("{samples:?}, as the data set's samples are"),
            });
        }
        if fake.dtype() != self.dtype {
            return Err(Error::DType {
                what: "the generator's output".into(),
                got: format!("{:?}", fake.dtype()),
                expected: format!("{:?}, as its parameters are", self.dtype),
            });
        }
        let samples = Tensor::zeros(samples, self.dtype, &self.device)?;
        self.critic.parameters().keeping_buffers(|| {
            if self.config.lipschitz.penalises() {
                self.critic.model().scores_and_gradient(&samples).map(drop)
            } else {
                self.critic.model().scores(&samples).map(drop)
            }
        })
    }
}
