//! Optimisers with PyTorch's semantics that update parameters in place.

mod adam;
mod rmsprop;

pub use adam::Adam;
pub use rmsprop::RmsProp;

use candle_core::{Tensor, Var, backprop::GradStore};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::parameters::Parameters;

/// Something that moves parameters along their gradients.
pub trait Optimizer {
    /// One update of every trained parameter.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] for the first parameter that has no gradient, before any is changed.
    fn step(&mut self, parameters: &Parameters, gradients: &GradStore) -> Result<()>;
}

/// An optimiser and its settings.
///
/// | field | default | range |
/// |---|---|---|
/// | `learning_rate` | 5e-5 (RMSProp), 1e-4 (Adam) | above 0 |
/// | `alpha` | 0.99 | \[0, 1) |
/// | `beta1`, `beta2` | 0, 0.9 | \[0, 1) |
/// | `eps` | 1e-8 | above 0 |
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum OptimizerConfig {
    /// `torch.optim.RMSprop`: the optimiser of the WGAN paper. A momentum optimiser makes a clipped critic
    /// unstable (WGAN, section 4).
    RmsProp {
        /// The step size.
        #[serde(default = "defaults::rms_prop_rate")]
        learning_rate: f64,
        /// The decay of the mean of squared gradients.
        #[serde(default = "defaults::alpha")]
        alpha: f64,
        /// Added to the root of that mean.
        #[serde(default = "defaults::eps")]
        eps: f64,
    },
    /// `torch.optim.Adam`: the optimiser of WGAN-GP.
    Adam {
        /// The step size.
        #[serde(default = "defaults::adam_rate")]
        learning_rate: f64,
        /// The decay of the mean of gradients.
        #[serde(default)]
        beta1: f64,
        /// The decay of the mean of squared gradients.
        #[serde(default = "defaults::beta2")]
        beta2: f64,
        /// Added to the root of that mean.
        #[serde(default = "defaults::eps")]
        eps: f64,
    },
}

/// The papers' values, for settings that leave a field out.
mod defaults {
    pub(super) fn rms_prop_rate() -> f64 {
        5e-5
    }
    pub(super) fn alpha() -> f64 {
        0.99
    }
    pub(super) fn adam_rate() -> f64 {
        1e-4
    }
    pub(super) fn beta2() -> f64 {
        0.9
    }
    pub(super) fn eps() -> f64 {
        1e-8
    }
}

impl OptimizerConfig {
    /// RMSProp with PyTorch's defaults: alpha 0.99, eps 1e-8.
    #[must_use]
    pub fn rms_prop(learning_rate: f64) -> Self {
        Self::RmsProp { learning_rate, alpha: 0.99, eps: 1e-8 }
    }

    /// Adam with these decays and PyTorch's eps, 1e-8.
    #[must_use]
    pub fn adam(learning_rate: f64, beta1: f64, beta2: f64) -> Self {
        Self::Adam { learning_rate, beta1, beta2, eps: 1e-8 }
    }

    /// Checks the ranges; `owner` is the name of this setting in an error.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field, its value and the range.
    pub fn check(&self, owner: &str) -> Result<()> {
        let fail = |field: &str, value: f64, expected: &str| {
            Err(Error::config(format!("{owner}.{field}"), value, expected))
        };
        let above_zero = |field, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                fail(field, value, "a finite number above 0")
            }
        };
        let decay = |field, value: f64| {
            if (0.0..1.0).contains(&value) {
                Ok(())
            } else {
                fail(field, value, "a number in [0, 1)")
            }
        };
        match *self {
            Self::RmsProp { learning_rate, alpha, eps } => {
                above_zero("learning_rate", learning_rate)?;
                decay("alpha", alpha)?;
                above_zero("eps", eps)
            }
            Self::Adam { learning_rate, beta1, beta2, eps } => {
                above_zero("learning_rate", learning_rate)?;
                decay("beta1", beta1)?;
                decay("beta2", beta2)?;
                above_zero("eps", eps)
            }
        }
    }

    /// The optimiser, at its first step.
    #[must_use]
    pub fn build(&self) -> Box<dyn Optimizer> {
        match *self {
            Self::RmsProp { learning_rate, alpha, eps } => {
                Box::new(RmsProp::new(learning_rate, alpha, eps))
            }
            Self::Adam { learning_rate, beta1, beta2, eps } => {
                Box::new(Adam::new(learning_rate, beta1, beta2, eps))
            }
        }
    }
}

/// Each trained parameter with its gradient, or the name of one that has none.
fn with_gradients<'a>(
    parameters: &'a Parameters,
    gradients: &'a GradStore,
) -> Result<Vec<(&'a str, &'a Var, &'a Tensor)>> {
    parameters
        .trained()
        .map(|(name, var)| match gradients.get(var) {
            Some(gradient)
                if gradient.shape() == var.shape() && gradient.dtype() == var.dtype() =>
            {
                Ok((name, var, gradient))
            }
            Some(gradient) => Err(Error::Shape {
                what: format!("the gradient of {name}"),
                got: gradient.dims().to_vec(),
                expected: format!("{:?} of {:?}, as the parameter is", var.dims(), var.dtype()),
            }),
            None => Err(Error::MissingGradient { name: name.to_owned() }),
        })
        .collect()
}

/// A state tensor of zeros for a parameter, made at its first use.
fn state<'a>(
    states: &'a mut std::collections::BTreeMap<String, Var>,
    name: &str,
    parameter: &Var,
) -> Result<&'a Var> {
    let fits = |state: &Var| {
        state.shape() == parameter.shape()
            && state.dtype() == parameter.dtype()
            && state.device().same_device(parameter.device())
    };
    if states.get(name).is_some_and(|state| !fits(state)) {
        return Err(Error::Shape {
            what: format!("parameter {name}"),
            got: parameter.dims().to_vec(),
            expected:
                "the shape, type and device of the step before: one optimiser serves one model"
                    .into(),
        });
    }
    if !states.contains_key(name) {
        let zeros = Var::zeros(parameter.shape(), parameter.dtype(), parameter.device())?;
        states.insert(name.to_owned(), zeros);
    }
    Ok(&states[name])
}
