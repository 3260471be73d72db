//! The two players' losses, their signs fixed here for the whole crate.
//!
//! | quantity | definition | source |
//! |---|---|---|
//! | Wasserstein estimate | mean f(real) - mean f(fake) | WGAN, equation 2 and Algorithm 1, line 5 |
//! | critic loss | -estimate + penalty, minimised | WGAN, Algorithm 1, line 6; WGAN-GP, equation 3 |
//! | generator loss | -mean f(G(z)), minimised | WGAN, Algorithm 1, line 10 |
//!
//! Each is a traced scalar: [`Traced::backward`] gives the gradients, and its [`value`](Traced::value) is part of candle's graph.

use candle_core::Tensor;

use crate::critic::{Critic, score};
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::second_order::{AtSamples, Traced};

/// How a critic is run over the real and the generated batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// In one pass over both: the same scores, faster.
    Together,
    /// In two passes, the real batch first, so that a batch normalisation sees each batch by itself, as PyTorch programs
    /// and the authors' code run it.
    Apart,
}

impl Batching {
    /// [`Apart`](Self::Apart) for a critic with buffers, which each pass moves: batch normalisation and spectral
    /// normalisation have them.
    #[must_use]
    pub fn for_critic(parameters: &Parameters) -> Self {
        if parameters.buffers().next().is_some() { Self::Apart } else { Self::Together }
    }
}

/// mean f(real) - mean f(fake), a scalar.
///
/// # Errors
/// The critic's; candle's where the two batches do not hold samples of one shape.
pub fn wasserstein_estimate(
    critic: &dyn Critic,
    real: &Tensor,
    fake: &Tensor,
    batching: Batching,
) -> Result<Traced> {
    wasserstein_estimate_keeping(critic, (real, fake), batching, None)
}

/// The same; keeps what layers make of both batches where they are run together.
pub(crate) fn wasserstein_estimate_keeping(
    critic: &dyn Critic,
    (real, fake): (&Tensor, &Tensor),
    batching: Batching,
    at_samples: Option<&AtSamples>,
) -> Result<Traced> {
    let (n, m) = (batch_size(real, "the real batch")?, batch_size(fake, "the fake batch")?);
    let (of_real, of_fake) = match batching {
        Batching::Together => {
            let samples = Traced::untracked(&Tensor::cat(&[real, fake], 0)?);
            let samples = match at_samples {
                Some(at_samples) => at_samples.samples(&samples),
                None => samples,
            };
            let scores = score(critic, &samples)?;
            (scores.narrow(0, 0, n)?, scores.narrow(0, n, m)?)
        }
        Batching::Apart => {
            (score(critic, &Traced::untracked(real))?, score(critic, &Traced::untracked(fake))?)
        }
    };
    of_real.mean_all()?.sub(&of_fake.mean_all()?)
}

/// What the critic minimises: -estimate + penalty.
///
/// # Errors
/// Candle's where one of the two is no scalar.
pub fn critic_loss(estimate: &Traced, penalty: Option<&Traced>) -> Result<Traced> {
    match penalty {
        Some(penalty) => penalty.sub(estimate),
        None => estimate.neg(),
    }
}

/// What the generator minimises, made of the critic's scores `(batch,)` of generated samples: -mean f(G(z)).
///
/// # Errors
/// [`Error::Shape`] where there are no scores.
pub fn generator_loss(scores: &Traced) -> Result<Traced> {
    batch_size(scores.raw(), "the batch of scores")?;
    scores.mean_all()?.neg()
}

fn batch_size(samples: &Tensor, what: &str) -> Result<usize> {
    match samples.dims() {
        [batch, ..] if *batch > 0 => Ok(*batch),
        got => Err(Error::Shape {
            what: what.into(),
            got: got.to_vec(),
            expected: "(batch, ...) with at least one sample".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::ModelBuilder;
    use crate::random::Stream;
    use candle_core::{DType, Device};
    use candle_nn::{BatchNorm, ModuleT, batch_norm};

    struct Normalised(BatchNorm);

    impl Critic for Normalised {
        fn forward(&self, samples: &Traced) -> Result<Traced> {
            samples.apply(&self.0)?.tanh()?.sum(1)
        }
    }

    /// A batch normalisation over both batches at once would let the real samples move the generated ones' scores.
    #[test]
    fn a_batch_norm_critic_sees_each_batch_by_itself() -> Result<()> {
        let network = ModelBuilder::new(0)
            .dtype(DType::F64)
            .critic(|vb| Ok(Normalised(batch_norm(3, 1e-5, vb)?)))?;
        let draw = |i, shift: f64| -> Result<Tensor> {
            let x = Stream::new(0, "x", i).normal((6, 3), DType::F64, &Device::Cpu)?;
            Ok(x.exp()?.affine(1.0, shift)?)
        };
        let (real, fake) = (draw(0, 0.0)?, draw(1, 3.0)?);
        let mean = |x: &Tensor| -> Result<f64> {
            let y = network.model().0.forward_t(x, true)?;
            Ok(y.tanh()?.sum(1)?.mean_all()?.to_scalar()?)
        };
        let expected = mean(&real)? - mean(&fake)?;
        assert_eq!(Batching::for_critic(network.parameters()), Batching::Apart);
        let estimate = |batching| -> Result<f64> {
            Ok(wasserstein_estimate(network.model(), &real, &fake, batching)?
                .detach()
                .to_scalar()?)
        };
        assert!((estimate(Batching::Apart)? - expected).abs() < 1e-14);
        assert!((estimate(Batching::Together)? - expected).abs() > 0.1);
        Ok(())
    }
}
