//! Layers that make an image smaller or larger without parameters.

use candle_core::{Device, Tensor};

use super::Size;
use crate::error::{Error, Result};
use crate::ops::Geometry;
use crate::second_order::{Layer, Traced, can_be_held};

fn misfit(layer: &str, x: &Traced, expected: impl Into<String>) -> Error {
    Error::input(layer, x.dims(), expected)
}

/// The mean of each window of `(batch, channels, height, width)`, PyTorch's `AvgPool2d`: padding zeros count.
///
/// Rows and columns that no whole window covers are passed over: each size of the output is
/// `floor((size + 2 padding - kernel_size) / stride) + 1`. Candle's takes only windows that do not overlap. Sizes outside 1 to
/// 1024 are an error where the layer is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvgPool2d {
    kernel_size: Size,
    stride: Size,
    padding: Size,
}

impl AvgPool2d {
    /// Windows of this size side by side.
    #[must_use]
    pub fn new(kernel_size: impl Into<Size>) -> Self {
        let kernel_size = kernel_size.into();
        Self { kernel_size, stride: kernel_size, padding: 0.into() }
    }

    /// Windows at this stride, which may overlap, after padding with zeros on each side by at most half the window.
    #[must_use]
    pub fn strided(self, stride: impl Into<Size>, padding: impl Into<Size>) -> Self {
        Self { stride: stride.into(), padding: padding.into(), ..self }
    }
}

impl Layer for AvgPool2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let Self { kernel_size, stride, padding } = *self;
        let layer = format!("{self:?}");
        kernel_size.positive("kernel_size", &layer)?;
        stride.positive("stride", &layer)?;
        if padding.height > kernel_size.height / 2 || padding.width > kernel_size.width / 2 {
            let expected = "at most half of kernel_size";
            return Err(Error::config(
                format!("padding of {layer}"),
                format!("{padding:?}"),
                expected,
            ));
        }
        let geometry = Geometry {
            stride: stride.pair(),
            padding: padding.pair(),
            dilation: [1, 1],
            groups: 1,
        };
        x.check_input(&layer, None)?;
        let &[batch, channels, height, width] = x.dims() else {
            return Err(misfit(&layer, x, "(batch, channels, height, width)"));
        };
        let Some([rows, columns]) = geometry.map_size([height, width], kernel_size.pair()) else {
            return Err(misfit(&layer, x, "a height and a width of at least the window's"));
        };
        let [down, right] = kernel_size.pair();
        if stride == kernel_size && padding == 0.into() {
            let covered = x.narrow(2, 0, rows * down)?.narrow(3, 0, columns * right)?;
            return covered.mean_of_windows([down, right]);
        }
        // Windows that overlap: a convolution of each channel with a constant kernel.
        let weight = 1.0 / (down * right) as f64;
        let kernel = Tensor::full(weight, (1, 1, down, right), &Device::Cpu)?
            .to_dtype(x.dtype())?
            .to_device(x.device())?;
        let planes = x.reshape((batch * channels, 1, height, width))?;
        planes.conv2d(&kernel, None, geometry, &layer)?.reshape((batch, channels, rows, columns))
    }
}

/// Each pixel of `(batch, channels, height, width)` repeated, PyTorch's `Upsample(scale_factor, mode="nearest")` for whole
/// factors: `(batch, channels, height * factor, width * factor)`.
///
/// Candle's overwrites its input's gradient instead of adding to it, which is wrong wherever the input has another consumer,
/// as in every residual generator. A factor outside 1 to 1024 is an error where the layer is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpsampleNearest2d {
    scale_factor: Size,
}

impl UpsampleNearest2d {
    /// By a factor for each dimension, 1 or more.
    #[must_use]
    pub fn new(scale_factor: impl Into<Size>) -> Self {
        Self { scale_factor: scale_factor.into() }
    }
}

impl Layer for UpsampleNearest2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let layer = format!("{self:?}");
        let factor = self.scale_factor.positive("scale_factor", &layer)?;
        x.check_input(&layer, None)?;
        match x.dims() {
            &[batch, channels, height, width]
                if can_be_held(&[batch, channels, height, width, factor.height, factor.width]) =>
            {
                x.repeat_to_windows(factor.pair())
            }
            [_, _, _, _] => Err(misfit(&layer, x, "an image that memory can hold enlarged")),
            _ => Err(misfit(&layer, x, "(batch, channels, height, width)")),
        }
    }
}

/// `(batch, channels * factor^2, height, width)` to `(batch, channels, height * factor, width * factor)`, PyTorch's
/// `PixelShuffle` (Shi et al. 2016).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelShuffle {
    upscale_factor: usize,
}

impl PixelShuffle {
    /// By a factor of 1 or more.
    #[must_use]
    pub fn new(upscale_factor: usize) -> Self {
        Self { upscale_factor }
    }
}

impl Layer for PixelShuffle {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let (factor, layer) = (self.upscale_factor, format!("{self:?}"));
        let square = factor.checked_mul(factor).unwrap_or_default();
        x.check_input(&layer, None)?;
        match *x.dims() {
            [batch, channels, height, width] if square > 0 && channels % square == 0 => x
                .reshape(vec![batch, channels / square, factor, factor, height, width])?
                .permute(&[0, 1, 4, 2, 5, 3])?
                .reshape((batch, channels / square, height * factor, width * factor)),
            _ => {
                Err(misfit(&layer, x, "(batch, a multiple of the factor's square, height, width)"))
            }
        }
    }
}
