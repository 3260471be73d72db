//! Candle's own threads sleep through a run of ready-made models on the CPU, with optimisers that clip no gradients.
//!
//! Its larger elementwise operations, from 64 K elements on, have a pool, whose threads, once there are any, look for work in a loop
//! on the cores that the kernels' helpers want. They are made for the first such operation, so none of a run's may be one. A file of
//! its own, as all that its process does counts.

#![cfg(target_os = "linux")]

use std::fs;

use candle_core::{DType, Device, Tensor};
use wgan::data::TensorDataset;
use wgan::random::Stream;
use wgan::zoo::{
    CriticNorm, DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig, MlpCritic,
    MlpGenerator,
};
use wgan::{Critic, Generator, Lipschitz, ModelBuilder, Network, TrainConfig, WganTrainer};

fn train<G: Generator, C: Critic>(
    generator: Network<G>,
    critic: Network<C>,
    lipschitz: Lipschitz,
    data: &TensorDataset,
) {
    let config = match lipschitz {
        Lipschitz::Clip { .. } => TrainConfig::wgan(),
        _ => TrainConfig::wgan_gp(),
    };
    // A batch of samples has 100 K elements.
    let config =
        TrainConfig { batch_size: 128, n_critic: 2, generator_steps: 2, lipschitz, ..config };
    WganTrainer::new(generator, critic, config).unwrap().fit(data).unwrap();
}

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    tasks.filter_map(|task| name(task.ok()?)).collect()
}

fn of_candle() -> bool {
    threads().iter().any(|name| name.starts_with("candle-bp"))
}

#[test]
fn no_step_wakes_candles_threads() {
    let size = (256, 1, 28, 28);
    let samples = Stream::new(0, "data", 0).uniform(-1.0, 1.0, size, DType::F32, &Device::Cpu);
    let data = TensorDataset::new(samples.unwrap()).unwrap();
    let build = ModelBuilder::new(0);
    for lipschitz in [
        Lipschitz::Clip { c: 0.01 },
        Lipschitz::GradientPenalty { lambda: 10.0, target: 1.0, sides: wgan::Sides::Two },
        Lipschitz::Divergence { k: 2.0, p: 6.0, points: wgan::PenaltyPoints::RealAndFake },
    ] {
        let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb)).unwrap();
        let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb)).unwrap();
        train(generator, critic, lipschitz, &data);
        assert!(!of_candle(), "the MLP under {lipschitz:?}: {:?}", threads());

        let (size, channels, width) = (28, 1, 16);
        let generator =
            DcganGeneratorConfig { image_size: size, channels, width, ..Default::default() };
        let critic = DcganCriticConfig {
            image_size: size,
            channels,
            width,
            norm: CriticNorm::None,
            ..Default::default()
        };
        let generator = build.generator(|vb| DcganGenerator::new(generator, vb)).unwrap();
        let critic = build.critic(|vb| DcganCritic::new(critic, vb)).unwrap();
        train(generator, critic, lipschitz, &data);
        assert!(!of_candle(), "DCGAN under {lipschitz:?}: {:?}", threads());
    }
    // They would have been seen, unless candle was told, or found, that it has one thread only.
    let large = Tensor::ones((1000, 1000), DType::F32, &Device::Cpu).unwrap();
    large.tanh().unwrap();
    let alone = candle_core::utils::get_num_threads() == 1
        || std::env::var("CANDLE_NUM_THREADS").is_ok_and(|threads| threads == "1");
    assert!(of_candle() || alone, "{:?}", threads());
}
