//! Class labels as tensors.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Holds labels to be `(batch,)`, of whole numbers below `classes`.
pub(crate) fn check_labels(labels: &Tensor, batch: usize, classes: usize) -> Result<()> {
    if labels.dtype() != DType::U32 {
        return Err(Error::DType {
            what: "the batch of labels".into(),
            got: format!("{:?}", labels.dtype()),
            expected: "U32".into(),
        });
    }
    if labels.dims() != [batch] {
        return Err(Error::Shape {
            what: "the batch of labels".into(),
            got: labels.dims().to_vec(),
            expected: format!("({batch},), one label a sample"),
        });
    }
    match labels.to_vec1::<u32>()?.into_iter().find(|&label| label as usize >= classes) {
        Some(label) => {
            let expected = format!("less than {classes}, the number of classes");
            Err(Error::config("a label", label, expected))
        }
        None => Ok(()),
    }
}

/// Labels `(batch,)` as rows `(batch, classes)` of zeros with a single one, in the type and on the device of `like`.
pub(crate) fn one_hot(labels: &Tensor, classes: usize, like: &Tensor) -> Result<Tensor> {
    let batch = labels.dims().first().copied().unwrap_or_default();
    check_labels(labels, batch, classes)?;
    let labels = labels.to_device(like.device())?;
    let numbers = Tensor::arange(0, classes as u32, like.device())?.unsqueeze(0)?;
    Ok(labels.unsqueeze(1)?.broadcast_eq(&numbers)?.to_dtype(like.dtype())?)
}
