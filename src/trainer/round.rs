//! The critic's steps between two of the generator's.
//!
//! The generator rests meanwhile. So what it makes next, the samples for the next critic step or for its own, can be made beside
//! the critic's gradients at the samples before.

use candle_core::Tensor;

use super::{CriticReport, WganTrainer, generated, learning_samples};
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::draws::{CriticDraws, GeneratorDraws};
use crate::error::Result;
use crate::generator::Generator;
use crate::kernels::beside;
use crate::second_order::Traced;

/// A step's draws, and the samples that the generator makes of them.
pub(super) struct Prepared<D, S> {
    pub(super) draws: D,
    pub(super) fake: S,
}

impl<D, S> Prepared<D, S> {
    fn new(draw: impl FnOnce() -> Result<D>, make: impl FnOnce(&D) -> Result<S>) -> Result<Self> {
        let draws = draw()?;
        let fake = make(&draws)?;
        Ok(Self { draws, fake })
    }
}

/// Of a generator step, whose samples lead back to the generator's parameters.
type PreparedForGenerator = Prepared<GeneratorDraws, Traced>;

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// So many critic steps, lines 2 to 8 of Algorithm 1, and the report of the last; with it what the generator step after them
    /// begins with. What fails in that belongs to the generator step.
    pub(super) fn critic_round<D: Dataset>(
        &mut self,
        batches: &mut Loader<D>,
        n_critic: usize,
    ) -> Result<(CriticReport, Result<PreparedForGenerator>)> {
        let draw = self.draw_critic(batches, self.critic_steps)?;
        let generator = self.generator.model();
        let mut prepared = Prepared::new(draw, |draws| generated(generator, draws))?;
        for _ in 1..n_critic {
            let draw = self.draw_critic(batches, self.critic_steps + 1);
            let next = |generator: &dyn Generator| {
                Prepared::new(|| draw?(), |draws| generated(generator, draws))
            };
            // What failed in the next step's samples belongs to that step: this one is done.
            prepared = self.critic_step_beside(&prepared, next)?.1?;
        }
        let draw = self.draw_generator();
        let next = |generator: &dyn Generator| {
            Prepared::new(draw, |draws| learning_samples(generator, draws))
        };
        self.critic_step_beside(&prepared, next)
    }

    /// A critic step, and what the generator makes meanwhile, or after it. The generator's pass is made where the critic's step
    /// fails too, so its running statistics follow both.
    fn critic_step_beside<T: Send>(
        &mut self,
        Prepared { draws, fake }: &Prepared<CriticDraws, Tensor>,
        make: impl FnOnce(&dyn Generator) -> T + Send,
    ) -> Result<(CriticReport, T)> {
        let learn = || self.critic_gradients(draws, fake);
        let (report, made) = match self.generator_beside_the_critic() {
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
