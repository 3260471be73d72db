//! Mean and covariance of a stream.

use super::Points;
use super::memory::room_for;
use crate::error::{Error, Result};
use crate::kernels::matmul::{Matrix, product};

/// Points that are taken at a time.
const BLOCK: usize = 1024;

/// Mean and covariance of points that come in batches, of which none is kept.
///
/// Batches are put together by their own means and scatters (Chan, Golub and LeVeque 1979), which is as exact as two passes
/// over all points would be.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Sum over the points of (x - mean) (x - mean)ᵀ.
    scatter: Vec<f64>,
}

impl Moments {
    /// Of no points yet.
    pub fn new(dims: usize) -> Result<Self> {
        let mut scatter = room_for("the size of a covariance", &[dims, dims])?;
        scatter.resize(dims * dims, 0.0);
        Ok(Self { count: 0, mean: vec![0.0; dims], scatter })
    }

    pub fn add(&mut self, batch: &Points) -> Result<()> {
        let dims = self.mean.len();
        if batch.dims() != dims {
            return Err(Error::Shape {
                what: "a batch of points".into(),
                got: vec![batch.len(), batch.dims()],
                expected: format!("(points, {dims}), as the batches before"),
            });
        }
        for block in batch.values().chunks(BLOCK * dims) {
            self.add_block(block);
        }
        Ok(())
    }

    fn add_block(&mut self, block: &[f64]) {
        let dims = self.mean.len();
        let count = block.len() / dims;
        let mut mean = vec![0.0; dims];
        for point in block.chunks_exact(dims) {
            mean.iter_mut().zip(point).for_each(|(mean, x)| *mean += x);
        }
        mean.iter_mut().for_each(|mean| *mean /= count as f64);
        let centred: Vec<f64> = (block.chunks_exact(dims))
            .flat_map(|point| point.iter().zip(&mean).map(|(x, mean)| x - mean))
            .collect();
        let centred = Matrix::new(&centred, count, dims);
        let scatter = product(centred.t(), centred);

        let total = (self.count + count) as f64;
        let shift: Vec<f64> = mean.iter().zip(&self.mean).map(|(new, old)| new - old).collect();
        let weight = self.count as f64 * count as f64 / total;
        let rows = self.scatter.chunks_exact_mut(dims).zip(scatter.chunks_exact(dims));
        for ((row, new), a) in rows.zip(&shift) {
            for ((sum, new), b) in row.iter_mut().zip(new).zip(&shift) {
                *sum += new + weight * a * b;
            }
        }
        for (mean, shift) in self.mean.iter_mut().zip(&shift) {
            *mean += shift * count as f64 / total;
        }
        self.count += count;
    }

    /// The number of points so far, their mean and their covariance with `count - 1` below.
    pub fn finish(self) -> Result<(usize, Vec<f64>, Vec<f64>)> {
        let Self { count, mean, mut scatter } = self;
        if count < 2 {
            let purpose = "a covariance".into();
            return Err(Error::DatasetTooSmall { len: count, needed: 2, purpose });
        }
        scatter.iter_mut().for_each(|sum| *sum /= (count - 1) as f64);
        Ok((count, mean, scatter))
    }
}
