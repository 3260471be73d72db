//! Normalisation by the batch's own statistics, with its gradient in one pass.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType};

use super::on_cpu;
use crate::kernels::batch_norm::{Gradients, backward, statistics};
use crate::kernels::channels::{self, Extent};
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
    let extent = extent(x.dims())?;
    let x = x.contiguous()?;
    let (mean, variance) = {
        let (storage, layout) = x.storage_and_layout();
        let storage = on_cpu(&storage)?;
        for_real!(storage, T => statistics(extent, slice::<T>(storage, layout)?))
    };
    let statistics = Statistics { mean, variance };
    let op = Normalise::new(x.dims(), eps, &statistics)?;
    Ok((x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?, statistics))
}

fn extent(dims: &[usize]) -> Result<Extent> {
    let &[batch, channels, ref positions @ ..] = dims else {
        candle_core::bail!("expected (batch, channels, ...), got {dims:?}")
    };
    Ok(Extent { batch, channels, positions: positions.iter().product() })
}

/// The gradients of [`normalise`] for the input, the weight and the bias, given that for its output.
pub(crate) fn normalise_gradients(
    x: &Tensor,
    weight: &Tensor,
    g: &Tensor,
    eps: f64,
    statistics: &Statistics,
) -> Result<[Tensor; 3]> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let op = Normalise::new(x.dims(), eps, statistics)?;
    match x.dtype() {
        DType::F32 => op.pull_back::<f32>(&x, &weight, g),
        _ => op.pull_back::<f64>(&x, &weight, g),
    }
}

struct Normalise {
    extent: Extent,
    mean: Vec<f64>,
    inverse_deviation: Vec<f64>,
}

impl Normalise {
    fn new(dims: &[usize], eps: f64, statistics: &Statistics) -> Result<Self> {
        Ok(Self {
            extent: extent(dims)?,
            mean: statistics.mean.clone(),
            inverse_deviation: (statistics.variance.iter())
                .map(|variance| 1.0 / (variance + eps).sqrt())
                .collect(),
        })
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
        channels::scale(self.extent, x, &scale, Some(&shift))
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
        let [x, weight, bias] = match x.dtype() {
            DType::F32 => self.pull_back::<f32>(x, weight, g)?,
            _ => self.pull_back::<f64>(x, weight, g)?,
        };
        Ok((Some(x), Some(weight), Some(bias)))
    }
}
