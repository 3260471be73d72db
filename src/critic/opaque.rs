//! A ready-made candle module as a critic.

use candle_core::{DType, Device, Module, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use super::Critic;
use crate::error::{Error, Result};
use crate::second_order::Traced;

/// A critic around an opaque candle module, such as a `candle_nn::Sequential`.
///
/// Scores and the gradient with respect to the samples are exact. But candle cannot differentiate that gradient
/// again, and this crate cannot look inside the module, so **a penalty's own gradient is a central difference**:
/// with `v = dP/dg` the direction in which the penalty wants to move each sample's gradient `g`, the parameters'
/// gradient of `P` is that of `sum_i (f(x_i + h v_i) - f(x_i - h v_i)) / 2h`.
///
/// * **Use `f64` under a penalty.** A piecewise-linear critic (ReLU, leaky ReLU) is differenced exactly, up to rounding,
///   unless a kink lies within `h |v|` of a sample, and each kink that does adds an error of order `1 / h`. The step is the
///   cube root of the type's precision, in units of the sample's size: 6e-6 in `f64`, where kinks are rarely met, and
///   5e-3 in `f32`, where with hundreds of units some always are and the error can exceed the gradient itself.
/// * For a smooth critic the error is of order `h^2`, as large as that of rounding.
/// * It costs two forward and backward passes more than a traced critic.
///
/// Candle's own gradient rules apply inside the module, with their faults: its `LayerNorm` and `RmsNorm` cut the graph, so
/// that an optimiser here reports a parameter without a gradient; its ReLU has slope 1 at 0.
///
/// Write the forward pass on [`Traced`] tensors instead wherever the source is at hand: that is exact.
pub struct ModuleCritic<M> {
    trained: M,
    /// A twin on detached views of the same memory, so that the generator's step does no work for the critic.
    frozen: M,
}

impl<M: Module> ModuleCritic<M> {
    /// Builds the module twice from `vb`: on the parameters, and on constant views of them.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn new(
        vb: VarBuilder<'static>,
        build: impl Fn(VarBuilder<'static>) -> Result<M>,
    ) -> Result<Self> {
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let trained = build(vb.clone())?;
        let constants = VarBuilder::from_backend(Box::new(Constants(vb)), dtype, device);
        Ok(Self { trained, frozen: build(constants)? })
    }

    /// The gradient of the sum of the scores, as a constant.
    fn gradient(&self, samples: &Tensor) -> Result<Tensor> {
        let samples = Var::from_tensor(&samples.detach())?;
        let scores = self.scores_frozen(&samples)?;
        scores.sum_all()?.backward()?.remove(&samples).ok_or_else(|| Error::NotConnected {
            what: "the critic's scores".into(),
            on: "its input".into(),
        })
    }
}

impl<M: Module> Critic for ModuleCritic<M> {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        if samples.is_tracked() {
            return Err(Error::NotConnected {
                what: "the output of an opaque module".into(),
                on: "the traced input; use `penalty`, which takes a central difference".into(),
            });
        }
        let module = if samples.is_frozen() { &self.frozen } else { &self.trained };
        samples.through_candle(|samples| Ok(module.forward(samples)?))
    }

    /// The scores, and their gradient as a constant that cannot be differentiated again.
    fn scores_and_gradient(&self, samples: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.scores(samples)?, self.gradient(samples)?))
    }

    fn penalty(
        &self,
        points: &Traced,
        of_gradient: &dyn Fn(&Traced) -> Result<Traced>,
    ) -> Result<Traced> {
        let points = points.detach();
        let gradient = Var::from_tensor(&self.gradient(&points)?)?;
        let penalty = of_gradient(&Traced::untracked(&gradient))?;
        let value = penalty.detach();
        let Some(direction) = penalty.backward()?.remove(&gradient) else {
            return Ok(Traced::untracked(&value)); // it does not depend on the gradient at all
        };
        // The step balances rounding, eps / h, against curvature, h^2, in units of each sample's own size.
        let precision =
            if points.dtype() == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let length = |t: &Tensor| t.flatten_from(1)?.sqr()?.sum_keepdim(1)?.sqrt();
        let size = length(&points)?.affine(1.0, 1.0)?;
        let reach = length(&direction)?;
        let zero = reach.eq(0.0)?.to_dtype(reach.dtype())?;
        let step = size.affine(precision.cbrt(), 0.0)?.div(&reach.add(&zero)?)?;
        let mut spread = vec![1; points.rank()];
        spread[0] = points.dim(0)?;
        let shift = direction.broadcast_mul(&step.reshape(spread)?)?;
        let ahead = self.scores(&points.add(&shift)?)?;
        let behind = self.scores(&points.sub(&shift)?)?;
        let derivative =
            ahead.sub(&behind)?.div(&step.flatten_all()?)?.affine(0.5, 0.0)?.sum_all()?;
        // The penalty's value with the derivative's gradient.
        Ok(Traced::untracked(&derivative.sub(&derivative.detach())?.add(&value)?))
    }
}

/// Hands out detached views of another builder's parameters; buffers stay themselves, as both twins share them.
struct Constants(VarBuilder<'static>);

impl SimpleBackend for Constants {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hint: Init,
        dtype: DType,
        _: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.0.get_with_hints_dtype(shape, name, hint, dtype)?;
        Ok(if crate::parameters::is_buffer(name) { tensor } else { tensor.detach() })
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        Ok(self.0.get_unchecked_dtype(name, dtype)?.detach())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(name)
    }
}
