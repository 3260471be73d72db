//! Batch normalisation for generators.

use candle_core::{Tensor, Var};
use candle_nn::{BatchNormConfig, Init, VarBuilder};

use super::{check_weight, name};
use crate::error::{Error, Result};
use crate::ops::in_place::scale_and_add;
use crate::ops::{Statistics, has_kernel, normalise};
use crate::second_order::{Layer, Traced};

/// Batch normalisation (Ioffe and Szegedy 2015) over the batch and all positions of each channel, with
/// PyTorch's semantics: `eps` 1e-5, `momentum` 0.1, the biased variance to normalise with, the unbiased one
/// into `running_var`.
///
/// Parameters: `weight` and `bias`, both `(channels,)`; buffers `running_mean` and `running_var`. It avoids two faults of
/// candle-nn's: `forward_train` there is a transpose, a copy and some ten passes over memory; and on one value a channel
/// it divides by zero and fills `running_var` with infinities, which is an error here.
///
/// It is for generators. In a critic it makes a score depend on the whole batch, so that the gradient penalty is not defined
/// (WGAN-GP, section 4): use [`GroupNorm::per_sample`](super::GroupNorm::per_sample). (Under weight clipping, where the
/// WGAN paper's critic has it, this layer is applied to traced tensors as well.)
#[derive(Debug, Clone)]
pub struct BatchNorm {
    running: Running,
    affine: Option<(Tensor, Tensor)>,
}

impl BatchNorm {
    /// A layer over `channels` channels whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for no channels, an `eps` or a `momentum` out of range, or `remove_mean: false`; candle's if
    /// a parameter cannot be made.
    pub fn new(channels: usize, config: BatchNormConfig, vb: VarBuilder) -> Result<Self> {
        let name = name("BatchNorm", &vb);
        if !config.remove_mean {
            let what = format!("remove_mean of {name}");
            return Err(Error::config(what, false, "true: batch normalisation takes the mean off"));
        }
        let (eps, momentum) = (config.eps, config.momentum);
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(Error::config(format!("eps of {name}"), eps, "a finite number, 0 or more"));
        }
        if !(0.0..=1.0).contains(&momentum) {
            return Err(Error::config(format!("momentum of {name}"), momentum, "0 to 1"));
        }
        let mut running = Running::new(channels, name, &vb)?;
        (running.eps, running.momentum) = (eps, momentum);
        let affine = config.affine.then(|| -> Result<_> {
            Ok((
                vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
                vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            ))
        });
        Ok(Self { running, affine: affine.transpose()? })
    }

    /// Normalises `(batch, channels, ...)` with the batch's statistics in training, which also moves the
    /// running ones, and with the running ones otherwise.
    ///
    /// # Errors
    /// [`Error::Shape`] where the second dimension is not the number of channels, or where a channel has a
    /// single value in training.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let affine = self.affine.as_ref().map(|(weight, bias)| (weight, bias));
        self.running.normalise(x, train, affine)
    }

    /// The same on a traced tensor, of which no [`gradient`](Traced::gradient) can be taken.
    ///
    /// # Errors
    /// Those of [`forward_t`](Self::forward_t); [`Error::BatchNormUnderPenalty`] for what was computed from an input.
    pub fn forward_traced(&self, x: &Traced, train: bool) -> Result<Traced> {
        let affine = self.affine.as_ref().map(|(weight, bias)| (weight, bias));
        self.running.normalise_traced(x, train, affine)
    }
}

/// In training, as in a critic.
impl Layer for BatchNorm {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        self.forward_traced(x, true)
    }
}

/// The running statistics of a batch normalisation, and what is done with them.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) name: String,
    mean: Tensor,
    variance: Tensor,
    eps: f64,
    momentum: f64,
}

impl Running {
    pub(super) fn new(channels: usize, name: String, vb: &VarBuilder) -> Result<Self> {
        if channels == 0 {
            return Err(Error::config(format!("channels of {name}"), channels, "1 or more"));
        }
        check_weight(&name, &[channels])?;
        Ok(Self {
            name,
            mean: vb.get_with_hints(channels, "running_mean", Init::Const(0.0))?,
            variance: vb.get_with_hints(channels, "running_var", Init::Const(1.0))?,
            eps: 1e-5,
            momentum: 0.1,
        })
    }

    /// `weight * (x - mean) / sqrt(variance + eps) + bias`, with the batch's statistics in training, which move the running
    /// ones, and with the running ones otherwise.
    pub(super) fn normalise(
        &self,
        x: &Tensor,
        train: bool,
        affine: Option<(&Tensor, &Tensor)>,
    ) -> Result<Tensor> {
        let count = self.check(x, train)?;
        let (weight, bias) = self.affine(affine)?;
        if !train {
            let (mean, variance) = (self.mean.detach(), self.variance.detach());
            return Ok(composed(x, &mean, &variance, self.eps, &weight, &bias)?);
        }
        if fits_kernel(x, &weight, &bias) {
            let (y, statistics) = normalise(x, &weight, &bias, self.eps)?;
            self.follow_kernel(&statistics, count)?;
            return Ok(y);
        }
        let mean = channel_means(x)?;
        let variance = channel_means(&x.broadcast_sub(&spread(&mean, x.rank())?)?.sqr()?)?;
        self.follow(&mean.detach(), &variance.detach(), count)?;
        Ok(composed(x, &mean, &variance, self.eps, &weight, &bias)?)
    }

    /// The same on a traced tensor.
    pub(super) fn normalise_traced(
        &self,
        x: &Traced,
        train: bool,
        affine: Option<(&Tensor, &Tensor)>,
    ) -> Result<Traced> {
        x.check_no_sample_gradient()?;
        let (weight, bias) = self.affine(affine)?;
        if x.is_plain() || !train || !fits_kernel(x.raw(), &weight, &bias) {
            let (weight, bias) = (x.weight(&weight), x.weight(&bias));
            return x.through_candle(|value| self.normalise(value, train, Some((&weight, &bias))));
        }
        let count = self.check(x.raw(), true)?;
        let (weight, bias) = (x.parameter(&weight), x.parameter(&bias));
        let (y, statistics) = normalise(x.raw(), weight.raw(), bias.raw(), self.eps)?;
        self.follow_kernel(&statistics, count)?;
        x.batch_normalised(y, (&weight, &bias), self.eps, statistics)
    }

    /// Weight and bias: 1 and 0 where there are none.
    fn affine(&self, affine: Option<(&Tensor, &Tensor)>) -> Result<(Tensor, Tensor)> {
        Ok(match affine {
            Some((weight, bias)) => (weight.clone(), bias.clone()),
            None => (self.mean.detach().ones_like()?, self.mean.detach().zeros_like()?),
        })
    }

    /// Holds an input to fit, and counts the values of a channel.
    fn check(&self, x: &Tensor, train: bool) -> Result<usize> {
        let channels = self.mean.elem_count();
        Traced::plain(x).check_input(&self.name, Some(&self.mean))?;
        let misfit = |expected: String| Error::input(&self.name, x.dims(), expected);
        let count = match x.dims() {
            [batch, c, rest @ ..] if *c == channels => batch * rest.iter().product::<usize>(),
            _ => return Err(misfit(format!("(batch, {channels}, ...)"))),
        };
        if train && count < 2 {
            return Err(misfit(
                "more than one value a channel in training, or the variance is not defined".into(),
            ));
        }
        Ok(count)
    }

    fn follow_kernel(&self, statistics: &Statistics, count: usize) -> Result<()> {
        let tensor = |values: &[f64]| Tensor::from_slice(values, values.len(), self.mean.device());
        self.follow(&tensor(&statistics.mean)?, &tensor(&statistics.variance)?, count)
    }

    /// `running = (1 - momentum) * running + momentum * batch`, in place, with the unbiased variance.
    fn follow(&self, mean: &Tensor, variance: &Tensor, count: usize) -> Result<()> {
        let unbiased = count as f64 / (count as f64 - 1.0);
        for (running, batch, scale) in
            [(&self.mean, mean, 1.0), (&self.variance, variance, unbiased)]
        {
            let batch = batch.affine(self.momentum * scale, 0.0)?.to_dtype(running.dtype())?;
            scale_and_add(&Var::from_tensor(running)?, 1.0 - self.momentum, &batch)?;
        }
        Ok(())
    }
}

fn fits_kernel(x: &Tensor, weight: &Tensor, bias: &Tensor) -> bool {
    has_kernel(x) && x.dtype() == weight.dtype() && x.dtype() == bias.dtype()
}

/// The mean of each channel of `(batch, channels, ...)`.
fn channel_means(x: &Tensor) -> candle_core::Result<Tensor> {
    let mut dims: Vec<usize> = (0..x.rank()).collect();
    dims.remove(1);
    let count = x.elem_count() / x.dim(1)?.max(1);
    x.sum(dims)?.affine(1.0 / count as f64, 0.0)
}

/// Values of channels, to be broadcast over `(batch, channels, ...)`.
fn spread(values: &Tensor, rank: usize) -> candle_core::Result<Tensor> {
    let mut dims = vec![1; rank];
    dims[1] = values.elem_count();
    values.reshape(dims)
}

/// The normalisation as candle's operators have it, differentiable in everything.
fn composed(
    x: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    eps: f64,
    weight: &Tensor,
    bias: &Tensor,
) -> candle_core::Result<Tensor> {
    let deviation = variance.affine(1.0, eps)?.sqrt()?;
    let scale = weight.div(&deviation)?;
    x.broadcast_sub(&spread(mean, x.rank())?)?
        .broadcast_mul(&spread(&scale, x.rank())?)?
        .broadcast_add(&spread(bias, x.rank())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use candle_core::{DType, Device};
    use candle_nn::ModuleT;

    /// The layer against candle-nn's own, which is composed of plain operators: output, running statistics
    /// and all three gradients, on two steps in a row.
    #[test]
    fn equals_the_composed_layer() -> Result<()> {
        let device = Device::Cpu;
        for shape in [vec![6, 5], vec![3, 5, 4, 2]] {
            let draw = |name: &str| Stream::new(1, name, 0).normal(5, DType::F64, &device);
            let make = || -> Result<(candle_nn::BatchNorm, Var, Var)> {
                let weight = Var::from_tensor(&draw("weight")?)?;
                let bias = Var::from_tensor(&draw("bias")?)?;
                let mean = Tensor::zeros(5, DType::F64, &device)?;
                let layer = candle_nn::BatchNorm::new(
                    5,
                    mean.clone(),
                    mean.ones_like()?,
                    weight.as_tensor().clone(),
                    bias.as_tensor().clone(),
                    1e-5,
                )?;
                Ok((layer, weight, bias))
            };
            let (plain, plain_weight, plain_bias) = make()?;
            let (inner, weight, bias) = make()?;
            let running = Running {
                name: "bn".into(),
                mean: inner.running_mean().clone(),
                variance: inner.running_var().clone(),
                eps: 1e-5,
                momentum: 0.1,
            };
            let affine = Some((weight.as_tensor().clone(), bias.as_tensor().clone()));
            let layer = BatchNorm { running, affine };
            for step in 0..2 {
                let x = Stream::new(2, "x", step).normal(shape.clone(), DType::F64, &device)?;
                let (x, x_plain) = (Var::from_tensor(&x)?, Var::from_tensor(&x)?);
                let y = layer.forward_t(&x, true)?;
                let y_plain = plain.forward_t(&x_plain, true)?;
                let close = |a: &Tensor, b: &Tensor| -> Result<()> {
                    let difference = a.sub(b)?.abs()?.max_all()?.to_scalar::<f64>()?;
                    assert!(difference < 1e-12, "{difference}");
                    Ok(())
                };
                close(&y, &y_plain)?;
                let gradients = y.sin()?.sum_all()?.backward()?;
                let gradients_plain = y_plain.sin()?.sum_all()?.backward()?;
                for (ours, theirs) in
                    [(&x, &x_plain), (&weight, &plain_weight), (&bias, &plain_bias)]
                {
                    let ours = gradients.get(ours).expect("tracked");
                    close(ours, gradients_plain.get(theirs).expect("tracked"))?;
                }
                close(&layer.running.mean, plain.running_mean())?;
                close(&layer.running.variance, plain.running_var())?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_single_value_a_channel_is_an_error() -> Result<()> {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let layer = BatchNorm::new(3, BatchNormConfig::default(), vb)?;
        let x = Tensor::zeros((1, 3), DType::F32, &Device::Cpu)?;
        assert!(matches!(layer.forward_t(&x, true), Err(Error::Shape { .. })));
        assert!(layer.forward_t(&x, false).is_ok());
        let x = Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?;
        assert!(matches!(layer.forward_t(&x, true), Err(Error::Shape { .. })));
        Ok(())
    }
}
