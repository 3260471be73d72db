//! The numbers of a two-dimensional convolution.

/// How a kernel moves over an image, each as `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) stride: [usize; 2],
    pub(crate) padding: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) groups: usize,
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stride, padding, dilation, groups } = self;
        write!(f, "stride {stride:?}, padding {padding:?}, dilation {dilation:?}, {groups} groups")
    }
}

/// A convolution of images `(batch, inputs, height, width)` by a kernel `(outputs, inputs / groups, height, width)` to maps
/// `(batch, outputs, height, width)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Convolution {
    pub(crate) geometry: Geometry,
    pub(crate) batch: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) image: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) map: [usize; 2],
}

impl Geometry {
    /// The largest stride, padding or dilation that is taken for one.
    pub(crate) const MOST: usize = 1024;

    /// Whether no number is so large that sizes computed from it could overflow.
    pub(crate) fn is_sensible(&self) -> bool {
        let Self { stride, padding, dilation, .. } = self;
        [stride, padding, dilation].into_iter().flatten().all(|&number| number <= Self::MOST)
    }

    /// The size of the map: `floor((image + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`; `None` where the window is
    /// larger than the padded image or a number is 0.
    pub(crate) fn map_size(&self, image: [usize; 2], kernel: [usize; 2]) -> Option<[usize; 2]> {
        let size = |d: usize| {
            let window = self.dilation[d].checked_mul(kernel[d].checked_sub(1)?)?.checked_add(1)?;
            let padded = image[d].checked_add(self.padding[d].checked_mul(2)?)?;
            Some(padded.checked_sub(window)?.checked_div(self.stride[d])? + 1)
        };
        Some([size(0)?, size(1)?])
    }

    /// The size of the smallest image that gives a map of this size, and the largest: all sizes between them do. `None` where
    /// no image does.
    pub(crate) fn image_sizes(
        &self,
        map: [usize; 2],
        kernel: [usize; 2],
    ) -> Option<([usize; 2], [usize; 2])> {
        let smallest = |d: usize| {
            let reach = map[d].checked_sub(1)?.checked_mul(self.stride[d])?;
            let window = self.dilation[d].checked_mul(kernel[d].checked_sub(1)?)?.checked_add(1)?;
            reach.checked_add(window)?.checked_sub(self.padding[d].checked_mul(2)?)
        };
        let smallest = [smallest(0)?, smallest(1)?];
        let more = |d: usize| smallest[d].checked_add(self.stride[d].checked_sub(1)?);
        Some((smallest, [more(0)?, more(1)?]))
    }
}

impl Convolution {
    /// `None` where the shapes do not fit together.
    pub(crate) fn new(geometry: Geometry, image: &[usize], kernel: &[usize]) -> Option<Self> {
        let (&[batch, inputs, height, width], &[outputs, per_group, down, right]) = (image, kernel)
        else {
            return None;
        };
        let groups = geometry.groups;
        let (image, kernel) = ([height, width], [down, right]);
        let fits = groups > 0 && per_group * groups == inputs && outputs % groups == 0;
        let map = geometry.map_size(image, kernel).filter(|_| fits)?;
        Some(Self { geometry, batch, inputs, outputs, image, kernel, map })
    }

    /// Elements of one channel of an image.
    pub(super) fn pixels(&self) -> usize {
        self.image[0] * self.image[1]
    }

    /// Elements of one channel of a map.
    pub(super) fn positions(&self) -> usize {
        self.map[0] * self.map[1]
    }

    /// Elements of one channel of a kernel.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(super) fn inputs_per_group(&self) -> usize {
        self.inputs / self.geometry.groups
    }

    pub(super) fn outputs_per_group(&self) -> usize {
        self.outputs / self.geometry.groups
    }

    /// Values that make one value of a map: rows of the column matrix of one group.
    pub(super) fn window(&self) -> usize {
        self.inputs_per_group() * self.taps()
    }

    /// Whether the kernel meets the whole image at its single position: then the images are rows of a matrix, and the
    /// convolution is a linear layer.
    pub(super) fn is_dense(&self) -> bool {
        let Geometry { padding, dilation, groups, .. } = self.geometry;
        self.map == [1, 1]
            && self.kernel == self.image
            && padding == [0, 0]
            && dilation == [1, 1]
            && groups == 1
    }

    /// Multiplications that it takes.
    pub(super) fn work(&self) -> usize {
        self.batch * self.outputs * self.positions() * self.window()
    }
}
