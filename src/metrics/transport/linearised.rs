//! How the masses of an entropic plan answer to its potentials.

use rayon::prelude::*;

/// Columns that one task sums up; fixed, so that sums do not depend on the number of threads.
const COLUMNS: usize = 256;
const MAX_ITERATIONS: usize = 500;
/// Newton's steps are exact enough with a residual that much smaller.
const REDUCTION: f64 = 1e-3;

/// A plan with its masses by row and by column.
///
/// Where the potential `f` changes by `epsilon x`, and `g` so that the masses of the columns stay, those of the rows change by
/// `(diag(rows) - P diag(1 / columns) P^T) x`.
pub(super) struct Linearised<'a> {
    pub plan: Vec<f64>,
    pub rows: Vec<f64>,
    pub columns: &'a [f64],
}

impl Linearised<'_> {
    /// The `x` that changes the masses of the rows by `change`, whose sum is 0, or comes nearest to it.
    ///
    /// By conjugate residuals (Stiefel 1955), scaled by the diagonal. What they leave shrinks with each iteration, wherever
    /// they stop; with conjugate gradients it would not, and nearly separate parts of a plan make it grow.
    pub fn solve(&self, change: &[f64]) -> Vec<f64> {
        let scales: Vec<f64> = (self.rows.iter())
            .map(|row| if *row > 0.0 { row.sqrt().recip() } else { 0.0 })
            .collect();
        let scaled =
            |x: &[f64]| -> Vec<f64> { x.iter().zip(&scales).map(|(x, s)| x * s).collect() };
        let image_of = |x: &[f64]| scaled(&self.apply(&scaled(x)));
        let mut x = vec![0.0; change.len()];
        let mut residual = scaled(change);
        let enough = REDUCTION * REDUCTION * dot(&residual, &residual);
        let mut direction = residual.clone();
        let mut image = image_of(&direction);
        let mut curvature = dot(&residual, &image);
        for _ in 0..MAX_ITERATIONS {
            let length = dot(&image, &image);
            // Nought or, by rounding, less: what is left is rounding too.
            if curvature <= 0.0 || length == 0.0 {
                break;
            }
            add(&mut x, curvature / length, &direction);
            add(&mut residual, -curvature / length, &image);
            if dot(&residual, &residual) <= enough {
                break;
            }
            let image_of_residual = image_of(&residual);
            let next = dot(&residual, &image_of_residual);
            let ratio = next / curvature;
            curvature = next;
            for (to, new) in [(&mut direction, &residual), (&mut image, &image_of_residual)] {
                to.iter_mut().zip(new).for_each(|(to, new)| *to = new + ratio * *to);
            }
        }
        scaled(&x)
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let width = self.columns.len();
        let mut by_column = vec![0.0; width];
        by_column.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, sums)| {
            for (row, x) in self.plan.chunks_exact(width).zip(x) {
                add(sums, *x, &row[chunk * COLUMNS..]);
            }
        });
        for (sum, mass) in by_column.iter_mut().zip(self.columns) {
            *sum = if *mass > 0.0 { *sum / mass } else { 0.0 };
        }
        (self.plan.par_chunks_exact(width).zip(&self.rows).zip(x))
            .map(|((row, mass), x)| mass * x - dot(row, &by_column))
            .collect()
    }
}

fn add(to: &mut [f64], factor: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
