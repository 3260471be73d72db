//! Differentiable operations on candle tensors that candle lacks, gets wrong or computes slowly.
//!
//! Each function here behaves like a candle operation: it takes and returns tensors and takes part in candle's
//! `backward`. On the CPU it runs a kernel of this crate; on other devices it is composed of candle's own
//! operators. Contiguous `f32` and `f64` are the fast path; anything else candle can hold is made contiguous or
//! composed.

mod activation;
mod batch_norm;
mod composed_convolution;
mod convolution;
pub(crate) mod count;
mod finite;
mod gradient_probe;
pub(crate) mod in_place;
mod linear;
mod pool;
mod product;
mod rows;

pub(crate) use activation::{activate, activate_gradient, tanh_gradient, times_derivative};
pub(crate) use batch_norm::{Statistics, normalise, normalise_gradients};
pub(crate) use convolution::{conv2d, conv2d_input, conv2d_kernel, sum_channels};
pub(crate) use finite::first_non_finite;
pub(crate) use gradient_probe::GradientProbe;
pub(crate) use linear::{linear, sum_rows};
pub(crate) use pool::{repeat_windows, sum_windows};
pub(crate) use product::{matmul, matmul_nt, matmul_tn};
pub(crate) use rows::{Standardised, channel_products, scale_channels};

pub(crate) use crate::kernels::activation::Function;
pub(crate) use crate::kernels::convolution::Geometry;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};

/// What a tensor that [`has_kernel`] is stored in.
fn on_cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

/// Whether this crate's kernels take the tensor.
pub(crate) fn has_kernel(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}
