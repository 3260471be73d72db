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

pub(super) use pass::{for_image, forward};
pub(super) use sums::for_kernel;
pub(super) use transforms::{ThreeTaps, TwoTaps};

use std::ops::Range;

use super::Convolution;
use crate::kernels::Real;
use crate::kernels::prefetch::LINE;
use crate::kernels::scratch::with_scratch;
use crate::kernels::transpose::turn;
use transforms::BLOCK;

/// How many taps each phase has of a convolution that these kernels take: one without dilation or groups, with whole blocks of
/// channels and a map that tiles do not go far beyond. The batch has no say in it, so that a sample has the same bytes in every
/// batch.
pub(super) fn taps(c: &Convolution) -> Option<usize> {
    let geometry = c.geometry;
    let taps = match (c.kernel, geometry.stride) {
        ([4, 4], [2, 2]) => 2,
        ([3, 3], [1, 1]) => 3,
        _ => return None,
    };
    let whole = |channels: usize| channels > 0 && channels.is_multiple_of(BLOCK);
    // Places beyond the map's end are made in vain: at most half as many as those inside, which costs less than is saved.
    let [down, right] = c.map.map(|size| size.next_multiple_of(2));
    let takes = geometry.dilation == [1, 1]
        && geometry.groups == 1
        && whole(c.inputs)
        && whole(c.outputs)
        && 2 * down * right <= 3 * c.positions()
        && c.batch * c.pixels() > 0;
    takes.then_some(taps)
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
