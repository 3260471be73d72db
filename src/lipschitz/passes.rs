//! What a gradient penalty costs, counted.

use candle_core::{DType, Device, Tensor};

use super::Lipschitz;
use crate::critic::Critic;
use crate::error::Result;
use crate::losses::{Batching, critic_loss, wasserstein_estimate, wasserstein_estimate_keeping};
use crate::network::{ModelBuilder, Network};
use crate::ops::count::counted;
use crate::random::Stream;
use crate::second_order::AtSamples;
use crate::zoo::{
    CriticNorm, DcganCritic, DcganCriticConfig, MlpCritic, MlpCriticConfig, ResNet32Config,
    ResNet32Critic,
};

/// Convolutions and matrix products of the forward pass over real and generated samples, of the penalty, of the same in a
/// training step, and of the backward pass to the critic's parameters: the table in the docs of [`crate::second_order`].
///
/// On one thread, which is where they are counted.
fn passes<C: Critic + Sync>(critic: &Network<C>, shape: &[usize]) -> Result<[(usize, usize); 4]> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    pool.install(|| passes_here(critic, shape))
}

fn passes_here<C: Critic>(critic: &Network<C>, shape: &[usize]) -> Result<[(usize, usize); 4]> {
    let draw = |name: &str| {
        let shape = [&[4], shape].concat();
        Stream::new(0, name, 0).normal(shape, DType::F32, &Device::Cpu)
    };
    let (real, fake) = (draw("real")?, draw("fake")?);
    let epsilon = Tensor::new(&[0.1f32, 0.4, 0.6, 0.9], &Device::Cpu)?;
    let model = critic.model();
    let (estimate, forward) =
        counted(|| wasserstein_estimate(model, &real, &fake, Batching::Together));
    let (penalty, of_penalty) =
        counted(|| Lipschitz::gradient_penalty().penalty(model, &real, &fake, Some(&epsilon)));
    let loss = critic_loss(&estimate?, penalty?.as_ref())?;
    let (gradients, backward) = counted(|| loss.backward());
    let gradients = gradients?;
    assert!(critic.parameters().trained().all(|(_, var)| gradients.get(var).is_some()));
    // In a training step the penalty knows what the first layer made of the samples.
    let at_samples = &AtSamples::default();
    let (samples, epsilon) = ((&real, &fake), Some(&epsilon));
    wasserstein_estimate_keeping(model, samples, Batching::Together, Some(at_samples))?;
    let knowing = |strategy: Lipschitz, at_samples| -> Result<_> {
        let (penalty, passes) =
            counted(|| strategy.penalty_knowing(model, samples, epsilon, at_samples));
        Ok((penalty?.expect("a penalty").detach().to_scalar::<f32>()?, passes))
    };
    let [(computed, of_penalty_again), (known, in_training)] = [
        knowing(Lipschitz::gradient_penalty(), None)?,
        knowing(Lipschitz::gradient_penalty(), Some(at_samples))?,
    ];
    assert_eq!(of_penalty_again, of_penalty);
    assert!((known - computed).abs() <= 1e-5 * computed.abs(), "{known} for {computed}");
    // At the samples themselves it is known to the bit.
    let [(computed, all), (known, fewer)] = [
        knowing(Lipschitz::divergence_tutorials(), None)?,
        knowing(Lipschitz::divergence_tutorials(), Some(at_samples))?,
    ];
    assert_eq!((known.to_bits(), all), (computed.to_bits(), of_penalty));
    assert_eq!(fewer, in_training);
    Ok([forward, of_penalty, in_training, backward])
}

/// PyTorch's counts for the same steps, by `tests/pytorch/model_training.py`.
fn pytorch(model: &str) -> [(u64, u64); 3] {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pytorch/counts.json");
    let counts: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    ["forward", "penalty", "backward"].map(|phase| {
        let count = |what: &str| counts[model]["phases"][phase][what].as_u64().unwrap();
        (count("convolutions"), count("matrix_products"))
    })
}

#[test]
fn pytorchs_counts_are_those_of_the_docs() {
    assert_eq!(pytorch("mlp"), [(0, 3), (0, 6), (0, 13)]);
    assert_eq!(pytorch("dcgan32"), [(4, 0), (8, 0), (20, 0)]);
    assert_eq!(pytorch("resnet32"), [(10, 1), (20, 2), (56, 3)]);
}

#[test]
fn a_penalty_costs_what_the_docs_say() -> Result<()> {
    let build = ModelBuilder::new(0);
    let mlp = build.critic(|vb| MlpCritic::new(MlpCriticConfig::default(), vb))?;
    assert_eq!(passes(&mlp, &[1, 28, 28])?, [(0, 3), (0, 6), (0, 5), (0, 10)]);
    let config = DcganCriticConfig {
        image_size: 32,
        channels: 1,
        width: 4,
        norm: CriticNorm::None,
        ..Default::default()
    };
    let dcgan = build.critic(|vb| DcganCritic::new(config, vb))?;
    assert_eq!(passes(&dcgan, &[1, 32, 32])?, [(4, 0), (8, 0), (8, 0), (14, 0)]);
    let config = ResNet32Config { width: 4, ..Default::default() };
    let resnet = build.critic(|vb| ResNet32Critic::new(config, vb))?;
    assert_eq!(passes(&resnet, &[3, 32, 32])?, [(10, 1), (20, 2), (20, 2), (38, 3)]);
    Ok(())
}
