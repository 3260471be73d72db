//! Whole critic and generator steps of the MNIST recipe: `cargo bench`.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wgan::random::Stream;
use wgan::zoo::{MlpCritic, MlpGenerator};
use wgan::{CriticDraws, ModelBuilder, TrainConfig, WganTrainer};

const LATENT: usize = 100;

fn trainer(config: TrainConfig) -> WganTrainer<MlpGenerator, MlpCritic> {
    let build = ModelBuilder::new(0);
    let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb)).unwrap();
    let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb)).unwrap();
    WganTrainer::new(generator, critic, config).unwrap()
}

fn normal(name: &str, shape: &[usize]) -> Tensor {
    Stream::new(0, name, 0).normal(shape.to_vec(), DType::F32, &Device::Cpu).unwrap()
}

fn steps(criterion: &mut Criterion) {
    for (name, config) in [
        ("clip", TrainConfig::wgan()),
        ("gp", TrainConfig::wgan_gp()),
        ("div", TrainConfig::wgan_div()),
    ] {
        let mut group = criterion.benchmark_group(format!("mlp/{name}"));
        group.sample_size(30);
        for batch in [64, 256] {
            let mut trainer = trainer(config.clone());
            let latent = normal("latent", &[batch, LATENT]);
            let epsilon =
                Stream::new(0, "epsilon", 0).uniform(0.0, 1.0, batch, DType::F32, &Device::Cpu);
            let draws = CriticDraws::new(
                normal("real", &[batch, 1, 28, 28]).tanh().unwrap(),
                latent.clone(),
                Some(epsilon.unwrap()),
            );
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new("critic_step", batch), |bencher| {
                bencher.iter(|| black_box(trainer.critic_step(&draws).unwrap()));
            });
            group.bench_function(BenchmarkId::new("generator_step", batch), |bencher| {
                bencher.iter(|| black_box(trainer.generator_step(&latent).unwrap()));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
