//! How a critic is kept Lipschitz.

#[cfg(test)]
mod passes;
pub(crate) mod penalty;

use serde::{Deserialize, Serialize};

use candle_core::Tensor;

use crate::critic::Critic;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::second_order::{AtSamples, Traced};

/// The Lipschitz strategy.
///
/// | strategy | what it does | source |
/// |---|---|---|
/// | `Clip` | after each update clamps every parameter of the critic to [-c, c] | WGAN, Algorithm 1, line 7 |
/// | `GradientPenalty` | adds lambda mean((‖∇f(x̂)‖ - target)²) | WGAN-GP, equation 3 |
/// | `Divergence` | adds k mean(‖∇f(x̂)‖^p) | WGAN-div (Wu et al. 2018), Algorithm 1 |
///
/// Norms are taken over all features of a sample, and are safe at a gradient of zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Lipschitz {
    /// Weight clipping.
    Clip {
        /// The clip value, above 0. Default: the paper's 0.01.
        #[serde(default = "defaults::c")]
        c: f64,
    },
    /// A penalty on the distance of the gradient's norm from a target, at random points between real and
    /// generated samples, with one coefficient for each pair.
    GradientPenalty {
        /// The weight, at least 0. Default: the paper's 10.
        #[serde(default = "defaults::lambda")]
        lambda: f64,
        /// The norm aimed at, at least 0. Default: the paper's 1.
        #[serde(default = "defaults::target")]
        target: f64,
        /// Which norms are penalised. Default: both sides, as in the paper's experiments.
        #[serde(default)]
        sides: Sides,
    },
    /// A penalty on a power of the gradient's norm, which makes the estimate a Wasserstein divergence.
    Divergence {
        /// The weight, above 0. Default: the paper's 2.
        #[serde(default = "defaults::k")]
        k: f64,
        /// The power, at least 1. Default: the paper's 6.
        #[serde(default = "defaults::p")]
        p: f64,
        /// Where the gradient is taken. Default: at interpolates.
        #[serde(default)]
        points: PenaltyPoints,
    },
}

/// The papers' values, for settings that leave a field out.
mod defaults {
    pub(super) fn c() -> f64 {
        0.01
    }
    pub(super) fn lambda() -> f64 {
        10.0
    }
    pub(super) fn target() -> f64 {
        1.0
    }
    pub(super) fn k() -> f64 {
        2.0
    }
    pub(super) fn p() -> f64 {
        6.0
    }
}

/// Which norms a gradient penalty acts on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sides {
    /// Norms above and below the target.
    #[default]
    Two,
    /// Norms above the target only: mean(max(0, ‖∇f(x̂)‖ - target)²).
    One,
}

/// Where a WGAN-div penalty is evaluated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyPoints {
    /// At epsilon * real + (1 - epsilon) * fake, one epsilon for each pair.
    #[default]
    Interpolates,
    /// At the real and at the generated samples: (k/2) (mean ‖∇f(real)‖^p + mean ‖∇f(fake)‖^p).
    RealAndFake,
}

impl Default for Lipschitz {
    fn default() -> Self {
        Self::Clip { c: defaults::c() }
    }
}

impl Lipschitz {
    /// WGAN-GP's gradient penalty with the paper's values: lambda 10, target 1, two-sided.
    #[must_use]
    pub fn gradient_penalty() -> Self {
        Self::GradientPenalty {
            lambda: defaults::lambda(),
            target: defaults::target(),
            sides: Sides::Two,
        }
    }

    /// WGAN-div as its paper has it: k = 2, p = 6, at interpolates (Wu et al. 2018, Algorithm 1).
    #[must_use]
    pub fn divergence_paper() -> Self {
        Self::Divergence { k: 2.0, p: 6.0, points: PenaltyPoints::Interpolates }
    }

    /// WGAN-div as its authors' code has it: weight 10, p = 6, at interpolates. The code trains the negative of
    /// this crate's critic, which changes no gradient norm.
    #[must_use]
    pub fn divergence_authors_code() -> Self {
        Self::Divergence { k: 10.0, p: 6.0, points: PenaltyPoints::Interpolates }
    }

    /// WGAN-div as the tutorials have it: k = 2, p = 6, half of it at the real and half at the generated samples.
    #[must_use]
    pub fn divergence_tutorials() -> Self {
        Self::Divergence { k: 2.0, p: 6.0, points: PenaltyPoints::RealAndFake }
    }

    /// Whether the strategy takes one interpolation coefficient for each pair of samples.
    #[must_use]
    pub fn interpolates(&self) -> bool {
        matches!(
            self,
            Self::GradientPenalty { .. }
                | Self::Divergence { points: PenaltyPoints::Interpolates, .. }
        )
    }

    /// Whether the strategy takes the critic's gradient for each sample.
    #[must_use]
    pub fn penalises(&self) -> bool {
        !matches!(self, Self::Clip { .. })
    }

    /// What the strategy adds to the critic's loss, a scalar that reaches every weight; `None` for clipping.
    ///
    /// `real` and `fake` are `(batch, ...)` of one shape; `epsilon` is `(batch,)` in [0, 1] and needed where the
    /// strategy [`interpolates`](Self::interpolates).
    ///
    /// # Errors
    /// [`Error::Shape`] where these do not fit or `epsilon` is missing; the critic's.
    pub fn penalty(
        &self,
        critic: &dyn Critic,
        real: &Tensor,
        fake: &Tensor,
        epsilon: Option<&Tensor>,
    ) -> Result<Option<Traced>> {
        self.penalty_knowing(critic, (real, fake), epsilon, None)
    }

    /// The same, given what layers of the critic, with the parameters that it has, made of both batches one after the other.
    pub(crate) fn penalty_knowing(
        &self,
        critic: &dyn Critic,
        (real, fake): (&Tensor, &Tensor),
        epsilon: Option<&Tensor>,
        at_samples: Option<&AtSamples>,
    ) -> Result<Option<Traced>> {
        let interpolates = || -> Result<Traced> {
            let points = Traced::input(&penalty::interpolates(real, fake, epsilon)?);
            Ok(match (at_samples, epsilon) {
                (Some(at_samples), Some(epsilon)) => at_samples.mixtures(&points, epsilon),
                _ => points,
            })
        };
        let value = match *self {
            Self::Clip { .. } => return Ok(None),
            Self::GradientPenalty { lambda, target, sides } => {
                critic.penalty(&interpolates()?, &|gradient| {
                    let excess = penalty::norms(gradient)?.affine(1.0, -target)?;
                    let excess = if sides == Sides::One { excess.relu()? } else { excess };
                    excess.sqr()?.mean_all()?.affine(lambda, 0.0)
                })?
            }
            Self::Divergence { k, p, points } => {
                let points = match points {
                    PenaltyPoints::Interpolates => interpolates()?,
                    PenaltyPoints::RealAndFake => {
                        let points = Traced::input(&penalty::real_and_fake(real, fake)?);
                        match at_samples {
                            Some(at_samples) => at_samples.again(&points),
                            None => points,
                        }
                    }
                };
                critic.penalty(&points, &|gradient| {
                    penalty::norms(gradient)?.powf(p)?.mean_all()?.affine(k, 0.0)
                })?
            }
        };
        Ok(Some(value))
    }

    /// What the strategy does to the critic's parameters after an update: clipping clamps them, the others
    /// nothing. Buffers are left alone.
    ///
    /// # Errors
    /// Candle's for a parameter that is neither `f32` nor `f64`.
    pub fn constrain(&self, parameters: &Parameters) -> Result<()> {
        match self.bound() {
            Some(bound) => parameters.clamp(bound),
            None => Ok(()),
        }
    }

    /// What the critic's parameters are clamped to after an update.
    pub(crate) fn bound(&self) -> Option<f64> {
        match *self {
            Self::Clip { c } => Some(c),
            _ => None,
        }
    }

    /// Checks the ranges given at each field.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field, its value and the range.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: f64, low: f64, open: bool| {
            let inside = value.is_finite() && if open { value > low } else { value >= low };
            let range = if open { "above" } else { "of at least" };
            if inside {
                Ok(())
            } else {
                Err(Error::config(
                    format!("lipschitz.{name}"),
                    value,
                    format!("a finite number {range} {low}"),
                ))
            }
        };
        match *self {
            Self::Clip { c } => within("c", c, 0.0, true),
            Self::GradientPenalty { lambda, target, .. } => {
                within("lambda", lambda, 0.0, false)?;
                within("target", target, 0.0, false)
            }
            Self::Divergence { k, p, .. } => {
                within("k", k, 0.0, true)?;
                within("p", p, 1.0, false)
            }
        }
    }
}
