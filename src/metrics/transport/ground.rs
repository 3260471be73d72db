//! Distances between single points.

use rayon::prelude::*;

use super::power;
use crate::error::Result;
use crate::metrics::Points;
use crate::metrics::memory::room_for;

/// Both sets in a common unit, a power of two near their largest coordinate, so that no square overflows or vanishes.
pub(super) struct Ground {
    pub a: Vec<f64>,
    pub b: Vec<f64>,
    dims: usize,
    /// The unit.
    pub scale: f64,
}

impl Ground {
    /// Of sets with the same number of dimensions, in a unit for some `rows` of the first and some
    /// `columns` of the second: others, which may lie however far, have no distances here.
    pub fn new((a, rows): (&Points, &[usize]), (b, columns): (&Points, &[usize])) -> Self {
        let dims = a.dims();
        let largest_of = |points: &Points, indices: &[usize]| {
            let values = indices.iter().flat_map(|i| &points.values()[i * dims..][..dims]);
            values.fold(0.0f64, |max, x| max.max(x.abs()))
        };
        let largest = largest_of(a, rows).max(largest_of(b, columns));
        let scale = if largest > 0.0 { largest.log2().floor().min(1023.0).exp2() } else { 1.0 };
        let scaled = |points: &Points| points.values().iter().map(|x| x / scale).collect();
        Self { a: scaled(a), b: scaled(b), dims, scale }
    }

    /// The Euclidean distance of point `i` of the first set and point `j` of the second.
    pub fn distance(&self, i: usize, j: usize) -> f64 {
        distance(self.point_of_a(i), &self.b[j * self.dims..(j + 1) * self.dims])
    }

    /// `convert(|x_i - y_j|)` for some `rows` of the first set and `columns` of the second, row by row.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] where memory does not hold them.
    pub fn matrix<T: Copy + Default + Send>(
        &self,
        rows: &[usize],
        columns: &[usize],
        convert: impl Fn(f64) -> T + Sync,
    ) -> Result<Vec<T>> {
        let pairs = "the number of pairs of points, each with its distance,";
        let mut matrix = room_for(pairs, &[rows.len(), columns.len()])?;
        matrix.resize(rows.len() * columns.len(), T::default());
        matrix.par_chunks_mut(columns.len()).zip(rows).for_each(|(row, &i)| {
            for (cell, &j) in row.iter_mut().zip(columns) {
                *cell = convert(self.distance(i, j));
            }
        });
        Ok(matrix)
    }

    /// The largest distance of one of the `rows` and one of the `columns`.
    pub fn longest(&self, rows: &[usize], columns: &[usize]) -> f64 {
        rows.par_iter()
            .map(|&i| columns.iter().fold(0.0f64, |max, &j| max.max(self.distance(i, j))))
            .reduce(|| 0.0, f64::max)
    }

    /// `(|x_i - y_j| / reach)^p` in units of `1 / one`, rounded, where distances beyond `reach` count as `reach`.
    pub fn integer_costs(
        &self,
        rows: &[usize],
        columns: &[usize],
        p: f64,
        one: i64,
        reach: f64,
    ) -> Result<Vec<i64>> {
        let unit = if reach > 0.0 { reach } else { 1.0 };
        self.matrix(rows, columns, |distance| {
            (power((distance / unit).min(1.0), p) * one as f64).round() as i64
        })
    }

    fn point_of_a(&self, i: usize) -> &[f64] {
        &self.a[i * self.dims..(i + 1) * self.dims]
    }
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
}
