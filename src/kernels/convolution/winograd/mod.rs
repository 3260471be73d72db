//! Convolutions with fewer multiplications than their definition has.
//!
//! Two neighbouring results of a filter of two taps, `d0 g0 + d1 g1` and `d1 g0 + d2 g1`, take three multiplications instead of
//! four: `(d0 - d1) g0`, `d1 (g0 + g1)` and `(d2 - d1) g1`, the first two of which add up to the one result and the last two
//! to the other. In two dimensions that is nine instead of sixteen, and for three taps sixteen instead of thirty-six (Winograd,
//! "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).
//! A kernel of 4 x 4 that moves by 2, as DCGAN's, is four filters of 2 x 2, one for each *phase* of the image: its places of one
//! remainder modulo the stride.
//!
//! A *tile* is a square of 2 x 2 places of the map with the places of each phase that they meet. Each of its nine or sixteen
//! multiplications, a *point*, is a matrix product for all tiles, over outputs or over the inputs of all phases (their parts,
//! see [`plan`]):
//!
//! | kernel | product, for each point |
//! |---|---|
//! | [`forward`] | maps `(tiles, outputs)` = images `(tiles, parts)` · weights `(parts, outputs)` |
//! | [`for_image`] | images = maps · weightsᵀ |
//! | [`for_kernel`] | weightsᵀ = mapsᵀ · images |
//!
//! Vectors run along channels: samples are turned on their way in and out, and what a tile meets is then whole vectors. Sums and
//! differences are rounded, so results are not those of the definition to the last bit; how near they are stands in the tests.
//! A value that is not finite spreads over its tile, as a difference of infinities is no number, and values near the largest
//! overflow earlier than in the definition's sums.

mod pass;
mod plan;
mod sums;
mod transforms;
mod weights;

use std::ops::Range;

use super::Convolution;
use crate::kernels::Real;
use crate::kernels::prefetch::LINE;
use crate::kernels::scratch::with_scratch;
use crate::kernels::transpose::turn;
use plan::Plan;
use transforms::{BLOCK, ThreeTaps, TwoTaps, TwoTapsApart};

/// Whether these kernels take a convolution: one of two or three taps in each phase, without dilation or groups, with whole blocks of
/// channels and a map that tiles do not go far beyond. The batch has no say in it, so that a sample has the same bytes in every batch.
pub(super) fn takes(c: &Convolution) -> bool {
    let geometry = c.geometry;
    let whole = |channels: usize| channels > 0 && channels.is_multiple_of(BLOCK);
    let pays = match taps(c) {
        Some(3) => Plan::<4>::new(c).pays(),
        Some(_) => Plan::<3>::new(c).pays(),
        None => false,
    };
    pays && geometry.dilation == [1, 1]
        && geometry.groups == 1
        && whole(c.inputs)
        && whole(c.outputs)
        && c.batch * c.pixels() > 0
}

/// As [`super::forward`].
pub(super) fn forward<T: Real>(
    c: &Convolution,
    image: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    match taps(c) {
        Some(3) => pass::forward::<ThreeTaps, T, 3, 4>(c, image, kernel, bias),
        _ => pass::forward::<TwoTaps, T, 2, 3>(c, image, kernel, bias),
    }
}

/// As [`super::for_image`].
pub(super) fn for_image<T: Real>(
    c: &Convolution,
    maps: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    match taps(c) {
        Some(3) => pass::for_image::<ThreeTaps, T, 3, 4>(c, maps, kernel, bias),
        // The maps of a transposed convolution mostly come from a ReLU and have a mean.
        _ => pass::for_image::<TwoTapsApart, T, 2, 3>(c, maps, kernel, bias),
    }
}

/// As [`super::for_kernel`].
pub(super) fn for_kernel<T: Real>(c: &Convolution, maps: &[T], image: &[T]) -> Vec<T> {
    match taps(c) {
        Some(3) => sums::for_kernel::<ThreeTaps, T, 3, 4>(c, maps, image),
        _ => sums::for_kernel::<TwoTaps, T, 2, 3>(c, maps, image),
    }
}

/// Taps of a phase, where all phases have as many.
fn taps(c: &Convolution) -> Option<usize> {
    match (c.kernel, c.geometry.stride) {
        ([4, 4], [2, 2]) => Some(2),
        ([3, 3], [1, 1]) => Some(3),
        _ => None,
    }
}

/// Turns a strip of places of a sample `(channels, places)`, so that each place has its channels together, and zeros the place
/// outside.
fn turn_in<T: Real>(sample: &[T], channels: usize, strip: &Range<usize>, turned: &mut [T]) {
    let places = sample.len() / channels;
    turn(&sample[strip.start..], (channels, strip.len()), places, turned, channels);
    turned[strip.len() * channels..][..channels].fill(T::zero());
}

/// Calls `work` with buffers of these lengths, of any values.
fn with_buffers<T: Real, R, const COUNT: usize>(
    lens: [usize; COUNT],
    work: impl FnOnce([&mut [T]; COUNT]) -> R,
) -> R {
    // Each begins on a line of the cache, as the first does.
    let line = LINE / size_of::<T>();
    with_scratch(lens.map(|len| len.next_multiple_of(line)).iter().sum(), |all: &mut [T]| {
        let mut rest = all;
        work(lens.map(|len| {
            let (buffer, after) =
                std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(line));
            rest = after;
            &mut buffer[..len]
        }))
    })
}
