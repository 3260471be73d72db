//! The fully connected layer with its bias in one pass.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{channel_totals, count, has_kernel, matmul, matmul_nt, matmul_tn};
use crate::kernels::matmul::{Matrix, product_nt};
use crate::kernels::{Real, for_real, slice};

/// `x Wᵀ + b`: x (batch, in), weight (out, in), bias (out,) -> (batch, out).
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else {
        return matmul_nt(x, weight);
    };
    if has_kernel(x) && x.dtype() == weight.dtype() && x.dtype() == bias.dtype() {
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)
    } else {
        matmul_nt(x, weight)?.broadcast_add(bias)
    }
}

struct Linear;

impl Linear {
    fn run<T: Real>(
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        (bias, bias_layout): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        count::matrix_product();
        let (batch, inputs) = x_layout.shape().dims2()?;
        let (outputs, weight_inputs) = weight_layout.shape().dims2()?;
        if inputs != weight_inputs || bias_layout.shape().dims() != [outputs] {
            candle_core::bail!(
                "linear layer with weight {:?} and bias {:?}: got input {:?}, expected (batch, {weight_inputs})",
                weight_layout.shape(),
                bias_layout.shape(),
                x_layout.shape(),
            )
        }
        let x = Matrix::new(slice::<T>(x, x_layout)?, batch, inputs);
        let weight = Matrix::new(slice::<T>(weight, weight_layout)?, outputs, inputs);
        let out = product_nt(x, weight, Some(slice::<T>(bias, bias_layout)?));
        Ok((T::to_cpu_storage_owned(out), Shape::from((batch, outputs))))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        for_real!(x, T => Self::run::<T>((x, x_layout), (weight, weight_layout), (bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let for_x = x.track_op().then(|| matmul(g, &weight.detach())).transpose()?;
        let for_weight = weight.track_op().then(|| matmul_tn(g, &x.detach())).transpose()?;
        let for_bias =
            bias.track_op().then(|| channel_totals(g, bias.elem_count(), 1)).transpose()?;
        Ok((for_x, for_weight, for_bias))
    }
}
