//! An image's windows as the rows of a matrix: the right operand of the kernel's gradient, whose inner index runs over the
//! positions.

use std::ops::Range;

use super::Convolution;
use crate::kernels::matmul::{copy_short, full_width, panel_width};
use crate::kernels::scratch::with_scratch;
use crate::kernels::{Real, vectorised};

/// How a window's elements are dealt out to panels: whole channels each, where a channel's taps fit one.
pub(super) struct Windows<'a> {
    convolution: &'a Convolution,
    per_panel: usize,
    width: usize,
}

impl<'a> Windows<'a> {
    pub(super) fn new<T>(convolution: &'a Convolution) -> Self {
        let (taps, window) = (convolution.taps(), convolution.window());
        let full = full_width::<T>();
        let per_panel = if taps <= full { full / taps * taps } else { full };
        let per_panel = per_panel.min(window);
        Self { convolution, per_panel, width: panel_width::<T>(per_panel) }
    }

    pub(super) fn panels(&self) -> usize {
        self.convolution.window().div_ceil(self.per_panel)
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The elements of the window that a panel holds.
    pub(super) fn columns(&self, panel: usize) -> Range<usize> {
        let first = panel * self.per_panel;
        first..self.convolution.window().min(first + self.per_panel)
    }

    /// Samples whose rows fit a buffer of some elements.
    pub(super) fn samples_at_once(&self, buffer: usize) -> usize {
        (buffer / (self.width * self.convolution.positions())).max(1)
    }
}

/// One panel of the rows of a group's windows.
pub(super) struct RowPanel<'a> {
    pub(super) windows: &'a Windows<'a>,
    pub(super) group: usize,
    pub(super) panel: usize,
}

impl RowPanel<'_> {
    /// Writes the rows `(positions of all samples, width)`.
    pub(super) fn fill<T: Real>(&self, images: &[T], samples: Range<usize>, out: &mut [T]) {
        let c = self.windows.convolution;
        let (taps, pixels, width) = (c.taps(), c.pixels(), self.windows.width);
        let columns = self.windows.columns(self.panel);
        let channels = columns.start / taps..columns.end.div_ceil(taps);
        let padded = [0, 1].map(|d| c.image[d] + 2 * c.geometry.padding[d]);
        let size = padded[0] * padded[1];
        let rest = columns.len()..width;
        with_scratch(size * channels.len(), |buffer: &mut [T]| {
            // The border stays zero.
            buffer.fill(T::zero());
            for (sample, out) in samples.zip(out.chunks_exact_mut(c.positions() * width)) {
                vectorised(
                    #[inline(always)]
                    || {
                        let all = buffer.chunks_exact_mut(size.max(1));
                        for (channel, buffer) in channels.clone().zip(all) {
                            let channel =
                                sample * c.inputs + self.group * c.inputs_per_group() + channel;
                            let image = &images[channel * pixels..][..pixels];
                            let inside = buffer.chunks_exact_mut(padded[1]);
                            let inside = inside.skip(c.geometry.padding[0]);
                            for (row, out) in image.chunks_exact(c.image[1].max(1)).zip(inside) {
                                copy_short(row, &mut out[c.geometry.padding[1]..][..row.len()]);
                            }
                        }
                        self.copy_runs(&columns, channels.start, padded, buffer, out);
                    },
                );
                if !rest.is_empty() {
                    out.chunks_exact_mut(width).for_each(|out| out[rest.clone()].fill(T::zero()));
                }
            }
        });
    }

    /// Copies what the taps meet, a run of those that lie side by side in the image at a time.
    #[inline(always)]
    fn copy_runs<T: Real>(
        &self,
        columns: &Range<usize>,
        first_channel: usize,
        padded: [usize; 2],
        buffer: &[T],
        out: &mut [T],
    ) {
        let c = self.windows.convolution;
        let (taps, width) = (c.taps(), self.windows.width);
        let [stride, dilation] = [c.geometry.stride, c.geometry.dilation];
        let longest = if dilation[1] == 1 { c.kernel[1] } else { 1 };
        let mut column = columns.start;
        while column < columns.end {
            let (channel, tap) = (column / taps - first_channel, column % taps);
            let (down, right) = (tap / c.kernel[1], tap % c.kernel[1]);
            let run = (longest - right % longest).min(columns.end - column);
            let start =
                (channel * padded[0] + down * dilation[0]) * padded[1] + right * dilation[1];
            let runs = Runs {
                from: &buffer[start..],
                steps: [stride[0] * padded[1], stride[1]],
                out: &mut out[column - columns.start..],
                width,
                map: c.map,
            };
            match run {
                1 => runs.copy::<1>(),
                3 => runs.copy::<3>(),
                4 => runs.copy::<4>(),
                5 => runs.copy::<5>(),
                _ => runs.copy_any(run),
            }
            column += run;
        }
    }
}

/// Runs of neighbouring elements, one for each position of a map, and where they go.
struct Runs<'a, T> {
    from: &'a [T],
    /// Elements from one run to that of the position below, and to the right.
    steps: [usize; 2],
    out: &'a mut [T],
    /// Elements from one position's place to the next one's.
    width: usize,
    map: [usize; 2],
}

impl<T: Real> Runs<'_, T> {
    /// Copies runs of a constant length.
    #[inline(always)]
    fn copy<const RUN: usize>(self) {
        let Self { from, steps, out, width, map: [height, across] } = self;
        let last = (height - 1) * steps[0] + (across - 1) * steps[1];
        assert!(
            last + RUN <= from.len() && (height * across - 1) * width + RUN <= out.len(),
            "runs of {RUN}"
        );
        // SAFETY: the assertion holds the last run, whose place is the highest, to lie inside both slices.
        unsafe {
            let mut to = out.as_mut_ptr();
            for y in 0..height {
                let mut from = from.as_ptr().add(y * steps[0]);
                for _ in 0..across {
                    let run = from.cast::<[T; RUN]>().read_unaligned();
                    to.cast::<[T; RUN]>().write_unaligned(run);
                    from = from.wrapping_add(steps[1]);
                    to = to.wrapping_add(width);
                }
            }
        }
    }

    /// Copies runs of any length.
    fn copy_any(self, run: usize) {
        let Self { from, steps, out, width, map: [height, across] } = self;
        for y in 0..height {
            for x in 0..across {
                let from = &from[y * steps[0] + x * steps[1]..][..run];
                out[(y * across + x) * width..][..run].copy_from_slice(from);
            }
        }
    }
}
