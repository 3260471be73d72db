//! What a data set is known by.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::hex;
use crate::data::Dataset;
use crate::error::Result;

/// How many samples are looked at.
const SAMPLES: usize = 8;

/// Enough to tell a data set from another one without going over all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataIdentity {
    samples: usize,
    sample_shape: Vec<usize>,
    dtype: String,
    /// The SHA-256 of eight samples, spread evenly, and of their labels.
    content: String,
}

impl DataIdentity {
    pub(crate) fn of<D: Dataset + ?Sized>(data: &D) -> Result<Self> {
        let len = data.len();
        let count = len.min(SAMPLES);
        let indices: Vec<usize> =
            (0..count).map(|i| (i as u128 * len as u128 / count as u128) as usize).collect();
        let mut hash = Sha256::new();
        let mut add = |tensor: candle_core::Tensor| {
            hash.update(safetensors::View::data(&tensor.contiguous()?));
            Ok::<_, crate::Error>(())
        };
        if !indices.is_empty() {
            add(data.batch(&indices)?)?;
            data.label_batch(&indices)?.map(&mut add).transpose()?;
        }
        Ok(Self {
            samples: len,
            sample_shape: data.sample_shape().to_vec(),
            dtype: format!("{:?}", data.dtype()),
            content: hex(&hash.finalize()),
        })
    }

    /// What differs from the data of a checkpoint.
    pub(crate) fn differences(&self, checkpoint: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, ours: String, theirs: String| {
            if ours != theirs {
                differences.push(format!("{what} {ours}, in the checkpoint {theirs}"));
            }
        };
        let count = |of: &Self| of.samples.to_string();
        let shape = |of: &Self| format!("{:?} of {}", of.sample_shape, of.dtype);
        compare("the data set's number of samples is", count(self), count(checkpoint));
        compare("the data set's samples are", shape(self), shape(checkpoint));
        if differences.is_empty() && self.content != checkpoint.content {
            differences.push("the data set's samples or labels have other values".into());
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::data::TensorDataset;

    fn data(len: usize, shift: f64, dtype: DType) -> TensorDataset {
        let values = Tensor::arange(0f64, len as f64 * 2.0, &Device::Cpu).unwrap();
        let values = (values + shift).unwrap().to_dtype(dtype).unwrap();
        TensorDataset::new(values.reshape((len, 2)).unwrap()).unwrap()
    }

    #[test]
    fn other_data_is_told() -> Result<()> {
        let identity = |data: &TensorDataset| DataIdentity::of(data);
        let base = data(100, 0.0, DType::F32);
        let first = identity(&base)?;
        assert!(first.differences(&identity(&data(100, 0.0, DType::F32))?).is_empty());
        let labelled = base.clone().with_labels(vec![1; 100])?;
        for (other, expected) in [
            (data(99, 0.0, DType::F32), "samples is 100, in the checkpoint 99"),
            (data(100, 0.0, DType::F64), "[2] of F32, in the checkpoint [2] of F64"),
            (data(100, 1.0, DType::F32), "other values"),
            (labelled.clone(), "other values"),
        ] {
            let differences = first.differences(&identity(&other)?);
            assert!(differences.concat().contains(expected), "{differences:?}");
        }
        let relabelled = base.with_labels(vec![2; 100])?;
        assert_ne!(identity(&labelled)?, identity(&relabelled)?);
        for len in [0, 1, 7, 9] {
            assert_eq!(identity(&data(len, 0.0, DType::F32))?.samples, len);
        }
        Ok(())
    }
}
