//! The Swiss roll of the WGAN-GP paper.

use std::f64::consts::PI;

use candle_core::{DType, Device, Tensor};
use wgan::random::Stream;

/// `count` points of the plane, `(count, 2)`: scikit-learn's `make_swiss_roll` with noise 0.25, its first and third
/// coordinate over 7.5, as the paper's code has it.
pub fn swiss_roll(stream: &mut Stream, count: usize) -> wgan::Result<Tensor> {
    let (dtype, device) = (DType::F64, Device::Cpu);
    let angle = stream.uniform(1.5 * PI, 4.5 * PI, (count, 1), dtype, &device)?;
    let noise = (stream.normal((count, 2), dtype, &device)? * 0.25)?;
    let roll = Tensor::cat(&[&angle.cos()?, &angle.sin()?], 1)?.broadcast_mul(&angle)?;
    Ok(((roll + noise)? / 7.5)?.to_dtype(DType::F32)?)
}
