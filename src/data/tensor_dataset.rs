//! A data set that lies in memory.

use candle_core::{DType, Device, Tensor};

use super::Dataset;
use crate::error::{Error, Result};
use crate::ops::gathered;

/// Samples that lie in one tensor on the CPU, with or without labels.
///
/// A clone shares the samples' memory.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use wgan::data::{Dataset, TensorDataset};
/// # fn main() -> wgan::Result<()> {
/// let samples = Tensor::new(&[[0f32, 1.0], [2.0, 3.0], [4.0, 5.0]], &Device::Cpu)?;
/// let points = TensorDataset::new(samples)?.with_labels(vec![7, 8, 9])?;
/// assert_eq!(points.len(), 3);
/// assert_eq!(points.sample_shape(), [2]);
/// assert_eq!(points.batch(&[2, 0])?.to_vec2::<f32>()?, [[4.0, 5.0], [0.0, 1.0]]);
/// assert_eq!(points.take(2)?.labels(), Some(&[7, 8][..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TensorDataset {
    samples: Tensor,
    labels: Option<Vec<u32>>,
}

impl TensorDataset {
    /// A data set of the samples that dimension 0 counts, such as `(samples, channels, height,
    /// width)`.
    ///
    /// The tensor is brought to the CPU where it is not there yet. It may hold no sample at all.
    ///
    /// # Errors
    /// [`Error::DType`] for a type other than `f32` and `f64`; [`Error::Shape`] for a tensor
    /// without dimensions; [`Error::NonFiniteData`] with the first NaN or infinity and its index.
    pub fn new(samples: Tensor) -> Result<Self> {
        let what = || "the tensor of samples".to_string();
        if !matches!(samples.dtype(), DType::F32 | DType::F64) {
            return Err(Error::DType {
                what: what(),
                got: format!("{:?}", samples.dtype()),
                expected: "F32 or F64".into(),
            });
        }
        if samples.rank() == 0 {
            return Err(Error::Shape {
                what: what(),
                got: Vec::new(),
                expected: "at least one dimension, the first of which counts the samples".into(),
            });
        }
        let samples = samples.detach().to_device(&Device::Cpu)?.contiguous()?;
        let dataset = Self { samples, labels: None };
        dataset.ensure_finite()?;
        Ok(dataset)
    }

    /// Gives each sample a label, in the samples' order.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one label for each sample.
    pub fn with_labels(mut self, labels: Vec<u32>) -> Result<Self> {
        if labels.len() != self.len() {
            return Err(Error::Shape {
                what: "the list of labels".into(),
                got: vec![labels.len()],
                expected: format!("[{}], one label for each sample", self.len()),
            });
        }
        self.labels = Some(labels);
        Ok(self)
    }

    /// The first `count` samples with their labels, or all of them where there are fewer.
    ///
    /// The samples that are left out stay in memory.
    ///
    /// # Errors
    /// Candle's, if the tensor cannot be narrowed.
    pub fn take(mut self, count: usize) -> Result<Self> {
        let count = count.min(self.len());
        self.samples = self.samples.narrow(0, 0, count)?;
        if let Some(labels) = &mut self.labels {
            labels.truncate(count);
        }
        Ok(self)
    }

    /// All samples, as `(samples, ...sample_shape)` on the CPU.
    #[must_use]
    pub fn samples(&self) -> &Tensor {
        &self.samples
    }

    /// The labels, one for each sample, where there are any.
    #[must_use]
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    fn check_indices(&self, indices: &[usize]) -> Result<()> {
        match indices.iter().find(|&&index| index >= self.len()) {
            Some(index) => {
                let expected = format!("less than {}, the number of samples", self.len());
                Err(Error::config("sample index", index, expected))
            }
            None => Ok(()),
        }
    }
}

impl Dataset for TensorDataset {
    fn len(&self) -> usize {
        self.samples.dims()[0]
    }

    fn sample_shape(&self) -> &[usize] {
        &self.samples.dims()[1..]
    }

    fn dtype(&self) -> DType {
        self.samples.dtype()
    }

    fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        self.check_indices(indices)?;
        Ok(gathered(&self.samples, indices)?)
    }

    fn label_batch(&self, indices: &[usize]) -> Result<Option<Tensor>> {
        self.check_indices(indices)?;
        let Some(labels) = &self.labels else {
            return Ok(None);
        };
        let of_batch: Vec<u32> = indices.iter().map(|&index| labels[index]).collect();
        Ok(Some(Tensor::from_vec(of_batch, indices.len(), &Device::Cpu)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0, 1, 2, ... in this shape.
    fn counting(shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product::<usize>() as f64;
        Ok(Tensor::arange(0.0, count, &Device::Cpu)?.reshape(shape)?.to_dtype(dtype)?)
    }

    #[test]
    fn a_batch_is_what_index_select_gives() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let whole = counting(&[7, 2, 5], dtype)?;
            let cases = [
                whole.clone(),
                whole.narrow(0, 2, 5)?,
                whole.transpose(1, 2)?,
                whole.transpose(0, 2)?,
                whole.flatten_all()?,
            ];
            for samples in cases {
                let dataset = TensorDataset::new(samples.clone())?;
                let batch = dataset.batch(&[4, 0, 4, 1])?;
                let ids = Tensor::new(&[4u32, 0, 4, 1], &Device::Cpu)?;
                let expected = samples.contiguous()?.index_select(&ids, 0)?;
                assert_eq!(batch.dims(), expected.dims());
                assert_eq!(batch.dtype(), dtype);
                let flat = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
                assert_eq!(flat(&batch)?, flat(&expected)?);
            }
        }
        Ok(())
    }

    #[test]
    fn an_index_out_of_range_is_named() -> Result<()> {
        let dataset = TensorDataset::new(counting(&[3, 2], DType::F32)?)?;
        let message = dataset.batch(&[0, 3]).expect_err("there is no sample 3").to_string();
        assert_eq!(message, "sample index is 3; expected less than 3, the number of samples");
        // The memory behind a shortened set still holds sample 2.
        assert!(dataset.take(2)?.batch(&[2]).is_err());
        Ok(())
    }

    #[test]
    fn no_samples_and_no_indices_are_fine() -> Result<()> {
        let none = TensorDataset::new(Tensor::zeros((0, 1, 4, 4), DType::F32, &Device::Cpu)?)?;
        assert!(none.is_empty());
        assert_eq!(none.batch(&[])?.dims(), [0, 1, 4, 4]);
        assert!(none.batch(&[0]).is_err());
        let hollow = TensorDataset::new(Tensor::zeros((3, 0), DType::F64, &Device::Cpu)?)?;
        assert_eq!(hollow.batch(&[2, 1])?.dims(), [2, 0]);
        Ok(())
    }

    #[test]
    fn only_finite_floats_with_a_dimension_are_taken() -> Result<()> {
        let refused = |samples| TensorDataset::new(samples).expect_err("not a data set");
        let bytes = Tensor::zeros((2, 2), DType::U8, &Device::Cpu)?;
        assert!(matches!(refused(bytes), Error::DType { got, .. } if got == "U8"));
        let half = Tensor::zeros((2, 2), DType::BF16, &Device::Cpu)?;
        assert!(matches!(refused(half), Error::DType { .. }));
        let scalar = Tensor::new(1f32, &Device::Cpu)?;
        assert!(matches!(refused(scalar), Error::Shape { .. }));
        let bad = Tensor::new(&[[0f32, 1.0], [2.0, f32::NEG_INFINITY]], &Device::Cpu)?;
        let error = refused(bad);
        assert!(
            matches!(&error, Error::NonFiniteData { value, position, .. }
                if *value == f64::NEG_INFINITY && position == &[1, 1]),
            "{error:?}"
        );
        Ok(())
    }

    #[test]
    fn labels_go_with_their_samples() -> Result<()> {
        let dataset = TensorDataset::new(counting(&[3, 2], DType::F32)?)?;
        assert_eq!(dataset.labels(), None);
        let error = dataset.clone().with_labels(vec![1, 2]).expect_err("one label is missing");
        assert!(matches!(error, Error::Shape { got, .. } if got == [2]));
        let two = dataset.with_labels(vec![5, 6, 7])?.take(2)?;
        assert_eq!((two.len(), two.labels()), (2, Some(&[5, 6][..])));
        assert_eq!(two.samples().dims(), [2, 2]);
        let batch = two.label_batch(&[1, 0, 1])?.expect("labelled");
        assert_eq!(batch.to_vec1::<u32>()?, [6, 5, 6]);
        assert!(two.label_batch(&[2]).is_err());
        assert_eq!(two.take(9)?.len(), 2);
        Ok(())
    }

    #[test]
    fn samples_carry_no_gradient_history() -> Result<()> {
        let var = candle_core::Var::from_tensor(&counting(&[3, 2], DType::F32)?)?;
        let dataset = TensorDataset::new(var.affine(2.0, 0.0)?)?;
        assert!(!dataset.samples().track_op());
        assert!(!TensorDataset::new(var.as_tensor().clone())?.samples().track_op());
        Ok(())
    }
}
