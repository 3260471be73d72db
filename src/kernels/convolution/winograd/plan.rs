//! Where the tiles of a convolution lie, and in which order their values stand in buffers.
//!
//! Tiles are made piece by piece. A buffer of turned samples holds, for each sample, all its places or those of the rows that a
//! piece meets, a *strip*, and one more, which stands for all places outside; at each place are its channels. A buffer of points
//! holds, for each point, a row for each tile: the outputs, or the *parts* of the inputs. A part is a block of channels in one
//! phase; first come all phases of the first block.

use std::array::from_fn;
use std::ops::Range;

use super::Convolution;
use super::transforms::{BLOCK, Move};
use crate::kernels::matmul::ROWS;

/// Tiles of a piece, the rows of a product, at most, unless one row of a map has more: enough for the weights, which are read anew
/// for each piece, to pay.
const PIECE: usize = 11 * ROWS;

/// The tiles of a convolution that is made by `N x N` points.
#[derive(Debug)]
pub(super) struct Plan<'a, const N: usize> {
    pub(super) c: &'a Convolution,
    stride: usize,
    /// Tiles of a map.
    tiles: [usize; 2],
    /// Rows of tiles of a piece: all of them where a piece holds a sample.
    tile_rows: usize,
}

/// Some rows of tiles of some samples: of one sample where these are not all its rows.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) samples: Range<usize>,
    pub(super) tile_rows: Range<usize>,
}

/// How points lie in a buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Points {
    /// Elements from one point to the next.
    pub(super) point: usize,
    /// Elements from one tile's row to the next.
    pub(super) row: usize,
}

impl<'a, const N: usize> Plan<'a, N> {
    pub(super) fn new(c: &'a Convolution) -> Self {
        let tiles = c.map.map(|size| size.div_ceil(2));
        // As many pieces as they must be, of one size but for the last.
        let pieces = tiles[0].div_ceil((PIECE / tiles[1]).max(1));
        Self { c, stride: c.geometry.stride[0], tiles, tile_rows: tiles[0].div_ceil(pieces) }
    }

    pub(super) fn phases(&self) -> usize {
        self.stride * self.stride
    }

    /// Blocks of input channels.
    pub(super) fn blocks(&self) -> usize {
        self.c.inputs / BLOCK
    }

    /// Parts of a row of inputs.
    pub(super) fn parts(&self) -> usize {
        self.phases() * self.blocks()
    }

    /// Elements of a row of inputs.
    pub(super) fn depth(&self) -> usize {
        self.parts() * BLOCK
    }

    /// Samples of a piece.
    pub(super) fn samples_at_once(&self) -> usize {
        (PIECE / (self.tiles[0] * self.tiles[1])).clamp(1, self.c.batch)
    }

    /// The pieces of some samples, so many samples at a time where a piece may hold more than one.
    pub(super) fn pieces(
        &self,
        samples: Range<usize>,
        at_once: usize,
    ) -> impl Iterator<Item = Piece> {
        let (all_rows, rows) = (self.tiles[0], self.tile_rows);
        samples.clone().step_by(at_once).flat_map(move |first| {
            let samples = first..samples.end.min(first + at_once);
            (0..all_rows).step_by(rows).map(move |first| Piece {
                samples: samples.clone(),
                tile_rows: first..all_rows.min(first + rows),
            })
        })
    }

    /// Tiles of some rows of one sample.
    pub(super) fn tiles(&self, tile_rows: &Range<usize>) -> usize {
        tile_rows.len() * self.tiles[1]
    }

    /// Rows of a buffer of points for so many samples of a piece: a whole number of [`ROWS`], as products write them.
    pub(super) fn rows(&self, samples: usize) -> usize {
        (samples * self.tile_rows * self.tiles[1]).next_multiple_of(ROWS)
    }

    /// The places of an image that some rows of tiles meet: whole rows of it.
    pub(super) fn image_strip(&self, tile_rows: &Range<usize>) -> Range<usize> {
        let [height, width] = self.c.image;
        let row = |padded: usize| padded.saturating_sub(self.c.geometry.padding[0]).min(height);
        let (first, last) = (2 * tile_rows.start, 2 * tile_rows.end + N - 2);
        row(first * self.stride) * width..row(last * self.stride) * width
    }

    /// The places of a map that some rows of tiles cover.
    pub(super) fn map_strip(&self, tile_rows: &Range<usize>) -> Range<usize> {
        let [height, width] = self.c.map;
        2 * tile_rows.start * width..height.min(2 * tile_rows.end) * width
    }

    /// Places of the longest strips of an image and of a map.
    pub(super) fn strip_lens(&self) -> [usize; 2] {
        let [height, width] = self.c.image;
        let rows = self.stride * (2 * self.tile_rows + N - 2);
        [rows.min(height) * width, self.c.map[0].min(2 * self.tile_rows) * self.c.map[1]]
    }

    /// The places that each phase of each tile of some rows meets, counted from the beginning of a strip of the image.
    pub(super) fn image_places(
        &self,
        tile_rows: &Range<usize>,
        strip: &Range<usize>,
    ) -> Vec<[[usize; N]; N]> {
        let axis = |d: usize, tile: usize, phase: usize| -> [Option<usize>; N] {
            from_fn(|i| {
                let padded = (2 * tile + i) * self.stride + phase;
                let place = padded.checked_sub(self.c.geometry.padding[d])?;
                (place < self.c.image[d]).then_some(place)
            })
        };
        let width = self.c.image[1];
        let mut places = Vec::with_capacity(self.tiles(tile_rows) * self.phases());
        for down in tile_rows.clone() {
            for right in 0..self.tiles[1] {
                for phase in 0..self.phases() {
                    let rows = axis(0, down, phase / self.stride);
                    let columns = axis(1, right, phase % self.stride);
                    places.push(rows.map(|row| {
                        columns.map(|column| match (row, column) {
                            (Some(row), Some(column)) => row * width + column - strip.start,
                            _ => strip.len(),
                        })
                    }));
                }
            }
        }
        places
    }

    /// The places of each tile of some rows in the map, counted from the beginning of a strip of it.
    pub(super) fn map_places(
        &self,
        tile_rows: &Range<usize>,
        strip: &Range<usize>,
    ) -> Vec<[[usize; 2]; 2]> {
        let [height, width] = self.c.map;
        let of_row = tile_rows.clone().flat_map(|down| {
            (0..self.tiles[1]).map(move |right| {
                from_fn(|i| {
                    from_fn(|j| match (2 * down + i, 2 * right + j) {
                        (row, column) if row < height && column < width => {
                            row * width + column - strip.start
                        }
                        _ => strip.len(),
                    })
                })
            })
        });
        of_row.collect()
    }

    /// From images to rows of some `parts`, the first of them of the images' first block.
    pub(super) fn image_moves(
        &self,
        places: &[[[usize; N]; N]],
        turned: &Turned,
        parts: &Range<usize>,
        points: Points,
    ) -> impl Iterator<Item = Move<N, N>> {
        let phases = self.phases();
        let tiles = places.len() / phases;
        let (start, end, first_block) = (parts.start, parts.end, parts.start / phases);
        let &Turned { channels, sample_len, samples } = turned;
        (0..samples * places.len()).map(
            #[inline(always)]
            move |i| {
                let (number, phase) = (i / phases, i % phases);
                let (sample, tile) = (number / tiles, number % tiles);
                // The blocks whose part in this phase is among those.
                let block = |part: usize| (part + phases - 1 - phase) / phases;
                let blocks = block(start)..block(end);
                let from = sample * sample_len + (blocks.start - first_block) * BLOCK;
                let to = number * points.row + (blocks.start * phases + phase - start) * BLOCK;
                Move {
                    from: offsets(&places[tile * phases + phase], from, channels),
                    to: at_points(points.point, to),
                    blocks: blocks.len(),
                    steps: (BLOCK, phases * BLOCK),
                }
            },
        )
    }

    /// From maps to rows of outputs.
    pub(super) fn map_moves(
        &self,
        places: &[[[usize; 2]; 2]],
        turned: &Turned,
        points: Points,
    ) -> impl Iterator<Item = Move<2, N>> {
        let &Turned { channels, sample_len, samples } = turned;
        (0..samples * places.len()).map(
            #[inline(always)]
            move |number| {
                let from = number / places.len() * sample_len;
                Move {
                    from: offsets(&places[number % places.len()], from, channels),
                    to: at_points(points.point, number * points.row),
                    blocks: channels / BLOCK,
                    steps: (BLOCK, BLOCK),
                }
            },
        )
    }

    /// The taps of a phase, as the kernel numbers them.
    pub(super) fn taps<const R: usize>(&self, phase: usize) -> [[usize; R]; R] {
        let [down, right] = [phase / self.stride, phase % self.stride];
        from_fn(|i| {
            from_fn(|j| (i * self.stride + down) * self.c.kernel[1] + j * self.stride + right)
        })
    }
}

/// Some turned samples, or a strip of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turned {
    pub(super) channels: usize,
    /// Elements from one sample to the next.
    pub(super) sample_len: usize,
    pub(super) samples: usize,
}

/// Where the same element of each point stands, from the first point's offset on.
#[inline(always)]
pub(super) fn at_points<const N: usize>(point: usize, first: usize) -> [[usize; N]; N] {
    let mut offsets = [[first; N]; N];
    let all = offsets.as_flattened_mut().iter_mut().enumerate();
    all.for_each(|(i, offset)| *offset += i * point);
    offsets
}

/// Where the channels of some places begin.
#[inline(always)]
fn offsets<const N: usize>(
    places: &[[usize; N]; N],
    first: usize,
    channels: usize,
) -> [[usize; N]; N] {
    let mut offsets = *places;
    offsets.as_flattened_mut().iter_mut().for_each(|place| *place = first + *place * channels);
    offsets
}
