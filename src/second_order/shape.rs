//! Operations that move, join and sum elements.

use candle_core::Tensor;
use candle_core::shape::{Dim, Dims, Shape, ShapeWithOneHole};

use super::Traced;
use super::tape::pull_back;
use crate::error::{Error, Result};

impl Traced {
    /// This tensor as `value`, the same elements in another shape.
    fn in_shape(&self, value: Tensor) -> Self {
        let from = self.raw().shape().clone();
        let rows = self.rows().filter(|_| value.dims().first() == self.dims().first()).cloned();
        self.unary(value, move |g| g.reshape(&from)).with_rows(rows)
    }

    /// The same elements in another shape; one dimension may be left out as `()`.
    ///
    /// # Errors
    /// Candle's where the number of elements differs.
    pub fn reshape(&self, shape: impl ShapeWithOneHole) -> Result<Self> {
        Ok(self.in_shape(self.raw().reshape(shape)?))
    }

    /// Joins the dimensions from `start_dim` on into one: `flatten_from(1)` makes `(batch, features)`.
    ///
    /// # Errors
    /// Candle's where there is no such dimension.
    pub fn flatten_from(&self, start_dim: impl Dim) -> Result<Self> {
        Ok(self.in_shape(self.raw().flatten_from(start_dim)?))
    }

    /// Adds a dimension of size 1.
    ///
    /// # Errors
    /// Candle's where the dimension is out of range.
    pub fn unsqueeze(&self, dim: impl Dim) -> Result<Self> {
        Ok(self.in_shape(self.raw().unsqueeze(dim)?))
    }

    /// Removes a dimension if its size is 1.
    ///
    /// # Errors
    /// Candle's where there is no such dimension.
    pub fn squeeze(&self, dim: impl Dim) -> Result<Self> {
        Ok(self.in_shape(self.raw().squeeze(dim)?))
    }

    /// The same tensor, its elements in row-major order in memory.
    ///
    /// # Errors
    /// Candle's where the copy fails.
    pub fn contiguous(&self) -> Result<Self> {
        Ok(self.unary(self.raw().contiguous()?, |g| Ok(g.clone())))
    }

    /// Swaps two dimensions.
    ///
    /// # Errors
    /// Candle's where there is no such dimension.
    pub fn transpose(&self, dim1: impl Dim, dim2: impl Dim) -> Result<Self> {
        let shape = self.raw().shape();
        let (a, b) = (dim1.to_index(shape, "transpose")?, dim2.to_index(shape, "transpose")?);
        Ok(self.unary(self.raw().transpose(a, b)?, move |g| g.transpose(a, b)))
    }

    /// The dimensions in another order: `permute(&[0, 2, 3, 1])` makes `(batch, height, width, channels)`.
    ///
    /// # Errors
    /// Candle's where `order` does not name each dimension once.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        let value = self.raw().permute(order)?;
        let mut back = vec![0; order.len()];
        for (to, &from) in order.iter().enumerate() {
            back[from] = to;
        }
        Ok(self.unary(value, move |g| g.permute(&back)))
    }

    /// `len` elements of a dimension, from `start` on.
    ///
    /// # Errors
    /// Candle's where they lie outside the tensor.
    pub fn narrow(&self, dim: impl Dim, start: usize, len: usize) -> Result<Self> {
        let dim = dim.to_index(self.raw().shape(), "narrow")?;
        let value = self.raw().narrow(dim, start, len)?;
        let after = self.dims()[dim] - start - len;
        Ok(self.unary(value, move |g| g.pad_with_zeros(dim, start, after)))
    }

    /// The tensor with this many zeros before and after it along a dimension.
    ///
    /// # Errors
    /// Candle's where there is no such dimension.
    pub fn pad_with_zeros(&self, dim: impl Dim, before: usize, after: usize) -> Result<Self> {
        let dim = dim.to_index(self.raw().shape(), "pad_with_zeros")?;
        let len = self.dims()[dim];
        let value = self.raw().pad_with_zeros(dim, before, after)?;
        Ok(self.unary(value, move |g| g.narrow(dim, before, len)))
    }

    /// Joins tensors along a dimension.
    ///
    /// # Errors
    /// Candle's where there are none or their other dimensions differ.
    pub fn cat(tensors: &[&Self], dim: impl Dim) -> Result<Self> {
        let values: Vec<&Tensor> = tensors.iter().map(|tensor| tensor.raw()).collect();
        let dim = match values.first() {
            Some(first) => dim.to_index(first.shape(), "cat")?,
            None => 0, // candle refuses to join nothing
        };
        let value = Tensor::cat(&values, dim)?;
        let mut start = 0;
        let operands = tensors.iter().map(|&tensor| {
            let (from, len) = (start, tensor.dims()[dim]);
            start += len;
            (tensor, pull_back(move |g| g.narrow(dim, from, len)))
        });
        Ok(Self::from_operands(value, operands.collect::<Vec<_>>()))
    }

    /// The sum over some dimensions, which stay with size 1.
    ///
    /// # Errors
    /// Candle's where there is no such dimension.
    pub fn sum_keepdim(&self, dims: impl Dims) -> Result<Self> {
        let from = self.raw().shape().clone();
        let value = self.raw().sum_keepdim(dims)?;
        Ok(self.unary(value, move |g| g.broadcast_as(from.dims())))
    }

    /// The sum over some dimensions, which are removed.
    ///
    /// # Errors
    /// Candle's where there is no such dimension.
    pub fn sum(&self, dims: impl Dims) -> Result<Self> {
        let dims = dims.to_indexes(self.raw().shape(), "sum")?;
        let kept: Vec<usize> =
            (0..self.dims().len()).filter(|d| !dims.contains(d)).map(|d| self.dims()[d]).collect();
        self.sum_keepdim(dims)?.reshape(Shape::from(kept))
    }

    /// The mean over some dimensions, which stay with size 1.
    ///
    /// # Errors
    /// [`Error::Shape`] for a mean over no elements; candle's where there is no such dimension.
    pub fn mean_keepdim(&self, dims: impl Dims) -> Result<Self> {
        let dims = dims.to_indexes(self.raw().shape(), "mean")?;
        let scale = self.mean_scale(&dims)?;
        self.sum_keepdim(dims)?.affine(scale, 0.0)
    }

    /// The mean over some dimensions, which are removed.
    ///
    /// # Errors
    /// [`Error::Shape`] for a mean over no elements; candle's where there is no such dimension.
    pub fn mean(&self, dims: impl Dims) -> Result<Self> {
        let dims = dims.to_indexes(self.raw().shape(), "mean")?;
        let scale = self.mean_scale(&dims)?;
        self.sum(dims)?.affine(scale, 0.0)
    }

    /// The sum of all elements, a scalar.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn sum_all(&self) -> Result<Self> {
        self.sum((0..self.dims().len()).collect::<Vec<_>>())
    }

    /// The mean of all elements, a scalar.
    ///
    /// # Errors
    /// [`Error::Shape`] for a mean over no elements.
    pub fn mean_all(&self) -> Result<Self> {
        self.mean((0..self.dims().len()).collect::<Vec<_>>())
    }

    fn mean_scale(&self, dims: &[usize]) -> Result<f64> {
        match dims.iter().map(|&d| self.dims()[d]).product::<usize>() {
            0 => Err(Error::Shape {
                what: "the tensor of a mean".into(),
                got: self.dims().to_vec(),
                expected: "at least one element to average".into(),
            }),
            count => Ok(1.0 / count as f64),
        }
    }
}
