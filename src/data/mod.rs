//! Data sets, and the loader that hands out shuffled batches of them.
//!
//! A [`Dataset`] gives samples by index. [`TensorDataset`] holds one in memory, [`mnist`] reads one
//! from the files that MNIST and its kin are distributed in, and any other source is one `impl
//! Dataset` away. [`Loader`] turns a data set into an endless stream of shuffled batches.
//!
//! Everything here lives on the CPU; the trainer moves each batch to its own device.

#[cfg(feature = "idx")]
pub mod idx;
mod loader;
#[cfg(feature = "idx")]
pub mod mnist;
mod tensor_dataset;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

pub use loader::Loader;
pub use tensor_dataset::TensorDataset;

/// Samples of one shape and type that can be had by index.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use wgan::data::Dataset;
///
/// /// The multiples of a step, made when they are asked for.
/// struct Multiples(f32);
///
/// impl Dataset for Multiples {
///     fn len(&self) -> usize {
///         100
///     }
///     fn sample_shape(&self) -> &[usize] {
///         &[1]
///     }
///     fn dtype(&self) -> DType {
///         DType::F32
///     }
///     fn batch(&self, indices: &[usize]) -> wgan::Result<Tensor> {
///         let values: Vec<f32> = indices.iter().map(|&i| i as f32 * self.0).collect();
///         Ok(Tensor::from_vec(values, (indices.len(), 1), &Device::Cpu)?)
///     }
/// }
///
/// # fn main() -> wgan::Result<()> {
/// assert_eq!(Multiples(0.5).batch(&[4, 3])?.to_vec2::<f32>()?, [[2.0], [1.5]]);
/// Multiples(0.5).ensure_finite()?;
/// assert!(Multiples(f32::INFINITY).ensure_finite().is_err());
/// # Ok(())
/// # }
/// ```
pub trait Dataset {
    /// The number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The dimensions of one sample, such as `[1, 28, 28]` for `(channels, height, width)`.
    fn sample_shape(&self) -> &[usize];

    /// The type of the samples' elements.
    fn dtype(&self) -> DType;

    /// The samples with these indices, in this order, as `(indices.len(), ...sample_shape)` on the
    /// CPU: the same at every call, or a run is not reproducible and cannot be resumed.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an index outside `0..len`; whatever keeps the samples from
    /// being read.
    fn batch(&self, indices: &[usize]) -> Result<Tensor>;

    /// The labels `(indices.len(),)` of these samples, of type `u32` on the CPU: what class-conditional models are trained
    /// with. `None`, the default, for a data set without labels.
    ///
    /// # Errors
    /// Those of [`batch`](Self::batch).
    fn label_batch(&self, indices: &[usize]) -> Result<Option<Tensor>> {
        let _ = indices;
        Ok(None)
    }

    /// Goes over all samples once and proves that every value is finite.
    ///
    /// The trainer calls it before its first step: one NaN would spread through the whole model.
    ///
    /// # Errors
    /// [`Error::NonFiniteData`] with the first NaN or infinity and its index, the sample's number
    /// first; those of [`batch`](Self::batch).
    fn ensure_finite(&self) -> Result<()> {
        let sample_len =
            self.sample_shape().iter().fold(1, |len: usize, &dim| len.saturating_mul(dim));
        let batch_size = (MAX_ELEMENTS_CHECKED_AT_ONCE / sample_len.max(1)).clamp(1, 1024);
        for first in (0..self.len()).step_by(batch_size) {
            let last = self.len().min(first.saturating_add(batch_size));
            let batch = self.batch(&(first..last).collect::<Vec<_>>())?;
            if let Some((offset, value)) = first_non_finite(&batch)? {
                let mut position = unravel(offset, batch.dims());
                if let Some(sample) = position.first_mut() {
                    *sample += first;
                }
                let what = "the data set".into();
                return Err(Error::NonFiniteData { what, value, position });
            }
        }
        Ok(())
    }
}

/// Bounds the memory of [`Dataset::ensure_finite`] where samples are large.
const MAX_ELEMENTS_CHECKED_AT_ONCE: usize = 1 << 20;

/// The first NaN or infinity, in row-major order, and its offset.
fn first_non_finite(tensor: &Tensor) -> Result<Option<(usize, f64)>> {
    fn scan<T: Copy + Into<f64>>(values: Vec<T>) -> Option<(usize, f64)> {
        let values = values.into_iter().map(T::into);
        values.enumerate().find(|(_, value)| !value.is_finite())
    }
    let flat = tensor.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F32 => scan(flat.to_vec1::<f32>()?),
        _ => scan(flat.to_dtype(DType::F64)?.to_vec1::<f64>()?),
    })
}

/// The index, in a tensor of these dimensions, of the element at `offset` in row-major order.
fn unravel(mut offset: usize, dims: &[usize]) -> Vec<usize> {
    let mut position = vec![0; dims.len()];
    for (index, &dim) in position.iter_mut().zip(dims).rev() {
        *index = offset % dim;
        offset /= dim;
    }
    position
}

macro_rules! forward_dataset {
    ($($pointer:ty),*) => {$(
        impl<D: Dataset + ?Sized> Dataset for $pointer {
            fn len(&self) -> usize {
                (**self).len()
            }
            fn is_empty(&self) -> bool {
                (**self).is_empty()
            }
            fn sample_shape(&self) -> &[usize] {
                (**self).sample_shape()
            }
            fn dtype(&self) -> DType {
                (**self).dtype()
            }
            fn batch(&self, indices: &[usize]) -> Result<Tensor> {
                (**self).batch(indices)
            }
            fn label_batch(&self, indices: &[usize]) -> Result<Option<Tensor>> {
                (**self).label_batch(indices)
            }
            fn ensure_finite(&self) -> Result<()> {
                (**self).ensure_finite()
            }
        }
    )*};
}

forward_dataset!(&D, Box<D>);

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Samples of shape (2, 3) that are their own number, but for one element.
    struct OneBad {
        position: [usize; 3],
        value: f64,
    }

    impl Dataset for OneBad {
        fn len(&self) -> usize {
            2500
        }
        fn sample_shape(&self) -> &[usize] {
            &[2, 3]
        }
        fn dtype(&self) -> DType {
            DType::F64
        }
        fn batch(&self, indices: &[usize]) -> Result<Tensor> {
            let [sample, row, column] = self.position;
            let mut values = Vec::new();
            for &index in indices {
                let mut one = [index as f64; 6];
                if index == sample {
                    one[row * 3 + column] = self.value;
                }
                values.extend(one);
            }
            Ok(Tensor::from_vec(values, (indices.len(), 2, 3), &Device::Cpu)?)
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_wherever_it_is() {
        for position in [[0, 0, 0], [1023, 1, 2], [1024, 0, 1], [2499, 1, 0]] {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let error = OneBad { position, value: bad }.ensure_finite();
                assert!(
                    matches!(&error, Err(Error::NonFiniteData { position: at, value, .. })
                        if *at == position && value.to_bits() == bad.to_bits()),
                    "{error:?}"
                );
            }
        }
        assert!(OneBad { position: [7, 0, 0], value: 1e300 }.ensure_finite().is_ok());
    }

    #[test]
    fn references_and_boxes_are_data_sets_too() -> Result<()> {
        fn shape_of(dataset: impl Dataset) -> Result<Vec<usize>> {
            dataset.ensure_finite()?;
            Ok(dataset.batch(&[0, 1])?.dims().to_vec())
        }
        let dataset = OneBad { position: [0, 0, 0], value: 0.0 };
        let object: &dyn Dataset = &dataset;
        assert_eq!(shape_of(object)?, [2, 2, 3]);
        assert_eq!(shape_of(Box::new(object) as Box<dyn Dataset>)?, [2, 2, 3]);
        Ok(())
    }
}
