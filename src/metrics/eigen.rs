//! Eigenvalues and singular values of row-major matrices, on one thread, so that they do not depend on the thread count.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::{evd, svd};
use faer::{Mat, MatRef, Par};

use crate::error::{Error, Result};

/// A factor of a covariance matrix of `dims` dimensions: `covariance = factor factorᵀ`, `(dims, rank)`.
#[derive(Debug)]
pub(super) struct Root {
    pub values: Vec<f64>,
    pub rank: usize,
}

/// What is known of where a covariance comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// A caller gave it, and may have given anything.
    Given,
    /// It was fitted to so many samples: what is negative is rounding, and its rank is below
    /// their number.
    Fitted { samples: usize },
}

/// The factor of a symmetric positive semi-definite matrix, `(dims, dims)`.
///
/// Directions whose variance is rounding alone are left out: the square root of a rounding error of 1e-16 is 1e-8, and a
/// singular matrix has many of them.
pub(super) fn root(matrix: &[f64], dims: usize, origin: Origin) -> Result<Root> {
    let (values, vectors) = symmetric_eigen(matrix, dims)?;
    // Sorted in nondecreasing order.
    let lowest = values.first().copied().unwrap_or(0.0);
    let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let (rank, terms) = match origin {
        Origin::Given => (dims, 0.0),
        // Its numbers are sums, whose rounding grows as the root of the number of terms.
        Origin::Fitted { samples } => (samples - 1, (samples as f64).sqrt()),
    };
    let rounding = (dims as f64 + terms) * f64::EPSILON * largest;
    if matches!(origin, Origin::Given) && lowest < -rounding {
        let expected = "at least 0, up to rounding: a covariance is positive semi-definite";
        return Err(Error::config("the lowest eigenvalue of the covariance", lowest, expected));
    }
    // A negative one is rounding, and so is what is no larger.
    let rounding = rounding.max(-lowest);
    let first = values.partition_point(|&value| value <= rounding).max(dims - rank.min(dims));
    let roots: Vec<f64> = values[first..].iter().map(|value| value.sqrt()).collect();
    let rank = roots.len();
    let factor = (0..dims * rank)
        .map(|at| (at / rank, at % rank))
        .map(|(row, column)| vectors[(row, first + column)] * roots[column])
        .collect();
    Ok(Root { values: factor, rank })
}

/// Eigenvalues, lowest first, and eigenvectors, which are columns.
fn symmetric_eigen(matrix: &[f64], dims: usize) -> Result<(Vec<f64>, Mat<f64>)> {
    let mut values = Diag::<f64>::zeros(dims);
    let mut vectors = Mat::<f64>::zeros(dims, dims);
    let scratch = evd::self_adjoint_evd_scratch::<f64>(
        dims,
        evd::ComputeEigenvectors::Yes,
        Par::Seq,
        Default::default(),
    );
    evd::self_adjoint_evd(
        MatRef::from_row_major_slice(matrix, dims, dims),
        values.as_mut(),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|_| no_convergence("the eigenvalues of the covariance"))?;
    Ok((values.column_vector().iter().copied().collect(), vectors))
}

/// The singular values of a matrix, `(rows, columns)`, largest first.
pub(super) fn singular_values(matrix: &[f64], rows: usize, columns: usize) -> Result<Vec<f64>> {
    let mut values = Diag::<f64>::zeros(rows.min(columns));
    let no = svd::ComputeSvdVectors::No;
    let scratch = svd::svd_scratch::<f64>(rows, columns, no, no, Par::Seq, Default::default());
    svd::svd(
        MatRef::from_row_major_slice(matrix, rows, columns),
        values.as_mut(),
        None,
        None,
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|_| no_convergence("the singular values of the covariances' product"))?;
    Ok(values.column_vector().iter().copied().collect())
}

/// Of finite matrices that overflow within the algorithm.
fn no_convergence(what: &str) -> Error {
    Error::NonFiniteData { what: what.into(), value: f64::NAN, position: vec![] }
}
