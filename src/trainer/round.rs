//! The critic's steps between two of the generator's.

use candle_core::Tensor;

use super::draws::Drawn;
use super::{CriticReport, WganTrainer, generated};
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::draws::CriticDraws;
use crate::error::Result;
use crate::generator::Generator;
use crate::kernels::beside;

/// A critic step's draws, and the samples that the generator makes of them.
struct Prepared {
    draws: CriticDraws,
    fake: Tensor,
}

impl Prepared {
    fn new<G: Generator + ?Sized>(generator: &G, drawn: Result<Drawn>) -> Result<Self> {
        let draws = drawn?.complete()?;
        let fake = generated(generator, &draws)?;
        Ok(Self { draws, fake })
    }
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// So many critic steps, and the report of the last: lines 2 to 8 of Algorithm 1.
    ///
    /// The generator rests meanwhile. So the samples for the next step can be made beside the critic's gradients at these.
    pub(super) fn critic_round<D: Dataset>(
        &mut self,
        batches: &mut Loader<D>,
        n_critic: usize,
    ) -> Result<CriticReport> {
        let mut report = CriticReport::default();
        let first = self.draw_critic(batches, self.critic_steps);
        let mut prepared = Some(Prepared::new(self.generator.model(), first)?);
        let mut left = n_critic;
        while let Some(Prepared { draws, fake }) = prepared {
            left = left.saturating_sub(1);
            // What fails in it belongs to the next step.
            let next = (left > 0).then(|| self.draw_critic(batches, self.critic_steps + 1));
            let learn = || self.critic_gradients(&draws, &fake);
            let (gradients, next) =
                match self.generator.model().as_sync().filter(|_| self.device.is_cpu()) {
                    Some(generator) => {
                        beside(learn, || next.map(|next| Prepared::new(generator, next)))
                    }
                    None => {
                        let generator = self.generator.model();
                        (learn(), next.map(|next| Prepared::new(generator, next)))
                    }
                };
            report = self.update_critic(&draws, gradients)?;
            prepared = next.transpose()?;
        }
        Ok(report)
    }
}
