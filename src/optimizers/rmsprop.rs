//! RMSProp (Hinton 2012), as `torch.optim.RMSprop` computes it.

use std::collections::BTreeMap;

use candle_core::{Tensor, backprop::GradStore};

use super::{Optimizer, Rates, State, decay, with_gradients};
use crate::error::Result;
use crate::ops::in_place::{self, Descent, Normalised};
use crate::parameters::Parameters;

/// RMSProp: `v = alpha v + (1 - alpha) g^2`, then `w -= learning_rate g / (sqrt(v) + eps)`.
///
/// Centred, `v - m^2` with `m = alpha m + (1 - alpha) g` stands for `v`: the variance of the gradients. With momentum,
/// `b = momentum b + g / (sqrt(v) + eps)` and `w -= learning_rate b`. Its state is `square_avg`, `grad_avg` where it is
/// centred, and `momentum_buffer` where it has momentum.
#[derive(Debug)]
pub struct RmsProp {
    pub(super) learning_rate: f64,
    pub(super) alpha: f64,
    pub(super) eps: f64,
    pub(super) momentum: f64,
    pub(super) centered: bool,
    pub(super) weight_decay: f64,
    pub(super) state: State,
}

impl RmsProp {
    pub(super) fn quantities(momentum: f64, centered: bool) -> State {
        let mut quantities = vec!["square_avg"];
        if centered {
            quantities.push("grad_avg");
        }
        if momentum > 0.0 {
            quantities.push("momentum_buffer");
        }
        State::new(&quantities)
    }
}

impl Optimizer for RmsProp {
    fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        rates: &Rates<'_>,
    ) -> Result<()> {
        let Self { alpha, eps, momentum, centered, .. } = *self;
        let updates = with_gradients(parameters, gradients)?;
        self.state.advance(parameters)?;
        for (name, parameter, gradient) in updates {
            let rate = rates.learning_rate(name, self.learning_rate);
            decay(parameter, rate, rates.weight_decay(name, self.weight_decay))?;
            let square = self.state.get("square_avg", name)?;
            in_place::average_of_squares(square, gradient, alpha)?;
            let mean = match centered {
                true => Some(self.state.get("grad_avg", name)?),
                false => None,
            };
            if let Some(mean) = mean {
                in_place::average(mean, gradient, alpha)?;
            }
            if momentum > 0.0 {
                let buffer = self.state.get("momentum_buffer", name)?;
                match mean {
                    Some(mean) => {
                        let numbers = Normalised { keep: momentum, take: 1.0, eps };
                        in_place::combine_centred(buffer, gradient, square, mean, numbers)?;
                    }
                    None => {
                        in_place::accumulate_normalised(buffer, gradient, square, momentum, eps)?
                    }
                }
                in_place::combine(parameter, 1.0, buffer, -rate)?;
            } else if let Some(mean) = mean {
                let numbers = Normalised { keep: 1.0, take: -rate, eps };
                in_place::combine_centred(parameter, gradient, square, mean, numbers)?;
            } else {
                in_place::descend(parameter, gradient, square, Descent { rate, scale: 1.0, eps })?;
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
