//! Reading the gradient that passes a point of the tape.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor};

use crate::ops;

/// Notes the mean length of the samples' gradients when a backward pass shows them to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct GradientProbe(Arc<Mutex<Option<Tensor>>>);

impl GradientProbe {
    /// What looks at the gradients of a batch of samples.
    pub(crate) fn looking(&self) -> impl Fn(&Tensor) -> Result<()> + Send + Sync + 'static {
        let noted = self.0.clone();
        move |gradient| {
            let norm = ops::sqr(&gradient.flatten_from(1)?)?.sum(1)?.sqrt()?.mean_all()?;
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(norm);
            Ok(())
        }
    }

    /// The mean over the batch of the length of each sample's gradient, a scalar; `None` before a backward pass.
    pub(crate) fn mean_norm(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
