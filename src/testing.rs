//! Gradient checks for models of one's own.
//!
//! One line in a test tells the author of a critic whether its gradients are right, to the first order and to the second:
//!
//! ```
//! use candle_core::{DType, Device};
//! use wgan::random::Stream;
//! use wgan::testing::check_critic;
//! use wgan::zoo::{MlpCritic, MlpCriticConfig};
//! use wgan::ModelBuilder;
//!
//! # fn main() -> wgan::Result<()> {
//! let config = MlpCriticConfig { sample_shape: vec![3], hidden: vec![8, 8], ..Default::default() };
//! let critic = ModelBuilder::new(0).dtype(DType::F64).critic(|vb| MlpCritic::new(config, vb))?;
//! let samples = Stream::new(0, "samples", 0).normal((4, 3), DType::F64, &Device::Cpu)?;
//!
//! let report = check_critic(&critic, &samples)?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! Every derivative is held to central differences along random directions, one for each parameter, at three step sizes of
//! which the best counts: beside a kink, as a ReLU's at 0, one of them may reach across. What is wrong comes back as
//! [`Error::WrongGradient`], which names the parameter and both figures.

use std::fmt;

use candle_core::{DType, Tensor, Var};

use crate::critic::{Critic, given};
use crate::error::{Error, Result};
use crate::generator::{Generator, generate};
use crate::network::Network;
use crate::parameters::Parameters;
use crate::random::Stream;

/// Differences are taken at these steps.
const STEPS: [f64; 3] = [1e-4, 1e-5, 1e-6];

/// The largest error that passes, relative to the derivative. A wrong rule is off by far more.
const TOLERANCE: f64 = 1e-5;

/// What a check found, all of it within the tolerance.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GradientReport {
    /// How many parameters were checked.
    pub parameters: usize,
    /// The largest relative error of a score's gradient with respect to its sample; 0 for a generator.
    pub input: f64,
    /// The largest relative error of the first order: the output's gradient for a parameter.
    pub first_order: f64,
    /// The largest relative error of the second order: the gradient for a parameter of the input gradient's length; 0 for a
    /// generator.
    pub second_order: f64,
}

impl fmt::Display for GradientReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} parameters agree with central differences; largest relative errors: input {:.1e}, first order {:.1e}, second \
             order {:.1e}",
            self.parameters, self.input, self.first_order, self.second_order
        )
    }
}

/// Checks a critic on samples `(batch, ...)`: that each score depends on its own sample alone, that its input gradient is
/// right, with the parameters as constants too, as in a generator's step, and that the gradients of the scores and of a
/// penalty on the input gradient reach every parameter in full.
///
/// The model must be in `f64`, and is left as it was. A critic with spectral normalisation is checked as if its power
/// iteration had converged; run some batches through it first. A [`ModuleCritic`](crate::ModuleCritic) does not pass: its
/// input gradient is a constant, and its penalties do not use it.
///
/// # Errors
/// [`Error::WrongGradient`] with the first derivative that is wrong; [`Error::DType`] for a model or samples not in `f64`;
/// [`Error::Shape`] for no samples;
/// [`Error::BatchNormUnderPenalty`], since a batch normalisation has no gradient per sample; those of the model.
pub fn check_critic<C: Critic>(critic: &Network<C>, samples: &Tensor) -> Result<GradientReport> {
    check(critic, samples, None)
}

/// The same for a class-conditional critic, given the labels `(batch,)` of the samples.
///
/// # Errors
/// Those of [`check_critic`]; [`Error::Shape`] and [`Error::InvalidConfig`] for labels that do not fit.
pub fn check_conditional_critic<C: Critic>(
    critic: &Network<C>,
    samples: &Tensor,
    labels: &Tensor,
) -> Result<GradientReport> {
    check(critic, samples, Some(labels))
}

/// Checks a generator in training mode on latent points `(batch, latent)`: that the gradients of its output reach every
/// parameter in full. A conditional one is given `labels` `(batch,)`.
///
/// The model must be in `f64`, and is left as it was.
///
/// # Errors
/// [`Error::WrongGradient`] with the first derivative that is wrong; [`Error::DType`] for a model or points not in `f64`;
/// those of the model.
pub fn check_generator<G: Generator>(
    generator: &Network<G>,
    latent: &Tensor,
    labels: Option<&Tensor>,
) -> Result<GradientReport> {
    let parameters = generator.parameters();
    in_f64(parameters, latent, labels)?;
    let sum = || {
        let output = generate(generator.model(), latent, labels, true)?;
        weighted_sum("output", &output)
    };
    let first_order = parameter_derivatives("the generator's output", parameters, &sum)?;
    let count = parameters.trained().count();
    Ok(GradientReport { parameters: count, input: 0.0, first_order, second_order: 0.0 })
}

fn check<C: Critic>(
    network: &Network<C>,
    samples: &Tensor,
    labels: Option<&Tensor>,
) -> Result<GradientReport> {
    let parameters = network.parameters();
    in_f64(parameters, samples, labels)?;
    let critic = &*given(network.model(), labels);
    each_sample_by_itself(network, samples, labels)?;
    let input = input_derivatives(critic, parameters, samples)?;
    let input = input.max(generators_derivatives(critic, parameters, samples)?);
    let scores = || weighted_sum("scores", &critic.scores(samples)?);
    let first_order = parameter_derivatives("the scores", parameters, &scores)?;
    let length = || Ok(critic.scores_and_gradient(samples)?.1.sqr()?.sum_all()?);
    let name = "the squared length of the input gradient";
    let second_order = parameter_derivatives(name, parameters, &length)?;
    let count = parameters.trained().count();
    Ok(GradientReport { parameters: count, input, first_order, second_order })
}

fn in_f64(parameters: &Parameters, input: &Tensor, labels: Option<&Tensor>) -> Result<()> {
    let batch = input.dims().first().copied().unwrap_or(0);
    if input.elem_count() == 0 || labels.is_some_and(|labels| labels.dims() != [batch]) {
        return Err(Error::Shape {
            what: "what a gradient check is given".into(),
            got: input.dims().to_vec(),
            expected: "at least one sample, with one label each where there are labels".into(),
        });
    }
    let model = parameters.place().map_or(DType::F64, |(_, dtype)| dtype);
    if model == DType::F64 && input.dtype() == DType::F64 {
        return Ok(());
    }
    Err(Error::DType {
        what: "what a gradient check is given".into(),
        got: format!("{model:?} (model) and {:?} (input)", input.dtype()),
        expected: "F64 for both: central differences need it".into(),
    })
}

fn direction(name: &str, like: &Tensor) -> Result<Tensor> {
    Stream::new(0, &format!("testing/{name}"), 0).normal(like.shape(), DType::F64, like.device())
}

/// A sum with a random weight for each element, so that none can hide behind another.
fn weighted_sum(name: &str, x: &Tensor) -> Result<Tensor> {
    Ok(x.mul(&direction(name, x)?)?.sum_all()?)
}

/// Relative error of a derivative, where `size` is that of its like.
fn error(derivative: f64, difference: f64, size: f64) -> f64 {
    let scale = derivative.abs() + difference.abs() + 1e-4 * size + f64::MIN_POSITIVE;
    let error = (derivative - difference).abs() / scale;
    if error.is_nan() { f64::INFINITY } else { error }
}

/// The scores of a batch against those of its samples one by one.
fn each_sample_by_itself<C: Critic>(
    network: &Network<C>,
    samples: &Tensor,
    labels: Option<&Tensor>,
) -> Result<()> {
    let parameters = network.parameters();
    let scores = |samples: &Tensor, labels: Option<&Tensor>| {
        let (scores, _) = parameters
            .keeping_buffers(|| given(network.model(), labels).scores_and_gradient(samples))?;
        Ok::<_, Error>(scores.to_vec1::<f64>()?)
    };
    let together = scores(samples, labels)?;
    let size = together.iter().fold(0.0, |size: f64, score| size.max(score.abs()));
    for (i, &score) in together.iter().enumerate() {
        let label = labels.map(|labels| labels.narrow(0, i, 1)).transpose()?;
        let alone = scores(&samples.narrow(0, i, 1)?, label.as_ref())?[0];
        if error(score, alone, size) > TOLERANCE {
            return Err(Error::WrongGradient {
                what: format!("the score of sample {i}, which depends on the other samples,"),
                got: score,
                expected: alone,
            });
        }
    }
    Ok(())
}

/// The input gradient of each score against differences along random directions.
fn input_derivatives(
    critic: &dyn Critic,
    parameters: &Parameters,
    samples: &Tensor,
) -> Result<f64> {
    let mut worst: f64 = 0.0;
    for name in ["input 1", "input 2", "input 3"] {
        let along = direction(name, samples)?;
        let (_, gradient) = parameters.keeping_buffers(|| critic.scores_and_gradient(samples))?;
        let derivatives = gradient.mul(&along)?.flatten_from(1)?.sum(1)?.to_vec1::<f64>()?;
        let size = derivatives.iter().fold(0.0, |size: f64, d| size.max(d.abs()));
        let mut best = vec![(f64::INFINITY, 0.0); derivatives.len()];
        for step in STEPS {
            let at = |step: f64| {
                let moved = samples.add(&along.affine(step, 0.0)?)?;
                parameters.keeping_buffers(|| critic.scores(&moved))
            };
            let difference = at(step)?.sub(&at(-step)?)?.affine(0.5 / step, 0.0)?;
            for (best, (&d, difference)) in
                best.iter_mut().zip(derivatives.iter().zip(difference.to_vec1::<f64>()?))
            {
                let error = error(d, difference, size);
                if error < best.0 {
                    *best = (error, difference);
                }
            }
        }
        for (i, ((error, expected), got)) in best.into_iter().zip(derivatives).enumerate() {
            if error > TOLERANCE {
                let what = format!("the derivative of score {i} along a direction of its sample");
                return Err(Error::WrongGradient { what, got, expected });
            }
            worst = worst.max(error);
        }
    }
    Ok(worst)
}

/// The input gradient that a generator's step sees, in which parameters are constants, against that of a penalty.
fn generators_derivatives(
    critic: &dyn Critic,
    parameters: &Parameters,
    samples: &Tensor,
) -> Result<f64> {
    let along = direction("input 1", samples)?;
    let slopes = |gradient: &Tensor| -> Result<Vec<f64>> {
        Ok(gradient.mul(&along)?.flatten_from(1)?.sum(1)?.to_vec1()?)
    };
    let (_, expected) = parameters.keeping_buffers(|| critic.scores_and_gradient(samples))?;
    let variable = Var::from_tensor(samples)?;
    let scores = parameters.keeping_buffers(|| critic.scores_frozen(&variable))?;
    let found = match scores.sum_all()?.backward()?.remove(&variable) {
        Some(gradient) => slopes(&gradient)?,
        None => slopes(&samples.zeros_like()?)?,
    };
    let expected = slopes(&expected)?;
    let size = expected.iter().fold(0.0, |size: f64, d| size.max(d.abs()));
    let mut worst: f64 = 0.0;
    for (i, (got, expected)) in found.into_iter().zip(expected).enumerate() {
        let error = error(got, expected, size);
        if error > TOLERANCE {
            let what = format!(
                "the derivative of score {i} along a direction of its sample, with the parameters as constants,"
            );
            return Err(Error::WrongGradient { what, got, expected });
        }
        worst = worst.max(error);
    }
    Ok(worst)
}

/// A scalar's gradient for each parameter against differences along a random direction of that parameter.
fn parameter_derivatives(
    of: &str,
    parameters: &Parameters,
    scalar: &dyn Fn() -> Result<Tensor>,
) -> Result<f64> {
    let gradients = parameters.keeping_buffers(scalar)?.backward()?;
    let mut found = Vec::new();
    for (name, var) in parameters.trained() {
        let along = direction(name, var)?;
        let derivative = match gradients.get(var) {
            Some(gradient) => gradient.mul(&along)?.sum_all()?.to_scalar::<f64>()?,
            None => 0.0,
        };
        let differences = STEPS.map(|step| difference(parameters, var, &along, step, scalar));
        found.push((name, derivative, differences));
    }
    let size = found.iter().fold(0.0, |size: f64, (_, derivative, _)| size.max(derivative.abs()));
    let mut worst: f64 = 0.0;
    for (name, derivative, differences) in found {
        let mut best = (f64::INFINITY, 0.0);
        for difference in differences {
            let difference = difference?;
            let error = error(derivative, difference, size);
            if error < best.0 {
                best = (error, difference);
            }
        }
        if best.0 > TOLERANCE {
            let what = format!("the derivative of {of} along a direction of {name}");
            return Err(Error::WrongGradient { what, got: derivative, expected: best.1 });
        }
        worst = worst.max(best.0);
    }
    Ok(worst)
}

/// A central difference of a scalar along a direction of a parameter, which is put back whatever happens.
fn difference(
    parameters: &Parameters,
    var: &Var,
    along: &Tensor,
    step: f64,
    scalar: &dyn Fn() -> Result<Tensor>,
) -> Result<f64> {
    let before = var.copy()?.detach();
    let at = |step: f64| -> Result<f64> {
        var.set(&before.add(&along.affine(step, 0.0)?)?)?;
        Ok(parameters.keeping_buffers(scalar)?.to_scalar()?)
    };
    let ends = (at(step), at(-step));
    var.set(&before)?;
    Ok((ends.0? - ends.1?) / (2.0 * step))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::{Linear, VarBuilder, linear};

    use super::*;
    use crate::network::ModelBuilder;
    use crate::second_order::Traced;

    /// A critic whose forward pass is wrong in a way of our choice.
    struct Faulty {
        fc1: Linear,
        fc2: Linear,
        fault: Fault,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        /// A weight that the gradient is cut off from.
        Detached,
        /// A trace that loses a factor.
        LostTerm,
        /// Samples that see each other.
        Mixed,
        /// A generator's step that is cut off from the samples.
        Frozen,
        /// Right to the first order, but with an input gradient that does not depend on the weight.
        SecondOrder,
    }

    impl Faulty {
        fn new(fault: Fault, vb: VarBuilder) -> Result<Self> {
            let layer = |inputs, outputs, name| linear(inputs, outputs, vb.pp(name));
            Ok(Self { fc1: layer(3, 5, "fc1")?, fc2: layer(5, 1, "fc2")?, fault })
        }
    }

    impl Critic for Faulty {
        fn forward(&self, samples: &Traced) -> Result<Traced> {
            let h = samples.apply(&self.fc1)?.tanh()?;
            match self.fault {
                Fault::None => h.apply(&self.fc2),
                Fault::Detached => {
                    let constant = h.parameter(&self.fc2.weight().detach());
                    h.broadcast_mul(&constant)?.sum(1)
                }
                Fault::LostTerm => h.mul(&h.parameter(h.value()))?.apply(&self.fc2),
                Fault::Frozen if h.is_frozen() => h.parameter(&h.detach()).apply(&self.fc2),
                Fault::Frozen => h.apply(&self.fc2),
                Fault::Mixed => h.broadcast_sub(&h.mean_keepdim(0)?)?.apply(&self.fc2),
                Fault::SecondOrder => {
                    // h W' + h' W - h' W' with constants h' and W': h W, but that no gradient of both h and W exists.
                    let weight = h.parameter(self.fc2.weight());
                    let fixed = h.parameter(&self.fc2.weight().detach());
                    let constant = h.parameter(&h.value().detach());
                    let sum = h.broadcast_mul(&fixed)?.add(&constant.broadcast_mul(&weight)?)?;
                    let bias = h.parameter(self.fc2.bias().unwrap());
                    sum.sub(&constant.broadcast_mul(&fixed)?)?.sum_keepdim(1)?.broadcast_add(&bias)
                }
            }
        }
    }

    fn run(fault: Fault) -> Result<GradientReport> {
        let critic = ModelBuilder::new(0).dtype(DType::F64).critic(|vb| Faulty::new(fault, vb))?;
        let samples = Stream::new(0, "samples", 0).normal((4, 3), DType::F64, &Device::Cpu)?;
        let bits = |parameters: &Parameters| -> Vec<Vec<f64>> {
            let tensors = parameters.tensors().into_values();
            tensors.map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        let before = bits(critic.parameters());
        let report = check_critic(&critic, &samples);
        assert_eq!(bits(critic.parameters()), before, "the model is left as it was");
        report
    }

    #[test]
    fn a_right_critic_passes_and_every_fault_is_named() -> Result<()> {
        let report = run(Fault::None)?;
        assert!(report.input < 1e-7 && report.first_order < 1e-7 && report.second_order < 1e-7);
        assert_eq!(report.parameters, 4);
        for (fault, name) in [
            (Fault::Detached, "fc2.weight"),
            (Fault::LostTerm, "of its sample"),
            (Fault::Mixed, "depends on the other samples"),
            (Fault::Frozen, "with the parameters as constants"),
            (
                Fault::SecondOrder,
                "squared length of the input gradient along a direction of fc2.weight",
            ),
        ] {
            let error = run(fault).expect_err("a fault").to_string();
            assert!(error.contains(name), "{error}");
        }
        Ok(())
    }

    /// Ready-made models, conditional ones with them; each a hundredth of what it is trained at.
    #[test]
    fn the_zoo_passes() -> Result<()> {
        use crate::zoo::{ResNet32Config, ResNet32Critic, ResNet32Generator};
        let config = ResNet32Config { channels: 1, latent_dim: 3, width: 2, classes: Some(3) };
        let build = ModelBuilder::new(0).dtype(DType::F64);
        let draw =
            |shape: Vec<usize>| Stream::new(0, "x", 0).normal(shape, DType::F64, &Device::Cpu);
        let labels = Tensor::new(&[2u32, 0, 1], &Device::Cpu)?;
        let critic = build.critic(|vb| ResNet32Critic::new(config.clone(), vb))?;
        let samples = draw(vec![3, 1, 32, 32])?;
        check_conditional_critic(&critic, &samples, &labels)?;
        let generator = build.generator(|vb| ResNet32Generator::new(config, vb))?;
        let latent = draw(vec![3, 3])?;
        check_generator(&generator, &latent, Some(&labels))?;
        let two = labels.narrow(0, 0, 2)?;
        let refused = check_conditional_critic(&critic, &samples, &two);
        assert!(matches!(refused, Err(Error::Shape { .. })));
        let refused = check_critic(&critic, &draw(vec![0, 1, 32, 32])?);
        assert!(matches!(refused, Err(Error::Shape { .. })));
        Ok(())
    }

    #[test]
    fn only_f64_is_taken() -> Result<()> {
        let critic = ModelBuilder::new(0).critic(|vb| Faulty::new(Fault::None, vb))?;
        let samples = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        assert!(matches!(check_critic(&critic, &samples), Err(Error::DType { .. })));
        Ok(())
    }
}
