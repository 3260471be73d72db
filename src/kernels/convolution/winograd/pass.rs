//! Maps from images and images from maps, through the points.

use std::ops::Range;

use super::plan::{Piece, Plan, Points, Turned};
use super::transforms::{Filtering, Move, apply};
use super::weights::{self, Shape};
use super::{Convolution, turn_in, with_buffers};
use crate::kernels::Real;
use crate::kernels::convolution::SERIAL;
use crate::kernels::matmul::{Left, ROWS, Rows, multiply};
use crate::kernels::parallel::{Shared, tasks};
use crate::kernels::scratch::with_scratch;
use crate::kernels::transpose::turn_to;

/// Tasks that a batch is cut into at least, if it has the samples.
const LEAST_TASKS: usize = 4;

/// Samples `(channels, places)` on one side of a convolution.
#[derive(Debug, Clone, Copy)]
struct Side {
    channels: usize,
    places: usize,
}

impl Side {
    /// Images and maps.
    fn both(c: &Convolution) -> [Self; 2] {
        let images = Self { channels: c.inputs, places: c.pixels() };
        [images, Self { channels: c.outputs, places: c.positions() }]
    }

    fn len(&self) -> usize {
        self.channels * self.places
    }

    /// Elements of some turned places and the one outside.
    fn turned_len(&self, places: usize) -> usize {
        self.channels * (places + 1)
    }
}

/// Samples that are made of others by products at the points.
struct Pass<'a, T, const N: usize> {
    plan: &'a Plan<'a, N>,
    weights: &'a [T],
    shape: Shape,
    /// Added to each channel that is made.
    bias: Option<&'a [T]>,
    read: Side,
    made: Side,
}

impl<T: Real, const N: usize> Pass<'_, T, N> {
    /// `strip_of` gives the places that some rows of tiles read, of which there are `longest` at most; `to_points` takes turned
    /// strips to the points, and `from_points` adds what the products make of them to whole turned samples.
    fn run(
        &self,
        samples: &[T],
        longest: usize,
        strip_of: impl Fn(&Range<usize>) -> Range<usize> + Sync,
        to_points: impl Fn(&Range<usize>, &Range<usize>, &Turned, Points, &[T], &mut [T]) + Sync,
        from_points: impl Fn(&Range<usize>, &Turned, Points, &[T], &mut [T]) + Sync,
    ) -> Vec<T> {
        let &Self { plan, weights, shape, bias, read: of_read, made: of_made } = self;
        let (batch, inner, row) = (plan.c.batch, shape.inner, shape.row());
        let at_once = plan.samples_at_once().min((batch / LEAST_TASKS).max(1));
        let rows = plan.rows(at_once);
        let (data_lies, products_lie) =
            (Points { point: rows * inner, row: inner }, Points { point: rows * row, row });
        let (read_len, made_len) =
            (of_read.turned_len(longest), of_made.turned_len(of_made.places));
        let points = N * N * rows;
        let lens = [at_once * read_len, at_once * made_len, points * inner, points * row];
        let (mut out, len) = (Vec::new(), batch * of_made.len());
        let whole = &Shared::spare(&mut out, len);
        tasks(plan.c.work() <= SERIAL, batch.div_ceil(at_once), |task| {
            let of_task = task * at_once..batch.min((task + 1) * at_once);
            with_buffers(lens, |[read, made, data, products]| {
                fill(made, of_made.channels, bias);
                for Piece { samples: of_piece, tile_rows } in plan.pieces(of_task.clone(), at_once)
                {
                    let strip = strip_of(&tile_rows);
                    for (sample, read) in of_piece.clone().zip(read.chunks_exact_mut(read_len)) {
                        let sample = &samples[sample * of_read.len()..][..of_read.len()];
                        turn_in(sample, of_read.channels, &strip, read);
                    }
                    let samples = of_piece.len();
                    let from = Turned { channels: of_read.channels, sample_len: read_len, samples };
                    to_points(&tile_rows, &strip, &from, data_lies, read, data);
                    let tiles = samples * plan.tiles(&tile_rows);
                    let data = data.chunks_exact(data_lies.point);
                    let products_of = products.chunks_exact_mut(products_lie.point);
                    for (point, (data, elements)) in data.zip(products_of).enumerate() {
                        let left = Left::rows(data, tiles, inner, inner);
                        let product = Rows { first: 0, elements, stride: row, width: shape.width };
                        let right = shape.panels(weights, point);
                        multiply(left, 0..tiles.div_ceil(ROWS), right, product);
                    }
                    let to = Turned { channels: of_made.channels, sample_len: made_len, samples };
                    from_points(&tile_rows, &to, products_lie, products, made);
                }
                for (sample, made) in of_task.zip(made.chunks_exact(made_len)) {
                    let start = sample * of_made.len();
                    let Side { channels, places } = of_made;
                    // SAFETY: each task has samples of its own.
                    unsafe {
                        let out = whole.at(start..start + of_made.len());
                        turn_to(made, (places, channels), channels, out, places);
                    }
                }
            });
        });
        // SAFETY: the tasks cover all samples, each of which was written.
        unsafe { out.set_len(len) };
        out
    }
}

/// As [`forward`](crate::kernels::convolution::forward).
pub(in crate::kernels::convolution) fn forward<
    F: Filtering<R, N>,
    T: Real,
    const R: usize,
    const N: usize,
>(
    c: &Convolution,
    image: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let plan = &Plan::<N>::new(c);
    let shape = Shape::new::<T>(plan.depth(), c.outputs);
    with_scratch(N * N * shape.len(), |weights: &mut [T]| {
        weights::by_output::<F::Taps, T, R, N>(plan, kernel, shape, weights);
        let [read, made] = Side::both(c);
        Pass { plan, weights, shape, bias, read, made }.run(
            image,
            plan.strip_lens()[0],
            |tile_rows| plan.image_strip(tile_rows),
            |tile_rows, strip, turned, points, image, data| {
                let places = plan.image_places(tile_rows, strip);
                let parts = 0..plan.parts();
                let moves = plan.image_moves(&places, turned, &parts, points);
                apply::<F::Data, T, N, N, false>(image, data, moves);
            },
            |tile_rows, turned, points, products, maps| {
                let places = plan.map_places(tile_rows, &(0..c.positions()));
                let moves = plan.map_moves(&places, turned, points).map(Move::back);
                apply::<F::Outputs, T, N, 2, true>(products, maps, moves);
            },
        )
    })
}

/// As [`for_image`](crate::kernels::convolution::for_image).
pub(in crate::kernels::convolution) fn for_image<
    F: Filtering<R, N>,
    T: Real,
    const R: usize,
    const N: usize,
>(
    c: &Convolution,
    maps: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let plan = &Plan::<N>::new(c);
    let shape = Shape::new::<T>(c.outputs, plan.depth());
    with_scratch(N * N * shape.len(), |weights: &mut [T]| {
        weights::by_input::<F::TapsForData, T, R, N>(plan, kernel, shape, weights);
        let [made, read] = Side::both(c);
        Pass { plan, weights, shape, bias, read, made }.run(
            maps,
            plan.strip_lens()[1],
            |tile_rows| plan.map_strip(tile_rows),
            |tile_rows, strip, turned, points, maps, data| {
                let places = plan.map_places(tile_rows, strip);
                let moves = plan.map_moves(&places, turned, points);
                apply::<F::OutputsTransposedForData, T, 2, N, false>(maps, data, moves);
            },
            |tile_rows, turned, points, products, images| {
                let places = plan.image_places(tile_rows, &(0..c.pixels()));
                let parts = 0..plan.parts();
                let moves = plan.image_moves(&places, turned, &parts, points);
                apply::<F::DataTransposed, T, N, N, true>(products, images, moves.map(Move::back));
            },
        )
    })
}

/// Gives each place a bias for each channel, or zeros.
fn fill<T: Real>(places: &mut [T], channels: usize, bias: Option<&[T]>) {
    match bias {
        Some(bias) => places.chunks_exact_mut(channels).for_each(|out| out.copy_from_slice(bias)),
        None => places.fill(T::zero()),
    }
}
