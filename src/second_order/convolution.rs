//! Convolutions.

use candle_core::Tensor;
use candle_nn::{Conv1d, Conv2d, ConvTranspose2d};

use super::{Layer, Traced};
use crate::error::{Error, Result};

/// The numbers of a two-dimensional convolution.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    padding: usize,
    stride: usize,
    dilation: usize,
}

impl Geometry {
    /// Rows (or columns) of a padded input of this size that no window reaches, as the stride steps over them.
    fn unreached(self, size: usize, kernel: usize) -> Option<usize> {
        let window = self.dilation * (kernel.checked_sub(1)?) + 1;
        let slack = (size + 2 * self.padding).checked_sub(window)?;
        slack.checked_rem(self.stride)
    }
}

impl Traced {
    /// Convolves `(batch, in, height, width)` with a kernel `(out, in, kernel height, kernel width)`.
    fn conv2d(&self, kernel: &Tensor, geometry: Geometry) -> Result<Self> {
        let misfit = || Error::Shape {
            what: format!(
                "the input of a convolution with kernel {:?}, {geometry:?}",
                kernel.dims()
            ),
            got: self.dims().to_vec(),
            expected: format!(
                "(batch, {}, height, width), padded at least as large as the kernel",
                kernel.dims().get(1).copied().unwrap_or_default()
            ),
        };
        let (&[_, channels, height, width], &[_, kernel_channels, kernel_height, kernel_width]) =
            (self.dims(), kernel.dims())
        else {
            return Err(misfit());
        };
        let down = geometry.unreached(height, kernel_height).ok_or_else(misfit)?;
        let right = geometry.unreached(width, kernel_width).ok_or_else(misfit)?;
        if channels != kernel_channels {
            return Err(misfit());
        }
        let Geometry { padding, stride, dilation } = geometry;
        if down != right {
            // Candle takes the width's output padding to be the height's. With the padding made explicit and the
            // unreached edge cut off, both are 0.
            let padded = self.pad_with_zeros(2, padding)?.pad_with_zeros(3, padding)?;
            let reached = padded.narrow(2, 0, height + 2 * padding - down)?.narrow(
                3,
                0,
                width + 2 * padding - right,
            )?;
            return reached.conv2d(kernel, Geometry { padding: 0, ..geometry });
        }
        let kernel = self.weight(kernel);
        let value = self.value().conv2d(&kernel, padding, stride, dilation, 1)?;
        Ok(self.unary(value, move |g| {
            g.contiguous()?.conv_transpose2d(&kernel, padding, down, stride, dilation)
        }))
    }

    /// Adds `before` and after it as many zeros to a dimension.
    fn pad_with_zeros(&self, dim: usize, before: usize) -> Result<Self> {
        if before == 0 {
            return Ok(self.clone());
        }
        let len = self.dims()[dim];
        let value = self.value().pad_with_zeros(dim, before, before)?;
        Ok(self.unary(value, move |g| g.narrow(dim, before, len)))
    }

    /// Adds a bias `(channels,)` along dimension 1.
    fn add_channel_bias(&self, bias: Option<&Tensor>) -> Result<Self> {
        let Some(bias) = bias else {
            return Ok(self.clone());
        };
        let mut dims = vec![1; self.dims().len()];
        dims[1] = bias.elem_count();
        self.broadcast_add(&self.parameter(bias).reshape(dims)?)
    }

    /// Convolves each group of channels with its share of the kernels.
    fn conv2d_in_groups(&self, kernel: &Tensor, geometry: Geometry, groups: usize) -> Result<Self> {
        if groups <= 1 {
            return self.conv2d(kernel, geometry);
        }
        let (channels, outputs) = (kernel.dim(1)?, kernel.dim(0)? / groups);
        if self.dims().get(1) != Some(&(channels * groups)) {
            return Err(Error::Shape {
                what: format!("the input of a convolution in {groups} groups"),
                got: self.dims().to_vec(),
                expected: format!("(batch, {}, height, width)", channels * groups),
            });
        }
        let parts = (0..groups)
            .map(|group| {
                let kernel = kernel.narrow(0, group * outputs, outputs)?.contiguous()?;
                self.narrow(1, group * channels, channels)?.conv2d(&kernel, geometry)
            })
            .collect::<Result<Vec<_>>>()?;
        Self::cat(&parts.iter().collect::<Vec<_>>(), 1)
    }
}

impl Layer for Conv2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let &candle_nn::Conv2dConfig { padding, stride, dilation, groups, .. } = self.config();
        let geometry = Geometry { padding, stride, dilation };
        x.conv2d_in_groups(self.weight(), geometry, groups)?.add_channel_bias(self.bias())
    }
}

/// As a two-dimensional convolution of height 1: candle's own has no second order.
impl Layer for Conv1d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let &candle_nn::Conv1dConfig { padding, stride, dilation, groups, .. } = self.config();
        if x.dims().len() != 3 {
            return Err(Error::Shape {
                what: format!("the input of a convolution with kernel {:?}", self.weight().dims()),
                got: x.dims().to_vec(),
                expected: "(batch, channels, length)".into(),
            });
        }
        let flat = x.pad_with_zeros(2, padding)?.unsqueeze(2)?;
        let geometry = Geometry { padding: 0, stride, dilation };
        flat.conv2d_in_groups(&self.weight().unsqueeze(2)?, geometry, groups)?
            .squeeze(2)?
            .add_channel_bias(self.bias())
    }
}

impl Layer for ConvTranspose2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let &candle_nn::ConvTranspose2dConfig { padding, output_padding, stride, dilation, .. } =
            self.config();
        let kernel = x.weight(self.weight());
        // (size - 1) * stride + dilation * (kernel - 1) + output padding + 1 - 2 * padding, where that is above 0
        let output = |size: usize, kernel: usize| {
            let reach = size.checked_sub(1)? * stride + dilation * kernel.checked_sub(1)?;
            (reach + output_padding + 1).checked_sub(2 * padding).filter(|&size| size > 0)
        };
        let fits = match (x.dims(), kernel.dims()) {
            (&[_, channels, height, width], &[inputs, _, down, right]) => {
                channels == inputs
                    && output_padding < stride
                    && output(height, down).is_some()
                    && output(width, right).is_some()
            }
            _ => false,
        };
        if !fits {
            return Err(Error::Shape {
                what: format!(
                    "the input of a transposed convolution with kernel {:?}, {:?}",
                    kernel.dims(),
                    self.config()
                ),
                got: x.dims().to_vec(),
                expected: "(batch, channels of the kernel, height, width), an output that is not empty and an \
                           output padding below the stride"
                    .into(),
            });
        }
        let value =
            x.value().conv_transpose2d(&kernel, padding, output_padding, stride, dilation)?;
        let y =
            x.unary(value, move |g| g.contiguous()?.conv2d(&kernel, padding, stride, dilation, 1));
        y.add_channel_bias(self.bias())
    }
}
