//! The first values of parameters.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::random::Stream;

/// How a model's parameters are initialised.
///
/// It decides where a layer of candle-nn asks for its default: a `weight` of two or more dimensions that is to be Kaiming
/// normal, and the uniform `bias` beside it, which takes its bound from that weight and so must be asked for after it, as
/// all of candle-nn's layers do. What an author asks for explicitly through `VarBuilder::get_with_hints`, another
/// distribution or a constant, is done as asked, from the seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitScheme {
    /// PyTorch's default: weights and biases of linear and convolutional layers uniform in
    /// ±1 / sqrt(fan-in of the weight); normalisation layers 1 and 0. Candle-nn's own default is Kaiming normal.
    #[default]
    PyTorch,
    /// DCGAN's: weights N(0, 0.02) (Radford et al. 2016, section 4), biases 0 and normalisation weights N(1, 0.02)
    /// (its code).
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
        let leaf = match name.rsplit('.').next().unwrap_or(name) {
            "weight_orig" => "weight", // under spectral normalisation
            leaf => leaf,
        };
        let fan_in = |shape: &Shape| FanInOut::FanIn.for_shape(shape).max(1) as f64;
        let host = &Device::Cpu;
        let default_weight =
            leaf == "weight" && shape.rank() >= 2 && is_default_weight(hint, fan_in(shape));
        // Candle-nn asks for a uniform bias, with a bound that for convolutions is not PyTorch's.
        let layer_weight = weight.filter(|weight| {
            leaf == "bias"
                && weight.rank() >= 2
                && matches!(hint, Init::Uniform { lo, up } if lo == -up)
        });
        let value = match self {
            Self::PyTorch => {
                let fan =
                    if default_weight { Some(fan_in(shape)) } else { layer_weight.map(fan_in) };
                match fan {
                    Some(fan) => uniform(stream, 1.0 / fan.sqrt(), shape, dtype),
                    None => from_hint(stream, hint, shape, dtype),
                }
            }
            Self::Dcgan if default_weight => normal(stream, 0.0, 0.02, shape, dtype),
            Self::Dcgan if layer_weight.is_some() => Ok(Tensor::zeros(shape, dtype, host)?),
            Self::Dcgan if leaf == "weight" && matches!(hint, Init::Const(1.0)) => {
                normal(stream, 1.0, 0.02, shape, dtype)
            }
            Self::Dcgan => from_hint(stream, hint, shape, dtype),
        }?;
        // Made on the host, whose arithmetic is the same for every device.
        Ok(value.to_device(device)?)
    }
}

/// Whether a layer of candle-nn asked for its default weight: Kaiming normal, or, for transposed convolutions, PyTorch's
/// own uniform distribution.
fn is_default_weight(hint: Init, fan_in: f64) -> bool {
    match hint {
        Init::Kaiming {
            dist: NormalOrUniform::Normal,
            fan: FanInOut::FanIn,
            non_linearity: NonLinearity::ReLU,
        } => true,
        Init::Uniform { lo, up } => lo == -up && (up * fan_in.sqrt() - 1.0).abs() < 1e-9,
        _ => false,
    }
}

fn from_hint(stream: &mut Stream, hint: Init, shape: &Shape, dtype: DType) -> Result<Tensor> {
    match hint {
        Init::Const(value) => Ok(Tensor::full(value, shape, &Device::Cpu)?.to_dtype(dtype)?),
        Init::Uniform { lo, up } if lo == up => from_hint(stream, Init::Const(lo), shape, dtype),
        Init::Uniform { lo, up } => stream.uniform(lo, up, shape, dtype, &Device::Cpu),
        Init::Randn { mean, stdev } => normal(stream, mean, stdev, shape, dtype),
        Init::Kaiming { dist, fan, non_linearity } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape).max(1) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => uniform(stream, 3f64.sqrt() * deviation, shape, dtype),
                NormalOrUniform::Normal => normal(stream, 0.0, deviation, shape, dtype),
            }
        }
    }
}

fn uniform(stream: &mut Stream, bound: f64, shape: &Shape, dtype: DType) -> Result<Tensor> {
    stream.uniform(-bound, bound, shape, dtype, &Device::Cpu)
}

fn normal(
    stream: &mut Stream,
    mean: f64,
    deviation: f64,
    shape: &Shape,
    dtype: DType,
) -> Result<Tensor> {
    Ok(stream.normal(shape, dtype, &Device::Cpu)?.affine(deviation, mean)?)
}
