//! Two-dimensional convolution and its two gradients.
//!
//! Kernels of 3 x 3 that move by 1 and of 4 x 4 that move by 2 take [fewer multiplications](winograd) than the definition has, where
//! channels and the map's size allow it; all others are matrix products [on columns](by_columns).

mod by_columns;
mod geometry;
mod winograd;

pub(crate) use geometry::{Convolution, Geometry};

use super::Real;
use winograd::{ThreeTaps, TwoTaps};

/// Multiplications of the definition below which a convolution stays on its thread.
const SERIAL: usize = 1 << 18;
/// Tasks that the kernel's gradient is cut into.
const TASKS: usize = 8;

/// Checks what the kernels below rely on.
fn check_lens(c: &Convolution, image: Option<usize>, kernel: Option<usize>, maps: Option<usize>) {
    let lens = [
        (image, c.batch * c.inputs * c.pixels()),
        (kernel, c.outputs * c.window()),
        (maps, c.batch * c.outputs * c.positions()),
    ];
    for (len, expected) in lens {
        assert_eq!(len.unwrap_or(expected), expected, "images, kernel and maps of {c:?}");
    }
}

/// Maps `(batch, outputs, ...)` of images `(batch, inputs, ...)`, plus a bias for each output where there is one.
pub(crate) fn forward<T: Real>(
    c: &Convolution,
    image: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    check_lens(c, Some(image.len()), Some(kernel.len()), None);
    match winograd::taps(c) {
        Some(2) => winograd::forward::<TwoTaps, T, 2, 3>(c, image, kernel, bias),
        Some(_) => winograd::forward::<ThreeTaps, T, 3, 4>(c, image, kernel, bias),
        None => by_columns::forward(c, image, kernel, bias),
    }
}

/// Images `(batch, inputs, ...)`, each the sum of the kernel's windows weighted by the maps `(batch, outputs, ...)`: the
/// gradient of [`forward`] for its images. A bias is added to each input channel where there is one.
pub(crate) fn for_image<T: Real>(
    c: &Convolution,
    maps: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    check_lens(c, None, Some(kernel.len()), Some(maps.len()));
    match winograd::taps(c) {
        Some(2) => winograd::for_image::<TwoTaps, T, 2, 3>(c, maps, kernel, bias),
        Some(_) => winograd::for_image::<ThreeTaps, T, 3, 4>(c, maps, kernel, bias),
        None => by_columns::for_image(c, maps, kernel, bias),
    }
}

/// The kernel `(outputs, inputs / groups, ...)` whose weights are the products of what they meet in the images
/// `(batch, inputs, ...)` with the maps `(batch, outputs, ...)`, summed: the gradient of [`forward`] for its kernel.
pub(crate) fn for_kernel<T: Real>(c: &Convolution, maps: &[T], image: &[T]) -> Vec<T> {
    check_lens(c, Some(image.len()), None, Some(maps.len()));
    match winograd::taps(c) {
        Some(2) => winograd::for_kernel::<TwoTaps, T, 2, 3>(c, maps, image),
        Some(_) => winograd::for_kernel::<ThreeTaps, T, 3, 4>(c, maps, image),
        None => by_columns::for_kernel(c, maps, image),
    }
}

#[cfg(test)]
mod tests;
