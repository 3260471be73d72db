//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), as `torch.optim` computes them.

use std::collections::BTreeMap;

use candle_core::{Tensor, backprop::GradStore};

use super::{Optimizer, Rates, State, update_each, with_gradients};
use crate::error::Result;
use crate::ops::in_place::{averaged, averaged_square, update_parameter};
use crate::ops::{Formula, Number};
use crate::parameters::Parameters;

/// Adam with both bias corrections:
/// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, then
/// `w -= learning_rate / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)`.
///
/// With a `beta1` of 0, as WGAN-GP has it, `m` is the gradient: its tensor is kept until the next step, and must not be changed
/// in place meanwhile.
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
    ) -> Result<bool> {
        let bound = rates.bound();
        let updates = with_gradients(parameters, gradients)?;
        let steps = self.state.advance(parameters)?;
        let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
        let finite = update_each(updates.clone(), |name, parameter, gradient| {
            let rate = rates.learning_rate(name, self.learning_rate);
            let step = Step {
                keep: 1.0 - rate * rates.weight_decay(name, self.weight_decay),
                rate: rate / correction(self.beta1),
                scale: correction(self.beta2).sqrt().recip(),
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
            };
            let exp_avg_sq = self.state.get("exp_avg_sq", name)?;
            if self.beta1 == 0.0 {
                return Ok(update_parameter(
                    [parameter, exp_avg_sq],
                    [gradient],
                    &WithoutMomentum(step),
                    bound,
                )?);
            }
            let exp_avg = self.state.get("exp_avg", name)?;
            Ok(update_parameter([parameter, exp_avg, exp_avg_sq], [gradient], &step, bound)?)
        })?;
        if self.beta1 == 0.0 {
            // To read and write it would be a large part of an update.
            for (name, _, gradient) in updates {
                self.state.put("exp_avg", name, gradient)?;
            }
        }
        Ok(finite)
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

#[derive(Clone, Copy)]
struct Step {
    /// What decay leaves of the parameter.
    keep: f64,
    /// The learning rate over the first average's correction.
    rate: f64,
    /// What corrects the root of the second average.
    scale: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
}

impl Step {
    /// The parameter and the second average after a step along `mean`.
    #[inline(always)]
    fn descend<N: Number>(&self, parameter: N, mean: N, square: N, gradient: N) -> [N; 2] {
        let square = averaged_square(square, gradient, self.beta2);
        let divisor = square.clone().sqrt().scale(self.scale).plus(self.eps);
        [parameter.scale(self.keep) - mean.scale(self.rate) / divisor, square]
    }
}

impl Formula<3, 1> for Step {
    #[inline(always)]
    fn apply<N: Number>(&self, [parameter, mean, square]: [N; 3], [gradient]: [N; 1]) -> [N; 3] {
        let mean = averaged(mean, gradient.clone(), self.beta1);
        let [parameter, square] = self.descend(parameter, mean.clone(), square, gradient);
        [parameter, mean, square]
    }
}

/// Where the first average is the gradient.
#[derive(Clone, Copy)]
struct WithoutMomentum(Step);

impl Formula<2, 1> for WithoutMomentum {
    #[inline(always)]
    fn apply<N: Number>(&self, [parameter, square]: [N; 2], [gradient]: [N; 1]) -> [N; 2] {
        self.0.descend(parameter, gradient.clone(), square, gradient)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::optimizers::OptimizerConfig;
    use crate::random::Stream;

    /// To the bit what the formula gives that reads and writes the first average, on three steps, and the state is the same.
    #[test]
    fn without_momentum_the_gradient_is_the_first_average() -> Result<()> {
        let parameters: Parameters =
            [("w".to_owned(), Var::ones(100, DType::F32, &Device::Cpu)?)].into_iter().collect();
        let (_, parameter) = parameters.trained().next().expect("it has one");
        let all = [parameter.as_tensor().copy()?, parameter.zeros_like()?, parameter.zeros_like()?];
        let [parameter_of_all, mean, square] = all.map(|x| Var::from_tensor(&x));
        let (parameter_of_all, mean, square) = (parameter_of_all?, mean?, square?);
        let mut adam = OptimizerConfig::adam_w(1e-2, 0.0, 0.9, 0.1).build();
        for step in 1..=3 {
            let mut draws = Stream::new(0, "gradient", step);
            let gradient = draws.normal(100, DType::F32, &Device::Cpu)?;
            let formula = Step {
                keep: 1.0 - 1e-2 * 0.1,
                rate: 1e-2,
                scale: (1.0 - 0.9f64.powf(step as f64)).sqrt().recip(),
                beta1: 0.0,
                beta2: 0.9,
                eps: 1e-8,
            };
            update_parameter(
                [&parameter_of_all, &mean, &square],
                [&gradient],
                &formula,
                f64::INFINITY,
            )?;
            let mut gradients = GradStore::default();
            gradients.insert(parameter, gradient);
            assert!(adam.step(&parameters, &gradients, &Rates::default())?);
            let state = adam.state()?;
            let bits = |x: &Tensor| -> Result<Vec<u32>> {
                Ok(x.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
            };
            assert_eq!(bits(parameter)?, bits(&parameter_of_all)?);
            assert_eq!(bits(&state["exp_avg.w"])?, bits(&mean)?);
            assert_eq!(bits(&state["exp_avg_sq.w"])?, bits(&square)?);
        }
        Ok(())
    }
}
