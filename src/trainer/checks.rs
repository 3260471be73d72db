//! What must hold before the first step.

use candle_core::{DType, Device, Tensor};

use super::WganTrainer;
use crate::critic::Critic;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::generator::Generator;
use crate::losses::Batching;
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

/// Holds generated samples to be part of candle's graph, without which no generator step could reach the generator.
pub(super) fn tracked(fake: Tensor) -> Result<Tensor> {
    if fake.track_op() {
        return Ok(fake);
    }
    Err(Error::NotConnected {
        what: "the generator's output".into(),
        on: "the generator's parameters: its forward pass detaches them".into(),
    })
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// Runs both models once on samples of the data's shape, without leaving a trace in them.
    pub(super) fn check_models<D: Dataset + ?Sized>(&self, data: &D) -> Result<()> {
        let batch = self.config.batch_size;
        let samples = [&[batch], data.sample_shape()].concat();

        let latent = self.latent("latent/check", 0, batch)?;
        let generator = &self.generator;
        let fake = (generator.parameters())
            .keeping_buffers(|| generator.model().forward(&latent, true))?;
        if fake.dims() != samples {
            return Err(Error::Shape {
                what: format!("the generator's output for {batch} latent points"),
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
        if self.config.lipschitz.penalises() && self.batching == Batching::Apart {
            return Err(Error::BatchNormUnderPenalty { shape: samples });
        }
        let samples = tracked(fake)?.detach();
        self.critic.parameters().keeping_buffers(|| {
            if self.config.lipschitz.penalises() {
                self.critic.model().scores_and_gradient(&samples).map(drop)
            } else {
                self.critic.model().scores(&samples).map(drop)
            }
        })
    }
}
