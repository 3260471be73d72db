//! A finite set of points, as every measure here takes it.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Points of a Euclidean space, `(points, dimensions)`, in `f64`; at least one, all finite.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use wgan::metrics::Points;
/// # fn main() -> wgan::Result<()> {
/// let images = Tensor::zeros((10, 1, 28, 28), candle_core::DType::F32, &Device::Cpu)?;
/// let points = Points::from_tensor(&images)?;
/// assert_eq!((points.len(), points.dims()), (10, 784));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    values: Vec<f64>,
    dims: usize,
}

impl Points {
    /// Points that lie one after the other in `values`, `dims` numbers each.
    ///
    /// # Errors
    /// [`Error::Shape`] where `values` is empty or no multiple of `dims`; [`Error::NonFiniteData`] with the first NaN or
    /// infinity and its index.
    pub fn new(values: Vec<f64>, dims: usize) -> Result<Self> {
        if values.is_empty() || dims == 0 || !values.len().is_multiple_of(dims) {
            return Err(Error::Shape {
                what: format!("the values of points of {dims} dimensions"),
                got: vec![values.len()],
                expected: "a positive multiple of the number of dimensions, which is at least 1"
                    .into(),
            });
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::NonFiniteData {
                what: "the set of points".into(),
                value: values[at],
                position: vec![at / dims, at % dims],
            });
        }
        Ok(Self { values, dims })
    }

    /// One point for each sample that dimension 0 counts, `(samples, ...)`, all else flattened; from any device.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor without dimensions or without elements; [`Error::NonFiniteData`] with the first NaN
    /// or infinity; candle's if the values cannot be read.
    pub fn from_tensor(samples: &Tensor) -> Result<Self> {
        if samples.rank() == 0 || samples.elem_count() == 0 {
            return Err(Error::Shape {
                what: "the tensor of points".into(),
                got: samples.dims().to_vec(),
                expected: "(samples, ...) with at least one element".into(),
            });
        }
        let values = samples.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let dims = values.elem_count() / samples.dims()[0];
        Self::new(values.flatten_all()?.to_vec1()?, dims)
    }

    /// The number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.dims
    }

    /// Never: there is at least one point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The number of dimensions.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// All coordinates, one point after the other.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The points, in order.
    pub fn iter(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.dims)
    }
}

impl<'a> IntoIterator for &'a Points {
    type Item = &'a [f64];
    type IntoIter = std::slice::ChunksExact<'a, f64>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_set_of_points_is_refused() {
        for (values, dims) in [(vec![], 2), (vec![1.0], 0), (vec![1.0, 2.0, 3.0], 2)] {
            assert!(matches!(Points::new(values, dims), Err(Error::Shape { .. })));
        }
        let Err(Error::NonFiniteData { position, .. }) =
            Points::new(vec![0.0, 1.0, 2.0, f64::NAN], 2)
        else {
            panic!("NaN was taken");
        };
        assert_eq!(position, [1, 1]);
    }

    #[test]
    fn a_tensor_is_read_sample_by_sample_whatever_its_strides() {
        let turned =
            Tensor::new(&[[0f32, 1.0, 2.0], [3.0, 4.0, 5.0]], &Device::Cpu).unwrap().t().unwrap();
        let points = Points::from_tensor(&turned).unwrap();
        assert_eq!(points.iter().collect::<Vec<_>>(), [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
        assert!(Points::from_tensor(&Tensor::new(1f32, &Device::Cpu).unwrap()).is_err());
    }
}
