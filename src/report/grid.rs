//! Many small images as one picture.

use candle_core::{DType, Device, Tensor};

use super::Picture;
use crate::error::{Error, Result};

/// Pixels between two images.
const GAP: usize = 2;
/// The grey between two images: it parts the black backgrounds of digits without outshining their strokes.
const GAP_VALUE: u8 = 64;

/// Lays images out on a grid, row by row, `columns` in a row.
///
/// `images` is `(batch, channels, height, width)` with 1 channel (grey) or 3 (RGB), of type `f32` or `f64`, on
/// any device. -1 becomes black (0) and 1 white (255); what lies beyond is clamped. Two pixels of dark grey part
/// neighbours and fill the last row where it is not full. With fewer images than `columns` the picture is as
/// wide as the images.
///
/// # Errors
/// [`Error::Shape`] for another rank, another number of channels or a tensor without elements,
/// [`Error::DType`] for another element type, [`Error::InvalidConfig`] where `columns` is 0, and
/// [`Error::NonFiniteData`] for NaN or infinity.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// # fn main() -> wgan::Result<()> {
/// let digits = Tensor::zeros((64, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let picture = wgan::report::image_grid(&digits, 8)?;
/// assert_eq!((picture.width(), picture.height()), (8 * 28 + 7 * 2, 8 * 28 + 7 * 2));
/// # Ok(())
/// # }
/// ```
pub fn image_grid(images: &Tensor, columns: usize) -> Result<Picture> {
    let &[batch, channels @ (1 | 3), height, width] = images.dims() else {
        return Err(shape_error(images));
    };
    if images.elem_count() == 0 {
        return Err(shape_error(images));
    }
    if columns == 0 {
        return Err(Error::config("grid columns", columns, "at least 1"));
    }

    let values = host_values(images)?;
    let columns = columns.min(batch);
    let rows = batch.div_ceil(columns);
    let (cell_width, cell_height) = (width + GAP, height + GAP);
    let mut picture =
        Picture::filled(columns * cell_width - GAP, rows * cell_height - GAP, channels, GAP_VALUE);
    for (index, &value) in values.iter().enumerate() {
        let [image, channel, y, x] = position(index, [batch, channels, height, width]);
        if !value.is_finite() {
            let position = vec![image, channel, y, x];
            return Err(Error::NonFiniteData { what: "the images".into(), value, position });
        }
        let (row, column) = (image / columns, image % columns);
        picture.set(column * cell_width + x, row * cell_height + y, channel, byte(value));
    }
    Ok(picture)
}

/// The index of an element counted in row-major order.
fn position(index: usize, [_, channels, height, width]: [usize; 4]) -> [usize; 4] {
    [
        index / (channels * height * width),
        index / (height * width) % channels,
        index / width % height,
        index % width,
    ]
}

/// [-1, 1] to 0..=255, to the nearest.
fn byte(value: f64) -> u8 {
    ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8
}

fn host_values(images: &Tensor) -> Result<Vec<f64>> {
    match images.dtype() {
        // On the host first: not every device has f64.
        DType::F32 | DType::F64 => {
            Ok(images.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        }
        other => Err(Error::DType {
            what: "the images".into(),
            got: format!("{other:?}"),
            expected: "F32 or F64".into(),
        }),
    }
}

fn shape_error(images: &Tensor) -> Error {
    Error::Shape {
        what: "the images".into(),
        got: images.dims().to_vec(),
        expected: "(batch, channels, height, width) with 1 or 3 channels and no dimension of 0"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u8 = GAP_VALUE;

    fn images(values: &[f32], shape: (usize, usize, usize, usize)) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, shape, &Device::Cpu)?)
    }

    #[test]
    fn grey_images_lie_row_by_row_with_gaps() -> Result<()> {
        // Three images of 1 x 2 on two columns: the fourth place stays grey.
        let x = images(&[-1.0, 1.0, 0.0, -2.0, 5.0, -0.5], (3, 1, 1, 2))?;
        let picture = image_grid(&x, 2)?;
        assert_eq!((picture.width(), picture.height(), picture.channels()), (6, 4, 1));
        #[rustfmt::skip]
        let expected = [
            0, 255,  G, G, 128, 0,
            G, G,    G, G, G, G,
            G, G,    G, G, G, G,
            255, 64, G, G, G, G,
        ];
        assert_eq!(picture.pixels(), expected);
        Ok(())
    }

    #[test]
    fn rgb_planes_are_interleaved() -> Result<()> {
        let x = images(&[-1.0, 1.0, 0.0, -1.0, 1.0, -1.0], (1, 3, 2, 1))?;
        let picture = image_grid(&x, 8)?;
        assert_eq!((picture.width(), picture.height(), picture.channels()), (1, 2, 3));
        assert_eq!(picture.pixels(), [0, 128, 255, 255, 0, 0]);
        Ok(())
    }

    #[test]
    fn f64_and_strided_tensors_give_the_same_picture() -> Result<()> {
        let values: Vec<f32> = (0..24).map(|i| i as f32 / 12.0 - 1.0).collect();
        let x = images(&values, (2, 1, 3, 4))?;
        let turned = x.transpose(2, 3)?.contiguous()?.transpose(2, 3)?;
        let expected = image_grid(&x, 2)?;
        assert_eq!(image_grid(&turned, 2)?, expected);
        assert_eq!(image_grid(&x.to_dtype(DType::F64)?, 2)?, expected);
        Ok(())
    }

    #[test]
    fn unfit_tensors_are_errors_that_name_the_shape() -> Result<()> {
        for dims in [vec![4, 2], vec![1, 2, 4, 4], vec![0, 1, 4, 4], vec![2, 3, 0, 4]] {
            let x = Tensor::zeros(dims.clone(), DType::F32, &Device::Cpu)?;
            let error = image_grid(&x, 2).unwrap_err();
            assert!(matches!(&error, Error::Shape { got, .. } if *got == dims), "{error}");
        }
        let bytes = Tensor::zeros((1, 1, 2, 2), DType::U8, &Device::Cpu)?;
        assert!(matches!(image_grid(&bytes, 2), Err(Error::DType { .. })));
        Ok(())
    }

    #[test]
    fn no_columns_and_nan_are_errors() -> Result<()> {
        let x = images(&[0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0], (1, 1, 2, 3))?;
        assert!(matches!(image_grid(&x, 0), Err(Error::InvalidConfig { .. })));
        let error = image_grid(&x, 1).unwrap_err();
        assert!(
            matches!(&error, Error::NonFiniteData { position, .. } if *position == [0, 0, 1, 1]),
            "{error}"
        );
        Ok(())
    }
}
