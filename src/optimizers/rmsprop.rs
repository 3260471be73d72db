//! RMSProp (Hinton 2012), as `torch.optim.RMSprop` computes it.

use std::collections::BTreeMap;

use candle_core::{Tensor, backprop::GradStore};

use super::{Optimizer, Rates, State, update_each, with_gradients};
use crate::error::Result;
use crate::ops::in_place::{averaged, averaged_square, update_parameter};
use crate::ops::{Formula, Number};
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
    ) -> Result<bool> {
        let bound = rates.bound();
        let updates = with_gradients(parameters, gradients)?;
        self.state.advance(parameters)?;
        update_each(updates, |name, parameter, gradient| {
            let rate = rates.learning_rate(name, self.learning_rate);
            let keep = 1.0 - rate * rates.weight_decay(name, self.weight_decay);
            let Self { alpha, eps, momentum, .. } = *self;
            let step = Step { keep, rate, alpha, eps, momentum };
            let state = |quantity| self.state.get(quantity, name);
            let square = state("square_avg")?;
            Ok(match (self.centered, momentum > 0.0) {
                (false, false) => update_parameter([parameter, square], [gradient], &step, bound)?,
                (true, false) => {
                    let mean = state("grad_avg")?;
                    update_parameter([parameter, square, mean], [gradient], &Centred(step), bound)?
                }
                (false, true) => {
                    let buffer = state("momentum_buffer")?;
                    update_parameter(
                        [parameter, square, buffer],
                        [gradient],
                        &WithMomentum(step),
                        bound,
                    )?
                }
                (true, true) => {
                    let (mean, buffer) = (state("grad_avg")?, state("momentum_buffer")?);
                    let targets = [parameter, square, mean, buffer];
                    update_parameter(targets, [gradient], &CentredWithMomentum(step), bound)?
                }
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

/// The numbers of one update; as a formula that without centring and momentum.
#[derive(Clone, Copy)]
struct Step {
    /// What decay leaves of the parameter.
    keep: f64,
    rate: f64,
    alpha: f64,
    eps: f64,
    momentum: f64,
}

impl Step {
    /// The parameter after a step along `direction / (sqrt(variance) + eps)`.
    #[inline(always)]
    fn descend<N: Number>(&self, parameter: N, direction: N, variance: N) -> N {
        parameter.scale(self.keep) - direction.scale(self.rate) / variance.sqrt().plus(self.eps)
    }

    /// The parameter and the momentum after a step that adds this direction to it.
    #[inline(always)]
    fn accelerate<N: Number>(&self, parameter: N, buffer: N, direction: N, variance: N) -> [N; 2] {
        let buffer = buffer.scale(self.momentum) + direction / variance.sqrt().plus(self.eps);
        [parameter.scale(self.keep) - buffer.clone().scale(self.rate), buffer]
    }

    /// The averages of the squares and of the gradients, and the variance that follows from them.
    #[inline(always)]
    fn moments<N: Number>(&self, square: N, mean: N, gradient: N) -> [N; 3] {
        let square = averaged_square(square, gradient.clone(), self.alpha);
        let mean = averaged(mean, gradient, self.alpha);
        // Rounding can take it below 0, where a root is NaN.
        let variance = (square.clone() - mean.clone() * mean.clone()).clamp(0.0, f64::INFINITY);
        [square, mean, variance]
    }
}

impl Formula<2, 1> for Step {
    #[inline(always)]
    fn apply<N: Number>(&self, [parameter, square]: [N; 2], [gradient]: [N; 1]) -> [N; 2] {
        let square = averaged_square(square, gradient.clone(), self.alpha);
        [self.descend(parameter, gradient, square.clone()), square]
    }
}

#[derive(Clone, Copy)]
struct Centred(Step);

impl Formula<3, 1> for Centred {
    #[inline(always)]
    fn apply<N: Number>(&self, [parameter, square, mean]: [N; 3], [gradient]: [N; 1]) -> [N; 3] {
        let [square, mean, variance] = self.0.moments(square, mean, gradient.clone());
        [self.0.descend(parameter, gradient, variance), square, mean]
    }
}

#[derive(Clone, Copy)]
struct WithMomentum(Step);

impl Formula<3, 1> for WithMomentum {
    #[inline(always)]
    fn apply<N: Number>(&self, [parameter, square, buffer]: [N; 3], [gradient]: [N; 1]) -> [N; 3] {
        let square = averaged_square(square, gradient.clone(), self.0.alpha);
        let [parameter, buffer] = self.0.accelerate(parameter, buffer, gradient, square.clone());
        [parameter, square, buffer]
    }
}

#[derive(Clone, Copy)]
struct CentredWithMomentum(Step);

impl Formula<4, 1> for CentredWithMomentum {
    #[inline(always)]
    fn apply<N: Number>(
        &self,
        [parameter, square, mean, buffer]: [N; 4],
        [gradient]: [N; 1],
    ) -> [N; 4] {
        let [square, mean, variance] = self.0.moments(square, mean, gradient.clone());
        let [parameter, buffer] = self.0.accelerate(parameter, buffer, gradient, variance);
        [parameter, square, mean, buffer]
    }
}
