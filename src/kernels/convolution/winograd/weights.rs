//! A kernel's weights at the points, as panels of the right operand of products.

use super::plan::{Plan, at_points};
use super::transforms::{BLOCK, Move, Transform, apply_to_shared};
use crate::kernels::Real;
use crate::kernels::matmul::{Panels, panel_width};
use crate::kernels::parallel::{Shared, tasks};
use crate::kernels::scratch::with_scratch;
use crate::kernels::transpose::turn;

/// Elements of a kernel up to which its weights are made on one thread.
const SMALL: usize = 32 * 1024;

/// How the weights of each point lie in memory: a matrix of `inner` rows and `columns`, in panels. What a panel has beyond the last
/// column is of any value, and so is what becomes of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) inner: usize,
    columns: usize,
    pub(super) width: usize,
}

impl Shape {
    pub(super) fn new<T>(inner: usize, columns: usize) -> Self {
        Self { inner, columns, width: panel_width::<T>(columns) }
    }

    /// Columns of all panels.
    pub(super) fn row(&self) -> usize {
        self.columns.next_multiple_of(self.width)
    }

    /// Elements of a point.
    pub(super) fn len(&self) -> usize {
        self.inner * self.row()
    }

    /// Where element `(row, column)` stands.
    fn offset(&self, row: usize, column: usize) -> usize {
        (column / self.width * self.inner + row) * self.width + column % self.width
    }

    pub(super) fn panels<'a, T>(&self, weights: &'a [T], point: usize) -> Panels<'a, T> {
        Panels::new(&weights[point * self.len()..][..self.len()], self.inner, self.width)
    }
}

/// For each point a matrix `(parts of inputs, outputs)`.
pub(super) fn by_output<G: Transform<R, N>, T: Real, const R: usize, const N: usize>(
    plan: &Plan<'_, N>,
    kernel: &[T],
    shape: Shape,
    weights: &mut [T],
) {
    let (c, phases) = (plan.c, plan.phases());
    let (outputs, taps, window) = (c.outputs, c.taps(), c.window());
    let (serial, whole) = (kernel.len() <= SMALL, &Shared::new(weights));
    tasks(serial, plan.blocks(), |block| {
        let columns = BLOCK * taps;
        with_scratch(columns * outputs, |turned: &mut [T]| {
            turn(&kernel[block * columns..], (outputs, columns), window, turned, outputs);
            let moves = (0..BLOCK * phases).flat_map(|row| {
                let (phase, channel) = (row / BLOCK, row % BLOCK);
                let taps = plan.taps::<R>(phase).map(|row| row.map(|tap| channel * taps + tap));
                (0..outputs).step_by(shape.width).map(move |column| Move {
                    from: taps.map(|row| row.map(|tap| tap * outputs + column)),
                    to: at_points(shape.len(), shape.offset(block * phases * BLOCK + row, column)),
                    blocks: shape.width.min(outputs - column) / BLOCK,
                    steps: (BLOCK, BLOCK),
                })
            });
            // SAFETY: each task has rows of its own.
            unsafe { apply_to_shared::<G, T, R, N, false>(turned, whole, moves) };
        });
    });
}

/// For each point a matrix `(outputs, parts of inputs)`.
pub(super) fn by_input<G: Transform<R, N>, T: Real, const R: usize, const N: usize>(
    plan: &Plan<'_, N>,
    kernel: &[T],
    shape: Shape,
    weights: &mut [T],
) {
    /// Outputs of a task.
    const OUTPUTS: usize = 8;
    let (c, phases) = (plan.c, plan.phases());
    let (inputs, taps, window) = (c.inputs, c.taps(), c.window());
    let (serial, whole) = (kernel.len() <= SMALL, &Shared::new(weights));
    tasks(serial, c.outputs.div_ceil(OUTPUTS), |task| {
        with_scratch(window, |turned: &mut [T]| {
            for output in task * OUTPUTS..c.outputs.min((task + 1) * OUTPUTS) {
                turn(&kernel[output * window..], (inputs, taps), taps, turned, inputs);
                let moves = (0..phases).flat_map(|phase| {
                    let taps = plan.taps::<R>(phase);
                    // Blocks that lie a constant step apart: all, or those of one panel.
                    let step = phases * BLOCK;
                    let of_panel = shape.width > step;
                    let at_once = if of_panel { shape.width / step } else { plan.blocks() };
                    (0..plan.blocks()).step_by(at_once).map(move |block| Move {
                        from: taps.map(|row| row.map(|tap| tap * inputs + block * BLOCK)),
                        to: at_points(
                            shape.len(),
                            shape.offset(output, block * step + phase * BLOCK),
                        ),
                        blocks: at_once.min(plan.blocks() - block),
                        steps: (BLOCK, shape.offset(0, step)),
                    })
                });
                // SAFETY: each task has outputs, rows of each matrix, of its own.
                unsafe { apply_to_shared::<G, T, R, N, false>(turned, whole, moves) };
            }
        });
    });
}
