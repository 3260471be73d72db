//! The first values of parameters.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::init::{DEFAULT_KAIMING_NORMAL, FanInOut, NormalOrUniform};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::random::Stream;

/// How a model's parameters are initialised.
///
/// It decides where a layer of candle-nn asks for its default. What a critic's author asks for explicitly
/// through `VarBuilder::get_with_hints`, a constant or a distribution, is done as asked, from the seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitScheme {
    /// PyTorch's default: weights and biases of linear and convolutional layers uniform in
    /// ±1 / sqrt(fan-in of the weight); normalisation layers 1 and 0. Candle-nn's own default is Kaiming normal.
    #[default]
    PyTorch,
    /// DCGAN's (Radford et al. 2016, section 4): weights N(0, 0.02), biases 0, normalisation weights N(1, 0.02).
    Dcgan,
}

impl InitScheme {
    /// The values of one tensor.
    ///
    /// `weight` is the shape of the tensor called `weight` beside a `bias`, from which the bias takes its fan-in.
    pub(super) fn draw(
        self,
        stream: &mut Stream,
        name: &str,
        shape: &Shape,
        hint: Init,
        weight: Option<&Shape>,
        (dtype, device): (DType, &Device),
    ) -> Result<Tensor> {
        let leaf = name.rsplit('.').next().unwrap_or(name);
        let fan_in = |shape: &Shape| FanInOut::FanIn.for_shape(shape).max(1) as f64;
        let layer_weight = weight.filter(|weight| leaf == "bias" && weight.rank() >= 2);
        let default_weight = leaf == "weight" && shape.rank() >= 2 && is_default(hint);
        match self {
            Self::PyTorch => {
                let fan =
                    if default_weight { Some(fan_in(shape)) } else { layer_weight.map(fan_in) };
                match fan {
                    Some(fan) => uniform(stream, 1.0 / fan.sqrt(), shape, dtype, device),
                    None => from_hint(stream, hint, shape, dtype, device),
                }
            }
            Self::Dcgan if default_weight => normal(stream, 0.0, 0.02, shape, dtype, device),
            Self::Dcgan if layer_weight.is_some() => Ok(Tensor::zeros(shape, dtype, device)?),
            Self::Dcgan if leaf == "weight" && matches!(hint, Init::Const(1.0)) => {
                normal(stream, 1.0, 0.02, shape, dtype, device)
            }
            Self::Dcgan => from_hint(stream, hint, shape, dtype, device),
        }
    }
}

/// Whether a layer of candle-nn asked for its default weight: Kaiming normal, or, for transposed convolutions,
/// a uniform distribution of its own.
fn is_default(hint: Init) -> bool {
    matches!(hint, Init::Uniform { .. })
        || format!("{hint:?}") == format!("{DEFAULT_KAIMING_NORMAL:?}")
}

fn from_hint(
    stream: &mut Stream,
    hint: Init,
    shape: &Shape,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    match hint {
        Init::Const(value) => Ok(Tensor::full(value, shape, device)?.to_dtype(dtype)?),
        Init::Uniform { lo, up } if lo == up => {
            from_hint(stream, Init::Const(lo), shape, dtype, device)
        }
        Init::Uniform { lo, up } => stream.uniform(lo, up, shape, dtype, device),
        Init::Randn { mean, stdev } => normal(stream, mean, stdev, shape, dtype, device),
        Init::Kaiming { dist, fan, non_linearity } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape).max(1) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => {
                    uniform(stream, 3f64.sqrt() * deviation, shape, dtype, device)
                }
                NormalOrUniform::Normal => normal(stream, 0.0, deviation, shape, dtype, device),
            }
        }
    }
}

fn uniform(
    stream: &mut Stream,
    bound: f64,
    shape: &Shape,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    stream.uniform(-bound, bound, shape, dtype, device)
}

fn normal(
    stream: &mut Stream,
    mean: f64,
    deviation: f64,
    shape: &Shape,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    Ok(stream.normal(shape, dtype, device)?.affine(deviation, mean)?)
}
