//! Two-dimensional convolutions.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder, init::DEFAULT_KAIMING_NORMAL};
use serde::{Deserialize, Serialize};

use super::{check_weight, name};
use crate::error::{Error, Result};
use crate::ops::Geometry;
use crate::second_order::{Layer, Traced};

/// A height and a width: `3.into()` is 3 for both, `(3, 5).into()` a height of 3 and a width of 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Down.
    pub height: usize,
    /// Right.
    pub width: usize,
}

impl From<usize> for Size {
    fn from(side: usize) -> Self {
        Self { height: side, width: side }
    }
}

impl From<(usize, usize)> for Size {
    fn from((height, width): (usize, usize)) -> Self {
        Self { height, width }
    }
}

impl Size {
    pub(super) fn pair(self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Refuses a size outside a range that nobody leaves on purpose.
    pub(super) fn check(self, least: usize, what: &str, layer: &str) -> Result<Self> {
        let range = least..=Geometry::MOST;
        if range.contains(&self.height) && range.contains(&self.width) {
            return Ok(self);
        }
        let value = format!("{} x {}", self.height, self.width);
        let expected = format!("{least} to {} in both dimensions", Geometry::MOST);
        Err(Error::config(format!("{what} of {layer}"), value, expected))
    }

    pub(super) fn positive(self, what: &str, layer: &str) -> Result<Self> {
        self.check(1, what, layer)
    }
}

/// The settings of a [`Conv2d`], PyTorch's defaults.
///
/// | field | default | range |
/// |---|---|---|
/// | `stride` | 1 | 1 to 1024 |
/// | `padding` | 0 | 0 to 1024: zeros on each side |
/// | `dilation` | 1 | 1 to 1024 |
/// | `groups` | 1 | a divisor of both numbers of channels |
/// | `bias` | true | |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conv2dConfig {
    /// Steps of the kernel.
    pub stride: Size,
    /// Zeros on each side.
    pub padding: Size,
    /// Distance of the kernel's taps.
    pub dilation: Size,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: 1.into(), padding: 0.into(), dilation: 1.into(), groups: 1, bias: true }
    }
}

/// The settings of a [`ConvTranspose2d`], PyTorch's defaults.
///
/// | field | default | range |
/// |---|---|---|
/// | `stride` | 1 | 1 to 1024 |
/// | `padding` | 0 | 0 to 1024: rows and columns cut off each side |
/// | `output_padding` | 0 | less than the stride: rows added below and columns to the right |
/// | `dilation` | 1 | 1 to 1024 |
/// | `groups` | 1 | a divisor of both numbers of channels |
/// | `bias` | true | |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvTranspose2dConfig {
    /// Steps of the kernel in the output.
    pub stride: Size,
    /// Rows and columns cut off each side of the output.
    pub padding: Size,
    /// Rows and columns added to one side of the output.
    pub output_padding: Size,
    /// Distance of the kernel's taps.
    pub dilation: Size,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Default for ConvTranspose2dConfig {
    fn default() -> Self {
        Self {
            stride: 1.into(),
            padding: 0.into(),
            output_padding: 0.into(),
            dilation: 1.into(),
            groups: 1,
            bias: true,
        }
    }
}

/// The parameters of a convolution: `weight` of this shape, and `bias` for the output channels.
fn parameters(
    layer: &str,
    shape: [usize; 4],
    outputs: Option<usize>,
    vb: &VarBuilder,
) -> Result<(Tensor, Option<Tensor>)> {
    check_weight(layer, &shape)?;
    let weight = vb.get_with_hints(shape.to_vec(), "weight", DEFAULT_KAIMING_NORMAL)?;
    let bound = 1.0 / (shape[1..].iter().product::<usize>().max(1) as f64).sqrt();
    let uniform = Init::Uniform { lo: -bound, up: bound };
    let bias = outputs.map(|outputs| vb.get_with_hints(outputs, "bias", uniform)).transpose()?;
    Ok((weight, bias))
}

/// The checks that both kinds of convolution share.
fn check_channels(layer: &str, channels: [usize; 2], groups: usize) -> Result<()> {
    if groups == 0 {
        return Err(Error::config(format!("groups of {layer}"), groups, "1 or more"));
    }
    for (what, count) in ["in_channels", "out_channels"].into_iter().zip(channels) {
        if count == 0 || count % groups != 0 {
            let expected = format!("1 or more, and a multiple of its {groups} groups");
            return Err(Error::config(format!("{what} of {layer}"), count, expected));
        }
    }
    Ok(())
}

/// The numbers of a convolution, each in its range.
fn geometry(
    layer: &str,
    [stride, padding, dilation]: [Size; 3],
    groups: usize,
) -> Result<Geometry> {
    Ok(Geometry {
        stride: stride.positive("stride", layer)?.pair(),
        padding: padding.check(0, "padding", layer)?.pair(),
        dilation: dilation.positive("dilation", layer)?.pair(),
        groups,
    })
}

/// A convolution of `(batch, in_channels, height, width)` to `(batch, out_channels, ...)`, PyTorch's `Conv2d`.
///
/// Candle-nn's has one number for both dimensions, and its gradient is wrong where stride and size leave an unequal rest in
/// height and width.
///
/// Parameters: `weight` `(out_channels, in_channels / groups, kernel height, kernel width)`, `bias` `(out_channels,)`. Each
/// size of the output is `floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    name: String,
    pub(super) weight: Tensor,
    bias: Option<Tensor>,
    geometry: Geometry,
}

impl Conv2d {
    /// A layer whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a number outside its range; candle's if a parameter cannot be made.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        kernel_size: impl Into<Size>,
        config: Conv2dConfig,
        vb: VarBuilder,
    ) -> Result<Self> {
        let name = name("Conv2d", &vb);
        let kernel = kernel_size.into().positive("kernel_size", &name)?;
        check_channels(&name, [in_channels, out_channels], config.groups)?;
        let geometry =
            geometry(&name, [config.stride, config.padding, config.dilation], config.groups)?;
        let shape = [out_channels, in_channels / config.groups, kernel.height, kernel.width];
        let (weight, bias) = parameters(&name, shape, config.bias.then_some(out_channels), &vb)?;
        Ok(Self { name, weight, bias, geometry })
    }
}

impl Layer for Conv2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.conv2d(&self.weight, self.bias.as_ref(), self.geometry, &self.name)
    }
}

/// A transposed convolution of `(batch, in_channels, height, width)` to `(batch, out_channels, ...)`: the gradient of a
/// [`Conv2d`] for its input, as a layer; PyTorch's `ConvTranspose2d`.
///
/// Candle's runs without a matrix product on the CPU, and has no groups.
///
/// Parameters: `weight` `(in_channels, out_channels / groups, kernel height, kernel width)`, `bias` `(out_channels,)`. Each
/// size of the output is `(size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1`.
///
/// PyTorch also takes an output padding that is below the dilation but not below the stride; here it is an error.
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    name: String,
    pub(super) weight: Tensor,
    bias: Option<Tensor>,
    geometry: Geometry,
    output_padding: [usize; 2],
}

impl ConvTranspose2d {
    /// A layer whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a number outside its range; candle's if a parameter cannot be made.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        kernel_size: impl Into<Size>,
        config: ConvTranspose2dConfig,
        vb: VarBuilder,
    ) -> Result<Self> {
        let name = name("ConvTranspose2d", &vb);
        let kernel = kernel_size.into().positive("kernel_size", &name)?;
        check_channels(&name, [in_channels, out_channels], config.groups)?;
        let geometry =
            geometry(&name, [config.stride, config.padding, config.dilation], config.groups)?;
        let output_padding = config.output_padding.pair();
        if (0..2).any(|d| output_padding[d] >= geometry.stride[d]) {
            let expected = format!("less than the stride {:?}", geometry.stride);
            let what = format!("output_padding of {name}");
            return Err(Error::config(what, format!("{output_padding:?}"), expected));
        }
        let shape = [in_channels, out_channels / config.groups, kernel.height, kernel.width];
        let (weight, bias) = parameters(&name, shape, config.bias.then_some(out_channels), &vb)?;
        Ok(Self { name, weight, bias, geometry, output_padding })
    }
}

impl Layer for ConvTranspose2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let Self { name, weight, bias, geometry, output_padding } = self;
        x.conv_transpose2d(weight, bias.as_ref(), *geometry, *output_padding, name)
    }
}
