//! The kernel's gradient: sums over the tiles of all samples, at each point.

use super::plan::{Piece, Plan, Points, Turned, at_points};
use super::transforms::{BLOCK, Filtering, Move, apply};
use super::{Convolution, turn_in, with_buffers};
use crate::kernels::Real;
use crate::kernels::convolution::{SERIAL, TASKS};
use crate::kernels::matmul::{
    Left, Panels, ROWS, Sums, multiply, pack_left, packed_left_len, panel_width,
};
use crate::kernels::parallel::{Shared, for_each_chunk, for_each_chunk_of, tasks};
use crate::kernels::scratch::with_scratch;
use crate::kernels::transpose::turn;

/// About so many elements of maps are kept at the points at a time; in tests few, so that they are made in several rounds.
const SPREAD: usize = if cfg!(test) { 1 << 17 } else { 1 << 20 };

/// As [`for_kernel`](crate::kernels::convolution::for_kernel).
pub(in crate::kernels::convolution) fn for_kernel<
    F: Filtering<R, N>,
    T: Real,
    const R: usize,
    const N: usize,
>(
    c: &Convolution,
    maps: &[T],
    images: &[T],
) -> Vec<T> {
    let plan = &Plan::<N>::new(c);
    let (depth, width, window) = (plan.depth(), panel_width::<T>(plan.depth()), c.window());
    let pieces: Vec<Piece> = plan.pieces(0..c.batch, plan.samples_at_once()).collect();
    // Pieces are shared out as well where there are few panels, and the sums added in order.
    let (serial, panels) = (c.work() <= SERIAL, depth.div_ceil(width));
    let shares = if serial { 1 } else { TASKS.div_ceil(panels).min(pieces.len()) };
    let point_len = c.outputs * width;
    let sum_len = N * N * point_len;
    let mut sums = vec![T::zero(); panels * shares * sum_len];
    let parts = &Shared::new(&mut sums);
    // All panels take the same maps at the points, which are made for a number of pieces before.
    let spread_len = N * N * plan.rows(plan.samples_at_once()) * packed_left_len(c.outputs, 1);
    let rounds = (pieces.len() * spread_len).div_ceil(SPREAD);
    let at_once = pieces.len().div_ceil(rounds).max(shares);
    with_scratch(at_once.min(pieces.len()) * spread_len, |spread: &mut [T]| {
        for pieces in pieces.chunks(at_once) {
            let spread = &mut spread[..pieces.len() * spread_len];
            for_each_chunk_of(serial, [(&mut *spread, spread_len)], |i, [spread]| {
                spread_maps::<F, T, R, N>(plan, &pieces[i], maps, spread);
            });
            let spread = &*spread;
            tasks(serial, panels * shares, |task| {
                let (panel, share) = (task / shares, task % shares);
                // SAFETY: each task has a part of its own.
                let sums = unsafe { parts.slice(task * sum_len..(task + 1) * sum_len) };
                let [first, end] = [share, share + 1].map(|share| share * pieces.len() / shares);
                let spread = &spread[first * spread_len..end * spread_len];
                let panel = (panel, width);
                add_panel::<F, T, R, N>(plan, panel, &pieces[first..end], spread, images, sums);
            });
        }
    });

    let (taps, row) = (c.taps(), panels * width);
    let mut kernel = vec![T::zero(); c.outputs * window];
    for_each_chunk(&mut kernel, window, |offset, kernel| {
        let output = offset / window;
        with_buffers([N * N * row, window], |[totals, turned]| {
            totals.fill(T::zero());
            for (panel, sums) in sums.chunks_exact(shares * sum_len).enumerate() {
                for sum in sums.chunks_exact(sum_len) {
                    for (point, totals) in totals.chunks_exact_mut(row).enumerate() {
                        let sum = &sum[point * point_len + output * width..][..width];
                        let totals = &mut totals[panel * width..][..width];
                        totals.iter_mut().zip(sum).for_each(|(total, &x)| *total += x);
                    }
                }
            }
            let moves = (0..plan.phases()).map(|phase| Move {
                from: at_points(row, phase * BLOCK),
                to: plan.taps::<R>(phase).map(|row| row.map(|tap| tap * c.inputs)),
                blocks: plan.blocks(),
                steps: (plan.phases() * BLOCK, BLOCK),
            });
            apply::<F::TapsTransposed, T, N, R, false>(totals, turned, moves);
            turn(turned, (taps, c.inputs), c.inputs, kernel, taps);
        });
    });
    kernel
}

/// The maps of a piece: at each point a [packed](pack_left) matrix `(outputs, tiles)`.
fn spread_maps<F: Filtering<R, N>, T: Real, const R: usize, const N: usize>(
    plan: &Plan<'_, N>,
    Piece { samples, tile_rows }: &Piece,
    maps: &[T],
    packed: &mut [T],
) {
    let (c, outputs, rows) = (plan.c, plan.c.outputs, plan.rows(samples.len()));
    let (strip, tiles) = (plan.map_strip(tile_rows), samples.len() * plan.tiles(tile_rows));
    let sample_len = (strip.len() + 1) * outputs;
    let lies = Points { point: rows * outputs, row: outputs };
    with_buffers([samples.len() * sample_len, N * N * lies.point], |[turned, points]| {
        for (sample, turned) in samples.clone().zip(turned.chunks_exact_mut(sample_len)) {
            let of_sample = outputs * c.positions();
            let maps = &maps[sample * of_sample..][..of_sample];
            turn_in(maps, outputs, &strip, turned);
        }
        let places = plan.map_places(tile_rows, &strip);
        let of_maps = Turned { channels: outputs, sample_len, samples: samples.len() };
        let moves = plan.map_moves(&places, &of_maps, lies);
        apply::<F::OutputsTransposed, T, 2, N, false>(turned, points, moves);
        let packed_len = tiles * packed_left_len(outputs, 1);
        let packed = packed.chunks_exact_mut(packed_len);
        for (points, packed) in points.chunks_exact(lies.point).zip(packed) {
            pack_left(&[&points[..tiles * outputs]], outputs, tiles, packed);
        }
    });
}

/// Adds what some pieces give to one panel of the weights' gradient, at each point `(outputs, width)`. Their maps are
/// [spread](spread_maps).
fn add_panel<F: Filtering<R, N>, T: Real, const R: usize, const N: usize>(
    plan: &Plan<'_, N>,
    (panel, width): (usize, usize),
    pieces: &[Piece],
    spread: &[T],
    images: &[T],
    sums: &mut [T],
) {
    if pieces.is_empty() {
        return;
    }
    let (c, phases, outputs) = (plan.c, plan.phases(), plan.c.outputs);
    let parts = panel * width / BLOCK..((panel + 1) * width / BLOCK).min(plan.parts());
    let blocks = parts.start / phases..parts.end.div_ceil(phases);
    let channels = blocks.len() * BLOCK;
    let (at_once, [longest, _]) = (plan.samples_at_once(), plan.strip_lens());
    let lies = Points { point: plan.rows(at_once) * width, row: width };
    let lens = [at_once * (longest + 1) * channels, N * N * lies.point];
    with_buffers(lens, |[turned, data]| {
        let spread = spread.chunks_exact(spread.len() / pieces.len());
        for (Piece { samples, tile_rows }, spread) in pieces.iter().zip(spread) {
            let strip = plan.image_strip(tile_rows);
            let sample_len = (strip.len() + 1) * channels;
            for (sample, turned) in samples.clone().zip(turned.chunks_exact_mut(sample_len)) {
                let first = sample * c.inputs + blocks.start * BLOCK;
                let image = &images[first * c.pixels()..][..channels * c.pixels()];
                turn_in(image, channels, &strip, turned);
            }
            let places = plan.image_places(tile_rows, &strip);
            let of_images = Turned { channels, sample_len, samples: samples.len() };
            let moves = plan.image_moves(&places, &of_images, &parts, lies);
            apply::<F::Data, T, N, N, false>(turned, data, moves);
            let tiles = samples.len() * plan.tiles(tile_rows);
            let maps = spread.chunks_exact(tiles * packed_left_len(outputs, 1));
            let points = maps.zip(data.chunks_exact(lies.point));
            for ((maps, data), elements) in points.zip(sums.chunks_exact_mut(outputs * width)) {
                let left = Left::packed(maps, outputs, tiles);
                let right = Panels::new(&data[..tiles * width], tiles, width);
                multiply(left, 0..outputs.div_ceil(ROWS), right, Sums { elements, width });
            }
        }
    });
}
