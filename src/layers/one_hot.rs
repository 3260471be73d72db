//! Class labels as tensors.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Holds the labels of `owner`, a layer or a model, to be `(batch,)`, of whole numbers below `classes`.
pub(crate) fn check_labels(
    owner: &str,
    labels: &Tensor,
    batch: usize,
    classes: usize,
) -> Result<()> {
    if labels.dtype() != DType::U32 {
        return Err(Error::DType {
            what: format!("the batch of labels of {owner}"),
            got: format!("{:?}", labels.dtype()),
            expected: "U32".into(),
        });
    }
    if labels.dims() != [batch] {
        return Err(Error::Shape {
            what: format!("the batch of labels of {owner}"),
            got: labels.dims().to_vec(),
            expected: format!("({batch},), one label a sample"),
        });
    }
    match labels.to_vec1::<u32>()?.into_iter().find(|&label| label as usize >= classes) {
        Some(label) => {
            let expected = format!("less than {classes}, the number of classes");
            Err(Error::config(format!("a label of {owner}"), label, expected))
        }
        None => Ok(()),
    }
}

/// Labels `(batch,)` as rows `(batch, classes)` of zeros with a single one, in the type and on the device of `like`. They must have been checked.
pub(crate) fn one_hot(labels: &Tensor, classes: usize, like: &Tensor) -> Result<Tensor> {
    let labels = labels.to_device(like.device())?;
    let numbers = Tensor::arange(0, classes as u32, like.device())?.unsqueeze(0)?;
    Ok(labels.unsqueeze(1)?.broadcast_eq(&numbers)?.to_dtype(like.dtype())?)
}
