//! Convolutions composed of candle's operators, for devices and types without a kernel here.
//!
//! Candle's own are used where they are right: one stride, padding and dilation for both dimensions, and a stride that
//! reaches equally far into both, since its backward pass takes the width's output padding to be the height's.
//! Everything else is brought to a convolution of stride 1 without padding by spreading with zeros, cutting and thinning out.

use candle_core::{Result, Tensor};

use crate::kernels::convolution::Geometry;

pub(super) fn conv2d(image: &Tensor, kernel: &Tensor, geometry: Geometry) -> Result<Tensor> {
    if geometry.groups > 1 {
        let [images, kernels] =
            [image.chunk(geometry.groups, 1)?, kernel.chunk(geometry.groups, 0)?];
        let parts = images.iter().zip(&kernels).map(|(image, kernel)| {
            conv2d(&image.contiguous()?, &kernel.contiguous()?, Geometry { groups: 1, ..geometry })
        });
        return Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1);
    }
    let (_, _, height, width) = image.dims4()?;
    let (_, _, down, right) = kernel.dims4()?;
    let Some(map) = geometry.map_size([height, width], [down, right]) else {
        candle_core::bail!("{geometry:?}: no map of {:?} under {:?}", image.shape(), kernel.shape())
    };
    let sizes = geometry.image_sizes(map, [down, right]).map(|(smallest, _)| smallest);
    if let (Some([rows, columns]), Some((stride, padding, dilation))) = (sizes, uniform(geometry))
        && height - rows == width - columns
    {
        return image.conv2d(kernel, padding, stride, dilation, 1);
    }
    let Geometry { stride, padding, dilation, .. } = geometry;
    let image = image
        .pad_with_zeros(2, padding[0], padding[0])?
        .pad_with_zeros(3, padding[1], padding[1])?;
    let kernel = spread(&spread(kernel, 2, dilation[0])?, 3, dilation[1])?;
    let maps = image.contiguous()?.conv2d(&kernel.contiguous()?, 0, 1, 1, 1)?;
    thin_out(&thin_out(&maps, 2, stride[0])?, 3, stride[1])
}

pub(super) fn conv2d_input(
    map: &Tensor,
    kernel: &Tensor,
    image: [usize; 2],
    geometry: Geometry,
) -> Result<Tensor> {
    if geometry.groups > 1 {
        let [maps, kernels] = [map.chunk(geometry.groups, 1)?, kernel.chunk(geometry.groups, 0)?];
        let parts = maps.iter().zip(&kernels).map(|(map, kernel)| {
            let geometry = Geometry { groups: 1, ..geometry };
            conv2d_input(&map.contiguous()?, &kernel.contiguous()?, image, geometry)
        });
        return Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1);
    }
    let (_, _, height, width) = map.dims4()?;
    let (_, _, down, right) = kernel.dims4()?;
    let Some((smallest, _)) = geometry.image_sizes([height, width], [down, right]) else {
        candle_core::bail!("{geometry:?}: no image of {:?} under {:?}", map.shape(), kernel.shape())
    };
    let output_padding = [image[0].checked_sub(smallest[0]), image[1].checked_sub(smallest[1])];
    if let ([Some(rows), Some(columns)], Some((stride, padding, dilation))) =
        (output_padding, uniform(geometry))
        && rows == columns
    {
        return map.contiguous()?.conv_transpose2d(kernel, padding, rows, stride, dilation);
    }
    // A full correlation of the spread maps with the turned kernel, of which the padding is cut off again.
    let Geometry { stride, padding, dilation, .. } = geometry;
    let reach = [dilation[0] * (down - 1), dilation[1] * (right - 1)];
    let map = spread(&spread(map, 2, stride[0])?, 3, stride[1])?
        .pad_with_zeros(2, reach[0], reach[0] + image[0])?
        .pad_with_zeros(3, reach[1], reach[1] + image[1])?;
    let kernel = spread(&spread(kernel, 2, dilation[0])?, 3, dilation[1])?;
    let kernel = kernel.contiguous()?.flip(&[2, 3])?.transpose(0, 1)?.contiguous()?;
    let full = map.contiguous()?.conv2d(&kernel, 0, 1, 1, 1)?;
    full.narrow(2, padding[0], image[0])?.narrow(3, padding[1], image[1])
}

/// A kernel is a map of the image under the map: batch and channels change places, stride and dilation too.
pub(super) fn conv2d_kernel(
    map: &Tensor,
    image: &Tensor,
    kernel: [usize; 2],
    geometry: Geometry,
) -> Result<Tensor> {
    if geometry.groups > 1 {
        let [maps, images] = [map.chunk(geometry.groups, 1)?, image.chunk(geometry.groups, 1)?];
        let parts = maps.iter().zip(&images).map(|(map, image)| {
            conv2d_kernel(map, image, kernel, Geometry { groups: 1, ..geometry })
        });
        return Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0);
    }
    let Geometry { stride, padding, dilation, .. } = geometry;
    let turned = Geometry { stride: dilation, padding, dilation: stride, groups: 1 };
    let (image, map) = (image.transpose(0, 1)?.contiguous()?, map.transpose(0, 1)?.contiguous()?);
    // Rows and columns that no whole step covers make the result larger than the kernel.
    let kernels = conv2d(&image, &map, turned)?;
    kernels.narrow(2, 0, kernel[0])?.narrow(3, 0, kernel[1])?.transpose(0, 1)
}

/// Stride, padding and dilation where each is the same in both dimensions.
fn uniform(geometry: Geometry) -> Option<(usize, usize, usize)> {
    let Geometry { stride: [s, t], padding: [p, q], dilation: [d, e], .. } = geometry;
    (s == t && p == q && d == e).then_some((s, p, d))
}

/// Puts `step - 1` zeros between the elements of a dimension.
fn spread(x: &Tensor, dim: usize, step: usize) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    if step == 1 || dims[dim] == 0 {
        return Ok(x.clone());
    }
    let wide = x.unsqueeze(dim + 1)?.pad_with_zeros(dim + 1, 0, step - 1)?;
    dims[dim] *= step;
    let len = dims[dim] - (step - 1);
    wide.reshape(dims)?.narrow(dim, 0, len)
}

/// Keeps the first of every `step` elements of a dimension.
fn thin_out(x: &Tensor, dim: usize, step: usize) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    if step == 1 {
        return Ok(x.clone());
    }
    let kept = dims[dim].div_ceil(step);
    let whole = x.pad_with_zeros(dim, 0, kept * step - dims[dim])?;
    dims[dim] = kept;
    dims.insert(dim + 1, step);
    whole.reshape(dims)?.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;

    use super::super::convolution;
    use super::*;
    use crate::random::Stream;

    fn draw(name: &str, dims: &[usize]) -> Var {
        let x = Stream::new(0, name, 0).normal(dims, DType::F64, &Device::Cpu).unwrap();
        Var::from_tensor(&x).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor) {
        assert_eq!(a.dims(), b.dims());
        if a.elem_count() > 0 {
            let off: f64 = a.sub(b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
            assert!(off < 1e-11, "{off}");
        }
    }

    /// Value and both gradients of the composition against the kernel's.
    fn compare(ours: Result<Tensor>, composed: Result<Tensor>, operands: [&Var; 2]) {
        let (ours, composed) = (ours.unwrap(), composed.unwrap());
        close(&ours, &composed);
        let gradients =
            [ours, composed].map(|y| y.sin().unwrap().sum_all().unwrap().backward().unwrap());
        for operand in operands {
            let [ours, composed] = [0, 1].map(|i: usize| gradients[i].get(operand).unwrap());
            close(ours, composed);
        }
    }

    fn pair(range: std::ops::Range<usize>) -> impl Strategy<Value = [usize; 2]> {
        [range.clone(), range]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn equals_the_kernels(
            groups in 1usize..3,
            (map, kernel) in (pair(1..5), pair(1..4)),
            (stride, padding, dilation) in (pair(1..4), pair(0..3), pair(1..3)),
            extra in pair(0..3),
        ) {
            let geometry = Geometry { stride, padding, dilation, groups };
            prop_assume!(geometry.image_sizes(map, kernel).is_some());
            let (smallest, largest) = geometry.image_sizes(map, kernel).unwrap();
            let image = [0, 1].map(|d| (smallest[d] + extra[d]).min(largest[d]));
            prop_assume!(image.iter().all(|&size| size > 0));
            let x = draw("image", &[2, 2 * groups, image[0], image[1]]);
            let w = draw("kernel", &[3 * groups, 2, kernel[0], kernel[1]]);
            let y = draw("map", &[2, 3 * groups, map[0], map[1]]);
            compare(convolution::conv2d(&x, &w, None, geometry), conv2d(&x, &w, geometry), [&x, &w]);
            let ours = convolution::conv2d_input(&y, &w, None, image, geometry);
            compare(ours, conv2d_input(&y, &w, image, geometry), [&y, &w]);
            let ours = convolution::conv2d_kernel(&y, &x, kernel, geometry).unwrap();
            close(&ours, &conv2d_kernel(&y, &x, kernel, geometry).unwrap());
        }
    }
}
