//! Where NaN or infinity came from, once a step has failed.
//!
//! Candle keeps the values of a forward pass in its graph, so the first of them that is not finite can be looked up, and the
//! parameters that it was computed from say which layer made it. The pass is run once more for that: nothing is paid for it
//! before something goes wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};

use super::WganTrainer;
use super::report::{CriticReport, Failure, finite_gradients};
use crate::critic::{Critic, given, score};
use crate::draws::{CriticDraws, GeneratorDraws};
use crate::error::{Error, Result};
use crate::generator::{Generator, generate};
use crate::ops::first_non_finite;
use crate::parameters::{Parameters, layer_of};
use crate::second_order::{Gradients, Traced};

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// The critic's gradients, held to be finite like the terms of the loss. Where the failure arose is to be
    /// [looked for](Self::located_in_critic_step) once nobody else uses the models.
    pub(super) fn finite_critic_gradients(
        &self,
        report: &CriticReport,
        loss: &Traced,
        gradients: impl FnOnce() -> Result<Gradients>,
    ) -> Result<GradStore, Failure> {
        let parameters = self.critic.parameters();
        report.check(self.step(), &self.config)?;
        finite_gradients("the critic loss", loss.detach(), gradients, parameters, self.step())
    }

    /// The generator's gradients, held to be finite like the loss.
    pub(super) fn finite_generator_gradients(
        &self,
        loss: Traced,
        draws: &GeneratorDraws,
    ) -> Result<GradStore> {
        let parameters = self.generator.parameters();
        let (value, gradients) = (loss.detach(), || loss.gradients());
        finite_gradients("the generator loss", value, gradients, parameters, self.step())
            .map_err(|failure| self.located_in_generator_step(failure, draws))
    }

    pub(super) fn located_in_critic_step(&self, failure: Failure, draws: &CriticDraws) -> Error {
        let CriticDraws { real, latent, labels, .. } = draws;
        let labels = labels.as_ref();
        failure.located(|gradients| {
            if !gradients.is_empty() {
                let pass = self.critic_pass(real, labels)?;
                return Ok(pass.last_layer_of(gradients));
            }
            if not_finite(real)? {
                return Ok(Some("the real samples".into()));
            }
            let (found, fake) = self.look_at_generator(latent, labels)?;
            if found.is_some() {
                return Ok(found);
            }
            let found = self.look_at_critic(&[real, &fake], labels)?;
            if found.is_some() || !self.config.lipschitz.penalises() {
                return Ok(found);
            }
            // All scores are finite: it is the penalty's own.
            let (_, gradient) = (self.critic.parameters()).keeping_buffers(|| {
                given(self.critic.model(), labels).scores_and_gradient(&fake)
            })?;
            let overflows = not_finite(&gradient)?;
            Ok(overflows.then(|| "the critic's gradient at the generated samples".into()))
        })
    }

    fn located_in_generator_step(&self, failure: Failure, draws: &GeneratorDraws) -> Error {
        let labels = draws.labels.as_ref();
        failure.located(|gradients| {
            let (found, fake) = self.look_at_generator(&draws.latent, labels)?;
            if found.is_some() {
                return Ok(found);
            }
            if gradients.is_empty() {
                return self.look_at_critic(&[&fake], labels);
            }
            let samples = Var::from_tensor(&fake)?;
            let scores = (self.critic.parameters())
                .keeping_buffers(|| given(self.critic.model(), labels).scores_frozen(&samples))?;
            match scores.sum_all()?.backward()?.get(&samples) {
                Some(gradient) if not_finite(gradient)? => {
                    Ok(Some("the critic's gradient at the generated samples".into()))
                }
                _ => Ok(self.generator_pass(&draws.latent, labels)?.last_layer_of(gradients)),
            }
        })
    }

    /// The first layer of the generator with something that is not finite, and the samples that it makes.
    fn look_at_generator(
        &self,
        latent: &Tensor,
        labels: Option<&Tensor>,
    ) -> Result<(Option<String>, Tensor)> {
        let pass = self.generator_pass(latent, labels)?;
        let found = match not_finite(latent)? {
            true => Some("the latent points".into()),
            false => pass.first_not_finite()?,
        };
        Ok((found, pass.output.detach()))
    }

    /// The same for the critic, on the first of these batches that shows any.
    fn look_at_critic(
        &self,
        batches: &[&Tensor],
        labels: Option<&Tensor>,
    ) -> Result<Option<String>> {
        for samples in batches {
            if let Some(found) = self.critic_pass(samples, labels)?.first_not_finite()? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn generator_pass(&self, latent: &Tensor, labels: Option<&Tensor>) -> Result<Pass<'_>> {
        let (input, parameters) = (Var::from_tensor(latent)?, self.generator.parameters());
        let output = parameters
            .keeping_buffers(|| generate(self.generator.model(), &input, labels, true))?;
        Ok(Pass { model: "generator", parameters, input, output })
    }

    fn critic_pass(&self, samples: &Tensor, labels: Option<&Tensor>) -> Result<Pass<'_>> {
        let (input, parameters) = (Var::from_tensor(samples)?, self.critic.parameters());
        let output = parameters.keeping_buffers(|| {
            score(&*given(self.critic.model(), labels), &Traced::plain(&input))
        })?;
        let output = output.raw().clone();
        Ok(Pass { model: "critic", parameters, input, output })
    }
}

fn not_finite(x: &Tensor) -> Result<bool> {
    Ok(first_non_finite(&x.detach())?.is_some())
}

/// One forward pass of a model, with all values between.
struct Pass<'a> {
    model: &'static str,
    parameters: &'a Parameters,
    /// Tracked, so that what is computed from it can be told from what is computed from parameters alone.
    input: Var,
    output: Tensor,
}

impl Pass<'_> {
    /// The layer that made the first value that is not finite, or the parameter that is one.
    fn first_not_finite(&self) -> Result<Option<String>> {
        // Each value comes after all that it was computed from.
        for value in self.output.sorted_nodes().into_iter().rev() {
            if !not_finite(value)? {
                continue;
            }
            if let Some(name) = self.names().get(&value.id()) {
                return Ok(Some(format!("the {}'s parameter {name}", self.model)));
            }
            return Ok(self.layers(value).pop().map(|layer| self.name(&layer)));
        }
        Ok(None)
    }

    /// The last layer, in the order of the forward pass, that one of these parameters belongs to: the first that a backward
    /// pass meets.
    fn last_layer_of(&self, parameters: &[String]) -> Option<String> {
        let among: BTreeSet<&str> = parameters.iter().map(|name| layer_of(name)).collect();
        let mut layers = self.layers(&self.output);
        layers.retain(|layer| among.contains(layer.as_str()));
        layers.pop().map(|layer| self.name(&layer))
    }

    fn name(&self, layer: &str) -> String {
        format!("the {}'s layer {layer}", self.model)
    }

    fn names(&self) -> HashMap<TensorId, &str> {
        let tensors = self.parameters.trained().chain(self.parameters.buffers());
        tensors.map(|(name, var)| (var.id(), name)).collect()
    }

    /// The layers that `value` was computed with, in the order of the forward pass: the later one is used, the fewer of the
    /// values on the way from the input depend on it.
    fn layers(&self, value: &Tensor) -> Vec<String> {
        let names = self.names();
        let mut dependants: BTreeMap<&str, usize> = BTreeMap::new();
        for node in value.sorted_nodes() {
            let origins = node.sorted_nodes();
            // What is made of parameters alone, such as a normalised weight, is not on the way. (`value` may be such.)
            let on_the_way = origins.iter().any(|origin| origin.id() == self.input.id());
            if on_the_way || node.id() == value.id() {
                let layers: BTreeSet<&str> = (origins.iter())
                    .filter_map(|origin| names.get(&origin.id()).copied().map(layer_of))
                    .collect();
                for layer in layers {
                    *dependants.entry(layer).or_default() += 1;
                }
            }
        }
        let mut layers: Vec<(&str, usize)> = dependants.into_iter().collect();
        layers.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        layers.into_iter().map(|(layer, _)| layer.to_owned()).collect()
    }
}
