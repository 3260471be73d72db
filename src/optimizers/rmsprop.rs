//! RMSProp (Hinton 2012), as `torch.optim.RMSprop` computes it.

use std::collections::BTreeMap;

use candle_core::{Var, backprop::GradStore};

use super::{Optimizer, state, with_gradients};
use crate::error::Result;
use crate::ops::in_place::{self, Descent};
use crate::parameters::Parameters;

/// RMSProp without momentum, not centred:
/// `v = alpha v + (1 - alpha) g^2`, then `w -= learning_rate g / (sqrt(v) + eps)`.
#[derive(Debug)]
pub struct RmsProp {
    learning_rate: f64,
    alpha: f64,
    eps: f64,
    square_avg: BTreeMap<String, Var>,
}

impl RmsProp {
    /// An optimiser at its first step.
    pub(super) fn new(learning_rate: f64, alpha: f64, eps: f64) -> Self {
        Self { learning_rate, alpha, eps, square_avg: BTreeMap::new() }
    }
}

impl Optimizer for RmsProp {
    fn step(&mut self, parameters: &Parameters, gradients: &GradStore) -> Result<()> {
        let descent = Descent { rate: self.learning_rate, scale: 1.0, eps: self.eps };
        for (name, parameter, gradient) in with_gradients(parameters, gradients)? {
            let square_avg = state(&mut self.square_avg, name, parameter)?;
            in_place::average_of_squares(square_avg, gradient, self.alpha)?;
            in_place::descend(parameter, gradient, square_avg, descent)?;
        }
        Ok(())
    }
}
