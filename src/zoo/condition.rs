//! Labels on their way into a model.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::layers::{check_labels, one_hot};
use crate::second_order::Traced;

/// How many classes a model distinguishes, if any.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition(Option<usize>);

impl Condition {
    pub(super) fn new(classes: Option<usize>) -> Result<Self> {
        if let Some(classes) = classes {
            super::check_sizes(&[("classes", classes)])?;
        }
        Ok(Self(classes))
    }

    pub(super) fn classes(self) -> Option<usize> {
        self.0
    }

    /// What the labels add to the width of an input that they are concatenated to.
    pub(super) fn width(self) -> usize {
        self.0.unwrap_or(0)
    }

    /// Holds a model to being given labels `(batch,)` exactly where it is conditional.
    pub(super) fn expect(self, labels: Option<&Tensor>, batch: usize) -> Result<()> {
        match (self.0, labels) {
            (None, None) => Ok(()),
            (Some(classes), Some(labels)) => check_labels("the model", labels, batch, classes),
            (Some(classes), None) => Err(Error::config(
                "the batch of labels",
                "absent",
                format!("a label below {classes} with each sample: the model is conditional"),
            )),
            (None, Some(_)) => Err(Error::config(
                "the batch of labels",
                "present",
                "none: the model was built without classes",
            )),
        }
    }

    /// One-hot rows `(batch, classes)` of the labels, where the model is conditional.
    pub(super) fn one_hot(
        self,
        labels: Option<&Tensor>,
        batch: usize,
        like: &Tensor,
    ) -> Result<Option<Tensor>> {
        self.expect(labels, batch)?;
        match (self.0, labels) {
            (Some(classes), Some(labels)) => one_hot(labels, classes, like).map(Some),
            _ => Ok(None),
        }
    }

    /// `(batch, features)` with the one-hot labels behind them, or images `(batch, channels, height, width)`, to which each
    /// class adds a plane of zeros or of ones.
    pub(super) fn append(self, x: &Traced, labels: Option<&Tensor>) -> Result<Traced> {
        let Some(rows) = self.one_hot(labels, x.dims()[0], x.raw())? else {
            return Ok(x.clone());
        };
        let mut dims = x.dims().to_vec();
        dims[1] = rows.dims()[1];
        let mut spread = vec![1; dims.len()];
        spread[..2].copy_from_slice(&dims[..2]);
        let planes = rows.reshape(spread)?.broadcast_as(dims)?.contiguous()?;
        Traced::cat(&[x, &x.parameter(&planes)], 1)
    }
}

/// Implements [`Generator`](crate::Generator) for a model by its `run(latent, labels, train)`, and by where it keeps the size
/// of its latent points and its [`Condition`].
macro_rules! impl_generator {
    ($model:ty, |$self:ident| $parts:expr) => {
        impl crate::generator::Generator for $model {
            fn latent_dim(&self) -> usize {
                let $self = self;
                $parts.0
            }

            fn forward(&self, latent: &Tensor, train: bool) -> Result<Tensor> {
                Ok(self.run(&Traced::plain(latent), None, train)?.raw().clone())
            }

            fn forward_traced(
                &self,
                latent: &Traced,
                labels: Option<&Tensor>,
                train: bool,
            ) -> Result<Traced> {
                self.run(latent, labels, train)
            }

            fn classes(&self) -> Option<usize> {
                let $self = self;
                $parts.1.classes()
            }

            fn forward_conditional(
                &self,
                latent: &Tensor,
                labels: &Tensor,
                train: bool,
            ) -> Result<Tensor> {
                Ok(self.run(&Traced::plain(latent), Some(labels), train)?.raw().clone())
            }

            fn as_sync(&self) -> Option<&(dyn crate::generator::Generator + Sync)> {
                Some(self)
            }
        }
    };
}
pub(super) use impl_generator;

/// Implements [`Critic`](crate::Critic) for a model by its `run(samples, labels)`, and by where it keeps its [`Condition`].
macro_rules! impl_critic {
    ($model:ty, |$self:ident| $condition:expr) => {
        impl crate::critic::Critic for $model {
            fn forward(&self, samples: &Traced) -> Result<Traced> {
                self.run(samples, None)
            }

            fn classes(&self) -> Option<usize> {
                let $self = self;
                $condition.classes()
            }

            fn forward_conditional(&self, samples: &Traced, labels: &Tensor) -> Result<Traced> {
                self.run(samples, Some(labels))
            }
        }
    };
}
pub(super) use impl_critic;
