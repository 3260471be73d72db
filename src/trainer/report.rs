//! The figures of a step, held to be finite.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::gradient_probe::GradientProbe;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::lipschitz::Lipschitz;
use crate::ops::{each_beside, first_non_finite};
use crate::parameters::Parameters;
use crate::second_order::{Gradient, Gradients, Traced};

/// The figures of a critic step, taken before its update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CriticReport {
    /// mean f(real) - mean f(fake).
    pub wasserstein_estimate: f64,
    /// -estimate + penalty.
    pub loss: f64,
    /// The Lipschitz strategy's share of the loss; 0 under clipping.
    pub penalty: f64,
}

impl CriticReport {
    pub(super) fn read(estimate: &Traced, loss: &Traced, penalty: Option<&Traced>) -> Result<Self> {
        let number = |scalar: &Traced| number(scalar.detach());
        Ok(Self {
            wasserstein_estimate: number(estimate)?,
            loss: number(loss)?,
            penalty: penalty.map(number).transpose()?.unwrap_or(0.0),
        })
    }

    /// Holds the terms of the loss to be finite, so that the one that is not is named.
    pub(super) fn check(&self, step: u64, config: &TrainConfig) -> Result<()> {
        let rate = "the learning rate of the critic is too high, or its parameters or the data are not finite";
        let penalty = match config.lipschitz {
            Lipschitz::Divergence { p, .. } if p > 2.0 => {
                "the critic's gradient is so large that its power overflows: lower the learning rate of the \
                 critic, k or p, or scale the data to [-1, 1]"
            }
            _ => rate,
        };
        finite("the Wasserstein estimate", self.wasserstein_estimate, step, rate)?;
        finite("the Lipschitz penalty", self.penalty, step, penalty)
    }
}

/// The figures of a generator step, taken before its update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeneratorReport {
    /// -mean f(G(z)).
    pub loss: f64,
    /// Mean over the batch of the length of the critic's gradient at the generated samples, ||grad f(G(z))||.
    pub gradient_norm: f64,
}

impl GeneratorReport {
    /// `probe` has seen the gradient of the loss, which is -1 / batch times that of each score.
    pub(super) fn read(
        loss: Tensor,
        probe: &GradientProbe,
        batch: usize,
        step: u64,
    ) -> Result<Self> {
        let norm = probe.mean_norm().ok_or_else(|| Error::NotConnected {
            what: "the score".into(),
            on: "the generated samples: the critic's forward pass detaches them".into(),
        })?;
        let gradient_norm = number(norm)? * batch as f64;
        let cause = "the critic is so steep that the length of its gradient overflows: lower its learning rate";
        finite("the critic's gradient norm at the generated samples", gradient_norm, step, cause)?;
        Ok(Self { loss: number(loss)?, gradient_norm })
    }
}

pub(super) fn number(scalar: Tensor) -> Result<f64> {
    // To the host first: not every device has f64.
    Ok(scalar.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar()?)
}

/// Why a step ends: an error, and the parameters whose gradients are not finite where it is these.
pub(super) struct Failure {
    error: Box<Error>,
    gradients: Box<[String]>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), gradients: Box::default() }
    }
}

impl Failure {
    /// The error, with the place where the value that is not finite arose. Finding it takes the model's forward passes once
    /// more; where that fails too, it is not told.
    pub(super) fn located(self, find: impl FnOnce(&[String]) -> Result<Option<String>>) -> Error {
        match *self.error {
            Error::NonFinite { step, quantity, value, cause, first: None, checkpoint } => {
                let first = find(&self.gradients).ok().flatten();
                Error::NonFinite { step, quantity, value, cause, first, checkpoint }
            }
            other => other,
        }
    }
}

/// The gradients of a loss, held to be finite like the loss itself, which comes first: where a power overflows, they are so
/// before it.
pub(super) fn finite_gradients(
    name: &str,
    loss: Tensor,
    gradients: impl FnOnce() -> Result<Gradients>,
    parameters: &Parameters,
    step: u64,
) -> Result<GradStore, Failure> {
    finite(name, number(loss)?, step, RATE)?;
    let mut gradients = gradients()?;
    // One that is missing is the optimiser's to report.
    let there = parameters
        .trained()
        .filter_map(|(name, parameter)| Some((name, parameter, gradients.remove(parameter)?)));
    let multiplied = |(name, parameter, gradient): (_, _, Gradient)| -> Result<_> {
        let (gradient, finite) = gradient.multiplied()?;
        let value = if finite { None } else { first_non_finite(&gradient)? };
        Ok((name, parameter, gradient, value))
    };
    let all = each_beside(there.collect(), |(_, parameter, _)| parameter.as_tensor(), multiplied);
    let (mut store, mut not_finite) = (GradStore::default(), Vec::new());
    for one in all {
        let (name, parameter, gradient, value): (&str, &Var, _, _) = one?;
        not_finite.extend(value.map(|value| (name.to_owned(), value)));
        store.insert(parameter, gradient);
    }
    let Some((name, value)) = not_finite.first() else {
        return Ok(store);
    };
    let cause = "the gradient overflows where the loss does not yet: lower the learning rate, or k and p \
                 of a divergence penalty, or scale the data to [-1, 1]";
    let error = non_finite(&format!("the gradient of {name}"), *value, step, cause).into();
    Err(Failure { error, gradients: not_finite.into_iter().map(|(name, _)| name).collect() })
}

const RATE: &str = "a learning rate is too high, or the parameters or the data are not finite";

fn finite(quantity: &str, value: f64, step: u64, cause: &str) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(non_finite(quantity, value, step, cause)) }
}

fn non_finite(quantity: &str, value: f64, step: u64, cause: &str) -> Error {
    let (quantity, cause) = (quantity.into(), cause.into());
    Error::NonFinite { step, quantity, value, first: None, cause, checkpoint: None }
}
