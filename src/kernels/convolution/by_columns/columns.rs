//! An image's windows as the columns of a matrix, and back.
//!
//! Row `(channel, down, right)` of the column matrix holds what the kernel's tap `(down, right)` of that channel meets at
//! each position of the map; columns of several samples may lie side by side.
//!
//! A channel goes through planes on the way: the padded channel is dealt out by the place's remainder modulo the stride, so
//! that what a tap meets along a row of the map lies side by side in one plane, and rows are copied without a question asked.
//! Which row goes where is the same for every channel, and worked out once; the planes' border stays zero.

use std::collections::BTreeMap;

use super::Convolution;
use crate::kernels::scratch::with_scratch;
use crate::kernels::{Real, vectorised};

/// How the channels of a convolution's images are dealt out to planes.
#[derive(Debug, Clone)]
pub(super) struct Planes {
    /// Elements of a channel.
    pixels: usize,
    map: [usize; 2],
    stride: usize,
    /// Width of a plane.
    pitch: usize,
    /// Elements of all planes of a channel.
    len: usize,
    /// Where in the planes each tap meets the map's first position.
    taps: Vec<usize>,
    rows: Vec<Row>,
    /// Where the stride is 2, in the place of `rows`: the even and the odd columns of the channel's rows.
    pairs: Vec<[Row; 2]>,
}

/// Elements of a channel's row, a stride apart, that lie side by side in a plane.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    plane: usize,
    channel: usize,
    len: usize,
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
        // The elements of a plane's row, or column, that lie inside the image, for the plane of this remainder:
        // element * stride + remainder - padding must be in 0..image.
        let inside = |d: usize, remainder: usize| {
            let first = geometry.padding[d].saturating_sub(remainder).div_ceil(stride[d]);
            let end = (image[d] + geometry.padding[d]).saturating_sub(remainder);
            let end = end.div_ceil(stride[d]).min(size[d]);
            first.min(end)..end
        };
        let mut rows = Vec::new();
        for down in 0..stride[0] {
            for right in 0..stride[1] {
                let plane = (down * stride[1] + right) * size[0];
                let columns = inside(1, right);
                for y in inside(0, down).filter(|_| !columns.is_empty()) {
                    let place = y * stride[0] + down - geometry.padding[0];
                    let x = columns.start * stride[1] + right - geometry.padding[1];
                    rows.push(Row {
                        plane: (plane + y) * size[1] + columns.start,
                        channel: place * image[1] + x,
                        len: columns.len(),
                    });
                }
            }
        }
        let (len, pixels) = (stride[0] * stride[1] * size[0] * size[1], image[0] * image[1]);
        // What the kernels below rely on: their reads and writes are not checked one by one.
        let last = map[0].saturating_sub(1) * size[1] + map[1];
        assert!(taps.iter().all(|tap| tap + last <= len), "{convolution:?}: taps in the planes");
        let fits = |row: &Row| {
            row.len > 0
                && row.plane + row.len <= len
                && row.channel + (row.len - 1) * stride[1] < pixels
        };
        assert!(rows.iter().all(fits), "{convolution:?}: rows in the planes");
        let pairs =
            if stride[1] == 2 { pairs(std::mem::take(&mut rows), image[1]) } else { vec![] };
        Self { pixels, map, stride: stride[1], pitch: size[1], len, taps, rows, pairs }
    }

    /// Deals one channel out to its planes, whose border stays as it is.
    #[inline(always)]
    fn deal<T: Real>(&self, channel: &[T], planes: &mut [T]) {
        assert!(channel.len() == self.pixels && planes.len() == self.len, "a channel's planes");
        let (from, to) = (channel.as_ptr(), planes.as_mut_ptr());
        // SAFETY: `new` holds rows to lie inside a channel and its planes.
        unsafe {
            for &Row { plane, channel, len } in &self.rows {
                let (from, to) = (from.add(channel), to.add(plane));
                if self.stride == 1 {
                    copy(from, to, len);
                } else {
                    (0..len).for_each(|x| *to.add(x) = *from.add(x * self.stride));
                }
            }
            for [even, odd] in &self.pairs {
                let both = even.len.min(odd.len);
                let from = from.add(even.channel);
                let (evens, odds) = (to.add(even.plane), to.add(odd.plane));
                let mut x = 0;
                while x + 8 <= both {
                    split::<T, 8, 16>(from.add(2 * x), evens.add(x), odds.add(x));
                    x += 8;
                }
                while x + 4 <= both {
                    split::<T, 4, 8>(from.add(2 * x), evens.add(x), odds.add(x));
                    x += 4;
                }
                (x..even.len).for_each(|x| *evens.add(x) = *from.add(2 * x));
                (x..odd.len).for_each(|x| *odds.add(x) = *from.add(2 * x + 1));
            }
        }
    }

    /// Adds planes to the places of a channel that they were dealt from.
    #[inline(always)]
    fn collect<T: Real>(&self, planes: &[T], channel: &mut [T]) {
        assert!(channel.len() == self.pixels && planes.len() == self.len, "a channel's planes");
        let (from, to) = (planes.as_ptr(), channel.as_mut_ptr());
        // SAFETY: as in `deal`.
        unsafe {
            for &Row { plane, channel, len } in &self.rows {
                let (from, to) = (from.add(plane), to.add(channel));
                if self.stride == 1 {
                    add(from, to, len);
                } else {
                    (0..len).for_each(|x| *to.add(x * self.stride) += *from.add(x));
                }
            }
            for [even, odd] in &self.pairs {
                let both = even.len.min(odd.len);
                let to = to.add(even.channel);
                let (evens, odds) = (from.add(even.plane), from.add(odd.plane));
                let mut x = 0;
                while x + 8 <= both {
                    add_both::<T, 8, 16>(evens.add(x), odds.add(x), to.add(2 * x));
                    x += 8;
                }
                while x + 4 <= both {
                    add_both::<T, 4, 8>(evens.add(x), odds.add(x), to.add(2 * x));
                    x += 4;
                }
                (x..even.len).for_each(|x| *to.add(2 * x) += *evens.add(x));
                (x..odd.len).for_each(|x| *to.add(2 * x + 1) += *odds.add(x));
            }
        }
    }
}

/// Puts the even and the odd columns of each of a channel's rows, `width` elements long, together.
fn pairs(rows: Vec<Row>, width: usize) -> Vec<[Row; 2]> {
    let mut pairs: BTreeMap<usize, [Row; 2]> = BTreeMap::new();
    for row in rows {
        let start = row.channel / width * width;
        let pair = pairs.entry(start).or_insert([Row { channel: start, ..Row::default() }; 2]);
        pair[row.channel - start] = row;
    }
    pairs.into_values().collect()
}

/// Copies elements.
///
/// # Safety
/// So many lie behind both pointers.
#[inline(always)]
unsafe fn copy<T: Real>(from: *const T, to: *mut T, len: usize) {
    let mut x = 0;
    // SAFETY: as the caller vouches.
    unsafe {
        while x + 8 <= len {
            to.add(x)
                .cast::<[T; 8]>()
                .write_unaligned(from.add(x).cast::<[T; 8]>().read_unaligned());
            x += 8;
        }
        (x..len).for_each(|x| *to.add(x) = *from.add(x));
    }
}

/// Adds elements to others.
///
/// # Safety
/// So many lie behind both pointers.
#[inline(always)]
unsafe fn add<T: Real>(from: *const T, to: *mut T, len: usize) {
    let mut x = 0;
    // SAFETY: as the caller vouches.
    unsafe {
        while x + 8 <= len {
            add_array::<T, 8>(from.add(x), to.add(x));
            x += 8;
        }
        (x..len).for_each(|x| *to.add(x) += *from.add(x));
    }
}

/// Adds a few elements to others, in registers.
///
/// # Safety
/// So many lie behind both pointers.
#[inline(always)]
unsafe fn add_array<T: Real, const LEN: usize>(from: *const T, to: *mut T) {
    // SAFETY: as the caller vouches.
    unsafe {
        let (from, to) = (from.cast::<[T; LEN]>().read_unaligned(), to.cast::<[T; LEN]>());
        let mut sums = to.read_unaligned();
        sums.iter_mut().zip(&from).for_each(|(sum, &x)| *sum += x);
        to.write_unaligned(sums);
    }
}

/// Parts `BOTH` elements into the even and the odd ones, `EACH` of each.
///
/// # Safety
/// So many lie behind the pointers.
#[inline(always)]
unsafe fn split<T: Real, const EACH: usize, const BOTH: usize>(
    from: *const T,
    evens: *mut T,
    odds: *mut T,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let from = from.cast::<[T; BOTH]>().read_unaligned();
        evens.cast::<[T; EACH]>().write_unaligned(std::array::from_fn(|i| from[2 * i]));
        odds.cast::<[T; EACH]>().write_unaligned(std::array::from_fn(|i| from[2 * i + 1]));
    }
}

/// Adds `EACH` elements to the even ones of `BOTH` and as many others to the odd ones.
///
/// # Safety
/// So many lie behind the pointers.
#[inline(always)]
unsafe fn add_both<T: Real, const EACH: usize, const BOTH: usize>(
    evens: *const T,
    odds: *const T,
    to: *mut T,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let evens = evens.cast::<[T; EACH]>().read_unaligned();
        let odds = odds.cast::<[T; EACH]>().read_unaligned();
        let now = to.cast::<[T; BOTH]>().read_unaligned();
        let sums: [T; BOTH] =
            std::array::from_fn(|i| now[i] + if i % 2 == 0 { evens[i / 2] } else { odds[i / 2] });
        to.cast::<[T; BOTH]>().write_unaligned(sums);
    }
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
    with_scratch(planes.len, |buffer: &mut [T]| {
        buffer.fill(T::zero());
        vectorised(
            #[inline(always)]
            move || {
                for (c, channel) in image.chunks_exact(planes.pixels.max(1)).enumerate() {
                    planes.deal(channel, buffer);
                    let row = c * taps * width;
                    match &starts {
                        Some(starts) => {
                            let panels = &mut panels[row..];
                            with_width!(
                                map_width,
                                copy_rows(planes, buffer, panels, starts, width)
                            );
                        }
                        None => {
                            for (tap, &start) in planes.taps.iter().enumerate() {
                                let (plane, row) = (&buffer[start..], row + tap * width);
                                for y in 0..map_height {
                                    let from = &plane[y * planes.pitch..][..map_width];
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

/// Copies what each tap meets out of the planes to where the map's rows start, a tap `width` elements after the one before.
#[inline(always)]
fn copy_rows<T: Real, const WIDTH: usize>(
    planes: &Planes,
    buffer: &[T],
    out: &mut [T],
    starts: &[usize],
    width: usize,
) {
    let long = planes.map[1];
    let last = starts.iter().max().map_or(0, |start| start + long);
    assert!(
        starts.len() == planes.map[0]
            && buffer.len() == planes.len
            && (planes.taps.len() - 1) * width + last <= out.len(),
        "what the taps meet in {} elements",
        out.len()
    );
    for (tap, &place) in planes.taps.iter().enumerate() {
        // SAFETY: `Planes::new` holds every tap's rows to lie inside the planes, the assertion those of the last tap, which
        // lie after all others, to lie inside `out`.
        unsafe {
            let mut from = buffer.as_ptr().add(place);
            let to = out.as_mut_ptr().add(tap * width);
            for &start in starts {
                let to = to.add(start);
                if WIDTH > 0 {
                    let row = from.cast::<[T; WIDTH]>().read_unaligned();
                    to.cast::<[T; WIDTH]>().write_unaligned(row);
                } else {
                    std::ptr::copy_nonoverlapping(from, to, long);
                }
                from = from.wrapping_add(planes.pitch);
            }
        }
    }
}

/// Adds columns, in rows that are `row_stride` elements apart, from column `first` on, to the places of the image that they
/// were gathered from.
pub(super) fn scatter<T: Real>(
    planes: &Planes,
    columns: &[T],
    (row_stride, first): (usize, usize),
    image: &mut [T],
) {
    let (taps, map_width) = (planes.taps.len(), planes.map[1]);
    with_scratch(planes.len, |buffer: &mut [T]| {
        vectorised(
            #[inline(always)]
            move || {
                for (c, channel) in image.chunks_exact_mut(planes.pixels.max(1)).enumerate() {
                    buffer.fill(T::zero());
                    let columns = &columns[c * taps * row_stride + first..];
                    with_width!(map_width, add_rows(planes, columns, row_stride, buffer));
                    planes.collect(buffer, channel);
                }
            },
        );
    });
}

/// Adds the map's rows of each tap, which begin `row_stride` elements apart, to the planes.
#[inline(always)]
fn add_rows<T: Real, const WIDTH: usize>(
    planes: &Planes,
    columns: &[T],
    row_stride: usize,
    buffer: &mut [T],
) {
    let [height, width] = planes.map;
    assert!(
        buffer.len() == planes.len
            && (planes.taps.len() - 1) * row_stride + height * width <= columns.len(),
        "rows of the taps in {} elements",
        columns.len()
    );
    let width = if WIDTH > 0 { WIDTH } else { width };
    for (tap, &place) in planes.taps.iter().enumerate() {
        // SAFETY: `Planes::new` holds every tap's rows to lie inside the planes, the assertion those of the last tap to lie
        // inside `columns`.
        unsafe {
            let from = columns.as_ptr().add(tap * row_stride);
            let mut to = buffer.as_mut_ptr().add(place);
            for y in 0..height {
                let from = from.add(y * width);
                if WIDTH > 0 {
                    add_array::<T, WIDTH>(from, to);
                } else {
                    add(from, to, width);
                }
                to = to.wrapping_add(planes.pitch);
            }
        }
    }
}
