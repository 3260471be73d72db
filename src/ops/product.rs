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

use super::{count, has_kernel};
use crate::kernels::matmul::{Matrix, product, product_nt};
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
