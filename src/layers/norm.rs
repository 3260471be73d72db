//! Normalisations of each sample by itself: those that a critic may have under a penalty.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use super::{check_weight, name};
use crate::error::{Error, Result};
use crate::second_order::{Layer, Traced};

/// PyTorch's default, and the WGAN-GP code's.
const EPS: f64 = 1e-5;

/// Weight and bias of a normalisation: 1 and 0 at first.
#[derive(Debug, Clone)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn new(shape: &[usize], vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(shape, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(shape, "bias", Init::Const(0.0))?,
        })
    }

    /// `weight x + bias` with a number of each for each channel, which has this many positions.
    fn apply(&self, x: &Traced, positions: usize) -> Result<Traced> {
        let flat = |tensor: &Tensor| x.parameter(tensor).flatten_from(0);
        x.scale_channels(&flat(&self.weight)?, Some(&flat(&self.bias)?), positions)
    }
}

/// Layer normalisation over trailing dimensions (Ba et al. 2016), PyTorch's `LayerNorm`; `eps` 1e-5.
///
/// Over `[features]` it is the usual form; over `[channels, height, width]` it normalises all of a sample's features with a
/// weight for each. The WGAN-GP critic has one weight for each channel instead: [`GroupNorm::per_sample`].
///
/// Candle-nn's silently cuts the graph on contiguous input, so that no gradient reaches what came before it, and takes one
/// dimension only.
///
/// Parameters: `weight` and `bias`, both of `normalized_shape`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    name: String,
    normalized_shape: Vec<usize>,
    affine: Affine,
}

impl LayerNorm {
    /// A layer whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for no dimension or one of 0; candle's if a parameter cannot be made.
    pub fn new(normalized_shape: &[usize], vb: VarBuilder) -> Result<Self> {
        let name = name("LayerNorm", &vb);
        if normalized_shape.is_empty() || normalized_shape.contains(&0) {
            let what = format!("normalized_shape of {name}");
            let expected = "at least one dimension, each 1 or more";
            return Err(Error::config(what, format!("{normalized_shape:?}"), expected));
        }
        check_weight(&name, normalized_shape)?;
        let affine = Affine::new(normalized_shape, &vb)?;
        Ok(Self { name, normalized_shape: normalized_shape.to_vec(), affine })
    }
}

impl Layer for LayerNorm {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.check_input(&self.name, Some(&self.affine.weight))?;
        let (dims, shape) = (x.dims().to_vec(), &self.normalized_shape);
        if !dims.ends_with(shape) {
            let expected = format!("one that ends with {shape:?}");
            return Err(Error::input(&self.name, &dims, expected));
        }
        self.affine.apply(&x.standardise_rows(shape.iter().product(), EPS)?, 1)
    }
}

/// Group normalisation of `(batch, channels, ...)` (Wu and He 2018), PyTorch's `GroupNorm`; `eps` 1e-5.
///
/// Candle-nn's keeps its parameters to itself, so that a critic cannot trace it.
///
/// Parameters: `weight` and `bias`, both `(channels,)`.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    name: String,
    groups: usize,
    channels: usize,
    affine: Option<Affine>,
}

impl GroupNorm {
    /// A layer over `channels` channels in `groups` groups, whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] where the groups do not divide the channels; candle's if a parameter cannot be made.
    pub fn new(groups: usize, channels: usize, vb: VarBuilder) -> Result<Self> {
        let name = name("GroupNorm", &vb);
        if channels == 0 {
            return Err(Error::config(format!("channels of {name}"), channels, "1 or more"));
        }
        check_weight(&name, &[channels])?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            let expected = format!("a divisor of its {channels} channels");
            return Err(Error::config(format!("groups of {name}"), groups, expected));
        }
        Ok(Self { groups, channels, affine: Some(Affine::new(&[channels], &vb)?), name })
    }

    /// One group: over all features of a sample, with a weight and a bias for each channel, which is the layer
    /// normalisation of the WGAN-GP critic (Gulrajani et al. 2017, section 4, and its code).
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn per_sample(channels: usize, vb: VarBuilder) -> Result<Self> {
        Self::new(1, channels, vb)
    }
}

impl Layer for GroupNorm {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.check_input(&self.name, self.affine.as_ref().map(|affine| &affine.weight))?;
        let dims = x.dims().to_vec();
        let positions = match dims.as_slice() {
            [_, channels, rest @ ..] if *channels == self.channels => {
                rest.iter().product::<usize>()
            }
            _ => {
                let expected = format!("(batch, {}, ...)", self.channels);
                return Err(Error::input(&self.name, &dims, expected));
            }
        };
        if positions == 0 {
            return Err(Error::input(&self.name, &dims, "at least one value a channel"));
        }
        let features = self.channels / self.groups * positions;
        let y = x.standardise_rows(features, EPS)?;
        match &self.affine {
            None => Ok(y),
            Some(affine) => affine.apply(&y, positions),
        }
    }
}

/// Instance normalisation of `(batch, channels, height, width)` (Ulyanov et al. 2016): each channel of each sample by
/// itself, PyTorch's `InstanceNorm2d` without running statistics; `eps` 1e-5. Candle-nn has none.
///
/// Parameters, of the affine form: `weight` and `bias`, both `(channels,)`.
#[derive(Debug, Clone)]
pub struct InstanceNorm2d(GroupNorm);

impl InstanceNorm2d {
    /// PyTorch's default: a layer without parameters. `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for no channels.
    pub fn new(channels: usize, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if channels == 0 {
            return Err(Error::config(format!("channels of {name}"), channels, "1 or more"));
        }
        Ok(Self(GroupNorm { name, groups: channels, channels, affine: None }))
    }

    /// PyTorch's `affine=True`: with parameters taken from `vb`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); candle's if a parameter cannot be made.
    pub fn affine(channels: usize, vb: VarBuilder) -> Result<Self> {
        let Self(plain) = Self::new(channels, name("InstanceNorm2d", &vb))?;
        Ok(Self(GroupNorm { affine: Some(Affine::new(&[channels], &vb)?), ..plain }))
    }
}

impl Layer for InstanceNorm2d {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        match *x.dims() {
            [_, _, height, width] if height.saturating_mul(width) > 1 => self.0.forward(x),
            _ => {
                let channels = self.0.channels;
                let expected = format!(
                    "(batch, {channels}, height, width) with more than one value a channel"
                );
                Err(Error::input(&self.0.name, x.dims(), expected))
            }
        }
    }
}
