//! Changes to a tensor's own memory: what optimisers and weight clipping do to parameters.
//!
//! On the CPU each is one pass without a temporary. On other devices candle's operators make the new value and
//! it is copied over the old one.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};

use super::{has_kernel, on_cpu};
use crate::kernels::{for_real, slice, slice_mut, update};

/// `average = decay * average + (1 - decay) * x`
pub(crate) fn average(average: &Var, x: &Tensor, decay: f64) -> Result<()> {
    if has_kernel(average) {
        average.inplace_op2(&x.contiguous()?, &Average { decay, squared: false })
    } else {
        average.set(&average.affine(decay, 0.0)?.add(&x.affine(1.0 - decay, 0.0)?)?.detach())
    }
}

/// `average = decay * average + (1 - decay) * x^2`
pub(crate) fn average_of_squares(average: &Var, x: &Tensor, decay: f64) -> Result<()> {
    if has_kernel(average) {
        average.inplace_op2(&x.contiguous()?, &Average { decay, squared: true })
    } else {
        average.set(&average.affine(decay, 0.0)?.add(&x.sqr()?.affine(1.0 - decay, 0.0)?)?.detach())
    }
}

/// The numbers of a [`descend`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descent {
    pub(crate) rate: f64,
    pub(crate) scale: f64,
    pub(crate) eps: f64,
}

/// `parameter -= rate * direction / (sqrt(square) * scale + eps)`
pub(crate) fn descend(
    parameter: &Var,
    direction: &Tensor,
    square: &Tensor,
    descent: Descent,
) -> Result<()> {
    if has_kernel(parameter) {
        parameter.inplace_op3(&direction.contiguous()?, square, &descent)
    } else {
        let Descent { rate, scale, eps } = descent;
        let step = direction.affine(rate, 0.0)?.div(&square.sqrt()?.affine(scale, eps)?)?;
        parameter.set(&parameter.sub(&step)?.detach())
    }
}

/// `target = keep * target + take * x`
pub(crate) fn combine(target: &Var, keep: f64, x: &Tensor, take: f64) -> Result<()> {
    if has_kernel(target) {
        target.inplace_op2(&x.contiguous()?, &Combine { keep, take })
    } else {
        target.set(&target.affine(keep, 0.0)?.add(&x.affine(take, 0.0)?)?.detach())
    }
}

/// `target = factor * target`
pub(crate) fn scale(target: &Var, factor: f64) -> Result<()> {
    if has_kernel(target) {
        target.inplace_op1(&Scale { factor })
    } else {
        target.set(&target.affine(factor, 0.0)?.detach())
    }
}

/// The numbers of a [`combine_centred`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Normalised {
    pub(crate) keep: f64,
    pub(crate) take: f64,
    pub(crate) eps: f64,
}

/// `target = keep * target + take * direction / (sqrt(max(square - mean^2, 0)) + eps)`
pub(crate) fn combine_centred(
    target: &Var,
    direction: &Tensor,
    square: &Tensor,
    mean: &Tensor,
    numbers: Normalised,
) -> Result<()> {
    if has_kernel(target) {
        let op = CombineCentred { numbers, mean: mean.contiguous()? };
        target.inplace_op3(&direction.contiguous()?, square, &op)
    } else {
        let Normalised { keep, take, eps } = numbers;
        let deviation = square.sub(&mean.sqr()?)?.relu()?.sqrt()?.affine(1.0, eps)?;
        let step = direction.affine(take, 0.0)?.div(&deviation)?;
        target.set(&target.affine(keep, 0.0)?.add(&step)?.detach())
    }
}

/// `buffer = momentum * buffer + direction / (sqrt(square) + eps)`
pub(crate) fn accumulate_normalised(
    buffer: &Var,
    direction: &Tensor,
    square: &Tensor,
    momentum: f64,
    eps: f64,
) -> Result<()> {
    if has_kernel(buffer) {
        buffer.inplace_op3(&direction.contiguous()?, square, &Accumulate { momentum, eps })
    } else {
        let step = direction.div(&square.sqrt()?.affine(1.0, eps)?)?;
        buffer.set(&buffer.affine(momentum, 0.0)?.add(&step)?.detach())
    }
}

/// `parameter -= rate * (gradient + momentum * buffer)`
pub(crate) fn descend_nesterov(
    parameter: &Var,
    gradient: &Tensor,
    buffer: &Tensor,
    rate: f64,
    momentum: f64,
) -> Result<()> {
    if has_kernel(parameter) {
        parameter.inplace_op3(&gradient.contiguous()?, buffer, &Nesterov { rate, momentum })
    } else {
        let step = gradient.add(&buffer.affine(momentum, 0.0)?)?.affine(rate, 0.0)?;
        parameter.set(&parameter.sub(&step)?.detach())
    }
}

/// Clamps each element to `[-bound, bound]`.
pub(crate) fn clamp(parameter: &Var, bound: f64) -> Result<()> {
    if has_kernel(parameter) {
        parameter.inplace_op1(&Clamp { bound })
    } else {
        parameter.set(&parameter.detach().clamp(-bound, bound)?)
    }
}

struct Average {
    decay: f64,
    squared: bool,
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "moving-average"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        for_real!(x, T => {
            let (average, x) = (slice_mut::<T>(average, layout)?, slice::<T>(x, x_layout)?);
            if self.squared {
                update::average_of_squares(average, x, self.decay);
            } else {
                update::average(average, x, self.decay);
            }
            Ok(())
        })
    }
}

impl InplaceOp3 for Descent {
    fn name(&self) -> &'static str {
        "descent"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        direction: &CpuStorage,
        direction_layout: &Layout,
        square: &CpuStorage,
        square_layout: &Layout,
    ) -> Result<()> {
        for_real!(direction, T => {
            update::descend(
                slice_mut::<T>(parameter, layout)?,
                slice(direction, direction_layout)?,
                slice(square, square_layout)?,
                self.rate,
                self.scale,
                self.eps,
            );
            Ok(())
        })
    }
}

struct Combine {
    keep: f64,
    take: f64,
}

impl InplaceOp2 for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        for_real!(x, T => {
            let (target, x) = (slice_mut::<T>(target, layout)?, slice::<T>(x, x_layout)?);
            update::combine(target, self.keep, x, self.take);
            Ok(())
        })
    }
}

struct Scale {
    factor: f64,
}

impl InplaceOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, target: &mut CpuStorage, layout: &Layout) -> Result<()> {
        for_real!(target, T => {
            update::scale(slice_mut::<T>(target, layout)?, self.factor);
            Ok(())
        })
    }
}

/// Candle's operations in place take three tensors; the fourth goes along in the operation.
struct CombineCentred {
    numbers: Normalised,
    mean: Tensor,
}

impl InplaceOp3 for CombineCentred {
    fn name(&self) -> &'static str {
        "combine-centred"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        layout: &Layout,
        direction: &CpuStorage,
        direction_layout: &Layout,
        square: &CpuStorage,
        square_layout: &Layout,
    ) -> Result<()> {
        let (mean, mean_layout) = self.mean.storage_and_layout();
        let Normalised { keep, take, eps } = self.numbers;
        for_real!(direction, T => {
            update::combine_centred(
                slice_mut::<T>(target, layout)?,
                [keep, take, eps],
                slice(direction, direction_layout)?,
                slice(square, square_layout)?,
                slice(on_cpu(&mean)?, mean_layout)?,
            );
            Ok(())
        })
    }
}

struct Accumulate {
    momentum: f64,
    eps: f64,
}

impl InplaceOp3 for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate-normalised"
    }

    fn cpu_fwd(
        &self,
        buffer: &mut CpuStorage,
        layout: &Layout,
        direction: &CpuStorage,
        direction_layout: &Layout,
        square: &CpuStorage,
        square_layout: &Layout,
    ) -> Result<()> {
        for_real!(direction, T => {
            update::accumulate_normalised(
                slice_mut::<T>(buffer, layout)?,
                self.momentum,
                slice(direction, direction_layout)?,
                slice(square, square_layout)?,
                self.eps,
            );
            Ok(())
        })
    }
}

struct Nesterov {
    rate: f64,
    momentum: f64,
}

impl InplaceOp3 for Nesterov {
    fn name(&self) -> &'static str {
        "nesterov-descent"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        buffer: &CpuStorage,
        buffer_layout: &Layout,
    ) -> Result<()> {
        for_real!(gradient, T => {
            update::descend_nesterov(
                slice_mut::<T>(parameter, layout)?,
                slice(gradient, gradient_layout)?,
                slice(buffer, buffer_layout)?,
                self.rate,
                self.momentum,
            );
            Ok(())
        })
    }
}

struct Clamp {
    bound: f64,
}

impl InplaceOp1 for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
        for_real!(parameter, T => {
            update::clamp(slice_mut::<T>(parameter, layout)?, self.bound);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// Half precision has no kernel, so it takes the path of the other devices: the formulas must be the same.
    #[test]
    fn kernels_and_compositions_agree() -> Result<()> {
        let run = |dtype: DType| -> Result<Vec<f32>> {
            let make = |values: &[f32]| Tensor::new(values, &Device::Cpu)?.to_dtype(dtype);
            let parameter = Var::from_tensor(&make(&[1.0, -2.0, 0.25])?)?;
            let state = Var::from_tensor(&make(&[0.5, 0.25, 1.0])?)?;
            let gradient = make(&[2.0, -1.0, 0.5])?;
            average(&state, &gradient, 0.75)?;
            average_of_squares(&state, &gradient, 0.5)?;
            descend(&parameter, &gradient, &state, Descent { rate: 0.5, scale: 2.0, eps: 0.25 })?;
            combine(&parameter, 0.5, &gradient, -0.25)?;
            scale(&parameter, 0.75)?;
            descend_nesterov(&parameter, &gradient, &state, 0.125, 0.5)?;
            accumulate_normalised(&parameter, &gradient, &state, 0.5, 0.25)?;
            // The last of the three would have a root of less than 0.
            let mean = make(&[0.25, 0.5, 2.0])?;
            let numbers = Normalised { keep: 0.5, take: -0.125, eps: 0.25 };
            combine_centred(&parameter, &gradient, &state, &mean, numbers)?;
            clamp(&parameter, 0.75)?;
            Tensor::cat(&[parameter.as_tensor(), state.as_tensor()], 0)?
                .to_dtype(DType::F32)?
                .to_vec1()
        };
        for (fast, plain) in run(DType::F32)?.iter().zip(run(DType::F16)?) {
            assert!((fast - plain).abs() < 4e-3, "{fast} against {plain}");
        }
        Ok(())
    }
}
