//! The models as observers see them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::critic::Critic;
use crate::diagnosis::{Diagnosis, diagnose};
use crate::draws::CriticDraws;
use crate::error::Result;
use crate::generator::{Generator, generate, labels_in_turn};
use crate::lipschitz::Lipschitz;
use crate::network::Network;
use crate::observers::Models;
use crate::parameters::Parameters;

/// Both models and the generator's average.
pub(super) struct View<'a, G, C> {
    pub(super) generator: &'a Network<G>,
    pub(super) critic: &'a Network<C>,
    pub(super) average: Option<&'a Parameters>,
    pub(super) lipschitz: Lipschitz,
    pub(super) steps: u64,
}

impl<G: Generator, C: Critic> Models for View<'_, G, C> {
    fn generate(&self, latent: &Tensor, first: usize) -> Result<Tensor> {
        let labels = labels_in_turn(self.generator.model(), first, latent.dim(0)?)?;
        self.generator.averaged(self.average, || {
            Ok(generate(self.generator.model(), latent, labels.as_ref(), false)?.detach())
        })
    }

    fn latent_dim(&self) -> usize {
        self.generator.model().latent_dim()
    }

    fn device(&self) -> &Device {
        self.generator.parameters().place().map_or(&Device::Cpu, |(device, _)| device)
    }

    fn dtype(&self) -> DType {
        self.generator.parameters().place().map_or(DType::F32, |(_, dtype)| dtype)
    }

    fn generator_tensors(&self) -> BTreeMap<String, Tensor> {
        self.generator.parameters().tensors()
    }

    fn critic_tensors(&self) -> BTreeMap<String, Tensor> {
        self.critic.parameters().tensors()
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn classes(&self) -> Option<usize> {
        self.generator.model().classes()
    }

    fn diagnose(
        &self,
        training: &CriticDraws,
        held_out: Option<&CriticDraws>,
    ) -> Result<Diagnosis> {
        diagnose(self.generator, self.critic, self.lipschitz, training, held_out)
    }

    fn average_tensors(&self) -> Option<BTreeMap<String, Tensor>> {
        self.average.map(Parameters::tensors)
    }
}
