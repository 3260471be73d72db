//! Clipping gradients.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use super::UpdateConfig;
use crate::error::Result;
use crate::parameters::Parameters;

impl UpdateConfig {
    /// Clips gradients, first by value, then by norm. A parameter without one is left to the optimiser to report.
    pub(super) fn clip(&self, parameters: &Parameters, gradients: &mut GradStore) -> Result<()> {
        if let Some(bound) = self.clip_value {
            replace(parameters, gradients, |gradient| Ok(gradient.clamp(-bound, bound)?))?;
        }
        if let Some(bound) = self.clip_norm {
            let norm = norm(parameters, gradients)?;
            // As PyTorch has it, with its guard against a norm of 0.
            let factor = bound / (norm + 1e-6);
            if factor < 1.0 {
                replace(parameters, gradients, |gradient| Ok(gradient.affine(factor, 0.0)?))?;
            }
        }
        Ok(())
    }
}

/// Two parameters may have one gradient tensor between them, so gradients are not changed in place.
fn replace(
    parameters: &Parameters,
    gradients: &mut GradStore,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    for (_, var) in parameters.trained() {
        if let Some(gradient) = gradients.get(var) {
            let gradient = f(gradient)?;
            gradients.insert(var, gradient);
        }
    }
    Ok(())
}

/// The Euclidean norm of all gradients together.
fn norm(parameters: &Parameters, gradients: &GradStore) -> Result<f64> {
    let mut sum = 0.0;
    for (_, var) in parameters.trained() {
        if let Some(gradient) = gradients.get(var) {
            sum += tensor_norm(gradient)?.powi(2);
        }
    }
    Ok(sum.sqrt())
}

/// The Euclidean norm of a tensor. Its largest element comes out of the sum of squares, which would overflow otherwise.
pub(crate) fn tensor_norm(x: &Tensor) -> Result<f64> {
    let number = |x: Tensor| -> Result<f64> {
        Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar()?)
    };
    let x = x.detach().flatten_all()?;
    if x.elem_count() == 0 {
        return Ok(0.0);
    }
    let largest = number(x.abs()?.max(0)?)?;
    if largest == 0.0 || !largest.is_finite() {
        return Ok(largest);
    }
    Ok(largest * number(x.affine(largest.recip(), 0.0)?.sqr()?.sum_all()?)?.sqrt())
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    /// Of two parameters that have one gradient between them, each has it scaled once.
    #[test]
    fn a_gradient_that_two_parameters_share_is_clipped_once() -> Result<()> {
        let var = |name: &str| (name.to_owned(), Var::zeros(2, DType::F64, &Device::Cpu).unwrap());
        let parameters: Parameters = [var("a"), var("b")].into_iter().collect();
        let shared = Tensor::new(&[3.0, 4.0], &Device::Cpu)?;
        let mut gradients = GradStore::default();
        for (_, var) in parameters.trained() {
            gradients.insert(var, shared.clone());
        }
        let config = UpdateConfig { clip_norm: Some(1.0), ..Default::default() };
        config.clip(&parameters, &mut gradients)?;
        let expected = 3.0 / (50f64.sqrt() + 1e-6);
        for (_, var) in parameters.trained() {
            let gradient = gradients.get(var).unwrap().to_vec1::<f64>()?;
            assert!((gradient[0] - expected).abs() < 1e-15, "{gradient:?}");
        }
        assert_eq!(shared.to_vec1::<f64>()?, [3.0, 4.0]);
        Ok(())
    }

    #[test]
    fn a_norm_neither_overflows_nor_underflows() -> Result<()> {
        for size in [1e-30f32, 1.0, 1e30] {
            let x = Tensor::new(&[[3.0 * size, 0.0], [0.0, -4.0 * size]], &Device::Cpu)?;
            let norm = tensor_norm(&x.t()?)?;
            assert!((norm / f64::from(size) - 5.0).abs() < 1e-5, "{norm}");
        }
        assert_eq!(tensor_norm(&Tensor::zeros((2, 0), DType::F32, &Device::Cpu)?)?, 0.0);
        assert_eq!(tensor_norm(&Tensor::zeros(3, DType::F32, &Device::Cpu)?)?, 0.0);
        let infinite = Tensor::new(&[1.0, f64::INFINITY], &Device::Cpu)?;
        assert_eq!(tensor_norm(&infinite)?, f64::INFINITY);
        Ok(())
    }
}
