//! The arithmetic of tensors of one shape.
//!
//! Candle has threads of its own for its large elementwise operations. They wait for work in a loop, each on a core that a
//! kernel's helper may want, and the step waits for whichever the system runs last. So sums, differences, products and squares of
//! a step are kernels.

use candle_core::{Result, Tensor};

use super::{by_type, has_kernel};
use crate::kernels::elementwise::{Pair, pair};

/// `a + b`
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if fits(a, b) { by_kernel(Pair::Sum, a, b) } else { a.add(b) }
}

/// `a - b`
pub(crate) fn sub(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if fits(a, b) { by_kernel(Pair::Difference, a, b) } else { a.sub(b) }
}

/// `a * b`
pub(crate) fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if fits(a, b) { by_kernel(Pair::Product, a, b) } else { a.mul(b) }
}

/// `x^2`
pub(crate) fn sqr(x: &Tensor) -> Result<Tensor> {
    if fits(x, x) { by_kernel(Pair::Product, x, x) } else { x.sqr() }
}

fn by_kernel(kind: Pair, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    by_type!([a, b], a.shape(), |[a, b]| pair(kind, a, b))
}

/// Whether the kernels take them: constants to candle, of one shape and type, without gaps.
fn fits(a: &Tensor, b: &Tensor) -> bool {
    let takes = |x: &Tensor| has_kernel(x) && x.is_contiguous() && !x.track_op();
    takes(a) && takes(b) && a.dtype() == b.dtype() && a.dims() == b.dims()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::random::Stream;

    type Operation = fn(&Tensor, &Tensor) -> Result<Tensor>;

    /// Large tensors, which candle's threads share, in both types; a view with gaps; one that is part of candle's graph.
    #[test]
    fn equal_candles_own() -> Result<()> {
        let of_ours: [(Operation, Operation); 4] = [
            (add, |a, b| a.add(b)),
            (sub, |a, b| a.sub(b)),
            (mul, |a, b| a.mul(b)),
            (|a, _| sqr(a), |a, _| a.sqr()),
        ];
        let bits = |x: &Tensor| -> Result<Vec<u64>> {
            let values: Vec<f64> = x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
            Ok(values.into_iter().map(f64::to_bits).collect())
        };
        for dtype in [DType::F32, DType::F64, DType::F16] {
            let draw = |name| -> Result<Tensor> {
                let mut stream = Stream::new(0, name, 0);
                let values = stream.normal((300, 301), DType::F32, &Device::Cpu);
                values.expect("drawn on the CPU").to_dtype(dtype)
            };
            let (a, b) = (draw("a")?, draw("b")?);
            for (ours, candles) in of_ours {
                assert_eq!(bits(&ours(&a, &b)?)?, bits(&candles(&a, &b)?)?, "{dtype:?}");
                let (a, b) = (a.t()?, b.t()?);
                assert_eq!(bits(&ours(&a, &b)?)?, bits(&candles(&a, &b)?)?, "{dtype:?}, turned");
            }
        }
        let x = Var::from_tensor(&Tensor::ones((2, 2), DType::F64, &Device::Cpu)?)?;
        let gradient = mul(&x, &x)?.sum_all()?.backward()?.remove(&x).expect("tracked");
        assert_eq!(gradient.flatten_all()?.to_vec1::<f64>()?, [2.0; 4]);
        let other = Tensor::ones((2, 3), DType::F64, &Device::Cpu)?;
        assert!(add(&other, &x).is_err());
        Ok(())
    }
}
