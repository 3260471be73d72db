//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), as `torch.optim` computes them.

use std::collections::BTreeMap;

use candle_core::{Tensor, backprop::GradStore};

use super::{Optimizer, Rates, State, decay, with_gradients};
use crate::error::Result;
use crate::ops::in_place::{self, Descent};
use crate::parameters::Parameters;

/// Adam with both bias corrections:
/// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, then
/// `w -= learning_rate / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)`.
///
/// With a weight decay, which makes it AdamW, `w *= 1 - learning_rate weight_decay` comes first. Its state is `exp_avg`,
/// `exp_avg_sq` and the number `t` of its steps.
#[derive(Debug)]
pub struct Adam {
    pub(super) learning_rate: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) state: State,
}

impl Adam {
    pub(super) fn quantities() -> State {
        State::new(&["exp_avg", "exp_avg_sq"])
    }
}

impl Optimizer for Adam {
    fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        rates: &Rates<'_>,
    ) -> Result<()> {
        let updates = with_gradients(parameters, gradients)?;
        let steps = self.state.advance(parameters)?;
        let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
        for (name, parameter, gradient) in updates {
            let rate = rates.learning_rate(name, self.learning_rate);
            decay(parameter, rate, rates.weight_decay(name, self.weight_decay))?;
            let exp_avg = self.state.get("exp_avg", name)?;
            in_place::average(exp_avg, gradient, self.beta1)?;
            let exp_avg_sq = self.state.get("exp_avg_sq", name)?;
            in_place::average_of_squares(exp_avg_sq, gradient, self.beta2)?;
            let descent = Descent {
                rate: rate / correction(self.beta1),
                scale: correction(self.beta2).sqrt().recip(),
                eps: self.eps,
            };
            in_place::descend(parameter, exp_avg, exp_avg_sq, descent)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.state.tensors()
    }

    fn load_state(
        &mut self,
        parameters: &Parameters,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        self.state.load(parameters, state)
    }
}
