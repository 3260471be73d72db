//! Trains the network whose features the crate compares digits by: `cargo run --example mnist_classifier`.

#[path = "common/experiment.rs"]
#[expect(dead_code, reason = "only how errors are printed")]
mod experiment;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use clap::Parser;
use wgan::data::{Loader, TensorDataset, mnist};
use wgan::metrics::MnistClassifier;
use wgan::optimizers::{OptimizerConfig, Rates};
use wgan::random::Stream;
use wgan::schedules::RateSchedule;
use wgan::{ModelBuilder, Network, Traced};

/// Trains a classifier of digits on MNIST's training images and counts how many of its test images it gets right.
#[derive(Parser)]
struct Arguments {
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,

    /// Images in each batch
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch_size: usize,

    /// Adam's learning rate at the start; it falls to 0 along a cosine
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    learning_rate: f64,

    /// Images are moved by up to so many pixels in each direction, each time by other ones
    #[arg(long, value_name = "PIXELS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(..=8))]
    shift: u64,

    /// Decides every random draw: the same seed gives the same bytes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Folder with the MNIST files, packed or not [default: data/mnist of the repository]
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"), hide_default_value = true)]
    data: PathBuf,

    /// Folder for the weights, mnist-cnn-1.safetensors
    #[arg(long, value_name = "DIR", default_value = "runs/mnist_classifier")]
    out: PathBuf,
}

fn main() -> ExitCode {
    experiment::main(run)
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let optimizer = OptimizerConfig::adam(arguments.learning_rate, 0.9, 0.999);
    optimizer.check("optimizer")?;
    wgan::files::ensure_writable_folder(&arguments.out)?;
    let training = mnist::load(&arguments.data, mnist::Split::Train)?;
    let test = mnist::load(&arguments.data, mnist::Split::Test)?;
    let build = ModelBuilder::new(arguments.seed);
    let network = build.network("classifier", MnistClassifier::new)?;

    train(arguments, optimizer, &network, training)?;
    println!("{:.2} % of the test images are right", 100.0 * accuracy(&network, &test)?);
    let path = arguments.out.join("mnist-cnn-1.safetensors");
    network.parameters().save(&path)?;
    println!("the weights are in {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn train(
    arguments: &Arguments,
    optimizer: OptimizerConfig,
    network: &Network<MnistClassifier>,
    images: TensorDataset,
) -> Result<()> {
    let &Arguments { seed, epochs, shift, .. } = arguments;
    let mut batches = Loader::new(images, arguments.batch_size, seed)?;
    let in_epoch = batches.batches_per_epoch() as u64;
    let schedule = RateSchedule::cosine(0, epochs * in_epoch);
    let mut optimizer = optimizer.build();
    let started = Instant::now();
    for epoch in 0..epochs {
        let mut sum = 0.0;
        for step in epoch * in_epoch..(epoch + 1) * in_epoch {
            let (images, labels) = batches.next_labelled_batch()?;
            let labels = labels.context("the training images have no labels")?;
            let images = shifted(&images, shift, Stream::new(seed, "classifier/shift", step))?;
            let (_, logits) = network.model().forward(&Traced::untracked(&images))?;
            let loss = cross_entropy(&logits, &labels)?;
            let value = loss.detach().to_scalar::<f32>()?;
            ensure!(value.is_finite(), "the loss is {value} at step {step}: lower --learning-rate");
            sum += f64::from(value);
            let gradients = loss.backward()?;
            let rates = Rates::new(schedule.factor(step), &[]);
            optimizer.step(network.parameters(), &gradients, &rates)?;
        }
        let (mean, seconds) = (sum / in_epoch as f64, started.elapsed().as_secs_f64());
        println!("epoch {}: mean loss {mean:.4}, {seconds:.0} s", epoch + 1);
    }
    Ok(())
}

/// The mean over a batch of -log softmax(logits)[label], by log sum exp(x - max) + max.
fn cross_entropy(logits: &Traced, labels: &Tensor) -> wgan::Result<Traced> {
    let max = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&Traced::untracked(&max))?;
    let log_sum = shifted.exp()?.sum(1)?.log()?;
    let classes = Tensor::arange(0, logits.dims()[1] as u32, logits.device())?;
    let is_label = labels.unsqueeze(1)?.broadcast_eq(&classes.unsqueeze(0)?)?;
    let of_label = shifted.mul(&Traced::untracked(&is_label.to_dtype(logits.dtype())?))?.sum(1)?;
    log_sum.sub(&of_label)?.mean_all()
}

/// Each image moved by its own draw of up to so many pixels; what moves in is black.
fn shifted(images: &Tensor, most: u64, mut stream: Stream) -> Result<Tensor> {
    let (batch, channels, height, width) = images.dims4()?;
    let black = Tensor::full(-1f32, (channels, height, width), &Device::Cpu)?;
    let margin = most as usize;
    let moved = (0..batch).map(|i| -> Result<Tensor> {
        let mut offset = || stream.below(2 * most + 1) as usize;
        let (down, right) = (offset(), offset());
        let cat = |x: &[&Tensor], dim: usize| Tensor::cat(x, dim);
        let bar = black.narrow(1, 0, margin)?;
        let tall = cat(&[&bar, &images.get(i)?, &bar], 1)?;
        let side = Tensor::full(-1f32, (channels, height + 2 * margin, margin), &Device::Cpu)?;
        let wide = cat(&[&side, &tall, &side], 2)?;
        Ok(wide.narrow(1, down, height)?.narrow(2, right, width)?.contiguous()?)
    });
    Ok(Tensor::stack(&moved.collect::<Result<Vec<_>>>()?, 0)?.to_dtype(DType::F32)?)
}

fn accuracy(network: &Network<MnistClassifier>, images: &TensorDataset) -> Result<f64> {
    const AT_ONCE: usize = 500;
    let labels = images.labels().context("the test images have no labels")?;
    let mut right = 0;
    for (i, labels) in labels.chunks(AT_ONCE).enumerate() {
        let batch = images.samples().narrow(0, i * AT_ONCE, labels.len())?;
        let found = network.model().classify(&batch)?;
        right += found.iter().zip(labels).filter(|(found, label)| found == label).count();
    }
    Ok(right as f64 / labels.len() as f64)
}
