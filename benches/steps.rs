//! Whole critic and generator steps of each ready-made model under each strategy: `cargo bench --bench steps`. A part of a name
//! picks some: `cargo bench --bench steps -- mlp/gp`.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wgan::random::Stream;
use wgan::zoo::{
    CriticNorm, DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig, MlpCritic,
    MlpGenerator, ResNet32Config, ResNet32Critic, ResNet32Generator, ResNet64Config,
    ResNet64Critic, ResNet64Generator,
};
use wgan::{Critic, CriticDraws, Generator, ModelBuilder, Network, TrainConfig, WganTrainer};

fn normal(name: &str, shape: &[usize]) -> Tensor {
    Stream::new(0, name, 0).normal(shape.to_vec(), DType::F32, &Device::Cpu).unwrap()
}

/// The steps of a pair of models, built anew for each strategy and batch.
fn pair<G: Generator, C: Critic>(
    criterion: &mut Criterion,
    model: &str,
    sample: &[usize],
    batches: &[usize],
    build: impl Fn(&ModelBuilder) -> (Network<G>, Network<C>),
) {
    for (strategy, config) in [
        ("clip", TrainConfig::wgan()),
        ("gp", TrainConfig::wgan_gp()),
        ("div", TrainConfig::wgan_div()),
    ] {
        let mut group = criterion.benchmark_group(format!("{model}/{strategy}"));
        group.sample_size(10);
        for &batch in batches {
            let (generator, critic) = build(&ModelBuilder::new(0));
            let latent = normal("latent", &[batch, generator.model().latent_dim()]);
            let mut trainer = WganTrainer::new(generator, critic, config.clone()).unwrap();
            let mut epsilon = Stream::new(0, "epsilon", 0);
            let epsilon = epsilon.uniform(0.0, 1.0, batch, DType::F32, &Device::Cpu).unwrap();
            let real = normal("real", &[&[batch], sample].concat()).tanh().unwrap();
            let draws = CriticDraws::new(real, latent.clone(), Some(epsilon));
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

fn mlp(criterion: &mut Criterion) {
    pair(criterion, "mlp", &[1, 28, 28], &[64, 256], |build| {
        (
            build.generator(|vb| MlpGenerator::new(Default::default(), vb)).unwrap(),
            build.critic(|vb| MlpCritic::new(Default::default(), vb)).unwrap(),
        )
    });
}

fn dcgan(criterion: &mut Criterion) {
    for image_size in [28, 32, 64] {
        let generator =
            DcganGeneratorConfig { image_size, channels: 1, width: 32, ..Default::default() };
        let critic = DcganCriticConfig {
            image_size,
            channels: 1,
            width: 32,
            norm: CriticNorm::None,
            ..Default::default()
        };
        let sample = [1, image_size, image_size];
        pair(criterion, &format!("dcgan{image_size}"), &sample, &[64, 256], |build| {
            let (generator, critic) = (generator.clone(), critic.clone());
            (
                build.generator(|vb| DcganGenerator::new(generator, vb)).unwrap(),
                build.critic(|vb| DcganCritic::new(critic, vb)).unwrap(),
            )
        });
    }
}

/// A quarter of the paper's widths, so that ten samples take minutes and not an hour.
fn resnet(criterion: &mut Criterion) {
    let config = ResNet32Config { width: 32, ..Default::default() };
    pair(criterion, "resnet32", &[3, 32, 32], &[64], |build| {
        (
            build.generator(|vb| ResNet32Generator::new(config.clone(), vb)).unwrap(),
            build.critic(|vb| ResNet32Critic::new(config.clone(), vb)).unwrap(),
        )
    });
    let config = ResNet64Config { width: 16, ..Default::default() };
    pair(criterion, "resnet64", &[3, 64, 64], &[64], |build| {
        (
            build.generator(|vb| ResNet64Generator::new(config.clone(), vb)).unwrap(),
            build.critic(|vb| ResNet64Critic::new(config.clone(), vb)).unwrap(),
        )
    });
}

criterion_group!(benches, mlp, dcgan, resnet);
criterion_main!(benches);
