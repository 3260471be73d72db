//! Trains a fully connected WGAN on MNIST: `cargo run --example mnist_mlp`.

mod common;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use common::{Defaults, Run, Strategy, Tuning};
use wgan::WganTrainer;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};

/// Trains a fully connected WGAN on the MNIST digits and leaves pictures, curves and weights in a folder.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: common::Flags,
}

const DEFAULTS: Defaults = Defaults {
    out: "runs/mnist_mlp",
    lipschitz: Strategy::Clip,
    clip: Tuning { learning_rate: 2e-4, generator_steps: 4_500 },
    gp: Tuning { learning_rate: 2e-4, generator_steps: 3_500 },
    div: Tuning { learning_rate: 2e-4, generator_steps: 3_500 },
};

fn main() -> ExitCode {
    common::main(&DEFAULTS, run)
}

fn run(arguments: &Arguments) -> Result<()> {
    let run = Run::new(&arguments.flags, &DEFAULTS)?;
    let generator_config = MlpGeneratorConfig::default();
    let critic_config = MlpCriticConfig::default();
    let settings = run.settings(&generator_config, &critic_config)?;

    let build = run.build();
    let generator = build.generator(|vb| MlpGenerator::new(generator_config, vb))?;
    let critic = build.critic(|vb| MlpCritic::new(critic_config, vb))?;

    let trainer = WganTrainer::new(generator, critic, run.config.clone())?;
    run.train(trainer, settings, "MLP on MNIST", [8, 8])
}
