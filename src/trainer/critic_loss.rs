//! The critic's loss and its gradients, term by term.
//!
//! The loss is a sum, and so are its gradients: each term is differentiated by itself. The terms share nothing but samples and the
//! critic's parameters, which neither changes, so two threads can make them, where threads that share the loops of one pass wait for
//! each other at the end of each. One after the other the estimate comes first, for a critic with
//! buffers, which each of its passes moves.

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
        let (lipschitz, batching, size) =
            (self.config.lipschitz, self.batching, &self.critic_pass_size);
        let (samples, at_samples) = ((real, fake), AtSamples::default());
        let forward = |critic: &dyn Critic| -> Result<Traced> {
            let estimate = wasserstein_estimate_keeping(critic, samples, batching, &at_samples)?;
            size.see(&estimate);
            Ok(estimate)
        };
        let learn = |estimate: Traced| {
            let (value, minimised) = (estimate.detach(), estimate.neg()?);
            drop(estimate); // so that the backward pass frees what it holds as it goes
            Term::new(value, minimised)
        };
        let penalty = |critic: &dyn Critic| {
            let penalty =
                lipschitz.penalty_knowing(critic, samples, epsilon.as_ref(), &at_samples)?;
            penalty.map(|penalty| Term::new(penalty.detach(), penalty)).transpose()
        };
        let critic = given(self.critic.model(), labels.as_ref());
        let estimate = forward(&*critic)?;
        let (penalty, estimate) = match self.critic_for_two_terms() {
            Some(critic) => {
                let critic = given(critic, labels.as_ref());
                beside(|| penalty(&*critic), || learn(estimate))
            }
            None => {
                let estimate = learn(estimate)?;
                (penalty(&*critic), Ok(estimate))
            }
        };
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
