//! Sums over windows and their reverse, each the other's gradient.
//!
//! (Candle's nearest upsampling overwrites its input's gradient instead of adding to it, which is wrong in every residual
//! generator, and its 2-D form takes one scale for both dimensions.)

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};

use super::has_kernel;
use crate::kernels::{for_real, pool, slice};

/// The sum of each window of this size, times `scale`; both sizes of the image must be multiples of the window's.
pub(crate) fn sum_windows(x: &Tensor, window: [usize; 2], scale: f64) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let [down, right] = window;
    if down == 0 || right == 0 || height % down != 0 || width % right != 0 {
        candle_core::bail!("windows of {window:?} do not tile {:?}", x.shape())
    }
    if has_kernel(x) {
        return x.contiguous()?.apply_op1(Windows { repeat: false, window, scale });
    }
    let tiled = x.reshape((batch, channels, height / down, down, width / right, right))?;
    tiled.sum(5)?.sum(3)?.affine(scale, 0.0)
}

/// Each element repeated to a window of this size, times `scale`.
pub(crate) fn repeat_windows(x: &Tensor, window: [usize; 2], scale: f64) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let [down, right] = window;
    if down == 0 || right == 0 {
        candle_core::bail!("windows of {window:?} have no element")
    }
    if has_kernel(x) {
        return x.contiguous()?.apply_op1(Windows { repeat: true, window, scale });
    }
    let tiled = x.reshape((batch, channels, height, 1, width, 1))?;
    let tiled = tiled.broadcast_as((batch, channels, height, down, width, right))?;
    tiled.reshape((batch, channels, height * down, width * right))?.affine(scale, 0.0)
}

struct Windows {
    repeat: bool,
    window: [usize; 2],
    scale: f64,
}

impl CustomOp1 for Windows {
    fn name(&self) -> &'static str {
        if self.repeat { "repeat-windows" } else { "sum-windows" }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let [down, right] = self.window;
        for_real!(x, T => {
            let (x, scale) = (slice::<T>(x, layout)?, <T as WithDType>::from_f64(self.scale));
            let (out, size) = if self.repeat {
                let size = (batch, channels, height * down, width * right);
                (pool::repeat_windows(x, width, self.window, scale), size)
            } else {
                let size = (batch, channels, height / down, width / right);
                (pool::sum_windows(x, width, self.window, scale), size)
            };
            Ok((<T as WithDType>::to_cpu_storage_owned(out), size.into()))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let pull_back = if self.repeat { sum_windows } else { repeat_windows };
        pull_back(gradient, self.window, self.scale).map(Some)
    }
}
