//! The kernels as matrix products on columns.
//!
//! With `X` the column matrix of the images (see [`columns`]), `W` the kernel as a matrix `(outputs, window)` and `Y` the
//! maps:
//!
//! | kernel | product |
//! |---|---|
//! | [`forward`] | `Y = W X` |
//! | [`for_image`] | `X = Wᵀ Y`, added up where windows overlap: the transposed convolution |
//! | [`for_kernel`] | `W = Y Xᵀ` |
//!
//! The columns of a few samples at a time are made, as the panels that the product takes, in a buffer that stays in the cache;
//! the maps are read and written where they lie. Samples are shared out between threads; for the kernel's gradient, whose sum
//! runs over the samples, parts of the window are, where there are enough of them.

mod columns;
mod rows;

use std::ops::Range;

use super::{Convolution, SERIAL, TASKS};
use crate::kernels::Real;
use crate::kernels::matmul::{
    Left, Matrix, Panels, Place, ROWS, Receiver, Rows, Sums, Tile, copy_short, multiply, pack_left,
    packed_left_len, panel_width, product, product_nt,
};
use crate::kernels::parallel::{Shared, for_each_chunk, tasks};
use crate::kernels::scratch::with_scratch;
use columns::{Planes, gather, scatter};
use rows::{RowPanel, Windows};

/// Elements of a column buffer that fit the second level of the cache beside what else is there.
const BUFFER: usize = 192 * 1024;

/// The columns of a few samples side by side, cut into panels.
struct Block {
    samples: usize,
    /// Positions of one sample's map.
    positions: usize,
    /// Columns of a panel.
    width: usize,
}

impl Block {
    /// As many samples as a buffer holds: a function of the shapes alone, so that results are too.
    fn new<T>(c: &Convolution) -> Self {
        let positions = c.positions().max(1);
        let width = panel_width::<T>(c.batch * positions);
        let fit = BUFFER * 4 / size_of::<T>() / (c.window() * positions).max(1);
        // A full panel at least, and some tasks for some threads.
        let wanted = fit.max(width.div_ceil(positions)).min(c.batch.div_ceil(4)).max(1);
        // Whole panels, where samples allow it.
        let even = (1..=wanted).rev().take(wanted / 2 + 1);
        let samples = even.clone().find(|n| (n * positions).is_multiple_of(width));
        Self { samples: samples.unwrap_or(wanted), positions, width }
    }

    fn panels(&self, samples: usize) -> usize {
        (samples * self.positions).div_ceil(self.width)
    }

    /// The runs of a panel's columns that lie in one sample: (first column, length, sample, first position).
    fn runs(
        &self,
        panel: usize,
        samples: usize,
    ) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let mut at = panel * self.width;
        let end = (at + self.width).min(samples * self.positions);
        let (start, positions) = (at, self.positions);
        std::iter::from_fn(move || {
            let run = (at < end).then(|| {
                let (sample, position) = (at / positions, at % positions);
                (at - start, (positions - position).min(end - at), sample, position)
            });
            at += run.map_or(0, |(_, len, ..)| len);
            run
        })
    }
}

/// As [`super::forward`].
pub(super) fn forward<T: Real>(
    c: &Convolution,
    image: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let (positions, window) = (c.positions(), c.window());
    let (inputs, outputs) = (c.inputs_per_group(), c.outputs_per_group());
    if c.is_dense() {
        let images = Matrix::new(image, c.batch, window);
        return product_nt(images, Matrix::new(kernel, outputs, window), bias);
    }
    let len = c.batch * c.outputs * positions;
    if len == 0 || window == 0 || c.pixels() == 0 {
        let mut maps = vec![T::zero(); len];
        if let Some(bias) = bias {
            fill_channels(&mut maps, positions, bias);
        }
        return maps;
    }
    let (planes, block) = (&Planes::new(c), Block::new::<T>(c));
    let mut maps = Vec::new();
    let whole = &Shared::spare(&mut maps, len);
    tasks(c.work() <= SERIAL, c.batch.div_ceil(block.samples), |task| {
        let first = task * block.samples;
        let count = block.samples.min(c.batch - first);
        let panels = block.panels(count);
        with_scratch(panels * window * block.width, |columns: &mut [T]| {
            for group in 0..c.geometry.groups {
                for s in 0..count {
                    let start = ((first + s) * c.inputs + group * inputs) * c.pixels();
                    let image = &image[start..][..inputs * c.pixels()];
                    gather(planes, image, columns, (window, block.width), s * positions);
                }
                clear_tail(columns, count * positions, (window, block.width));
                let kernel = &kernel[group * outputs * window..][..outputs * window];
                let left = Left::rows(kernel, outputs, window, window);
                let right = Panels::new(columns, window, block.width);
                let (outputs, all) = (group * outputs..(group + 1) * outputs, c.outputs);
                let tiles = 0..outputs.len().div_ceil(ROWS);
                let block = &block;
                let maps = Maps { block, first, count, outputs, all, bias, maps: whole };
                multiply(left, tiles, right, maps);
            }
        });
    });
    // SAFETY: the groups of all samples cover the maps, so each of their elements was written.
    unsafe { maps.set_len(len) };
    maps
}

/// As [`super::for_image`].
pub(super) fn for_image<T: Real>(
    c: &Convolution,
    maps: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let (positions, window, pixels) = (c.positions(), c.window(), c.pixels());
    let (inputs, outputs) = (c.inputs_per_group(), c.outputs_per_group());
    if c.is_dense() && bias.is_none() {
        return product(Matrix::new(maps, c.batch, outputs), Matrix::new(kernel, outputs, window));
    }
    let len = c.batch * c.inputs * pixels;
    if len == 0 || maps.is_empty() {
        let mut images = vec![T::zero(); len];
        if let Some(bias) = bias {
            fill_channels(&mut images, pixels, bias);
        }
        return images;
    }
    let (planes, block) = (&Planes::new(c), Block::new::<T>(c));
    let packed_len = packed_left_len(window, outputs);
    let mut packed = vec![T::zero(); c.geometry.groups * packed_len];
    for (group, packed) in packed.chunks_exact_mut(packed_len).enumerate() {
        let kernel = &kernel[group * outputs * window..][..outputs * window];
        pack_left(&[kernel], window, outputs, packed);
    }
    let mut images = Vec::new();
    let (whole, size) = (&Shared::spare(&mut images, len), c.inputs * pixels);
    tasks(c.work() <= SERIAL, c.batch.div_ceil(block.samples), |task| {
        let first = task * block.samples;
        let count = block.samples.min(c.batch - first);
        // SAFETY: each task has samples of its own. It zeroes them itself, and then finds them in its cache.
        let images = unsafe { whole.filled(first * size..(first + count) * size, T::zero()) };
        if let Some(bias) = bias {
            fill_channels(images, pixels, bias);
        }
        let panels = block.panels(count);
        let row = panels * block.width;
        let both = panels * outputs * block.width + window.next_multiple_of(ROWS) * row;
        with_scratch(both, |buffer: &mut [T]| {
            let (right, columns) = buffer.split_at_mut(panels * outputs * block.width);
            for group in 0..c.geometry.groups {
                for (panel, out) in right.chunks_exact_mut(outputs * block.width).enumerate() {
                    for (from, len, sample, position) in block.runs(panel, count) {
                        let channel = (first + sample) * c.outputs + group * outputs;
                        let maps = maps[channel * positions..].chunks_exact(positions);
                        for (out, map) in out.chunks_exact_mut(block.width).zip(maps) {
                            copy_short(&map[position..][..len], &mut out[from..][..len]);
                        }
                    }
                }
                clear_tail(right, count * positions, (outputs, block.width));
                let left =
                    Left::packed(&packed[group * packed_len..][..packed_len], window, outputs);
                let right = Panels::new(right, outputs, block.width);
                let columns = &mut *columns;
                let (stride, width) = (row, block.width);
                let rows = Rows { first: 0, elements: columns, stride, width };
                multiply(left, 0..window.div_ceil(ROWS), right, rows);
                for s in 0..count {
                    let start = (s * c.inputs + group * inputs) * pixels;
                    let image = &mut images[start..][..inputs * pixels];
                    scatter(planes, columns, (row, s * positions), image);
                }
            }
        });
    });
    // SAFETY: the tasks cover all samples, each of whose elements was given a value.
    unsafe { images.set_len(len) };
    images
}

/// As [`super::for_kernel`].
pub(super) fn for_kernel<T: Real>(c: &Convolution, maps: &[T], image: &[T]) -> Vec<T> {
    let (groups, positions, window) = (c.geometry.groups, c.positions(), c.window());
    let outputs = c.outputs_per_group();
    if c.is_dense() {
        let maps = Matrix::new(maps, c.batch, c.outputs).t();
        return product(maps, Matrix::new(image, c.batch, window));
    }
    let mut kernel = vec![T::zero(); c.outputs * window];
    if kernel.is_empty() || c.batch * positions == 0 {
        return kernel;
    }
    let windows = Windows::new::<T>(c);
    let panels = windows.panels();
    // Where there are few parts of the window, samples are shared out as well, and the sums added in order.
    let wanted = if c.work() <= SERIAL { 1 } else { TASKS.div_ceil(groups * panels) };
    let per_task = c.batch.div_ceil(wanted.min(c.batch));
    let shares = c.batch.div_ceil(per_task);
    let width = windows.width();
    let sum_len = outputs * width;
    let (mut sums, all_sums) = (Vec::new(), groups * panels * shares * sum_len);
    let each = |task: usize, sum: &mut [T]| {
        let (part, share) = (task / shares, task % shares);
        let (group, panel) = (part / panels, part % panels);
        let samples = share * per_task..c.batch.min((share + 1) * per_task);
        let at_once = windows.samples_at_once(BUFFER / 2).min(samples.len());
        with_scratch(at_once * positions * width, |right: &mut [T]| {
            let made = RowPanel { windows: &windows, group, panel };
            for first in samples.clone().step_by(at_once) {
                let count = at_once.min(samples.end - first);
                let inner = count * positions;
                let right = &mut right[..inner * width];
                made.fill(image, first..first + count, right);
                let maps = &maps[(first * c.outputs + group * outputs) * positions..];
                let segments = (count, positions, c.outputs * positions);
                let left = Left::segments(maps, outputs, positions, segments);
                let right = Panels::new(right, inner, width);
                let sum = Sums { elements: &mut *sum, width };
                multiply(left, 0..outputs.div_ceil(ROWS), right, sum);
            }
        });
    };
    let pieces = Shared::spare(&mut sums, all_sums);
    tasks(c.work() <= SERIAL, groups * panels * shares, |task| {
        // SAFETY: each task has a part of its own.
        each(task, unsafe { pieces.filled(task * sum_len..(task + 1) * sum_len, T::zero()) });
    });
    // SAFETY: the tasks cover the sums, each of which was given a value.
    unsafe { sums.set_len(all_sums) };
    for_each_chunk(&mut kernel, window, |offset, row| {
        let (group, o) = (offset / window / outputs, offset / window % outputs);
        let sums = &sums[group * panels * shares * sum_len..];
        for (panel, sums) in sums.chunks_exact(shares * sum_len).take(panels).enumerate() {
            let row = &mut row[windows.columns(panel)];
            for sum in sums.chunks_exact(sum_len) {
                let sum = &sum[o * width..][..row.len()];
                row.iter_mut().zip(sum).for_each(|(total, &x)| *total += x);
            }
        }
    });
    kernel
}

/// Writes products where they belong in the maps of `count` samples, the first of them `first`, which no other task writes to.
struct Maps<'a, T> {
    block: &'a Block,
    first: usize,
    count: usize,
    /// The output channels that are made, of `all`.
    outputs: Range<usize>,
    all: usize,
    bias: Option<&'a [T]>,
    maps: &'a Shared<'a, T>,
}

impl<T> Maps<'_, T> {
    /// Where a row of the product begins in one of the samples.
    fn start(&self, sample: usize, row: usize) -> usize {
        ((self.first + sample) * self.all + self.outputs.start + row) * self.block.positions
    }
}

impl<T: Real> Receiver<T> for Maps<'_, T> {
    #[inline(always)]
    fn place(&mut self, rows: Range<usize>, panel: usize) -> Option<Place<'_, T>> {
        let &Block { positions, width, .. } = self.block;
        let (from, left) = (panel * width, self.count * positions - panel * width);
        // The panel lies in one sample's map.
        let whole = from % positions + width <= positions && width <= left;
        (whole && rows.end <= self.outputs.len() && self.bias.is_none()).then(|| {
            let start = self.start(from / positions, rows.start) + from % positions;
            // SAFETY: these samples' maps are this task's, which writes the first piece before another is added.
            unsafe { Place::shared(self.maps, start, rows.len(), positions, width) }
        })
    }

    #[inline(always)]
    fn take(&mut self, tile: Tile<'_, T>) {
        for (from, len, sample, position) in self.block.runs(tile.panel, self.count) {
            for (i, values) in tile.values.chunks_exact(self.block.width).enumerate() {
                let start = self.start(sample, tile.row + i) + position;
                let values = &values[from..][..len];
                if tile.first {
                    // SAFETY: as in `place`.
                    unsafe { self.maps.write(start, values) };
                }
                // SAFETY: as in `place`; what came first has written it.
                let out = unsafe { self.maps.slice(start..start + len) };
                if !tile.first {
                    out.iter_mut().zip(values).for_each(|(out, &x)| *out += x);
                } else if let Some(bias) = self.bias {
                    let bias = bias[self.outputs.start + tile.row + i];
                    out.iter_mut().for_each(|out| *out += bias);
                }
            }
        }
    }
}

/// Fills each channel of some samples with its own value.
fn fill_channels<T: Real>(out: &mut [T], positions: usize, values: &[T]) {
    for_each_chunk(out, positions, |offset, out| {
        out.fill(values[offset / positions % values.len()]);
    });
}

/// Zeros the columns of the last panel beyond the last.
fn clear_tail<T: Real>(panels: &mut [T], columns: usize, (inner, width): (usize, usize)) {
    let rest = columns % width;
    if rest > 0 {
        let last = &mut panels[columns / width * inner * width..][..inner * width];
        last.chunks_exact_mut(width).for_each(|row| row[rest..].fill(T::zero()));
    }
}
