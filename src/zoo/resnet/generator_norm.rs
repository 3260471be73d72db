//! The batch normalisation of a generator, conditional or not.

use candle_core::Tensor;
use candle_nn::{BatchNormConfig, VarBuilder};

use crate::error::{Error, Result};
use crate::layers::{BatchNorm, ConditionalBatchNorm};
use crate::second_order::Traced;

#[derive(Debug, Clone)]
pub(super) enum GeneratorNorm {
    Plain(BatchNorm),
    Conditional(ConditionalBatchNorm),
}

impl GeneratorNorm {
    pub(super) fn new(channels: usize, classes: Option<usize>, vb: VarBuilder) -> Result<Self> {
        Ok(match classes {
            None => Self::Plain(BatchNorm::new(channels, BatchNormConfig::default(), vb)?),
            Some(classes) => Self::Conditional(ConditionalBatchNorm::new(classes, channels, vb)?),
        })
    }

    /// `relu(norm(x))`
    pub(super) fn relu(&self, x: &Traced, labels: Option<&Tensor>, train: bool) -> Result<Traced> {
        let x = match (self, labels) {
            (Self::Plain(norm), None) => norm.forward_traced(x, train)?,
            (Self::Conditional(norm), Some(labels)) => norm.forward_traced(x, labels, train)?,
            (Self::Plain(_), Some(_)) | (Self::Conditional(_), None) => {
                let given = if labels.is_some() { "present" } else { "absent" };
                let expected = "labels for a block that was built with classes, and for no other";
                return Err(Error::config("the batch of labels", given, expected));
            }
        };
        x.relu()
    }
}
