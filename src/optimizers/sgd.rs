//! Stochastic gradient descent, as `torch.optim.SGD` computes it.

use std::collections::BTreeMap;

use candle_core::{Tensor, backprop::GradStore};

use super::{Optimizer, Rates, State, decay, with_gradients};
use crate::error::Result;
use crate::ops::in_place;
use crate::parameters::Parameters;

/// Gradient descent: `w -= learning_rate g`.
///
/// With momentum, `b = momentum b + (1 - dampening) g`, but `b = g` in the first step, and `w -= learning_rate b`; with
/// Nesterov's, `w -= learning_rate (g + momentum b)`. Its state is `momentum_buffer` where it has momentum.
#[derive(Debug)]
pub struct Sgd {
    pub(super) learning_rate: f64,
    pub(super) momentum: f64,
    pub(super) dampening: f64,
    pub(super) nesterov: bool,
    pub(super) weight_decay: f64,
    pub(super) state: State,
}

impl Sgd {
    pub(super) fn quantities(momentum: f64) -> State {
        State::new(if momentum > 0.0 { &["momentum_buffer"] } else { &[] })
    }
}

impl Optimizer for Sgd {
    fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        rates: &Rates<'_>,
    ) -> Result<()> {
        let Self { momentum, nesterov, .. } = *self;
        let updates = with_gradients(parameters, gradients)?;
        let first = self.state.advance(parameters)? == 1;
        let take = if first { 1.0 } else { 1.0 - self.dampening };
        for (name, parameter, gradient) in updates {
            let rate = rates.learning_rate(name, self.learning_rate);
            decay(parameter, rate, rates.weight_decay(name, self.weight_decay))?;
            if momentum > 0.0 {
                let buffer = self.state.get("momentum_buffer", name)?;
                in_place::combine(buffer, momentum, gradient, take)?;
                if nesterov {
                    in_place::descend_nesterov(parameter, gradient, buffer, rate, momentum)?;
                } else {
                    in_place::combine(parameter, 1.0, buffer, -rate)?;
                }
            } else {
                in_place::combine(parameter, 1.0, gradient, -rate)?;
            }
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
