//! Matrix products that are closed under differentiation.
//!
//! With both operands stored row after row there are three products, and the two gradients of each are again
//! among the three. So a gradient never transposes a matrix in memory, and the weight gradient arrives in the
//! weight's own layout; candle's `matmul` hands it back transposed.
//!
//! | product | gradient for a | gradient for b |
//! |---|---|---|
//! | y = a bᵀ | g b | gᵀ a |
//! | y = a b | g bᵀ | aᵀ g |
//! | y = aᵀ b | b gᵀ | a g |

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{contiguous, count, has_kernel, on_cpu};
use crate::kernels::matmul::{self, Matrix, product, product_nt};
use crate::kernels::{Real, for_real, slice};

/// `a bᵀ`: (m, k), (n, k) -> (m, n).
pub(crate) fn matmul_nt(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply(Product::Nt, a, b)
}

/// `a b`: (m, k), (k, n) -> (m, n).
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply(Product::Nn, a, b)
}

/// `aᵀ b`: (k, m), (k, n) -> (m, n).
pub(crate) fn matmul_tn(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply(Product::Tn, a, b)
}

fn apply(product: Product, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if has_kernel(a) && has_kernel(b) && a.dtype() == b.dtype() {
        a.contiguous()?.apply_op2(&b.contiguous()?, product)
    } else {
        match product {
            Product::Nt => a.matmul(&b.t()?),
            Product::Nn => a.matmul(b),
            Product::Tn => a.t()?.matmul(b),
        }
    }
}

/// The sum of `aᵀ b` over some pairs: (k, m), (k, n) -> (m, n), k being a pair's own, in one product; and whether it was seen to
/// be finite: where not, nobody has looked. It is no part of candle's graph.
pub(crate) fn sum_of_products(pairs: &[(Tensor, Tensor)]) -> Result<(Tensor, bool)> {
    let Some(((a, b), others)) = pairs.split_first() else {
        candle_core::bail!("a sum of no products")
    };
    let fits = |x: &Tensor, first: &Tensor| {
        has_kernel(x) && x.dtype() == a.dtype() && x.rank() == 2 && x.dims()[1] == first.dims()[1]
    };
    if pairs.iter().all(|(x, y)| fits(x, a) && fits(y, b) && x.dims()[0] == y.dims()[0]) {
        return match a.dtype() {
            candle_core::DType::F32 => by_kernel::<f32>(pairs),
            _ => by_kernel::<f64>(pairs),
        };
    }
    let mut sum = matmul_tn(a, b)?;
    for (a, b) in others {
        sum = (sum + matmul_tn(a, b)?)?;
    }
    Ok((sum.detach(), false))
}

fn by_kernel<T: Real>(pairs: &[(Tensor, Tensor)]) -> Result<(Tensor, bool)> {
    let pairs = pairs.iter().map(|(a, b)| contiguous([a, b])).collect::<Result<Vec<_>>>()?;
    let storages: Vec<_> =
        pairs.iter().map(|pair| pair.each_ref().map(Tensor::storage_and_layout)).collect();
    let mut matrices = Vec::with_capacity(pairs.len());
    for (pair, held) in pairs.iter().zip(&storages) {
        count::matrix_product();
        let matrix = |i: usize| -> Result<Matrix<'_, T>> {
            let (storage, layout) = &held[i];
            let (rows, columns) = pair[i].dims2()?;
            Ok(Matrix::new(slice(on_cpu(storage)?, layout)?, rows, columns))
        };
        matrices.push((matrix(0)?, matrix(1)?));
    }
    let (sum, finite) = matmul::sum_of_products(&matrices);
    let shape = (pairs[0][0].dims()[1], pairs[0][1].dims()[1]);
    Ok((Tensor::from_vec(sum, shape, pairs[0][0].device())?, finite))
}

/// Which operand is transposed, in the letters of BLAS.
#[derive(Debug, Clone, Copy)]
enum Product {
    Nt,
    Nn,
    Tn,
}

impl Product {
    fn run<T: Real>(
        self,
        (a, a_layout): (&CpuStorage, &Layout),
        (b, b_layout): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        count::matrix_product();
        let (a_rows, a_columns) = a_layout.shape().dims2()?;
        let (b_rows, b_columns) = b_layout.shape().dims2()?;
        let a = Matrix::new(slice::<T>(a, a_layout)?, a_rows, a_columns);
        let b = Matrix::new(slice::<T>(b, b_layout)?, b_rows, b_columns);
        let (inner, rows, columns) = match self {
            Self::Nt => ((a_columns, b_columns), a_rows, b_rows),
            Self::Nn => ((a_columns, b_rows), a_rows, b_columns),
            Self::Tn => ((a_rows, b_rows), a_columns, b_columns),
        };
        if inner.0 != inner.1 {
            candle_core::bail!(
                "matrix product {self:?} of {:?} and {:?}: inner dimensions {} and {} differ",
                a_layout.shape(),
                b_layout.shape(),
                inner.0,
                inner.1
            )
        }
        let out = match self {
            Self::Nt => product_nt(a, b, None),
            Self::Nn => product(a, b),
            Self::Tn => product(a.t(), b),
        };
        Ok((T::to_cpu_storage_owned(out), Shape::from((rows, columns))))
    }
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "matrix-product"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_real!(a, T => self.run::<T>((a, a_layout), (b, b_layout)))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (a_tracked, b_tracked) = (a.track_op(), b.track_op());
        let (a, b) = (&a.detach(), &b.detach());
        let for_a = || match self {
            Self::Nt => matmul(g, b),
            Self::Nn => matmul_nt(g, b),
            Self::Tn => matmul_nt(b, g),
        };
        let for_b = || match self {
            Self::Nt => matmul_tn(g, a),
            Self::Nn => matmul_tn(a, g),
            Self::Tn => matmul(a, g),
        };
        Ok((a_tracked.then(for_a).transpose()?, b_tracked.then(for_b).transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::random::Stream;

    fn draw(name: &str, shape: (usize, usize), dtype: DType) -> Tensor {
        let mut stream = Stream::new(0, name, 0);
        let values = stream.normal(shape, DType::F64, &Device::Cpu).expect("drawn on the CPU");
        values.to_dtype(dtype).expect("a type for numbers")
    }

    /// With the kernel and without, and of views with gaps.
    #[test]
    fn a_sum_of_products_is_candles_own() -> Result<()> {
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5), (DType::F16, 0.1)] {
            let a = [draw("a", (5, 7), dtype), draw("b", (7, 3), dtype).t()?];
            let b = [draw("c", (5, 9), dtype), draw("d", (5, 9), dtype).narrow(0, 2, 3)?];
            let pairs = [(a[0].clone(), b[0].clone()), (a[1].clone(), b[1].clone())];
            let (sum, finite) = sum_of_products(&pairs)?;
            let expected = (a[0].t()?.matmul(&b[0])? + a[1].t()?.matmul(&b[1])?)?;
            let off = (sum - expected)?.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?;
            assert!(off.to_scalar::<f64>()? < tolerance, "{dtype:?}");
            assert_eq!(finite, dtype != DType::F16, "without a kernel nobody looks");
        }
        Ok(())
    }

    #[test]
    fn sums_of_products_that_do_not_fit_are_refused() {
        let of = |rows, columns| draw("x", (rows, columns), DType::F32);
        let refused = |pairs: &[(Tensor, Tensor)]| sum_of_products(pairs).is_err();
        assert!(refused(&[]));
        assert!(refused(&[(of(2, 3), of(4, 5))]));
        assert!(refused(&[(of(2, 3), of(2, 5)), (of(2, 4), of(2, 5))]));
        assert!(refused(&[(of(2, 3), of(2, 5)), (of(2, 3), draw("x", (2, 5), DType::F64))]));
    }
}
