//! Where a penalty looks, and how it measures.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ops;
use crate::second_order::Traced;

/// epsilon * real + (1 - epsilon) * fake, one epsilon a sample, as a constant (WGAN-GP, Algorithm 1, line 6).
pub(crate) fn interpolates(
    real: &Tensor,
    fake: &Tensor,
    epsilon: Option<&Tensor>,
) -> Result<Tensor> {
    same_shape(real, fake)?;
    let batch = real.dim(0)?;
    let epsilon = match epsilon {
        Some(epsilon) if epsilon.dims() == [batch] => epsilon,
        other => {
            return Err(Error::Shape {
                what: "epsilon, the interpolation coefficients,".into(),
                got: other.map(|epsilon| epsilon.dims().to_vec()).unwrap_or_default(),
                expected: format!("({batch},), one coefficient a sample"),
            });
        }
    };
    let (real, fake, epsilon) = (real.detach(), fake.detach(), epsilon.detach());
    Ok(ops::mix_samples([&real, &fake], [&epsilon, &epsilon.affine(-1.0, 1.0)?])?)
}

/// Both batches one after the other, as a constant. They are of one size, so the mean over all of it is half
/// the sum of the two means.
pub(crate) fn real_and_fake(real: &Tensor, fake: &Tensor) -> Result<Tensor> {
    same_shape(real, fake)?;
    Ok(Tensor::cat(&[real, fake], 0)?.detach())
}

/// The Euclidean norm of each sample's gradient over all of its features: `(batch, ...)` to `(batch,)`.
///
/// The derivative of the root at 0 is infinite. A gradient of zero has norm 0 here, with derivative 0, as
/// PyTorch's `norm` has it; every other value is exact, which an epsilon inside the root would not be.
pub(crate) fn norms(gradient: &Traced) -> Result<Traced> {
    let squares = gradient.squared_lengths()?;
    let zero = Traced::untracked(&squares.detach().eq(0.0)?.to_dtype(squares.dtype())?);
    squares.add(&zero)?.sqrt()?.mul(&zero.affine(-1.0, 1.0)?)
}

fn same_shape(real: &Tensor, fake: &Tensor) -> Result<()> {
    if real.dims() == fake.dims() && real.rank() > 0 {
        return Ok(());
    }
    Err(Error::Shape {
        what: "the generated batch".into(),
        got: fake.dims().to_vec(),
        expected: format!("{:?}, the real batch's shape", real.dims()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn norms_are_safe_at_zero() -> Result<()> {
        let gradient = Var::new(&[[0f64, 0.0], [3.0, 4.0]], &Device::Cpu)?;
        let norms = norms(&Traced::untracked(&gradient))?;
        assert_eq!(norms.detach().to_vec1::<f64>()?, [0.0, 5.0]);
        let slopes = norms.sum_all()?.backward()?.remove(&gradient).expect("tracked");
        // g / ||g|| of each sample; the zero is exact.
        let slopes = slopes.to_vec2::<f64>()?;
        assert_eq!(slopes[0], [0.0, 0.0]);
        assert!((slopes[1][0] - 0.6).abs() < 1e-15 && (slopes[1][1] - 0.8).abs() < 1e-15);
        Ok(())
    }

    #[test]
    fn a_norm_runs_over_all_features_of_a_sample() -> Result<()> {
        let gradient = Tensor::ones((2, 3, 4, 5), candle_core::DType::F64, &Device::Cpu)?;
        let norms = norms(&Traced::untracked(&gradient))?;
        assert_eq!(norms.detach().to_vec1::<f64>()?, [60f64.sqrt(); 2]);
        Ok(())
    }

    #[test]
    fn each_sample_has_its_own_coefficient() -> Result<()> {
        let real = Tensor::new(&[[1f64, 1.0], [1.0, 1.0]], &Device::Cpu)?;
        let fake = Tensor::new(&[[0f64, 0.0], [0.0, 0.0]], &Device::Cpu)?;
        let epsilon = Tensor::new(&[0.25f64, 0.75], &Device::Cpu)?;
        let points = interpolates(&real, &fake, Some(&epsilon))?;
        assert_eq!(points.to_vec2::<f64>()?, [[0.25, 0.25], [0.75, 0.75]]);
        let one = epsilon.narrow(0, 0, 1)?;
        assert!(matches!(interpolates(&real, &fake, Some(&one)), Err(Error::Shape { .. })));
        assert!(matches!(interpolates(&real, &fake, None), Err(Error::Shape { .. })));
        Ok(())
    }
}
