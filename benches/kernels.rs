//! The kernels, each through the layer that runs it: `cargo bench --bench kernels`.
//!
//! A layer's forward pass is one kernel; the gradients for its input and its weight are one each.

use std::hint::black_box;

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{BatchNormConfig, VarBuilder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgan::layers::{
    BatchNorm, Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig, GroupNorm, Linear,
};
use wgan::random::Stream;
use wgan::second_order::Layer;
use wgan::{Critic, ModelBuilder, Network, Result, Traced};

fn normal(shape: &[usize]) -> Tensor {
    Stream::new(0, "x", 0).normal(shape.to_vec(), DType::F32, &Device::Cpu).unwrap()
}

/// A layer as a critic: the sum of its output.
struct Sum<L>(L);

impl<L: Layer> Critic for Sum<L> {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        samples.apply(&self.0)?.flatten_from(1)?.sum(1)
    }
}

fn build<L: Layer>(layer: impl FnOnce(VarBuilder<'static>) -> Result<L>) -> Network<Sum<L>> {
    ModelBuilder::new(0).critic(|vb| Ok(Sum(layer(vb)?))).unwrap()
}

/// `multiplications` of the forward pass, of which each gradient has as many.
fn layer<L: Layer + Module>(
    criterion: &mut Criterion,
    name: &str,
    input: &[usize],
    multiplications: usize,
    network: &Network<Sum<L>>,
) {
    let x = normal(input);
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    group.throughput(Throughput::ElementsAndBytes {
        elements: 2 * multiplications as u64,
        bytes: 4 * x.elem_count() as u64,
    });
    group.bench_function("forward", |bencher| {
        bencher.iter(|| black_box(candle_core::Module::forward(&network.model().0, &x).unwrap()));
    });
    group.bench_function("forward and weight", |bencher| {
        bencher.iter(|| {
            let y = network.model().forward(&Traced::untracked(&x)).unwrap();
            black_box(y.sum_all().unwrap().backward().unwrap());
        });
    });
    group.bench_function("forward and input", |bencher| {
        bencher.iter(|| {
            let x = Traced::input(&x);
            black_box(network.model().forward(&x).unwrap().gradient(&x).unwrap());
        });
    });
    group.finish();
}

/// Tells candle's method from the traced one of the same name.
fn products(criterion: &mut Criterion) {
    for (batch, inputs, outputs) in
        [(64, 784, 512), (128, 784, 512), (64, 1024, 784), (256, 1024, 1024)]
    {
        let network = build(|vb| Linear::new(inputs, outputs, vb));
        let name = format!("linear/{batch}x{inputs}x{outputs}");
        layer(criterion, &name, &[batch, inputs], batch * inputs * outputs, &network);
    }
}

fn convolutions(criterion: &mut Criterion) {
    let half =
        Conv2dConfig { stride: 2.into(), padding: 1.into(), bias: false, ..Default::default() };
    let double = ConvTranspose2dConfig {
        stride: 2.into(),
        padding: 1.into(),
        bias: false,
        ..Default::default()
    };
    let same = Conv2dConfig { padding: 1.into(), ..Default::default() };
    for (batch, inputs, outputs, size) in [(64, 1, 32, 32), (64, 32, 64, 16), (64, 64, 128, 8)] {
        let work = batch * inputs * outputs * 16 * size * size / 4;
        let network = build(|vb| Conv2d::new(inputs, outputs, 4, half, vb));
        let name = format!("conv 4x4 stride 2/{batch}x{inputs}x{size}x{size}");
        layer(criterion, &name, &[batch, inputs, size, size], work, &network);
        let network = build(|vb| ConvTranspose2d::new(outputs, inputs, 4, double, vb));
        let name = format!("transposed 4x4 stride 2/{batch}x{outputs}x{0}x{0}", size / 2);
        layer(criterion, &name, &[batch, outputs, size / 2, size / 2], work, &network);
    }
    let network = build(|vb| Conv2d::new(64, 64, 3, same, vb));
    let work = 16 * 64 * 64 * 9 * 32 * 32;
    layer(criterion, "conv 3x3/16x64x32x32", &[16, 64, 32, 32], work, &network);
}

fn normalisations(criterion: &mut Criterion) {
    let x = [64, 64, 16, 16];
    let count = x.iter().product();
    let network = build(|vb| GroupNorm::per_sample(64, vb));
    layer(criterion, "layer norm/64x64x16x16", &x, count, &network);

    let x = normal(&x);
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let norm = BatchNorm::new(64, BatchNormConfig::default(), vb).unwrap();
    criterion.bench_function("batch norm/64x64x16x16", |bencher| {
        bencher.iter(|| black_box(norm.forward_t(&x, true).unwrap()));
    });
}

criterion_group!(benches, products, convolutions, normalisations);
criterion_main!(benches);
