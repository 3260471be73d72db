//! Adam (Kingma and Ba 2015), as `torch.optim.Adam` computes it.

use std::collections::BTreeMap;

use candle_core::{Var, backprop::GradStore};

use super::{Optimizer, state, with_gradients};
use crate::error::Result;
use crate::ops::in_place::{self, Descent};
use crate::parameters::Parameters;

/// Adam with both bias corrections:
/// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, then
/// `w -= learning_rate / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)`.
#[derive(Debug)]
pub struct Adam {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    step: u64,
    exp_avg: BTreeMap<String, Var>,
    exp_avg_sq: BTreeMap<String, Var>,
}

impl Adam {
    /// An optimiser at its first step.
    pub(super) fn new(learning_rate: f64, beta1: f64, beta2: f64, eps: f64) -> Self {
        let (exp_avg, exp_avg_sq) = (BTreeMap::new(), BTreeMap::new());
        Self { learning_rate, beta1, beta2, eps, step: 0, exp_avg, exp_avg_sq }
    }
}

impl Optimizer for Adam {
    fn step(&mut self, parameters: &Parameters, gradients: &GradStore) -> Result<()> {
        let pairs = with_gradients(parameters, gradients)?;
        self.step += 1;
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let descent = Descent {
            rate: self.learning_rate / correction(self.beta1),
            scale: correction(self.beta2).sqrt().recip(),
            eps: self.eps,
        };
        for (name, parameter, gradient) in pairs {
            let exp_avg = state(&mut self.exp_avg, name, parameter)?;
            in_place::average(exp_avg, gradient, self.beta1)?;
            let exp_avg_sq = state(&mut self.exp_avg_sq, name, parameter)?;
            in_place::average_of_squares(exp_avg_sq, gradient, self.beta2)?;
            in_place::descend(parameter, exp_avg, exp_avg_sq, descent)?;
        }
        Ok(())
    }
}
