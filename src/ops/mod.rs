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
mod each_beside;
mod elementwise;
mod finite;
pub(crate) mod in_place;
mod linear;
mod pool;
mod product;
mod rows;

pub(crate) use activation::{activate, activate_gradient, tanh_gradient, times_derivative};
pub(crate) use batch_norm::{Statistics, normalise, normalise_gradients};
pub(crate) use convolution::{conv2d, conv2d_input, conv2d_kernel};
pub(crate) use each_beside::each_beside;
pub(crate) use elementwise::{add, mul, sqr, sub};
pub(crate) use finite::first_non_finite;
pub(crate) use linear::linear;
pub(crate) use pool::{repeat_windows, sum_windows};
pub(crate) use product::{matmul, matmul_nt, matmul_tn, sum_of_products};
pub(crate) use rows::{
    Standardised, channel_products, channel_totals, gathered, mix_samples, scale_channels,
};

pub(crate) use crate::kernels::activation::Function;
pub(crate) use crate::kernels::convolution::Geometry;
pub(crate) use crate::kernels::update::{Formula, Number};

use candle_core::{CpuStorage, DType, Result, Shape, Storage, Tensor};

use crate::kernels::{Real, slice};

/// What a tensor that [`has_kernel`] is stored in.
fn on_cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

/// The same tensors apart from candle's graph, made contiguous where they are not.
fn contiguous<const N: usize>(tensors: [&Tensor; N]) -> Result<[Tensor; N]> {
    let mut views = tensors.map(Tensor::detach);
    for view in &mut views {
        *view = view.contiguous()?;
    }
    Ok(views)
}

/// What a function makes of the elements of [`contiguous`] tensors on the CPU.
fn on_slices<T: Real, R, const N: usize>(
    tensors: &[Tensor; N],
    f: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.each_ref().map(Tensor::storage_and_layout);
    let mut slices: [&[T]; N] = [&[]; N];
    for (elements, (storage, layout)) in slices.iter_mut().zip(&held) {
        *elements = slice(on_cpu(storage)?, layout)?;
    }
    f(slices)
}

/// Runs a kernel on the elements of tensors on the CPU, each made contiguous where it is not, in their type.
macro_rules! by_type {
    ($inputs:expr, $shape:expr, |$slices:pat_param| $kernel:expr) => {{
        let inputs = $crate::ops::contiguous($inputs)?;
        match inputs[0].dtype() {
            candle_core::DType::F32 => {
                $crate::ops::run::<f32, _>(&inputs, $shape, |$slices| $kernel)
            }
            _ => $crate::ops::run::<f64, _>(&inputs, $shape, |$slices| $kernel),
        }
    }};
}
use by_type;

fn run<T: Real, const N: usize>(
    inputs: &[Tensor; N],
    shape: &Shape,
    kernel: impl FnOnce([&[T]; N]) -> Vec<T>,
) -> Result<Tensor> {
    on_slices(inputs, |slices| Tensor::from_vec(kernel(slices), shape, inputs[0].device()))
}

/// Whether this crate's kernels take the tensor.
pub(crate) fn has_kernel(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}
