//! A product shared out: strips of tiles, and who packs the operands that they are made of.

use std::ops::Range;

use super::Matrix;
use super::operands::{Left, Panels, ROWS, pack_left, packed_left_len, panel_width};
use crate::kernels::Real;
use crate::kernels::parallel::{Shared, helpers, tasks};
use crate::kernels::scratch::{PerThread, with_scratch};

/// Multiplications below which a product stays on its thread.
const SERIAL: usize = 1 << 18;
/// Tasks that a product is cut into, if it has the work for them.
const TASKS: usize = 8;

/// Matrices below each other, of as many columns: the right operand of a product.
#[derive(Clone, Copy)]
pub(super) struct Stack<'a, T>(pub(super) &'a [Matrix<'a, T>]);

impl<T: Real> Stack<'_, T> {
    pub(super) fn rows(&self) -> usize {
        self.0.iter().map(|part| part.rows).sum()
    }

    fn columns(&self) -> usize {
        self.0[0].columns
    }

    /// Writes some columns, `(rows, width)`, with zeros for columns beyond the last.
    fn pack_panel(&self, first: usize, width: usize, mut out: &mut [T]) {
        for part in self.0 {
            let (of_part, rest) = out.split_at_mut(part.rows * width);
            part.pack_panel(0..part.rows, first, width, of_part);
            out = rest;
        }
    }

    /// Writes some panels of a width, `(panels, rows, width)`; the last of all is as narrow as its columns allow.
    fn pack_panels(&self, panels: Range<usize>, width: usize, out: &mut [T]) {
        for (panel, out) in panels.zip(out.chunks_exact_mut(self.rows() * width)) {
            let first = panel * width;
            let width = panel_width::<T>(self.columns() - first);
            self.pack_panel(first, width, &mut out[..self.rows() * width]);
        }
    }

    /// Writes all of them, shared out.
    fn pack(&self, width: usize, out: &mut [T]) {
        /// Rows that one task packs.
        const ROWS: usize = 128;
        let (inner, whole, mut before) = (self.rows(), Shared::new(out), 0);
        for part in self.0 {
            let pieces = part.rows.div_ceil(ROWS);
            tasks(false, part.columns.div_ceil(width) * pieces, |task| {
                let (panel, first) = (task / pieces, task % pieces * ROWS);
                let rows = first..part.rows.min(first + ROWS);
                let (start, column) = (panel * inner * width, panel * width);
                let width = panel_width::<T>(part.columns - column);
                let start = start + (before + rows.start) * width;
                // SAFETY: each task has rows of its own.
                let out = unsafe { whole.slice(start..start + rows.len() * width) };
                part.pack_panel(rows, column, width, out);
            });
            before += part.rows;
        }
    }
}

/// Some whole tiles of rows of one panel of a product: what one task makes.
pub(super) struct Strip<'a, T> {
    pub(super) left: Left<'a, T>,
    pub(super) tiles: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) right: Panels<'a, T>,
    pub(super) columns: Range<usize>,
    pub(super) width: usize,
}

/// The left operand of a product, for all threads that take part.
enum LeftOf<'a, T> {
    /// The one that all read.
    All(Left<'a, T>),
    /// Transposed matrices side by side, which each packs for itself.
    PackedByEach { parts: &'a [&'a [T]], rows: usize, inner: usize, packed: PerThread },
}

impl<T: Real> LeftOf<'_, T> {
    fn with(&self, work: impl FnOnce(Left<'_, T>)) {
        match *self {
            Self::All(left) => work(left),
            Self::PackedByEach { parts, rows, inner, ref packed } => packed.with(
                |out| pack_left(parts, rows, inner, out),
                |packed| work(Left::packed(packed, rows, inner)),
            ),
        }
    }
}

/// Whether each thread packs operands for itself instead of sharing one packed copy. It is more work in all, which few threads do in less
/// time than they would wait for each other's caches. Many would pack for longer than they multiply.
fn each_packs() -> bool {
    /// Besides the thread that brings the product. One was measured; up to three, packing stays a small part of each one's share.
    const HELPERS: usize = 3;
    helpers() <= HELPERS
}

/// Cuts `left right` into strips and hands each to `make`, on any thread.
pub(super) fn for_each_strip<T: Real>(
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    make: impl Fn(Strip<'_, T>) + Sync + Send,
) {
    let (rows, inner, right) = (left.rows, left.columns, Stack(&[right]));
    if left.transposed {
        packed_strips(&[left], right, make);
    } else {
        strips(&LeftOf::All(Left::rows(left.elements, rows, inner, inner)), rows, right, make);
    }
}

/// The same for a left operand of some transposed matrices side by side.
pub(super) fn packed_strips<T: Real>(
    lefts: &[Matrix<'_, T>],
    right: Stack<'_, T>,
    make: impl Fn(Strip<'_, T>) + Sync + Send,
) {
    let (rows, inner) = (lefts[0].rows, right.rows());
    let parts: Vec<&[T]> = lefts.iter().map(|left| left.elements).collect();
    let (parts, len) = (parts.as_slice(), packed_left_len(rows, inner));
    if each_packs() {
        let packed = PerThread::new(0, len);
        strips(&LeftOf::PackedByEach { parts, rows, inner, packed }, rows, right, make);
    } else {
        with_scratch(len, |packed: &mut [T]| {
            pack_left(parts, rows, inner, packed);
            strips(&LeftOf::All(Left::packed(packed, rows, inner)), rows, right, make);
        });
    }
}

fn strips<T: Real>(
    left: &LeftOf<'_, T>,
    rows: usize,
    right: Stack<'_, T>,
    make: impl Fn(Strip<'_, T>) + Sync + Send,
) {
    let (inner, columns) = (right.rows(), right.columns());
    let width = panel_width::<T>(columns);
    let (panels, all_tiles) = (columns.div_ceil(width), rows.div_ceil(ROWS));
    let serial = rows * inner * columns <= SERIAL;
    // Of a long left operand each strip is read once, for all panels.
    let long = !serial && panels < TASKS && all_tiles >= 4 * TASKS;
    let wanted = match serial {
        true => 1,
        false if long => TASKS,
        false => TASKS.div_ceil(panels),
    };
    // Strips of some tiles, whose values stay in the cache; none has more than one tile more than another.
    let strips = wanted.max(all_tiles.div_ceil(32)).min(all_tiles);

    let strip = |panel: usize, elements: &[T], strip: usize| {
        let tiles = strip * all_tiles / strips..(strip + 1) * all_tiles / strips;
        let rows = tiles.start * ROWS..rows.min(tiles.end * ROWS);
        let columns = panel * width..columns.min((panel + 1) * width);
        let width = panel_width::<T>(columns.len());
        let right = Panels::new(&elements[..inner * width], inner, width);
        left.with(|left| make(Strip { left, rows, tiles, right, columns, width }));
    };
    // Panels that are packed together, and of each such group the pieces that tasks make.
    let together = if long { panels } else { 1 };
    let (groups, pieces) = (panels.div_ceil(together), if wanted == 1 { 1 } else { strips });
    let group = |first: usize| first * together..panels.min((first + 1) * together);
    let made = |packed: &[T], of: usize, piece: usize| {
        for (panel, elements) in group(of).zip(packed.chunks(inner * width)) {
            let strips = piece * strips / pieces..(piece + 1) * strips / pieces;
            strips.for_each(|i| strip(panel, elements, i));
        }
    };
    let packed = |_| PerThread::new(1, together * inner * width);
    let by_each: Vec<_> = (0..groups).map(packed).collect();
    let make_all = |for_all: Option<&[T]>| {
        tasks(serial, groups * pieces, |task| {
            let (of, piece) = (task / pieces, task % pieces);
            match for_all {
                Some(all) => made(&all[of * together * inner * width..], of, piece),
                None => by_each[of].with(
                    |out| right.pack_panels(group(of), width, out),
                    |packed| made(packed, of, piece),
                ),
            }
        });
    };
    if wanted == 1 || each_packs() {
        make_all(None);
    } else {
        with_scratch(panels * inner * width, |packed: &mut [T]| {
            right.pack(width, packed);
            make_all(Some(packed));
        });
    }
}
