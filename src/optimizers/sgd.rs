//! Stochastic gradient descent, as `torch.optim.SGD` computes it.

use std::collections::BTreeMap;

use candle_core::{Tensor, backprop::GradStore};

use super::{Optimizer, Rates, State, update_each, with_gradients};
use crate::error::Result;
use crate::ops::in_place::update_parameter;
use crate::ops::{Formula, Number};
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
    ) -> Result<bool> {
        let bound = rates.bound();
        let updates = with_gradients(parameters, gradients)?;
        let first = self.state.advance(parameters)? == 1;
        update_each(updates, |name, parameter, gradient| {
            let rate = rates.learning_rate(name, self.learning_rate);
            let step = Step {
                keep: 1.0 - rate * rates.weight_decay(name, self.weight_decay),
                rate,
                momentum: self.momentum,
                take: if first { 1.0 } else { 1.0 - self.dampening },
                nesterov: self.nesterov,
            };
            Ok(if self.momentum > 0.0 {
                let buffer = self.state.get("momentum_buffer", name)?;
                update_parameter([parameter, buffer], [gradient], &step, bound)?
            } else {
                update_parameter([parameter], [gradient], &step, bound)?
            })
        })
    }

    fn clamps(&self) -> bool {
        true
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

/// The numbers of one update; as a formula that with momentum for two targets, that without it for one.
#[derive(Clone, Copy)]
struct Step {
    /// What decay leaves of the parameter.
    keep: f64,
    rate: f64,
    momentum: f64,
    /// How much of a gradient the momentum takes.
    take: f64,
    nesterov: bool,
}

impl Formula<1, 1> for Step {
    #[inline(always)]
    fn apply<N: Number>(&self, [parameter]: [N; 1], [gradient]: [N; 1]) -> [N; 1] {
        [parameter.scale(self.keep) - gradient.scale(self.rate)]
    }
}

impl Formula<2, 1> for Step {
    #[inline(always)]
    fn apply<N: Number>(&self, [parameter, buffer]: [N; 2], [gradient]: [N; 1]) -> [N; 2] {
        let buffer = buffer.scale(self.momentum) + gradient.clone().scale(self.take);
        let direction = match self.nesterov {
            true => gradient + buffer.clone().scale(self.momentum),
            false => buffer.clone(),
        };
        [parameter.scale(self.keep) - direction.scale(self.rate), buffer]
    }
}
