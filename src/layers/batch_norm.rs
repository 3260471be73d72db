//! Batch normalisation for generators.

use candle_core::{
    CpuStorage, CustomOp3, DType, Layout, Result as CandleResult, Shape, Tensor, Var, WithDType,
};
use candle_nn::{BatchNormConfig, ModuleT, VarBuilder};

use super::{has_kernel, on_cpu};
use crate::error::{Error, Result};
use crate::kernels::batch_norm::{Extent, Gradients, backward, scale_shift, statistics};
use crate::kernels::{Real, for_real, slice};

/// Batch normalisation (Ioffe and Szegedy 2015) over the batch and all positions of each channel, with
/// PyTorch's semantics: `eps` 1e-5, `momentum` 0.1, the biased variance to normalise with, the unbiased one
/// into `running_var`.
///
/// It holds candle-nn's layer and its parameters (`weight`, `bias`, `running_mean`, `running_var`), and avoids
/// two of its faults: `forward_train` there is a transpose, a copy and some ten passes over memory; and on one
/// value a channel it divides by zero and fills `running_var` with infinities, which is an error here.
#[derive(Debug, Clone)]
pub struct BatchNorm(candle_nn::BatchNorm);

impl BatchNorm {
    /// A layer over `channels` channels whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// Candle's if a parameter cannot be made or the configuration is out of range.
    pub fn new(channels: usize, config: BatchNormConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self(candle_nn::batch_norm(channels, config, vb)?))
    }

    /// Normalises `(batch, channels, ...)` with the batch's statistics in training, which also moves the
    /// running ones, and with the running ones otherwise.
    ///
    /// # Errors
    /// [`Error::Shape`] where the second dimension is not the number of channels, or where a channel has a
    /// single value in training.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let channels = self.0.running_mean().elem_count();
        let (batch, positions) = match x.dims() {
            [batch, c, rest @ ..] if *c == channels => (*batch, rest.iter().product()),
            got => {
                return Err(Error::Shape {
                    what: "the input of a batch normalisation".into(),
                    got: got.to_vec(),
                    expected: format!("(batch, {channels}, ...)"),
                });
            }
        };
        let extent = Extent { batch, channels, positions };
        if train && extent.count() < 2 {
            return Err(Error::Shape {
                what: "the input of a batch normalisation in training".into(),
                got: x.dims().to_vec(),
                expected: "more than one value a channel, or the variance is not defined".into(),
            });
        }
        match self.0.weight_and_bias() {
            Some((weight, bias)) if train && has_kernel(x) && x.dtype() == weight.dtype() => {
                Ok(self.normalise(extent, &x.contiguous()?, weight, bias)?)
            }
            _ => Ok(self.0.forward_t(x, train)?),
        }
    }

    fn normalise(
        &self,
        extent: Extent,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
    ) -> CandleResult<Tensor> {
        let (mean, variance) = {
            let (storage, layout) = x.storage_and_layout();
            let storage = on_cpu(&storage)?;
            for_real!(storage, T => statistics(extent, slice::<T>(storage, layout)?))
        };
        let unbiased = extent.count() as f64 / (extent.count() as f64 - 1.0);
        self.follow(self.0.running_mean(), &mean, 1.0)?;
        self.follow(self.0.running_var(), &variance, unbiased)?;
        let eps = self.0.eps();
        let inverse_deviation = variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        let op = Normalise { extent, mean, inverse_deviation };
        x.apply_op3(weight, bias, op)
    }

    /// `running = (1 - momentum) * running + momentum * scale * batch`, in place.
    fn follow(&self, running: &Tensor, batch: &[f64], scale: f64) -> CandleResult<()> {
        let momentum = self.0.momentum();
        let batch = Tensor::from_slice(batch, batch.len(), running.device())?
            .affine(momentum * scale, 0.0)?
            .to_dtype(running.dtype())?;
        let next = running.detach().affine(1.0 - momentum, 0.0)?.add(&batch)?;
        Var::from_tensor(running)?.set(&next)
    }
}

struct Normalise {
    extent: Extent,
    mean: Vec<f64>,
    inverse_deviation: Vec<f64>,
}

impl Normalise {
    fn run<T: Real>(&self, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
        let real = <T as WithDType>::from_f64;
        let scale: Vec<f64> = weight
            .iter()
            .zip(&self.inverse_deviation)
            .map(|(&weight, inverse)| WithDType::to_f64(weight) * inverse)
            .collect();
        let shift: Vec<T> = (bias.iter().zip(&self.mean).zip(&scale))
            .map(|((&bias, mean), scale)| real(WithDType::to_f64(bias) - mean * scale))
            .collect();
        let scale: Vec<T> = scale.into_iter().map(real).collect();
        scale_shift(self.extent, x, &scale, &shift)
    }

    fn pull_back<T: Real>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        g: &Tensor,
    ) -> CandleResult<[Tensor; 3]> {
        let g = g.contiguous()?;
        let (x_storage, x_layout) = x.storage_and_layout();
        let (g_storage, g_layout) = g.storage_and_layout();
        let (weight_storage, weight_layout) = weight.storage_and_layout();
        let Gradients { x: for_x, weight: for_weight, bias: for_bias } = backward(
            self.extent,
            slice::<T>(on_cpu(&x_storage)?, x_layout)?,
            slice(on_cpu(&g_storage)?, g_layout)?,
            &self.mean,
            &self.inverse_deviation,
            slice(on_cpu(&weight_storage)?, weight_layout)?,
        );
        let channels = self.extent.channels;
        Ok([
            Tensor::from_vec(for_x, x.shape(), x.device())?,
            Tensor::from_vec(for_weight, channels, x.device())?,
            Tensor::from_vec(for_bias, channels, x.device())?,
        ])
    }
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        for_real!(x, T => {
            let y = self.run::<T>(
                slice(x, x_layout)?,
                slice(weight, weight_layout)?,
                slice(bias, bias_layout)?,
            );
            Ok((<T as WithDType>::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = match x.dtype() {
            DType::F32 => self.pull_back::<f32>(x, weight, g)?,
            _ => self.pull_back::<f64>(x, weight, g)?,
        };
        Ok((Some(x), Some(weight), Some(bias)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use candle_core::Device;

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
            let layer = BatchNorm(inner);
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
                close(layer.0.running_mean(), plain.running_mean())?;
                close(layer.0.running_var(), plain.running_var())?;
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
