//! An image's windows as the columns of a matrix, and back.
//!
//! Row `(channel, down, right)` of the column matrix holds what the kernel's tap `(down, right)` of that channel meets at
//! each position of the map; columns of several samples may lie side by side.
//!
//! A channel goes through planes on the way: the padded channel is dealt out by the place's remainder modulo the stride, so
//! that what a tap meets along a row of the map lies side by side in one plane, and rows are copied without a question asked.

use super::Convolution;
use crate::kernels::scratch::with_scratch;
use crate::kernels::{Real, vectorised};

/// How the channels of a convolution's images are dealt out to planes.
#[derive(Debug, Clone)]
pub(super) struct Planes {
    image: [usize; 2],
    map: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    /// Height and width of a plane; there are `stride[0] * stride[1]` of them.
    size: [usize; 2],
    /// Where in the planes each tap meets the map's first position.
    taps: Vec<usize>,
}

impl Planes {
    pub(super) fn new(convolution: &Convolution) -> Self {
        let Convolution { geometry, image, kernel, map, .. } = *convolution;
        let (stride, dilation) = (geometry.stride, geometry.dilation);
        let size = [0, 1].map(|d| map[d] + dilation[d] * (kernel[d] - 1) / stride[d]);
        let mut taps = Vec::with_capacity(kernel[0] * kernel[1]);
        for down in (0..kernel[0]).map(|i| i * dilation[0]) {
            for right in (0..kernel[1]).map(|j| j * dilation[1]) {
                let plane = down % stride[0] * stride[1] + right % stride[1];
                taps.push((plane * size[0] + down / stride[0]) * size[1] + right / stride[1]);
            }
        }
        Self { image, map, stride, padding: geometry.padding, size, taps }
    }

    /// Elements of one channel's planes.
    pub(super) fn len(&self) -> usize {
        self.stride[0] * self.stride[1] * self.size[0] * self.size[1]
    }

    /// Elements of one channel of an image; 1 where there are none, as a chunk has at least one.
    fn pixels(&self) -> usize {
        (self.image[0] * self.image[1]).max(1)
    }

    /// Calls `row` with each row of the planes that meets the image, as: where in the planes its first element inside the
    /// image lies, where in the image, and how many there are, a stride apart in the image. Other rows are `None` with their
    /// whole extent.
    #[inline(always)]
    fn rows(&self, mut row: impl FnMut(std::ops::Range<usize>, Option<usize>)) {
        let [height, width] = self.size;
        for down in 0..self.stride[0] {
            for right in 0..self.stride[1] {
                let plane = (down * self.stride[1] + right) * height;
                let inside = self.inside(1, right);
                for y in 0..height {
                    let start = (plane + y) * width;
                    let place = (y * self.stride[0] + down).checked_sub(self.padding[0]);
                    match place.filter(|&place| place < self.image[0] && !inside.is_empty()) {
                        Some(place) => {
                            let x = inside.start * self.stride[1] + right - self.padding[1];
                            let end = start + inside.end;
                            row(start..start + inside.start, None);
                            row(start + inside.start..end, Some(place * self.image[1] + x));
                            row(end..start + width, None);
                        }
                        None => row(start..start + width, None),
                    }
                }
            }
        }
    }

    /// The elements of a plane's row, or column, that lie inside the image, for the plane of this remainder.
    fn inside(&self, d: usize, remainder: usize) -> std::ops::Range<usize> {
        // element * stride + remainder - padding must be in 0..image
        let first = self.padding[d].saturating_sub(remainder).div_ceil(self.stride[d]);
        let end = (self.image[d] + self.padding[d]).saturating_sub(remainder);
        let end = end.div_ceil(self.stride[d]).min(self.size[d]);
        first.min(end)..end
    }

    /// Deals one channel out to its planes.
    #[inline(always)]
    fn deal<T: Real>(&self, channel: &[T], planes: &mut [T]) {
        let stride = self.stride[1];
        self.rows(
            #[inline(always)]
            |range, place| {
                let out = &mut planes[range];
                match place {
                    None => out.fill(T::zero()),
                    Some(place) if stride == 1 => {
                        out.copy_from_slice(&channel[place..][..out.len()])
                    }
                    Some(place) if stride == 2 => deal_every::<T, 2>(&channel[place..], out),
                    Some(place) => {
                        for (out, &x) in out.iter_mut().zip(channel[place..].iter().step_by(stride))
                        {
                            *out = x;
                        }
                    }
                }
            },
        );
    }

    /// Adds planes to the places of a channel that they were dealt from.
    #[inline(always)]
    fn collect<T: Real>(&self, planes: &[T], channel: &mut [T]) {
        let stride = self.stride[1];
        self.rows(
            #[inline(always)]
            |range, place| match place {
                None => {}
                Some(place) if stride == 1 => {
                    let places = channel[place..].iter_mut();
                    places.zip(&planes[range]).for_each(|(out, &x)| *out += x);
                }
                Some(place) if stride == 2 => {
                    collect_every::<T, 2>(&planes[range], &mut channel[place..]);
                }
                Some(place) => {
                    let places = channel[place..].iter_mut().step_by(stride);
                    places.zip(&planes[range]).for_each(|(out, &x)| *out += x);
                }
            },
        );
    }
}

/// Every `STRIDE`-th element; the constant lets it be vectorised.
#[inline(always)]
fn deal_every<T: Real, const STRIDE: usize>(from: &[T], out: &mut [T]) {
    let Some((last, out)) = out.split_last_mut() else {
        return;
    };
    // The last one need not have a whole stride behind it.
    *last = from[STRIDE * out.len()];
    for (out, from) in out.iter_mut().zip(from.chunks_exact(STRIDE)) {
        *out = from[0];
    }
}

/// Adds to every `STRIDE`-th element.
#[inline(always)]
fn collect_every<T: Real, const STRIDE: usize>(from: &[T], out: &mut [T]) {
    let Some((&last, from)) = from.split_last() else {
        return;
    };
    out[STRIDE * from.len()] += last;
    for (out, &x) in out.chunks_exact_mut(STRIDE).zip(from) {
        out[0] += x;
    }
}

/// Writes the columns of some channels `(channels, height, width)` of one image into panels of `(rows, width)`, from column
/// `first` of all panels on.
pub(super) fn gather<T: Real>(
    planes: &Planes,
    image: &[T],
    panels: &mut [T],
    (rows, width): (usize, usize),
    first: usize,
) {
    let [map_height, map_width] = planes.map;
    // Where the map's rows go in the first row of the panels; `None` for one that two panels share.
    let whole = |column: usize| {
        let (panel, at) = (column / width, column % width);
        (at + map_width <= width).then_some(panel * rows * width + at)
    };
    let starts: Option<Vec<usize>> =
        (0..map_height).map(|y| whole(first + y * map_width)).collect();
    let taps = planes.taps.len();
    with_scratch(planes.len(), |buffer: &mut [T]| {
        vectorised(
            #[inline(always)]
            move || {
                for (c, channel) in image.chunks_exact(planes.pixels()).enumerate() {
                    planes.deal(channel, buffer);
                    for (tap, &start) in planes.taps.iter().enumerate() {
                        let (plane, row) = (&buffer[start..], (c * taps + tap) * width);
                        match &starts {
                            Some(starts) => copy_rows(planes, plane, &mut panels[row..], starts),
                            None => {
                                for y in 0..map_height {
                                    let from = &plane[y * planes.size[1]..][..map_width];
                                    for (x, &value) in from.iter().enumerate() {
                                        let column = first + y * map_width + x;
                                        panels[column / width * rows * width
                                            + row
                                            + column % width] = value;
                                    }
                                }
                            }
                        }
                    }
                }
            },
        );
    });
}

/// Adds columns, in rows that are `row_stride` elements apart, from column `first` on, to the places of the image that they
/// were gathered from.
pub(super) fn scatter<T: Real>(
    planes: &Planes,
    columns: &[T],
    (row_stride, first): (usize, usize),
    image: &mut [T],
) {
    let taps = planes.taps.len();
    with_scratch(planes.len(), |buffer: &mut [T]| {
        vectorised(
            #[inline(always)]
            move || {
                for (c, channel) in image.chunks_exact_mut(planes.pixels()).enumerate() {
                    buffer.fill(T::zero());
                    for (tap, &start) in planes.taps.iter().enumerate() {
                        let row = &columns[(c * taps + tap) * row_stride + first..];
                        add_rows(planes, row, &mut buffer[start..]);
                    }
                    planes.collect(buffer, channel);
                }
            },
        );
    });
}

/// Calls a function with the map's width as a constant where it is a usual one: rows this short are moved in a few registers,
/// and a call of `memcpy` for each would take longer.
macro_rules! with_width {
    ($width:expr, $function:ident($($argument:expr),*)) => {
        match $width {
            2 => $function::<_, 2>($($argument),*),
            4 => $function::<_, 4>($($argument),*),
            7 => $function::<_, 7>($($argument),*),
            8 => $function::<_, 8>($($argument),*),
            14 => $function::<_, 14>($($argument),*),
            16 => $function::<_, 16>($($argument),*),
            32 => $function::<_, 32>($($argument),*),
            _ => $function::<_, 0>($($argument),*),
        }
    };
}

/// Copies the map's rows out of a plane to where they start.
#[inline(always)]
fn copy_rows<T: Real>(planes: &Planes, plane: &[T], out: &mut [T], starts: &[usize]) {
    #[inline(always)]
    fn copy<T: Real, const WIDTH: usize>(
        plane: &[T],
        pitch: usize,
        out: &mut [T],
        starts: &[usize],
        width: usize,
    ) {
        let width = if WIDTH > 0 { WIDTH } else { width };
        for (x, &start) in plane.chunks(pitch).zip(starts) {
            out[start..start + width].copy_from_slice(&x[..width]);
        }
    }
    let width = planes.map[1];
    with_width!(width, copy(plane, planes.size[1], out, starts, width));
}

/// Adds the map's rows to a plane.
#[inline(always)]
fn add_rows<T: Real>(planes: &Planes, row: &[T], plane: &mut [T]) {
    #[inline(always)]
    fn add<T: Real, const WIDTH: usize>(row: &[T], plane: &mut [T], pitch: usize, width: usize) {
        let width = if WIDTH > 0 { WIDTH } else { width };
        for (x, out) in row.chunks_exact(width).zip(plane.chunks_mut(pitch)) {
            out[..width].iter_mut().zip(x).for_each(|(out, &x)| *out += x);
        }
    }
    let [height, width] = planes.map;
    with_width!(width, add(&row[..height * width], plane, planes.size[1], width));
}
