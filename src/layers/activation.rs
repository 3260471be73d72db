//! The activation functions that ready-made models can be configured with.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::{Function, activate};
use crate::second_order::{Layer, Traced};

/// An activation function, as a setting of a model.
///
/// On traced tensors it is exact to the second order. First derivatives at kinks are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `x` where positive, `slope * x` elsewhere. The field's usual slope is 0.2.
    LeakyRelu(f64),
    /// `x` where positive, `alpha (e^x - 1)` elsewhere.
    Elu(f64),
    /// `x sigmoid(x)`
    Silu,
    /// `ln(1 + e^x)`
    Softplus,
    /// The hyperbolic tangent: outputs in (-1, 1).
    Tanh,
    /// `1 / (1 + e^-x)`: outputs in (0, 1).
    Sigmoid,
    /// `x`
    Identity,
}

impl Activation {
    /// Checks that the function's number is finite.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the function.
    pub fn check(self) -> Result<()> {
        match self {
            Self::LeakyRelu(number) | Self::Elu(number) if !number.is_finite() => {
                Err(Error::config("activation", format!("{self:?}"), "a finite number in it"))
            }
            _ => Ok(()),
        }
    }

    /// Applies the function to each element of a plain tensor.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self.function() {
            Some(function) => Ok(activate(function, x)?),
            None => Ok(x.clone()),
        }
    }

    /// `None` for the identity.
    pub(crate) fn function(self) -> Option<Function> {
        Some(match self {
            Self::Relu => Function::LeakyRelu { slope: 0.0 },
            Self::LeakyRelu(slope) => Function::LeakyRelu { slope },
            Self::Elu(alpha) => Function::Elu { alpha },
            Self::Silu => Function::Silu,
            Self::Softplus => Function::Softplus,
            Self::Tanh => Function::Tanh,
            Self::Sigmoid => Function::Sigmoid,
            Self::Identity => return None,
        })
    }
}

impl Layer for Activation {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.check_input(&format!("Activation::{self:?}"), None)?;
        match self.function() {
            Some(function) => x.function(function),
            None => Ok(x.clone()),
        }
    }
}

/// `max(x, 0) + weight * min(x, 0)` with learned slopes (He et al. 2015), PyTorch's `PReLU`: 0.25 at first.
///
/// Parameters: `weight`, `(1,)` for all elements or `(channels,)` along dimension 1.
#[derive(Debug, Clone)]
pub struct PReLU {
    name: String,
    weight: Tensor,
}

impl PReLU {
    /// A layer with one slope, or one for each of this many channels, taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for no slope; candle's if the parameter cannot be made.
    pub fn new(num_parameters: usize, vb: VarBuilder) -> Result<Self> {
        let name = super::name("PReLU", &vb);
        if num_parameters == 0 {
            let what = format!("num_parameters of {name}");
            return Err(Error::config(what, num_parameters, "1 or more"));
        }
        super::check_weight(&name, &[num_parameters])?;
        let weight = vb.get_with_hints(num_parameters, "weight", Init::Const(0.25))?;
        Ok(Self { name, weight })
    }
}

impl Layer for PReLU {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.prelu(&self.weight, &self.name)
    }
}
