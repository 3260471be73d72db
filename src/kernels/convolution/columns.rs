//! An image's windows as the columns of a matrix, and back.
//!
//! Row `(channel, down, right)` of the column matrix holds what the kernel's tap `(down, right)` of that channel meets at
//! each position of the map; columns of several samples may lie side by side.

use super::Convolution;
use crate::kernels::Real;

/// The positions along one dimension of the map at which a tap lies inside the image, and the place it meets at the first
/// of them.
fn inside(convolution: &Convolution, d: usize, tap: usize) -> (std::ops::Range<usize>, usize) {
    let geometry = &convolution.geometry;
    let (stride, padding) = (geometry.stride[d], geometry.padding[d]);
    let offset = tap * geometry.dilation[d];
    // place = position * stride + offset - padding must be in 0..image
    let first = padding.saturating_sub(offset).div_ceil(stride);
    let end = (convolution.image[d] + padding).saturating_sub(offset).div_ceil(stride);
    let end = end.min(convolution.map[d]);
    let first = first.min(end);
    (first..end, (first * stride + offset).saturating_sub(padding))
}

/// Calls `row` for each row of the map and each tap: with the row's number in the column matrix, the row of the map, and
/// where it lies inside the image, if anywhere.
fn walk(
    convolution: &Convolution,
    channels: usize,
    mut row: impl FnMut(usize, usize, Option<Inside>),
) {
    let [down, right] = convolution.kernel;
    for channel in 0..channels {
        for i in 0..down {
            let (rows, first_y) = inside(convolution, 0, i);
            for j in 0..right {
                let (columns, first_x) = inside(convolution, 1, j);
                let number = (channel * down + i) * right + j;
                for y in 0..convolution.map[0] {
                    let place = (rows.contains(&y) && !columns.is_empty()).then(|| {
                        let y = first_y + (y - rows.start) * convolution.geometry.stride[0];
                        let start = channel * convolution.pixels() + y * convolution.image[1];
                        Inside { from: columns.start, to: columns.end, place: start + first_x }
                    });
                    row(number, y, place);
                }
            }
        }
    }
}

/// A stretch of a row of the map that a tap meets inside the image.
struct Inside {
    from: usize,
    to: usize,
    /// Where in the image it meets the first of them; the others follow at the stride.
    place: usize,
}

/// Writes the columns of some channels `(channels, height, width)` of one image, its first at column `first` of rows that
/// are `row_stride` elements apart.
pub(super) fn gather<T: Real>(
    convolution: &Convolution,
    image: &[T],
    columns: &mut [T],
    (row_stride, first): (usize, usize),
) {
    let (width, stride) = (convolution.map[1], convolution.geometry.stride[1]);
    walk(convolution, image.len() / convolution.pixels().max(1), |row, y, place| {
        let out = &mut columns[row * row_stride + first + y * width..][..width];
        let Some(Inside { from, to, place }) = place else {
            out.fill(T::zero());
            return;
        };
        out[..from].fill(T::zero());
        out[to..].fill(T::zero());
        let out = &mut out[from..to];
        match stride {
            1 => out.copy_from_slice(&image[place..][..out.len()]),
            2 => {
                // A stride known to the compiler vectorises.
                for (out, x) in out.iter_mut().zip(image[place..].chunks(2)) {
                    *out = x[0];
                }
            }
            _ => {
                for (out, &x) in out.iter_mut().zip(image[place..].iter().step_by(stride)) {
                    *out = x;
                }
            }
        }
    });
}

/// Adds columns to the places of the image that they were gathered from.
pub(super) fn scatter<T: Real>(
    convolution: &Convolution,
    columns: &[T],
    (row_stride, first): (usize, usize),
    image: &mut [T],
) {
    let (width, stride) = (convolution.map[1], convolution.geometry.stride[1]);
    let channels = image.len() / convolution.pixels().max(1);
    walk(convolution, channels, |row, y, place| {
        let Some(Inside { from, to, place }) = place else {
            return;
        };
        let x = &columns[row * row_stride + first + y * width..][from..to];
        match stride {
            1 => {
                for (out, &x) in image[place..].iter_mut().zip(x) {
                    *out += x;
                }
            }
            2 => {
                for (out, &x) in image[place..].chunks_mut(2).zip(x) {
                    out[0] += x;
                }
            }
            _ => {
                for (out, &x) in image[place..].iter_mut().step_by(stride).zip(x) {
                    *out += x;
                }
            }
        }
    });
}
