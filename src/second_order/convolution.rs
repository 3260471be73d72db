//! Convolutions, and windows that are averaged or repeated.

use candle_core::{DType, Tensor};
use candle_nn::{Conv1d, Conv2d, ConvTranspose2d};

use super::{Layer, Traced};
use crate::error::{Error, Result};
use crate::ops::{self, Geometry};

impl Traced {
    /// Convolves `(batch, in, height, width)` with a kernel `(out, in / groups, down, right)` and adds a bias `(out,)`.
    ///
    /// `layer` is what an error calls it.
    pub(crate) fn conv2d(
        &self,
        kernel: &Tensor,
        bias: Option<&Tensor>,
        geometry: Geometry,
        layer: &str,
    ) -> Result<Self> {
        let (outputs, inputs, down, right) = kernel.dims4()?;
        let inputs = inputs * geometry.groups;
        let misfit = |expected: String| Error::input(layer, self.dims(), expected);
        self.check_factor(layer, kernel)?;
        let &[batch, channels, height, width] = self.dims() else {
            return Err(misfit(format!("(batch, {inputs}, height, width)")));
        };
        if channels != inputs || outputs % geometry.groups != 0 {
            return Err(misfit(format!("(batch, {inputs}, height, width)")));
        }
        let size = [height, width];
        let map = geometry.map_size(size, [down, right]).filter(|_| geometry.is_sensible());
        if !map.is_some_and(|[rows, columns]| can_be_held(&[batch, outputs, rows, columns])) {
            return Err(misfit(format!(
                "a height and a width of at least the kernel's, {down} x {right}, once padded, and an output that memory \
                 can hold: {geometry}"
            )));
        }
        let kernel = self.weight(kernel);
        let bias = bias.map(|bias| self.weight(bias));
        let value = ops::conv2d(self.value(), &kernel, bias.as_ref(), geometry)?;
        Ok(self.unary(value, move |g| ops::conv2d_input(g, &kernel, None, size, geometry)))
    }

    /// The transposed convolution of `(batch, in, height, width)` with a kernel `(in, out / groups, down, right)`, plus a
    /// bias `(out,)`.
    pub(crate) fn conv_transpose2d(
        &self,
        kernel: &Tensor,
        bias: Option<&Tensor>,
        geometry: Geometry,
        output_padding: [usize; 2],
        layer: &str,
    ) -> Result<Self> {
        let (inputs, per_group, down, right) = kernel.dims4()?;
        let misfit = |expected: String| Error::input(layer, self.dims(), expected);
        self.check_factor(layer, kernel)?;
        let &[batch, channels, height, width] = self.dims() else {
            return Err(misfit(format!("(batch, {inputs}, height, width)")));
        };
        if channels != inputs || inputs % geometry.groups != 0 {
            return Err(misfit(format!("(batch, {inputs}, height, width)")));
        }
        let fits = (0..2).all(|d| output_padding[d] < geometry.stride[d]) && geometry.is_sensible();
        let sizes = geometry.image_sizes([height, width], [down, right]).filter(|_| fits);
        let size = sizes.map(|(smallest, _)| [0, 1].map(|d| smallest[d] + output_padding[d]));
        let held = |&[rows, columns]: &[usize; 2]| {
            rows > 0
                && columns > 0
                && can_be_held(&[batch, per_group * geometry.groups, rows, columns])
        };
        let Some(size) = size.filter(held) else {
            return Err(misfit(format!(
                "an output that is not empty and that memory can hold, and an output padding {output_padding:?} below the \
                 stride: kernel {down} x {right}, {geometry}"
            )));
        };
        let kernel = self.weight(kernel);
        let bias = bias.map(|bias| self.weight(bias));
        let value = ops::conv2d_input(self.value(), &kernel, bias.as_ref(), size, geometry)?;
        Ok(self.unary(value, move |g| ops::conv2d(g, &kernel, None, geometry)))
    }

    /// Holds a layer's input to be of its weight's type, or of a floating-point type where it has no weight, and of
    /// dimensions that can be multiplied.
    pub(crate) fn check_input(&self, layer: &str, weight: Option<&Tensor>) -> Result<()> {
        let fits = weight.map_or(self.dtype().is_float(), |weight| weight.dtype() == self.dtype());
        if !fits {
            return Err(Error::DType {
                what: format!("the input of {layer}"),
                got: format!("{:?}", self.dtype()),
                expected: weight.map_or("a floating-point type".into(), |weight| {
                    format!("{:?}, as its weight is", weight.dtype())
                }),
            });
        }
        // A tensor without elements may have any dimensions.
        let others: Vec<usize> = self.dims().iter().copied().filter(|&dim| dim > 0).collect();
        if !can_be_held(&others) {
            let expected = "dimensions whose product memory can hold";
            return Err(Error::input(layer, self.dims(), expected));
        }
        Ok(())
    }

    /// The same for a layer that multiplies matrices, which candle does not do in `bf16` on the CPU.
    pub(super) fn check_factor(&self, layer: &str, weight: &Tensor) -> Result<()> {
        self.check_input(layer, Some(weight))?;
        if self.dtype() == DType::BF16 && self.device().is_cpu() {
            return Err(Error::DType {
                what: format!("the input of {layer}"),
                got: "BF16".into(),
                expected: "F16, F32 or F64 on the CPU".into(),
            });
        }
        Ok(())
    }

    /// The mean of each window of this size, `(height, width)`, of images `(batch, channels, height, width)`, whose sizes
    /// must be multiples of it.
    pub(crate) fn mean_of_windows(&self, window: [usize; 2]) -> Result<Self> {
        let scale = 1.0 / (window[0] * window[1]) as f64;
        let value = ops::sum_windows(self.value(), window, scale)?;
        Ok(self.unary(value, move |g| ops::repeat_windows(g, window, scale)))
    }

    /// Each element of `(batch, channels, height, width)` repeated to a window of this size.
    pub(crate) fn repeat_to_windows(&self, window: [usize; 2]) -> Result<Self> {
        let value = ops::repeat_windows(self.value(), window, 1.0)?;
        Ok(self.unary(value, move |g| ops::sum_windows(g, window, 1.0)))
    }
}

/// Whether a tensor of this shape is one that a program could mean.
pub(crate) fn can_be_held(dims: &[usize]) -> bool {
    const MOST_ELEMENTS: usize = 1 << 36;
    let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    count.is_some_and(|count| count <= MOST_ELEMENTS)
}

impl Layer for Conv2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let &candle_nn::Conv2dConfig { padding, stride, dilation, groups, .. } = self.config();
        let geometry = Geometry {
            stride: [stride; 2],
            padding: [padding; 2],
            dilation: [dilation; 2],
            groups: groups.max(1),
        };
        let layer = format!("a convolution with kernel {:?}", self.weight().dims());
        x.conv2d(self.weight(), self.bias(), geometry, &layer)
    }
}

/// As a two-dimensional convolution of height 1: candle's own has no second order.
impl Layer for Conv1d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let &candle_nn::Conv1dConfig { padding, stride, dilation, groups, .. } = self.config();
        let layer = format!("a convolution with kernel {:?}", self.weight().dims());
        if x.dims().len() != 3 {
            return Err(Error::input(&layer, x.dims(), "(batch, channels, length)"));
        }
        let geometry = Geometry {
            stride: [1, stride],
            padding: [0, padding],
            dilation: [1, dilation],
            groups: groups.max(1),
        };
        let kernel = self.weight().unsqueeze(2)?;
        x.unsqueeze(2)?.conv2d(&kernel, self.bias(), geometry, &layer)?.squeeze(2)
    }
}

impl Layer for ConvTranspose2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let &candle_nn::ConvTranspose2dConfig { padding, output_padding, stride, dilation, .. } =
            self.config();
        let geometry = Geometry {
            stride: [stride; 2],
            padding: [padding; 2],
            dilation: [dilation; 2],
            groups: 1,
        };
        let layer = format!("a transposed convolution with kernel {:?}", self.weight().dims());
        x.conv_transpose2d(self.weight(), self.bias(), geometry, [output_padding; 2], &layer)
    }
}
