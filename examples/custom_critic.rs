//! A critic of one's own, checked and then trained on MNIST: `cargo run --example custom_critic`.

mod common;

use std::process::ExitCode;

use anyhow::Result;
use candle_core::DType;
use candle_nn::VarBuilder;
use clap::Parser;
use common::{Defaults, Run, Strategy, Tuning};
use wgan::data::Dataset;
use wgan::layers::{Conv2d, Conv2dConfig, GroupNorm, Linear};
use wgan::zoo::{MlpGenerator, MlpGeneratorConfig};
use wgan::{Critic, ModelBuilder, Traced, WganTrainer};

/// A convolutional critic with one residual block.
struct MyCritic {
    conv1: Conv2d,
    conv2: Conv2d,
    norm: GroupNorm,
    residual: Conv2d,
    out: Linear,
}

impl MyCritic {
    fn new(vb: VarBuilder) -> wgan::Result<Self> {
        let same = Conv2dConfig { padding: 1.into(), ..Default::default() };
        let half = Conv2dConfig { stride: 2.into(), ..same };
        Ok(Self {
            conv1: Conv2d::new(1, 16, 4, half, vb.pp("conv1"))?,
            conv2: Conv2d::new(16, 32, 4, half, vb.pp("conv2"))?,
            // Batch normalisation would mix the samples, which a penalty does not allow.
            norm: GroupNorm::per_sample(32, vb.pp("norm"))?,
            residual: Conv2d::new(32, 32, 3, same, vb.pp("residual"))?,
            out: Linear::new(32 * 7 * 7, 1, vb.pp("out"))?,
        })
    }
}

impl Critic for MyCritic {
    // All that must be written: the gradient penalty differentiates it twice.
    fn forward(&self, images: &Traced) -> wgan::Result<Traced> {
        let x = images.apply(&self.conv1)?.leaky_relu(0.2)?;
        let x = x.apply(&self.conv2)?.apply(&self.norm)?.leaky_relu(0.2)?;
        let x = x.add(&x.apply(&self.residual)?.silu()?)?;
        x.flatten_from(1)?.apply(&self.out)
    }
}

/// Checks a convolutional critic's gradients, trains it on the MNIST digits and leaves pictures, curves and weights in
/// a folder.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: common::Flags,
}

const DEFAULTS: Defaults = Defaults {
    out: "runs/custom_critic",
    lipschitz: Strategy::Gp,
    clip: Tuning { learning_rate: 2e-4, generator_steps: 600 },
    gp: Tuning { learning_rate: 2e-4, generator_steps: 600 },
    div: Tuning { learning_rate: 2e-4, generator_steps: 600 },
};

fn main() -> ExitCode {
    common::main(&DEFAULTS, run)
}

fn run(arguments: &Arguments) -> Result<()> {
    let run = Run::new(&arguments.flags, &DEFAULTS)?;
    check(&run)?;

    let generator_config = MlpGeneratorConfig::default();
    let settings = run.settings(&generator_config, &"MyCritic")?;
    let build = run.build();
    let generator = build.generator(|vb| MlpGenerator::new(generator_config, vb))?;
    let critic = build.critic(MyCritic::new)?;

    let trainer = WganTrainer::new(generator, critic, run.config.clone())?;
    run.train(trainer, settings, "A critic of one's own on MNIST", [8, 8])
}

/// Compares the critic's gradients with differences of its scores, which are only accurate enough in `f64`.
fn check(run: &Run<'_>) -> Result<()> {
    let critic = ModelBuilder::new(run.config.seed).dtype(DType::F64).critic(MyCritic::new)?;
    let samples = run.digits.batch(&[0, 1])?.to_dtype(DType::F64)?;
    eprintln!("gradient check: {}", wgan::testing::check_critic(&critic, &samples)?);
    Ok(())
}
