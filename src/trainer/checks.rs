//! What must hold before the first step.

use candle_core::{DType, Device};

use super::WganTrainer;
use crate::critic::{Critic, given};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::generator::{Generator, labels_in_turn};
use crate::layers;
use crate::parameters::{Parameters, is_statistic};
use crate::second_order::Traced;

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

/// Holds generated samples to be computed from parameters, without which no generator step could reach the generator.
pub(super) fn tracked(fake: Traced) -> Result<Traced> {
    if fake.reaches_leaf() {
        return Ok(fake);
    }
    Err(Error::NotConnected {
        what: "the generator's output".into(),
        on: "the generator's parameters: its forward pass detaches them".into(),
    })
}

/// The number of classes that both models share.
pub(super) fn common_classes(
    generator: &dyn Generator,
    critic: &dyn Critic,
) -> Result<Option<usize>> {
    let name = |classes: Option<usize>| classes.map_or("none".into(), |n| n.to_string());
    let (generator, critic) = (generator.classes(), critic.classes());
    if generator != critic || generator == Some(0) {
        let value = format!("{} (generator) and {} (critic)", name(generator), name(critic));
        let expected = "the same number for both, 1 or more, or none for both";
        return Err(Error::config("the pair's number of classes", value, expected));
    }
    Ok(generator)
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// Holds the data to have a label below the number of classes for each sample, where the models ask for them.
    pub(super) fn check_labels<D: Dataset + ?Sized>(&self, data: &D) -> Result<()> {
        let Some(classes) = self.classes else {
            return Ok(());
        };
        const AT_ONCE: usize = 1 << 16;
        for first in (0..data.len()).step_by(AT_ONCE) {
            let indices: Vec<usize> =
                (first..data.len().min(first.saturating_add(AT_ONCE))).collect();
            let Some(labels) = data.label_batch(&indices)? else {
                let expected =
                    format!("a label below {classes} for each sample: the models are conditional");
                return Err(Error::config("the data set's labels", "absent", expected));
            };
            layers::check_labels("the data set", &labels, indices.len(), classes)?;
        }
        Ok(())
    }

    /// Runs both models once on samples of the data's shape, without leaving a trace in them.
    pub(super) fn check_models<D: Dataset + ?Sized>(&self, data: &D) -> Result<()> {
        let batch = self.config.batch_size;
        let samples = [&[batch], data.sample_shape()].concat();

        let latent = self.latent("latent/check", 0, batch)?;
        let labels = labels_in_turn(self.generator.model(), 0, batch)?;
        let (generator, labels) = (&self.generator, labels.as_ref());
        let fake = (generator.parameters()).keeping_buffers(|| {
            generator.model().forward_traced(&Traced::untracked(&latent), labels, true)
        })?;
        self.generator_pass_size.see(&fake);
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
        // A critic of candle's own layers inside `ModuleCritic` cannot notice it by itself.
        let mut buffers = self.critic.parameters().buffers();
        if self.config.lipschitz.penalises() && buffers.any(|(name, _)| is_statistic(name)) {
            return Err(Error::BatchNormUnderPenalty { shape: samples });
        }
        let samples = tracked(fake)?.detach();
        let critic = given(self.critic.model(), labels);
        self.critic.parameters().keeping_buffers(|| {
            if self.config.lipschitz.penalises() {
                critic.scores_and_gradient(&samples).map(drop)
            } else {
                critic.scores(&samples).map(drop)
            }
        })
    }
}
