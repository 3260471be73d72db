//! Convolutions, and windows that are averaged or repeated.

use candle_core::{DType, Tensor};
use candle_nn::{Conv1d, Conv2d, ConvTranspose2d};

use super::tape::pull_back;
use super::{Layer, Traced};
use crate::error::{Error, Result};
use crate::ops::{self, Geometry};

/// Which of image, kernel and map is made of the other two; with the size of what they do not tell.
#[derive(Debug, Clone, Copy)]
enum Product {
    /// Of an image and a kernel.
    Map,
    /// Of a map and a kernel.
    Image([usize; 2]),
    /// Of a map and an image.
    Kernel([usize; 2]),
}

/// One of the three, plus a bias for each channel of a map or an image.
fn product(
    kind: Product,
    geometry: Geometry,
    a: &Traced,
    b: &Traced,
    bias: Option<&Traced>,
) -> Result<Traced> {
    let (x, y, raw_bias) = (a.raw(), b.raw(), bias.map(Traced::raw));
    let value = match kind {
        Product::Map => ops::conv2d(x, y, raw_bias, geometry)?,
        Product::Image(size) => ops::conv2d_input(x, y, raw_bias, size, geometry)?,
        Product::Kernel(size) => ops::conv2d_kernel(x, y, size, geometry)?,
    };
    let size = |x: &Traced| [x.dims()[2], x.dims()[3]];
    let product = move |kind, a: &Traced, b: &Traced| product(kind, geometry, a, b, None);
    let (size_of_a, other) = (size(a), b.clone());
    let for_a = pull_back(move |g| match kind {
        Product::Map => product(Product::Image(size_of_a), g, &other),
        Product::Image(_) => product(Product::Map, g, &other),
        Product::Kernel(_) => product(Product::Map, &other, g),
    });
    let (size_of_b, other) = (size(b), a.clone());
    let for_b = pull_back(move |g| match kind {
        Product::Map => product(Product::Kernel(size_of_b), g, &other),
        Product::Image(_) => product(Product::Kernel(size_of_b), &other, g),
        Product::Kernel(_) => product(Product::Image(size_of_b), &other, g),
    });
    let mut operands = vec![(a, for_a), (b, for_b)];
    if let Some(bias) = bias {
        let totals = |g: &Traced| g.channel_totals(g.dims()[1], g.dims()[2] * g.dims()[3]);
        operands.push((bias, pull_back(totals)));
    }
    Ok(Traced::from_operands(value, operands))
}

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
        self.convolve(&self.parameter(kernel), bias, geometry, layer)
    }

    fn convolve(
        &self,
        kernel: &Self,
        bias: Option<&Tensor>,
        geometry: Geometry,
        layer: &str,
    ) -> Result<Self> {
        let (outputs, inputs, down, right) = kernel.raw().dims4()?;
        let inputs = inputs * geometry.groups;
        let misfit = |expected: String| Error::input(layer, self.dims(), expected);
        self.check_factor(layer, kernel.raw())?;
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
        let bias = bias.map(|bias| self.parameter(bias));
        product(Product::Map, geometry, self, kernel, bias.as_ref())
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
        let (kernel, bias) = (self.parameter(kernel), bias.map(|bias| self.parameter(bias)));
        product(Product::Image(size), geometry, self, &kernel, bias.as_ref())
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
        self.sum_windows(window, scale)
    }

    /// Each element of `(batch, channels, height, width)` repeated to a window of this size.
    pub(crate) fn repeat_to_windows(&self, window: [usize; 2]) -> Result<Self> {
        self.repeat_windows(window, 1.0)
    }

    fn sum_windows(&self, window: [usize; 2], scale: f64) -> Result<Self> {
        let value = ops::sum_windows(self.raw(), window, scale)?;
        Ok(self.unary(value, move |g| g.repeat_windows(window, scale)))
    }

    fn repeat_windows(&self, window: [usize; 2], scale: f64) -> Result<Self> {
        let value = ops::repeat_windows(self.raw(), window, scale)?;
        Ok(self.unary(value, move |g| g.sum_windows(window, scale)))
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
        let kernel = x.parameter(self.weight()).unsqueeze(2)?;
        x.unsqueeze(2)?.convolve(&kernel, self.bias(), geometry, &layer)?.squeeze(2)
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
