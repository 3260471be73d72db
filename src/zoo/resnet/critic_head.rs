//! From a critic's features to scores, conditional or not.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::error::Result;
use crate::layers::Linear;
use crate::second_order::Traced;
use crate::zoo::condition::Condition;

/// `fc(h)`, plus the projection `<embedding(label), h>` in a conditional critic (Miyato and Koyama 2018, equation 3).
#[derive(Debug)]
pub(super) struct Head {
    fc: Linear,
    embedding: Option<Tensor>,
    pub(super) condition: Condition,
}

impl Head {
    pub(super) fn new(features: usize, classes: Option<usize>, vb: VarBuilder) -> Result<Self> {
        let condition = Condition::new(classes)?;
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let embedding = classes.map(|classes| {
            vb.pp("embedding").get_with_hints((classes, features), "weight", normal)
        });
        let fc = Linear::new(features, 1, vb.pp("fc"))?;
        Ok(Self { fc, embedding: embedding.transpose()?, condition })
    }

    /// Scores `(batch, 1)` of features `(batch, features)`.
    pub(super) fn scores(&self, h: &Traced, labels: Option<&Tensor>) -> Result<Traced> {
        self.condition.expect(labels, h.dims()[0])?;
        let scores = h.apply(&self.fc)?;
        match (&self.embedding, labels) {
            (Some(embedding), Some(labels)) => {
                let rows = h.weight(embedding).index_select(&labels.to_device(h.device())?, 0)?;
                scores.add(&h.mul(&h.parameter(&rows))?.sum_keepdim(1)?)
            }
            _ => Ok(scores),
        }
    }
}
