//! Looking for NaN and infinity.

use candle_core::{CpuStorage, DType, Device, Result, Tensor, WithDType};

use super::{has_kernel, on_cpu};
use crate::kernels::finite::first_non_finite as kernel;
use crate::kernels::{for_real, slice};

/// The first NaN or infinity of a tensor, or, where there is no kernel, what its sum becomes of it.
pub(crate) fn first_non_finite(x: &Tensor) -> Result<Option<f64>> {
    if has_kernel(x) && x.is_contiguous() {
        let (storage, layout) = x.storage_and_layout();
        return find(on_cpu(&storage)?, layout);
    }
    // 0 * x is 0 for a finite x and NaN for any other.
    let sum = x.affine(0.0, 0.0)?.sum_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let sum: f64 = sum.to_scalar()?;
    Ok((!sum.is_finite()).then_some(sum))
}

fn find(storage: &CpuStorage, layout: &candle_core::Layout) -> Result<Option<f64>> {
    for_real!(storage, T => Ok(kernel(slice::<T>(storage, layout)?).map(WithDType::to_f64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_not_finite_on_both_paths() -> Result<()> {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 17, 9_999] {
                let mut values = vec![1f32; 10_000];
                values[at] = bad;
                let x = Tensor::new(values.as_slice(), &Device::Cpu)?;
                assert_eq!(first_non_finite(&x)?.map(f64::to_bits), Some(f64::from(bad).to_bits()));
                let transposed = x.reshape((100, 100))?.t()?;
                assert!(first_non_finite(&transposed)?.is_some());
            }
        }
        let x = Tensor::new(&[f32::MAX, -f32::MAX, 0.0], &Device::Cpu)?;
        assert_eq!(first_non_finite(&x)?, None);
        Ok(())
    }
}
