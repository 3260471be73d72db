//! Images of any size brought to one, as TensorFlow 1 did it.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// `(batch, channels, height, width)` to `(batch, channels, side, side)`: pixel i of the result lies at i size / side of the
/// image, between two of its pixels, or on its last one.
pub(super) fn resize(images: &Tensor, side: usize) -> Result<Tensor> {
    along(&along(images, 3, side)?, 2, side)
}

fn along(x: &Tensor, dim: usize, side: usize) -> Result<Tensor> {
    let size = x.dims()[dim];
    if size == side {
        return Ok(x.clone());
    }
    // As rounded as the original computed them: which two pixels it is depends on it.
    let scale = (size as f64 / side as f64) as f32;
    let place = |i: usize| match x.dtype() {
        DType::F64 => i as f64 * f64::from(scale),
        _ => f64::from(i as f32 * scale),
    };
    let at = |offset: usize| -> Result<Tensor> {
        let indices = (0..side).map(|i| (place(i) as usize + offset).min(size - 1) as u32);
        let indices = Tensor::from_iter(indices, x.device())?;
        Ok(x.contiguous()?.index_select(&indices, dim)?)
    };
    let share: Vec<f64> = (0..side).map(|i| place(i).fract()).collect();
    let share = Tensor::new(share, &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())?;
    let mut shape = [1; 4];
    shape[dim] = side;
    let share = share.reshape(&shape)?;
    let (before, after) = (at(0)?, at(1)?);
    Ok((&before + (after - &before)?.broadcast_mul(&share)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_lie_at_multiples_of_the_scale() -> Result<()> {
        let row = Tensor::new(&[[[[0f32, 3.0, 6.0]]]], &Device::Cpu)?;
        let wide = resize(&row, 6)?;
        // At 0, 1/2, 1, 3/2, 2 and 5/2; one row is repeated.
        assert_eq!(wide.dims(), [1, 1, 6, 6]);
        let first: Vec<f32> = wide.get(0)?.get(0)?.get(5)?.to_vec1()?;
        assert_eq!(first, [0.0, 1.5, 3.0, 4.5, 6.0, 6.0]);
        let narrow = Tensor::arange(0f32, 6.0, &Device::Cpu)?.reshape((1, 1, 1, 6))?;
        let first: Vec<f32> = resize(&narrow, 3)?.get(0)?.get(0)?.get(0)?.to_vec1()?;
        assert_eq!(first, [0.0, 2.0, 4.0]);
        Ok(())
    }
}
