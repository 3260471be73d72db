//! The critic's steps between two of the generator's.
//!
//! The generator rests meanwhile. So what it makes next, the samples for the next critic step or those of its own, can be made beside the
//! critic's gradients at the samples before.

use candle_core::Tensor;

use super::draws::{DrawnForCritic, DrawnForGenerator};
use super::{CriticReport, WganTrainer, generated, learning_samples};
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::draws::{CriticDraws, GeneratorDraws};
use crate::error::Result;
use crate::generator::Generator;
use crate::kernels::beside;
use crate::second_order::Traced;

/// A critic step's draws, and the samples that the generator makes of them.
struct Prepared {
    draws: CriticDraws,
    fake: Tensor,
}

impl Prepared {
    fn new(generator: &dyn Generator, drawn: Result<DrawnForCritic>) -> Result<Self> {
        let draws = drawn?.complete()?;
        let fake = generated(generator, &draws)?;
        Ok(Self { draws, fake })
    }
}

/// A generator step's draws, and its samples on their way to the critic.
pub(super) struct PreparedForGenerator {
    pub(super) draws: GeneratorDraws,
    pub(super) fake: Traced,
}

impl PreparedForGenerator {
    fn new(generator: &dyn Generator, drawn: Result<DrawnForGenerator>) -> Result<Self> {
        let draws = drawn?.complete()?;
        let fake = learning_samples(generator, &draws)?;
        Ok(Self { draws, fake })
    }
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// So many critic steps, lines 2 to 8 of Algorithm 1, and the report of the last; with it what the generator step after them
    /// begins with. What fails in that belongs to the generator step.
    pub(super) fn critic_round<D: Dataset>(
        &mut self,
        batches: &mut Loader<D>,
        n_critic: usize,
    ) -> Result<(CriticReport, Result<PreparedForGenerator>)> {
        let first = self.draw_critic(batches, self.critic_steps);
        let mut prepared = Prepared::new(self.generator.model(), first)?;
        for _ in 1..n_critic {
            // What fails in it belongs to the next step.
            let next = self.draw_critic(batches, self.critic_steps + 1);
            let make = |generator: &dyn Generator| Prepared::new(generator, next);
            prepared = self.critic_step_beside(&prepared, make)?.1?;
        }
        let next = self.draw_generator();
        let make = |generator: &dyn Generator| PreparedForGenerator::new(generator, next);
        self.critic_step_beside(&prepared, make)
    }

    /// A critic step, and what the generator makes meanwhile: after it where only this thread may use the generator.
    fn critic_step_beside<T: Send>(
        &mut self,
        Prepared { draws, fake }: &Prepared,
        make: impl FnOnce(&dyn Generator) -> T + Send,
    ) -> Result<(CriticReport, T)> {
        let learn = || self.critic_gradients(draws, fake);
        let sync = self.generator.model().as_sync().filter(|_| self.device.is_cpu());
        let (report, made) = match sync {
            Some(generator) => {
                let (gradients, made) = beside(learn, || make(generator));
                (self.update_critic(draws, gradients), made)
            }
            None => {
                let gradients = learn();
                let report = self.update_critic(draws, gradients);
                (report, make(self.generator.model()))
            }
        };
        Ok((report?, made))
    }
}
