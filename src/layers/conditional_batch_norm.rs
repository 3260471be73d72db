//! Batch normalisation with a weight and a bias for each class.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use super::{batch_norm::Running, check_labels, check_weight};
use crate::error::Result;
use crate::second_order::Traced;

/// Batch normalisation whose weight and bias depend on the sample's class (de Vries et al. 2017), as the WGAN-GP code's
/// conditional ResNet has it: statistics are shared by all classes. `eps` 1e-5, `momentum` 0.1.
///
/// Parameters: `weight` and `bias`, both `(classes, channels)`, 1 and 0 at first; buffers `running_mean` and `running_var`.
#[derive(Debug, Clone)]
pub struct ConditionalBatchNorm {
    running: Running,
    weight: Tensor,
    bias: Tensor,
    classes: usize,
}

impl ConditionalBatchNorm {
    /// A layer over `channels` channels whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for no class or no channel; candle's if a parameter cannot be
    /// made.
    pub fn new(classes: usize, channels: usize, vb: VarBuilder) -> Result<Self> {
        let name = super::name("ConditionalBatchNorm", &vb);
        if classes == 0 {
            return Err(crate::Error::config(format!("classes of {name}"), classes, "1 or more"));
        }
        check_weight(&name, &[classes, channels])?;
        let shape = (classes, channels);
        Ok(Self {
            running: Running::new(channels, name, &vb)?,
            weight: vb.get_with_hints(shape, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(shape, "bias", Init::Const(0.0))?,
            classes,
        })
    }

    /// Normalises `(batch, channels, ...)` and scales each sample as its label `(batch,)`, of type `u32`, says.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) on the terms of [`BatchNorm::forward_t`](super::BatchNorm::forward_t);
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a label that is no class.
    pub fn forward_t(&self, x: &Tensor, labels: &Tensor, train: bool) -> Result<Tensor> {
        Ok(self.forward_traced(&Traced::plain(x), labels, train)?.raw().clone())
    }

    /// The same on a traced tensor, of which no [`gradient`](Traced::gradient) can be taken.
    ///
    /// # Errors
    /// Those of [`forward_t`](Self::forward_t);
    /// [`Error::BatchNormUnderPenalty`](crate::Error::BatchNormUnderPenalty) for what was computed from an input.
    pub fn forward_traced(&self, x: &Traced, labels: &Tensor, train: bool) -> Result<Traced> {
        let batch = x.dims().first().copied().unwrap_or_default();
        check_labels(&self.running.name, labels, batch, self.classes)?;
        let normalised = self.running.normalise_traced(x, train, None)?;
        let labels = labels.to_device(x.device())?;
        let mut dims = vec![1; x.dims().len()];
        dims[..2].copy_from_slice(&x.dims()[..2]);
        let of_sample = |table: &Tensor| -> Result<Traced> {
            let rows = table.index_select(&labels, 0)?.reshape(dims.as_slice())?;
            Ok(x.parameter(&rows))
        };
        let scaled = normalised.broadcast_mul(&of_sample(&self.weight)?)?;
        scaled.broadcast_add(&of_sample(&self.bias)?)
    }
}
