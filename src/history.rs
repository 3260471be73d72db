//! What a run leaves behind for each generator step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The figures of one generator step and of the last critic step before it.
///
/// Signs are the paper's (WGAN, equation 2 and Algorithm 1), the same everywhere in this crate:
///
/// | figure | definition |
/// |---|---|
/// | `wasserstein_estimate` | mean f(real) - mean f(fake) |
/// | `critic_loss` | -`wasserstein_estimate` + `penalty`, which the critic minimises |
/// | `generator_loss` | -mean f(G(z)), which the generator minimises |
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Generator steps done, counted from 1.
    pub step: u64,
    /// mean f(real) - mean f(fake) in the last critic step: the Wasserstein distance up to the critic's
    /// Lipschitz constant.
    pub wasserstein_estimate: f64,
    /// What the critic minimised in its last step.
    pub critic_loss: f64,
    /// The Lipschitz strategy's share of `critic_loss`; 0 under weight clipping.
    pub penalty: f64,
    /// What the generator minimised.
    pub generator_loss: f64,
    /// Mean over the generator's batch of the length of the critic's gradient at the generated samples,
    /// ||grad f(G(z))||: the size of the signal that reaches the generator. Near 1 under a gradient penalty;
    /// far below 1 where weight clipping starves the generator.
    pub gradient_norm: f64,
    /// Wall-clock seconds of training until this step, over all calls of `fit`.
    pub seconds: f64,
    /// What observers measured after this step, by name, such as `frechet_distance (mnist-cnn-1)`; nothing after most steps.
    /// See [`Scores`](crate::observers::Scores).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
}

/// The records of a run, one a generator step, oldest first.
pub type History = Vec<Record>;
