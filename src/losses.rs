//! The two players' losses, their signs fixed here for the whole crate.
//!
//! | quantity | definition | source |
//! |---|---|---|
//! | Wasserstein estimate | mean f(real) - mean f(fake) | WGAN, equation 2 and Algorithm 1, line 5 |
//! | critic loss | -estimate + penalty, minimised | WGAN, Algorithm 1, line 6; WGAN-GP, equation 3 |
//! | generator loss | -mean f(G(z)), minimised | WGAN, Algorithm 1, line 10 |

use candle_core::Tensor;

use crate::critic::Critic;
use crate::error::{Error, Result};

/// mean f(real) - mean f(fake), a scalar, with one pass of the critic over both batches.
///
/// # Errors
/// The critic's; candle's where the two batches do not hold samples of one shape.
pub fn wasserstein_estimate(critic: &dyn Critic, real: &Tensor, fake: &Tensor) -> Result<Tensor> {
    let (n, m) = (batch_size(real, "the real batch")?, batch_size(fake, "the fake batch")?);
    let scores = critic.scores(&Tensor::cat(&[real, fake], 0)?)?;
    let (of_real, of_fake) = (scores.narrow(0, 0, n)?, scores.narrow(0, n, m)?);
    Ok(of_real.mean_all()?.sub(&of_fake.mean_all()?)?)
}

/// What the critic minimises: -estimate + penalty.
///
/// # Errors
/// Candle's where one of the two is no scalar.
pub fn critic_loss(estimate: &Tensor, penalty: Option<&Tensor>) -> Result<Tensor> {
    match penalty {
        Some(penalty) => Ok(penalty.sub(estimate)?),
        None => Ok(estimate.neg()?),
    }
}

/// What the generator minimises, made of the critic's scores `(batch,)` of generated samples: -mean f(G(z)).
///
/// # Errors
/// Candle's where there are no scores.
pub fn generator_loss(scores: &Tensor) -> Result<Tensor> {
    Ok(scores.mean_all()?.neg()?)
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
