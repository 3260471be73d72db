//! Normalised rows, chosen and mixed samples, and products by channel, as values: none of this is part of candle's graph. The
//! tape knows the gradients.

use candle_core::{DType, Result, Shape, Tensor};

use super::{by_type, has_kernel, on_cpu};
use crate::kernels::channels::{self, Extent};
use crate::kernels::{Real, rows, slice};

/// Rows at mean 0 and variance 1, and what each was multiplied by.
#[derive(Debug)]
pub(crate) struct Standardised {
    pub(crate) y: Tensor,
    /// `(rows,)`
    scales: Tensor,
    size: usize,
}

impl Standardised {
    /// `(x - mean) / sqrt(variance + eps)` in each row of this many elements, with the biased variance; in the shape of `x`.
    pub(crate) fn new(x: &Tensor, size: usize, eps: f64) -> Result<Self> {
        let rows = x.elem_count() / size.max(1);
        if has_kernel(x) {
            let x = x.detach().contiguous()?;
            let (y, scales) = match x.dtype() {
                DType::F32 => Self::run::<f32>(&x, size, eps)?,
                _ => Self::run::<f64>(&x, size, eps)?,
            };
            return Ok(Self { y, scales, size });
        }
        let matrix = x.detach().reshape((rows, size))?;
        let centred = matrix.broadcast_sub(&matrix.mean_keepdim(1)?)?;
        let scales = centred.sqr()?.mean_keepdim(1)?.affine(1.0, eps)?.sqrt()?.recip()?;
        let y = centred.broadcast_mul(&scales)?.reshape(x.shape())?;
        Ok(Self { y, scales: scales.flatten_all()?, size })
    }

    fn run<T: Real>(x: &Tensor, size: usize, eps: f64) -> Result<(Tensor, Tensor)> {
        let (storage, layout) = x.storage_and_layout();
        let (y, scales) = rows::standardise(slice::<T>(on_cpu(&storage)?, layout)?, size, eps);
        let count = scales.len();
        Ok((
            Tensor::from_vec(y, x.shape(), x.device())?,
            Tensor::from_vec(scales, count, x.device())?,
        ))
    }

    /// The gradient for the input, given that for `y`.
    pub(crate) fn gradient(&self, g: &Tensor) -> Result<Tensor> {
        if self.has_kernel_with(g) {
            let inputs = [g, &self.y, &self.scales];
            return by_type!(inputs, g.shape(), |[g, y, scales]| {
                rows::standardise_gradient(g, y, scales, self.size)
            });
        }
        let [g_rows, y, scales] = self.matrices(g)?;
        let along = y.broadcast_mul(&g_rows.mul(&y)?.mean_keepdim(1)?)?;
        let centred = g_rows.broadcast_sub(&g_rows.mean_keepdim(1)?)?;
        centred.sub(&along)?.broadcast_mul(&scales)?.reshape(g.shape())
    }

    /// The gradient of `sum(u * gradient(g))` for the input.
    pub(crate) fn second(&self, u: &Tensor, g: &Tensor) -> Result<Tensor> {
        if self.has_kernel_with(g) && self.has_kernel_with(u) {
            let inputs = [u, g, &self.y, &self.scales];
            return by_type!(inputs, g.shape(), |[u, g, y, scales]| {
                rows::standardise_second(u, g, y, scales, self.size)
            });
        }
        let shape = g.shape();
        let [g, y, scales] = self.matrices(g)?;
        let u = u.reshape(g.shape())?;
        let mean = |x: &Tensor| x.mean_keepdim(1);
        let (p, q) = (mean(&u.mul(&y)?)?, mean(&g.mul(&y)?)?);
        let (mean_u, mean_g) = (mean(&u)?, mean(&g)?);
        let for_y = p.mul(&q)?.affine(3.0, 0.0)?.add(&mean_u.mul(&mean_g)?)?;
        let for_y = y.broadcast_mul(&for_y.sub(&mean(&u.mul(&g)?)?)?)?;
        let for_y = for_y.sub(&u.broadcast_sub(&mean_u)?.broadcast_mul(&q)?)?;
        let for_y = for_y.sub(&g.broadcast_sub(&mean_g)?.broadcast_mul(&p)?)?;
        for_y.broadcast_mul(&scales.sqr()?)?.reshape(shape)
    }

    fn has_kernel_with(&self, g: &Tensor) -> bool {
        has_kernel(g) && g.dtype() == self.y.dtype()
    }

    /// The gradient, the result and the scales as `(rows, size)`, `(rows, size)` and `(rows, 1)`.
    fn matrices(&self, g: &Tensor) -> Result<[Tensor; 3]> {
        let shape = (self.scales.elem_count(), self.size);
        Ok([g.reshape(shape)?, self.y.reshape(shape)?, self.scales.unsqueeze(1)?])
    }
}

/// The samples of `(samples, ...)` with these indices, all of which must be there. `x` is on the CPU, in `f32` or `f64`.
pub(crate) fn gathered(x: &Tensor, indices: &[usize]) -> Result<Tensor> {
    let size = x.dims()[1..].iter().product();
    let shape = Shape::from([&[indices.len()], &x.dims()[1..]].concat());
    by_type!([x], &shape, |[x]| rows::gathered(x, size, indices))
}

/// `a * weight_a + b * weight_b` with two numbers for each sample of `(batch, ...)`, all constants.
pub(crate) fn mix_samples(
    [a, b]: [&Tensor; 2],
    [weight_a, weight_b]: [&Tensor; 2],
) -> Result<Tensor> {
    let positions = a.elem_count() / weight_a.elem_count().max(1);
    let all = [a, b, weight_a, weight_b];
    if all.iter().all(|x| has_kernel(x) && x.dtype() == a.dtype()) {
        // To the kernel each sample is a channel, of one batch.
        let extent = extent(a, weight_a.elem_count(), positions);
        return by_type!(all, a.shape(), |[a, b, weight_a, weight_b]| {
            channels::mix(extent, [a, b], [weight_a, weight_b])
        });
    }
    let weighted = |x, weight| scale_channels(x, weight, None, positions);
    weighted(a, weight_a)?.add(&weighted(b, weight_b)?)
}

/// `x * weight + bias` with a number for each channel, where a channel has this many positions: `(batch, channels,
/// positions)` in memory.
pub(crate) fn scale_channels(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    positions: usize,
) -> Result<Tensor> {
    if has_kernel(x) && weight.dtype() == x.dtype() && bias.is_none_or(|b| b.dtype() == x.dtype()) {
        let extent = extent(x, weight.elem_count(), positions);
        return match bias {
            Some(bias) => by_type!([x, weight, bias], x.shape(), |[x, weight, bias]| {
                channels::scale(extent, x, weight, Some(bias))
            }),
            None => by_type!([x, weight], x.shape(), |[x, weight]| {
                channels::scale(extent, x, weight, None)
            }),
        };
    }
    let spread = (1, weight.elem_count(), 1);
    let Extent { batch, channels, .. } = extent(x, weight.elem_count(), positions);
    let scaled = x.reshape((batch, channels, positions))?;
    let scaled = scaled.broadcast_mul(&weight.reshape(spread)?)?;
    match bias {
        Some(bias) => scaled.broadcast_add(&bias.reshape(spread)?)?.reshape(x.shape()),
        None => scaled.reshape(x.shape()),
    }
}

/// The sum of `a * b` over the batch and the positions of each channel, `(channels,)`.
pub(crate) fn channel_products(
    a: &Tensor,
    b: &Tensor,
    channels: usize,
    positions: usize,
) -> Result<Tensor> {
    if has_kernel(a) && a.dtype() == b.dtype() {
        let extent = extent(a, channels, positions);
        let shape = Shape::from(channels);
        return by_type!([a, b], &shape, |[a, b]| channels::products(extent, a, b));
    }
    a.mul(b)?.reshape(((), channels, positions))?.sum((0, 2))
}

/// The sum over the batch and the positions of each channel, `(channels,)`: the gradient of a bias.
pub(crate) fn channel_totals(x: &Tensor, channels: usize, positions: usize) -> Result<Tensor> {
    if has_kernel(x) {
        let extent = extent(x, channels, positions);
        return by_type!([x], &Shape::from(channels), |[x]| channels::totals(extent, x));
    }
    x.reshape(((), channels, positions))?.sum((0, 2))
}

fn extent(x: &Tensor, channels: usize, positions: usize) -> Extent {
    let batch = x.elem_count() / (channels * positions).max(1);
    Extent { batch, channels, positions }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::random::Stream;

    fn draw(name: &str, dims: &[usize], dtype: DType) -> Tensor {
        let x = Stream::new(0, name, 0).normal(dims, DType::F64, &Device::Cpu).unwrap();
        x.to_dtype(dtype).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor) {
        assert_eq!(a.dims(), b.dims());
        let [a, b] = [a, b].map(|x| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap());
        let off = a.sub(&b).unwrap().abs().unwrap().to_vec1::<f64>().unwrap();
        let b = b.to_vec1::<f64>().unwrap();
        for (off, b) in off.iter().zip(b) {
            assert!(*off < 0.03 * b.abs().max(1.0), "{off} beside {b}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]
        /// Half precision has no kernel, so it takes the path of the other devices: the formulas must be the same.
        #[test]
        fn kernels_and_compositions_agree(batch in 1usize..4, channels in 1usize..5, positions in 1usize..6) {
            let dims = [batch, channels, positions];
            let run = |dtype: DType| -> Result<Vec<Tensor>> {
                let [x, g, u] = ["x", "g", "u"].map(|name| draw(name, &dims, dtype));
                let turned = draw("turned", &[positions, channels, batch], dtype).transpose(0, 2)?;
                let weights = ["v", "w"].map(|name| draw(name, &[batch], dtype));
                let (weight, bias) = (draw("w", &[channels], dtype), draw("b", &[channels], dtype));
                let rows = Standardised::new(&x, channels * positions, 0.5)?;
                Ok(vec![
                    rows.gradient(&g)?,
                    rows.gradient(&turned)?,
                    rows.second(&u, &g)?,
                    rows.second(&turned, &g)?,
                    Standardised::new(&turned, positions, 0.5)?.y,
                    rows.y,
                    scale_channels(&x, &weight, Some(&bias), positions)?,
                    scale_channels(&turned, &weight, None, positions)?,
                    mix_samples([&x, &turned], weights.each_ref())?,
                    channel_products(&x, &turned, channels, positions)?,
                    channel_totals(&turned, channels, positions)?,
                ])
            };
            for (fast, plain) in run(DType::F32).unwrap().iter().zip(run(DType::F16).unwrap()) {
                close(fast, &plain);
            }
        }
    }
}
