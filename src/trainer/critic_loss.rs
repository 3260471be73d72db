//! The critic's loss and its gradients, term by term.
//!
//! The loss is a sum, and so are its gradients: each term is differentiated by itself. The estimate's forward pass comes first: the
//! penalty takes from it what a first layer makes of the samples, and a critic with buffers is moved by each of its passes. Then
//! the way back of the estimate and the penalty share nothing but what neither changes, so two threads can make them, where
//! threads that share the loops of one pass wait for each other at the end of each.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::WganTrainer;
use super::report::{CriticReport, Failure, number};
use crate::critic::{Critic, given};
use crate::draws::CriticDraws;
use crate::error::Result;
use crate::generator::Generator;
use crate::kernels::beside;
use crate::losses::{critic_loss, wasserstein_estimate_keeping};
use crate::second_order::{AtSamples, Gradients, Traced};

/// A term of the loss.
struct Term {
    value: Traced,
    gradients: Gradients,
}

impl Term {
    /// Of a value that is not finite there are no gradients: the step ends there.
    fn new(value: Tensor, minimised: Traced) -> Result<Self> {
        let finite = number(value.clone())?.is_finite();
        let gradients = if finite { minimised.gradients()? } else { Gradients::default() };
        Ok(Self { value: Traced::untracked(&value), gradients })
    }
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// The loss at these samples, and its gradients with respect to the critic's parameters: lines 5 and 6 of Algorithm 1.
    ///
    /// Where a failure arose is not looked for yet: the generator may be at work beside this.
    pub(super) fn critic_gradients(
        &self,
        draws: &CriticDraws,
        fake: &Tensor,
    ) -> Result<(CriticReport, GradStore), Failure> {
        let CriticDraws { real, epsilon, labels, .. } = draws;
        let (lipschitz, samples) = (self.config.lipschitz, (real, fake));
        let critic = given(self.critic.model(), labels.as_ref());
        let kept = lipschitz.penalises().then(AtSamples::default);
        let at_samples = kept.as_ref();
        let learn = |estimate: Traced| {
            let (value, minimised) = (estimate.detach(), estimate.neg()?);
            drop(estimate); // so that the backward pass frees what it holds as it goes
            Term::new(value, minimised)
        };
        let penalty = || {
            let penalty =
                lipschitz.penalty_knowing(&*critic, samples, epsilon.as_ref(), at_samples)?;
            penalty.map(|penalty| Term::new(penalty.detach(), penalty)).transpose()
        };
        let estimate = wasserstein_estimate_keeping(&*critic, samples, self.batching, at_samples)?;
        self.critic_pass_size.see(&estimate);
        let (penalty, estimate) = if self.makes_two_terms_at_once() {
            beside(penalty, || learn(estimate))
        } else {
            let estimate = learn(estimate)?;
            (penalty(), Ok(estimate))
        };
        drop(kept); // whose outputs nobody asks for again
        let (estimate, penalty) = (estimate?, penalty?);

        let of_penalty = penalty.as_ref().map(|penalty| &penalty.value);
        let loss = critic_loss(&estimate.value, of_penalty)?;
        let report = CriticReport::read(&estimate.value, &loss, of_penalty)?;
        let gradients = || match penalty {
            Some(penalty) => estimate.gradients.and(penalty.gradients),
            None => Ok(estimate.gradients),
        };
        let gradients = self.finite_critic_gradients(&report, &loss, gradients)?;
        Ok((report, gradients))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::count::counted;
    use crate::random::Stream;
    use crate::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
    use crate::{Lipschitz, ModelBuilder, TrainConfig};

    /// Matrix products of the critic's gradients for samples of so many features; on one thread, where they are counted.
    fn products(features: usize, lipschitz: Lipschitz) -> Result<usize> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
        pool.install(|| products_here(features, lipschitz))
    }

    fn products_here(features: usize, lipschitz: Lipschitz) -> Result<usize> {
        let sample_shape = vec![features];
        let build = ModelBuilder::new(0);
        let settings =
            MlpGeneratorConfig { sample_shape: sample_shape.clone(), ..Default::default() };
        let generator = build.generator(|vb| MlpGenerator::new(settings, vb))?;
        let settings = MlpCriticConfig { sample_shape, ..Default::default() };
        let critic = build.critic(|vb| MlpCritic::new(settings, vb))?;
        let config = TrainConfig { lipschitz, ..TrainConfig::wgan_gp() };
        let trainer = WganTrainer::new(generator, critic, config)?;
        let draw =
            |name: &str| Stream::new(0, name, 0).normal((4, features), DType::F32, &Device::Cpu);
        let epsilon =
            Stream::new(0, "epsilon", 0).uniform(0.0, 1.0, 4, DType::F32, &Device::Cpu)?;
        let draws = CriticDraws::new(draw("real")?, draw("latent")?, Some(epsilon));
        let fake = draw("fake")?;
        let (gradients, (_, products)) = counted(|| trainer.critic_gradients(&draws, &fake));
        assert!(gradients.is_ok());
        Ok(products)
    }

    /// What the first layer makes of the samples is not computed again for the penalty, if the layer has inputs enough.
    #[test]
    fn a_penalty_takes_from_the_estimate_what_is_known() -> Result<()> {
        for lipschitz in [Lipschitz::gradient_penalty(), Lipschitz::divergence_tutorials()] {
            assert_eq!(products(60, lipschitz)?, products(64, lipschitz)? + 1, "{lipschitz:?}");
        }
        let clip = Lipschitz::default();
        assert_eq!(products(60, clip)?, products(64, clip)?);
        Ok(())
    }
}
