//! Two-dimensional convolutions that are closed under differentiation.
//!
//! Image, kernel and map are tied by three products, and the two gradients of each are again among the three. So every
//! order of differentiation runs on the same three kernels. (Candle's backward pass of a strided convolution takes the
//! width's output padding to be the height's, its transposed convolution has no fast path on the CPU, and its
//! one-dimensional one has no second order.)
//!
//! | product | gradient for the first | gradient for the second |
//! |---|---|---|
//! | map = conv(image, kernel) | image(g, kernel) | kernel(g, image) |
//! | image = transposed(map, kernel) | conv(g, kernel) | kernel(map, g) |
//! | kernel = kernel(map, image) | conv(image, g) | image(map, g) |

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{channel_totals, composed_convolution, count, has_kernel};
use crate::kernels::convolution::{Convolution, Geometry, for_image, for_kernel, forward};
use crate::kernels::{Real, for_real, slice};

/// Maps of images: (batch, inputs, height, width), (outputs, inputs / groups, down, right) -> (batch, outputs, ...), plus a
/// bias (outputs,).
pub(crate) fn conv2d(
    image: &Tensor,
    kernel: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
) -> Result<Tensor> {
    if ours(image, kernel, bias) {
        Product::Map.apply_with_bias(geometry, image, kernel, bias)
    } else {
        add_bias(composed_convolution::conv2d(image, kernel, geometry)?, bias)
    }
}

/// Images of this size whose maps under `kernel` are weighted by `map`: the transposed convolution, for a kernel
/// (its inputs, its outputs / groups, down, right), with a bias (its outputs,).
pub(crate) fn conv2d_input(
    map: &Tensor,
    kernel: &Tensor,
    bias: Option<&Tensor>,
    image: [usize; 2],
    geometry: Geometry,
) -> Result<Tensor> {
    if ours(map, kernel, bias) {
        Product::Image(image).apply_with_bias(geometry, map, kernel, bias)
    } else {
        add_bias(composed_convolution::conv2d_input(map, kernel, image, geometry)?, bias)
    }
}

/// The kernel of this size whose maps of `image`, weighted by `map`, it has the gradient for.
pub(crate) fn conv2d_kernel(
    map: &Tensor,
    image: &Tensor,
    kernel: [usize; 2],
    geometry: Geometry,
) -> Result<Tensor> {
    if ours(map, image, None) {
        Product::Kernel(kernel).apply(geometry, map, image)
    } else {
        composed_convolution::conv2d_kernel(map, image, kernel, geometry)
    }
}

fn ours(a: &Tensor, b: &Tensor, bias: Option<&Tensor>) -> bool {
    has_kernel(a)
        && has_kernel(b)
        && a.dtype() == b.dtype()
        && bias.is_none_or(|bias| bias.dtype() == a.dtype())
}

fn add_bias(maps: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => maps.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(maps),
    }
}

/// Which of the three is computed from the other two; with the size of what they do not tell.
#[derive(Debug, Clone, Copy)]
enum Product {
    /// Of an image and a kernel.
    Map,
    /// Of a map and a kernel.
    Image([usize; 2]),
    /// Of a map and an image.
    Kernel([usize; 2]),
}

impl Product {
    fn apply(self, geometry: Geometry, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let op = Bilinear { product: self, geometry };
        a.contiguous()?.apply_op2(&b.contiguous()?, op)
    }

    fn apply_with_bias(
        self,
        geometry: Geometry,
        a: &Tensor,
        b: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let Some(bias) = bias else {
            return self.apply(geometry, a, b);
        };
        let op = Biased(Bilinear { product: self, geometry });
        a.contiguous()?.apply_op3(&b.contiguous()?, &bias.contiguous()?, op)
    }
}

#[derive(Debug, Clone, Copy)]
struct Bilinear {
    product: Product,
    geometry: Geometry,
}

impl Bilinear {
    /// The convolution that the operands belong to.
    fn convolution(&self, a: &Shape, b: &Shape) -> Result<Convolution> {
        let groups = self.geometry.groups;
        let fitting = match (self.product, a.dims(), b.dims()) {
            (Product::Map, image, kernel) => Convolution::new(self.geometry, image, kernel),
            (Product::Image([height, width]), &[batch, ..], kernel @ &[_, per_group, ..]) => {
                let image = [batch, per_group * groups, height, width];
                Convolution::new(self.geometry, &image, kernel)
            }
            (Product::Kernel([down, right]), &[_, outputs, ..], image @ &[_, inputs, ..]) => {
                let kernel = [outputs, inputs / groups.max(1), down, right];
                Convolution::new(self.geometry, image, &kernel)
            }
            _ => None,
        };
        // What was given of the map must be what the others make.
        let is_map = |c: &Convolution, map: &[usize]| {
            map == [c.batch, c.outputs, c.map[0], c.map[1]].as_slice()
        };
        let fitting = fitting.filter(|c| match self.product {
            Product::Map => true,
            Product::Image(_) | Product::Kernel(_) => is_map(c, a.dims()),
        });
        fitting.ok_or_else(|| {
            candle_core::Error::Msg(format!(
                "{self:?} of {a:?} and {b:?}: the shapes do not fit together"
            ))
            .bt()
        })
    }

    fn run<T: Real>(
        &self,
        (a, a_layout): (&CpuStorage, &Layout),
        (b, b_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        count::convolution();
        let c = self.convolution(a_layout.shape(), b_layout.shape())?;
        let (a, b) = (slice::<T>(a, a_layout)?, slice::<T>(b, b_layout)?);
        let bias = bias.map(|(bias, layout)| slice::<T>(bias, layout)).transpose()?;
        let (out, dims) = match self.product {
            Product::Map => (forward(&c, a, b, bias), [c.batch, c.outputs, c.map[0], c.map[1]]),
            Product::Image(image) => {
                (for_image(&c, a, b, bias), [c.batch, c.inputs, image[0], image[1]])
            }
            Product::Kernel(kernel) => {
                let per_group = c.inputs / self.geometry.groups;
                (for_kernel(&c, a, b), [c.outputs, per_group, kernel[0], kernel[1]])
            }
        };
        Ok((T::to_cpu_storage_owned(out), Shape::from(dims.to_vec())))
    }

    /// The gradients for both operands, each as a constant's where it is not tracked.
    fn pull_back(
        &self,
        a: &Tensor,
        b: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (a_tracked, b_tracked) = (a.track_op(), b.track_op());
        let (a, b) = (&a.detach(), &b.detach());
        let size = |x: &Tensor| x.dims4().map(|(_, _, height, width)| [height, width]);
        let product = |product: Product, a, b| product.apply(self.geometry, a, b);
        let for_a = || match self.product {
            Product::Map => product(Product::Image(size(a)?), g, b),
            Product::Image(_) => product(Product::Map, g, b),
            Product::Kernel(_) => product(Product::Map, b, g),
        };
        let for_b = || match self.product {
            Product::Map => product(Product::Kernel(size(b)?), g, a),
            Product::Image(_) => product(Product::Kernel(size(b)?), a, g),
            Product::Kernel(_) => product(Product::Image(size(b)?), a, g),
        };
        Ok((a_tracked.then(for_a).transpose()?, b_tracked.then(for_b).transpose()?))
    }
}

impl CustomOp2 for Bilinear {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_real!(a, T => self.run::<T>((a, a_layout), (b, b_layout), None))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.pull_back(a, b, g)
    }
}

/// A map or an image with a bias for each of its channels, in one pass.
struct Biased(Bilinear);

impl CustomOp3 for Biased {
    fn name(&self) -> &'static str {
        "convolution-with-bias"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let kernel = b_layout.shape().dims();
        let channels = match self.0.product {
            Product::Map => kernel.first().copied(),
            _ => kernel.get(1).map(|per_group| per_group * self.0.geometry.groups),
        };
        if bias_layout.shape().dims() != [channels.unwrap_or_default()] {
            candle_core::bail!(
                "{:?}: bias {:?} with kernel {kernel:?}",
                self.0,
                bias_layout.shape()
            )
        }
        for_real!(a, T => self.0.run::<T>((a, a_layout), (b, b_layout), Some((bias, bias_layout))))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (for_a, for_b) = self.0.pull_back(a, b, g)?;
        let (_, channels, height, width) = g.dims4()?;
        let total = || channel_totals(g, channels, height * width);
        let for_bias = bias.track_op().then(total).transpose()?;
        Ok((for_a, for_b, for_bias))
    }
}
