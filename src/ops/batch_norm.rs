//! Normalisation by the batch's own statistics, with its gradient in one pass.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, TensorId, WithDType,
};

use super::on_cpu;
use crate::kernels::batch_norm::{Extent, Gradients, backward, scale_shift, statistics};
use crate::kernels::{Real, for_real, slice};

/// The mean and the biased variance of each channel.
#[derive(Debug, Clone)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f64>,
    pub(crate) variance: Vec<f64>,
}

/// `weight * (x - mean) / sqrt(variance + eps) + bias` over the batch and all positions of each channel of a tensor on the
/// CPU, and the statistics that it was normalised with.
pub(crate) fn normalise(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Statistics)> {
    let (op, x, statistics) = Normalise::of(x, eps)?;
    Ok((x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?, statistics))
}

/// A normalisation that has been done, and its gradients, each made once.
pub(crate) struct Normalised {
    op: Normalise,
    x: Tensor,
    weight: Tensor,
    /// What was made of the gradient with this number, until it is asked for.
    made: Mutex<Option<(TensorId, [Option<Tensor>; 3])>>,
}

impl Normalised {
    /// [`normalise`] without candle's graph.
    pub(crate) fn new(
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        eps: f64,
    ) -> Result<(Tensor, Statistics, Self)> {
        let (x, weight, bias) = (x.detach(), weight.detach(), bias.detach());
        let (op, x, statistics) = Normalise::of(&x, eps)?;
        let weight = weight.contiguous()?;
        let made = Self { op, x, weight, made: Mutex::default() };
        let y = made.x.apply_op3_no_bwd(&made.weight, &bias.contiguous()?, &made.op)?;
        Ok((y, statistics, made))
    }

    /// The gradient for the input (0), the weight (1) or the bias (2), given that of the output.
    pub(crate) fn gradient(&self, operand: usize, g: &Tensor) -> Result<Tensor> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = made.as_mut().filter(|(of, _)| *of == g.id());
        if let Some(gradient) = waiting.and_then(|(_, gradients)| gradients[operand].take()) {
            return Ok(gradient);
        }
        let gradients = self.op.gradients(&self.x, &self.weight, g)?;
        let (_, gradients) = made.insert((g.id(), gradients.map(Some)));
        match gradients[operand].take() {
            Some(gradient) => Ok(gradient),
            None => candle_core::bail!("a normalisation has no operand {operand}"),
        }
    }
}

struct Normalise {
    extent: Extent,
    mean: Vec<f64>,
    inverse_deviation: Vec<f64>,
}

impl Normalise {
    /// What it takes to normalise a tensor, and the tensor in one piece.
    fn of(x: &Tensor, eps: f64) -> Result<(Self, Tensor, Statistics)> {
        let [batch, channels, positions @ ..] = x.dims() else {
            candle_core::bail!("expected (batch, channels, ...), got {:?}", x.shape())
        };
        let positions = positions.iter().product();
        let extent = Extent { batch: *batch, channels: *channels, positions };
        let x = x.contiguous()?;
        let (mean, variance) = {
            let (storage, layout) = x.storage_and_layout();
            let storage = on_cpu(&storage)?;
            for_real!(storage, T => statistics(extent, slice::<T>(storage, layout)?))
        };
        let inverse_deviation = variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        let op = Self { extent, mean: mean.clone(), inverse_deviation };
        Ok((op, x, Statistics { mean, variance }))
    }

    fn gradients(&self, x: &Tensor, weight: &Tensor, g: &Tensor) -> Result<[Tensor; 3]> {
        match x.dtype() {
            DType::F32 => self.pull_back::<f32>(x, weight, g),
            _ => self.pull_back::<f64>(x, weight, g),
        }
    }

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

    fn pull_back<T: Real>(&self, x: &Tensor, weight: &Tensor, g: &Tensor) -> Result<[Tensor; 3]> {
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
    ) -> Result<(CpuStorage, Shape)> {
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
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = self.gradients(x, weight, g)?;
        Ok((Some(x), Some(weight), Some(bias)))
    }
}
