//! Figures that say whether a critic and a generator are in order, beyond the losses of a run.
//!
//! | figure | in order | what it says |
//! |---|---|---|
//! | gap: held-out less training critic loss | near 0 | above 0 the critic knows the training samples by heart (WGAN-GP, section 5.3) |
//! | norms of the critic's gradient | near the penalty's target | their largest is an empirical Lipschitz constant |
//! | share of weights at the clip bound | below 0.95 | a critic of nothing but ±c is a very simple function (WGAN-GP, section 3) |
//! | gradient norms by layer | within some powers of ten | where gradients vanish or explode on their way |

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use crate::critic::{Critic, given, score};
use crate::draws::CriticDraws;
use crate::error::{Error, Result};
use crate::generator::{Generator, generate};
use crate::lipschitz::{Lipschitz, penalty};
use crate::losses::{Batching, critic_loss, generator_loss, wasserstein_estimate};
use crate::network::Network;
use crate::optimizers::tensor_norm;
use crate::parameters::{Parameters, layer_of};
use crate::second_order::Traced;

/// What one look at both models finds: see [the module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnosis {
    /// The critic's loss, penalty included, on training samples.
    pub critic_loss: f64,
    /// The same on held-out samples, with other latent points and coefficients.
    pub held_out_critic_loss: Option<f64>,
    /// The length of the critic's gradient at each real sample. `None`, like the next two, for a critic with batch
    /// normalisation, whose scores have no gradient of one sample's own.
    pub real: Option<Norms>,
    /// At each generated sample.
    pub fake: Option<Norms>,
    /// At points between the two, one coefficient for each pair.
    pub interpolates: Option<Norms>,
    /// Under weight clipping: the share of the critic's trained elements that lie at ±c.
    pub share_at_bound: Option<f64>,
    /// The norm of the critic loss's gradient for each of the critic's layers, in the order of their names. A layer is what
    /// parameters of one prefix belong to: `fc1.weight` and `fc1.bias` to `fc1`.
    pub critic_gradients: Vec<(String, f64)>,
    /// The norm of the generator loss's gradient for each of the generator's layers.
    pub generator_gradients: Vec<(String, f64)>,
}

/// Lengths of the critic's gradient over the samples of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norms {
    /// Their mean.
    pub mean: f64,
    /// The largest.
    pub max: f64,
}

impl Diagnosis {
    /// Held-out less training critic loss.
    #[must_use]
    pub fn gap(&self) -> Option<f64> {
        self.held_out_critic_loss.map(|held_out| held_out - self.critic_loss)
    }

    /// The largest gradient that was met: the critic's Lipschitz constant is this or more.
    #[must_use]
    pub fn lipschitz(&self) -> Option<f64> {
        let norms = [self.real, self.fake, self.interpolates].into_iter().flatten();
        norms.map(|norms| norms.max).reduce(f64::max)
    }
}

/// Looks at both models, and leaves their buffers as they were.
pub(crate) fn diagnose<G: Generator, C: Critic>(
    generator: &Network<G>,
    critic: &Network<C>,
    lipschitz: Lipschitz,
    training: &CriticDraws,
    held_out: Option<&CriticDraws>,
) -> Result<Diagnosis> {
    generator.parameters().keeping_buffers(|| {
        critic
            .parameters()
            .keeping_buffers(|| look(generator, critic, lipschitz, training, held_out))
    })
}

fn look<G: Generator, C: Critic>(
    generator: &Network<G>,
    critic: &Network<C>,
    lipschitz: Lipschitz,
    training: &CriticDraws,
    held_out: Option<&CriticDraws>,
) -> Result<Diagnosis> {
    training.check()?;
    let labels = training.labels.as_ref();
    let model = given(critic.model(), labels);
    let fake = generate(generator.model(), &training.latent, labels, true)?;

    let loss = loss(&*model, critic.parameters(), lipschitz, training, &fake.detach())?;
    let critic_loss = number(&loss.detach())?;
    let critic_gradients = by_layer(critic.parameters(), &loss.backward()?)?;
    let of_generator = generator_loss(&score(&*model, &Traced::frozen(&fake))?)?;
    let generator_gradients = by_layer(generator.parameters(), &of_generator.backward()?)?;

    let (real, fake) = (&training.real, fake.detach());
    let interpolates = penalty::interpolates(real, &fake, training.epsilon.as_ref())?;
    let norms = |points: &Tensor| match model.scores_and_gradient(&points.detach()) {
        Ok((_, gradient)) => norms(&gradient).map(Some),
        Err(Error::BatchNormUnderPenalty { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    Ok(Diagnosis {
        critic_loss,
        held_out_critic_loss: held_out
            .map(|draws| {
                draws.check()?;
                let labels = draws.labels.as_ref();
                let model = given(critic.model(), labels);
                let fake = generate(generator.model(), &draws.latent, labels, true)?.detach();
                let loss = self::loss(&*model, critic.parameters(), lipschitz, draws, &fake)?;
                number(&loss.detach())
            })
            .transpose()?,
        real: norms(real)?,
        fake: norms(&fake)?,
        interpolates: norms(&interpolates)?,
        share_at_bound: match lipschitz {
            Lipschitz::Clip { c } => {
                let weights = critic.parameters().trained().map(|(_, var)| var.as_tensor());
                Some(share_at_bound(weights, c)?)
            }
            _ => None,
        },
        critic_gradients,
        generator_gradients,
    })
}

fn loss(
    critic: &dyn Critic,
    parameters: &Parameters,
    lipschitz: Lipschitz,
    draws: &CriticDraws,
    fake: &Tensor,
) -> Result<Traced> {
    let batching = Batching::for_critic(parameters);
    let estimate = wasserstein_estimate(critic, &draws.real, fake, batching)?;
    let penalty = lipschitz.penalty(critic, &draws.real, fake, draws.epsilon.as_ref())?;
    critic_loss(&estimate, penalty.as_ref())
}

/// The share of all elements that lie at ±c, or beyond.
pub(crate) fn share_at_bound<'a>(weights: impl Iterator<Item = &'a Tensor>, c: f64) -> Result<f64> {
    let (mut at, mut all) = (0.0, 0);
    for weight in weights {
        // The bound as the weight's type has it, in a sum that is exact up to 2^53 elements.
        let bound = Tensor::new(c, &Device::Cpu)?.to_dtype(weight.dtype())?;
        let bound: f64 = bound.to_dtype(DType::F64)?.to_scalar()?;
        let inside = weight.detach().to_device(&Device::Cpu)?.abs()?.ge(bound)?;
        at += number(&inside.to_dtype(DType::F64)?.sum_all()?)?;
        all += weight.elem_count();
    }
    Ok(at / all.max(1) as f64)
}

fn norms(gradient: &Tensor) -> Result<Norms> {
    let norms = penalty::norms(&Traced::untracked(&gradient.detach()))?.detach();
    Ok(Norms { mean: number(&norms.mean_all()?)?, max: number(&norms.max(0)?)? })
}

/// The norm of the gradients of each layer's parameters together.
fn by_layer(parameters: &Parameters, gradients: &GradStore) -> Result<Vec<(String, f64)>> {
    let mut squares: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, parameter) in parameters.trained() {
        let norm = gradients.get(parameter).map_or(Ok(0.0), tensor_norm)?;
        *squares.entry(layer_of(name)).or_default() += norm * norm;
    }
    Ok(squares.into_iter().map(|(layer, square)| (layer.to_owned(), square.sqrt())).collect())
}

fn number(scalar: &Tensor) -> Result<f64> {
    // To the host first: not every device has f64.
    Ok(scalar.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use candle_nn::{VarBuilder, batch_norm};

    use super::*;
    use crate::network::ModelBuilder;
    use crate::random::Stream;
    use crate::second_order::Traced;
    use crate::zoo::{MlpGenerator, MlpGeneratorConfig};

    /// f(x) = w . x, whose gradient is w everywhere.
    struct Plane(Tensor);

    impl Critic for Plane {
        fn forward(&self, samples: &Traced) -> Result<Traced> {
            samples.broadcast_mul(&samples.parameter(&self.0))?.sum(1)
        }
    }

    fn plane(vb: VarBuilder<'static>) -> Result<Plane> {
        Ok(Plane(vb.get_with_hints(2, "plane.weight", candle_nn::Init::Const(3.0))?))
    }

    fn generator() -> Network<MlpGenerator> {
        let config = MlpGeneratorConfig {
            latent_dim: 3,
            hidden: vec![4],
            sample_shape: vec![2],
            ..Default::default()
        };
        let build = ModelBuilder::new(0).dtype(DType::F64);
        build.generator(|vb| MlpGenerator::new(config, vb)).unwrap()
    }

    fn draws(shift: f64) -> CriticDraws {
        let draw = |name: &str, shape: (usize, usize)| {
            Stream::new(0, name, 0).normal(shape, DType::F64, &Device::Cpu).unwrap()
        };
        let real = draw("real", (6, 2)).affine(1.0, shift).unwrap();
        let epsilon = Tensor::full(0.5, 6, &Device::Cpu).unwrap();
        CriticDraws::new(real, draw("latent", (6, 3)), Some(epsilon))
    }

    /// For a plane every figure follows by hand.
    #[test]
    fn the_figures_are_those_of_their_definitions() -> Result<()> {
        let critic = ModelBuilder::new(0).dtype(DType::F64).critic(plane)?;
        let generator = generator();
        let buffers = || -> Vec<f64> {
            let buffers = generator.parameters().buffers();
            buffers.flat_map(|(_, var)| var.to_vec1::<f64>().unwrap()).collect()
        };
        let before = buffers();
        let (training, held_out) = (draws(0.0), draws(2.0));
        let lipschitz = Lipschitz::gradient_penalty();
        let found = diagnose(&generator, &critic, lipschitz, &training, Some(&held_out))?;
        let close = |got: f64, expected: f64| {
            assert!((got - expected).abs() < 1e-12, "{got} for {expected}");
        };
        let length = 18f64.sqrt();
        for norms in [found.real, found.fake, found.interpolates] {
            close(norms.unwrap().mean, length);
            close(norms.unwrap().max, length);
        }
        close(found.lipschitz().unwrap(), length);
        // Each real sample scores 3 * 2 * 2 more, the penalty is the same.
        close(found.gap().unwrap(), -12.0);
        let fake = generate(generator.model(), &training.latent, None, true)?;
        let mean = |x: &Tensor| -> Result<f64> { Ok(x.sum(1)?.mean_all()?.to_scalar()?) };
        let estimate = 3.0 * (mean(&training.real)? - mean(&fake)?);
        close(found.critic_loss, -estimate + 10.0 * (length - 1.0).powi(2));
        assert_eq!(found.share_at_bound, None);
        // d loss / d w = mean fake - mean real + 20 (|w| - 1) w / |w|.
        let difference = fake.mean(0)?.sub(&training.real.mean(0)?)?.to_vec1::<f64>()?;
        let along = 20.0 * (length - 1.0) * 3.0 / length;
        let expected = (difference[0] + along).hypot(difference[1] + along);
        assert_eq!(found.critic_gradients.len(), 1);
        assert_eq!(found.critic_gradients[0].0, "plane");
        close(found.critic_gradients[0].1, expected);
        let names: Vec<&str> =
            found.generator_gradients.iter().map(|(name, _)| name.as_str()).collect();
        let layers: Vec<&str> =
            generator.parameters().trained().map(|(n, _)| layer_of(n)).collect();
        assert!(layers.iter().all(|layer| names.contains(layer)), "{names:?}");
        assert!(found.generator_gradients.iter().all(|(_, norm)| *norm > 0.0));
        drop(fake);
        assert_eq!(buffers().len(), before.len());
        Ok(())
    }

    #[test]
    fn a_look_leaves_no_trace() -> Result<()> {
        let critic = ModelBuilder::new(0).dtype(DType::F64).critic(plane)?;
        let generator = generator();
        let bits = |parameters: &Parameters| -> Vec<Vec<f64>> {
            let tensors = parameters.tensors().into_values();
            tensors.map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        let before = (bits(generator.parameters()), bits(critic.parameters()));
        let draws = draws(0.0);
        diagnose(&generator, &critic, Lipschitz::default(), &draws, Some(&draws))?;
        assert_eq!((bits(generator.parameters()), bits(critic.parameters())), before);
        Ok(())
    }

    /// Batch statistics leave no gradient of one sample's own; all else can be said.
    #[test]
    fn a_critic_with_batch_norm_has_no_norms() -> Result<()> {
        struct Normalised(candle_nn::BatchNorm);
        impl Critic for Normalised {
            fn forward(&self, samples: &Traced) -> Result<Traced> {
                samples.apply(&self.0)?.tanh()?.sum(1)
            }
        }
        let build = ModelBuilder::new(0).dtype(DType::F64);
        let critic = build.critic(|vb| Ok(Normalised(batch_norm(2, 1e-5, vb.pp("bn"))?)))?;
        let found = diagnose(&generator(), &critic, Lipschitz::default(), &draws(0.0), None)?;
        assert_eq!((found.real, found.lipschitz(), found.gap()), (None, None, None));
        assert!(found.critic_loss.is_finite());
        Ok(())
    }

    #[test]
    fn weights_at_the_bound_are_counted_in_their_own_type() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let weights = Tensor::new(&[[0.02, -0.3, 0.005], [0.0, -0.01, 0.01]], &Device::Cpu)?;
            let weights = Var::from_tensor(&weights.to_dtype(dtype)?)?;
            crate::ops::in_place::clamp(&weights, 0.01)?;
            let other = Tensor::zeros(2, dtype, &Device::Cpu)?;
            assert_eq!(share_at_bound([weights.as_tensor(), &other].into_iter(), 0.01)?, 0.5);
        }
        Ok(())
    }
}
