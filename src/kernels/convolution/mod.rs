//! Two-dimensional convolution and its two gradients, as matrix products on columns.
//!
//! With `X` the column matrix of the images (see [`columns`]), `W` the kernel as a matrix `(outputs, window)` and `Y` the maps:
//!
//! | kernel | product |
//! |---|---|
//! | [`forward`] | `Y = W X` |
//! | [`for_image`] | `X = Wᵀ Y`, added up where windows overlap: the transposed convolution |
//! | [`for_kernel`] | `W = Y Xᵀ` |
//!
//! The columns of a few samples at a time are made in a buffer that stays in the cache. Samples are shared out between
//! threads; for the kernel's gradient, whose sum runs over the samples, input channels are, where there are enough of them.

mod columns;
mod geometry;

pub(crate) use geometry::{Convolution, Geometry};

use rayon::prelude::*;

use super::Real;
use super::matmul::{Destination, Matrix, product, product_into, product_nt};
use columns::{Planes, gather, scatter};

/// Elements of a column buffer that fit the second level of the cache beside what else is there.
const BUFFER: usize = 128 * 1024;
/// Columns below which a product spends its time on packing the kernel.
const FEWEST_COLUMNS: usize = 128;
/// Multiplications below which waking another thread costs more than it saves.
const SERIAL: usize = 1 << 19;
/// Tasks that the kernel's gradient is cut into.
const TASKS: usize = 8;

impl Convolution {
    /// Samples whose columns are made at a time: a function of the shapes alone, so that results are too.
    fn samples_at_once(&self) -> usize {
        let positions = self.positions().max(1);
        let fit = BUFFER / (self.window() * positions).max(1);
        let wanted = fit.max(FEWEST_COLUMNS.div_ceil(positions));
        // At least some tasks for some threads.
        wanted.min(self.batch.div_ceil(4)).max(1)
    }
}

/// Buffers that a thread keeps from one task to the next.
struct Scratch<T> {
    columns: Vec<T>,
    maps: Vec<T>,
    planes: Vec<T>,
}

impl<T: Real> Scratch<T> {
    fn new(columns: usize, maps: usize, planes: &Planes) -> Self {
        let buffer = |len| vec![T::zero(); len];
        Self { columns: buffer(columns), maps: buffer(maps), planes: buffer(planes.len()) }
    }
}

/// Maps `(batch, outputs, ...)` of images `(batch, inputs, ...)`, plus a bias for each output where there is one.
pub(crate) fn forward<T: Real>(
    convolution: &Convolution,
    image: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let c = convolution;
    let (positions, window) = (c.positions(), c.window());
    let (inputs, outputs) = (c.inputs_per_group(), c.outputs_per_group());
    if c.is_dense() {
        let images = Matrix::new(image, c.batch, window);
        return product_nt(images, Matrix::new(kernel, outputs, window), bias);
    }
    let planes = &Planes::new(c);
    let mut maps = vec![T::zero(); c.batch * c.outputs * positions];
    let at_once = c.samples_at_once();
    let side_by_side = at_once > 1;
    let scratch = || {
        let columns =
            if c.is_pointwise() && !side_by_side { 0 } else { window * at_once * positions };
        let maps = if side_by_side { outputs * at_once * positions } else { 0 };
        Scratch::new(columns, maps, planes)
    };
    let task = |scratch: &mut Scratch<T>, first: usize, maps: &mut [T]| {
        let count = maps.len() / (c.outputs * positions);
        let columns = count * positions;
        if let (Some(bias), false) = (bias, side_by_side) {
            for (i, map) in maps.chunks_mut(positions).enumerate() {
                map.fill(bias[i % c.outputs]);
            }
        }
        for group in 0..c.geometry.groups {
            let sample = |s: usize| {
                let start = ((first + s) * c.inputs + group * inputs) * c.pixels();
                &image[start..][..inputs * c.pixels()]
            };
            let kernel = &kernel[group * outputs * window..][..outputs * window];
            let kernel = Matrix::new(kernel, outputs, window);
            let own = if c.is_pointwise() && !side_by_side {
                Matrix::new(sample(0), window, columns)
            } else {
                let Scratch { columns: out, planes: buffer, .. } = scratch;
                for s in 0..count {
                    gather(planes, buffer, sample(s), out, (columns, s * positions));
                }
                Matrix::new(&scratch.columns[..window * columns], window, columns)
            };
            if side_by_side {
                let into = Destination { row_stride: columns, add: false };
                product_into(&mut scratch.maps, into, kernel, own);
                for s in 0..count {
                    for o in 0..outputs {
                        let out = (s * c.outputs + group * outputs + o) * positions;
                        let out = &mut maps[out..][..positions];
                        let made = &scratch.maps[o * columns + s * positions..][..positions];
                        out.copy_from_slice(made);
                        if let Some(bias) = bias {
                            let bias = bias[group * outputs + o];
                            out.iter_mut().for_each(|out| *out += bias);
                        }
                    }
                }
            } else {
                let into = Destination { row_stride: positions, add: bias.is_some() };
                let maps = &mut maps[group * outputs * positions..][..outputs * positions];
                product_into(maps, into, kernel, own);
            }
        }
    };
    for_each_block(c, &mut maps, at_once * c.outputs * positions, at_once, scratch, task);
    maps
}

/// Images `(batch, inputs, ...)`, each the sum of the kernel's windows weighted by the maps `(batch, outputs, ...)`: the
/// gradient of [`forward`] for its images.
pub(crate) fn for_image<T: Real>(
    convolution: &Convolution,
    maps: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let c = convolution;
    let (positions, window) = (c.positions(), c.window());
    let (inputs, outputs) = (c.inputs_per_group(), c.outputs_per_group());
    if c.is_dense() && bias.is_none() {
        return product(Matrix::new(maps, c.batch, outputs), Matrix::new(kernel, outputs, window));
    }
    let planes = &Planes::new(c);
    let mut images = vec![T::zero(); c.batch * c.inputs * c.pixels()];
    let at_once = c.samples_at_once();
    let side_by_side = at_once > 1;
    let scratch = || {
        let maps = if side_by_side { outputs * at_once * positions } else { 0 };
        Scratch::new(window * at_once * positions, maps, planes)
    };
    let task = |scratch: &mut Scratch<T>, first: usize, images: &mut [T]| {
        let count = images.len() / (c.inputs * c.pixels());
        let columns = count * positions;
        if let Some(bias) = bias {
            for (i, image) in images.chunks_mut(c.pixels()).enumerate() {
                image.fill(bias[i % c.inputs]);
            }
        }
        for group in 0..c.geometry.groups {
            let sample = |s: usize| {
                let start = ((first + s) * c.outputs + group * outputs) * positions;
                &maps[start..][..outputs * positions]
            };
            let own = if side_by_side {
                for s in 0..count {
                    for (o, map) in sample(s).chunks(positions).enumerate() {
                        let start = o * columns + s * positions;
                        scratch.maps[start..][..positions].copy_from_slice(map);
                    }
                }
                Matrix::new(&scratch.maps[..outputs * columns], outputs, columns)
            } else {
                Matrix::new(sample(0), outputs, columns)
            };
            let kernel = &kernel[group * outputs * window..][..outputs * window];
            let kernel = Matrix::new(kernel, outputs, window).t();
            let into = Destination { row_stride: columns, add: false };
            product_into(&mut scratch.columns, into, kernel, own);
            for s in 0..count {
                let start = (s * c.inputs + group * inputs) * c.pixels();
                let image = &mut images[start..][..inputs * c.pixels()];
                let Scratch { columns: from, planes: buffer, .. } = scratch;
                scatter(planes, buffer, from, (columns, s * positions), image);
            }
        }
    };
    for_each_block(c, &mut images, at_once * c.inputs * c.pixels(), at_once, scratch, task);
    images
}

/// Cuts `out` into the blocks of some samples each and runs a task on each, given its first sample.
fn for_each_block<T: Real>(
    convolution: &Convolution,
    out: &mut [T],
    block: usize,
    at_once: usize,
    scratch: impl Fn() -> Scratch<T> + Sync + Send,
    task: impl Fn(&mut Scratch<T>, usize, &mut [T]) + Sync + Send,
) {
    if out.is_empty() || convolution.positions() == 0 {
        return;
    }
    if convolution.work() <= SERIAL {
        let mut scratch = scratch();
        for (i, out) in out.chunks_mut(block).enumerate() {
            task(&mut scratch, i * at_once, out);
        }
    } else {
        let blocks = out.par_chunks_mut(block).enumerate();
        blocks.for_each_init(scratch, |scratch, (i, out)| task(scratch, i * at_once, out));
    }
}

/// The kernel `(outputs, inputs / groups, ...)` whose weights are the products of what they meet in the images
/// `(batch, inputs, ...)` with the maps `(batch, outputs, ...)`, summed: the gradient of [`forward`] for its kernel.
pub(crate) fn for_kernel<T: Real>(convolution: &Convolution, maps: &[T], image: &[T]) -> Vec<T> {
    let c = convolution;
    let (groups, positions) = (c.geometry.groups, c.positions());
    if c.is_dense() {
        let maps = Matrix::new(maps, c.batch, c.outputs).t();
        return product(maps, Matrix::new(image, c.batch, c.window()));
    }
    let planes = &Planes::new(c);
    let mut kernel = vec![T::zero(); c.outputs * c.window()];
    if kernel.is_empty() || c.batch * positions == 0 {
        return kernel;
    }
    let per_task = c.inputs_per_group().div_ceil(TASKS.div_ceil(groups));
    let strips = c.inputs_per_group().div_ceil(per_task);
    if groups * strips >= TASKS / 2 || c.work() <= SERIAL {
        // Each task makes the gradient of its own input channels, over all samples.
        let maps = SideBySide::new(c, maps);
        let task = |task: usize| {
            let (group, first) = (task / strips, task % strips * per_task);
            let channels = first..c.inputs_per_group().min(first + per_task);
            (group, first, strip(c, planes, &maps, image, group, channels, 0..c.batch))
        };
        let tasks = 0..groups * strips;
        let done: Vec<_> = if c.work() <= SERIAL {
            tasks.map(task).collect()
        } else {
            tasks.into_par_iter().map(task).collect()
        };
        for (group, first, strip) in done {
            let width = strip.len() / c.outputs_per_group();
            for (o, row) in strip.chunks(width).enumerate() {
                let start = (group * c.outputs_per_group() + o) * c.window() + first * c.taps();
                kernel[start..][..width].copy_from_slice(row);
            }
        }
        return kernel;
    }
    // Too few channels to share out: each task takes some samples. The sums are added in order.
    let samples = c.batch.div_ceil(TASKS);
    let tasks = (0..c.batch.div_ceil(samples)).into_par_iter();
    let sums: Vec<Vec<T>> = tasks
        .map(|task| {
            let samples = task * samples..c.batch.min((task + 1) * samples);
            let maps = SideBySide::new(
                &Convolution { batch: samples.len(), ..*c },
                &maps[samples.start * c.outputs * positions..]
                    [..samples.len() * c.outputs * positions],
            );
            let group = |group| {
                strip(c, planes, &maps, image, group, 0..c.inputs_per_group(), samples.clone())
            };
            (0..groups).flat_map(group).collect()
        })
        .collect();
    for sum in sums {
        kernel.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
    }
    kernel
}

/// Maps with the positions of all samples side by side: `(outputs, batch * positions)`.
struct SideBySide<'a, T: Real> {
    maps: std::borrow::Cow<'a, [T]>,
    columns: usize,
}

impl<'a, T: Real> SideBySide<'a, T> {
    fn new(convolution: &Convolution, maps: &'a [T]) -> Self {
        let (batch, positions) = (convolution.batch, convolution.positions());
        let columns = batch * positions;
        if batch == 1 {
            return Self { maps: maps.into(), columns };
        }
        let mut turned = Vec::with_capacity(maps.len());
        for o in 0..convolution.outputs {
            for s in 0..batch {
                turned.extend_from_slice(
                    &maps[(s * convolution.outputs + o) * positions..][..positions],
                );
            }
        }
        Self { maps: turned.into(), columns }
    }
}

/// The gradient `(outputs per group, channels * taps)` for some input channels of a group, over some samples, whose maps
/// begin with the first of them.
fn strip<T: Real>(
    convolution: &Convolution,
    planes: &Planes,
    maps: &SideBySide<'_, T>,
    image: &[T],
    group: usize,
    channels: std::ops::Range<usize>,
    samples: std::ops::Range<usize>,
) -> Vec<T> {
    let c = convolution;
    let (positions, pixels) = (c.positions(), c.pixels());
    let (rows, outputs) = (channels.len() * c.taps(), c.outputs_per_group());
    let fit = (BUFFER / (rows * positions)).max(FEWEST_COLUMNS.div_ceil(positions));
    let at_once = fit.clamp(1, samples.len());
    let mut columns = vec![T::zero(); rows * at_once * positions];
    let mut buffer = vec![T::zero(); planes.len()];
    let mut sum = vec![T::zero(); outputs * rows];
    for first in samples.clone().step_by(at_once) {
        let count = at_once.min(samples.end - first);
        let width = count * positions;
        for s in 0..count {
            let start = (first + s) * c.inputs + group * c.inputs_per_group() + channels.start;
            let image = &image[start * pixels..][..channels.len() * pixels];
            gather(planes, &mut buffer, image, &mut columns, (width, s * positions));
        }
        let start = group * outputs * maps.columns + (first - samples.start) * positions;
        let maps = Matrix::with_row_stride(&maps.maps[start..], outputs, width, maps.columns);
        let columns = Matrix::new(&columns[..rows * width], rows, width);
        let into = Destination { row_stride: rows, add: true };
        product_into(&mut sum, into, maps, columns.t());
    }
    sum
}

#[cfg(test)]
mod tests;
