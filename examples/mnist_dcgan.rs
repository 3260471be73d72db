//! Trains a DCGAN on MNIST, class by class with `--labels`: `cargo run --example mnist_dcgan`.

mod common;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use clap::builder::RangedU64ValueParser;
use common::{Defaults, Run, Strategy, Tuning};
use wgan::WganTrainer;
use wgan::zoo::{CriticNorm, DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig};

/// Trains a DCGAN on the MNIST digits and leaves pictures, curves and weights in a folder.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: common::Flags,

    /// Train on the labels too: the generator is told which digit to make
    #[arg(long)]
    labels: bool,

    /// Channels of each network's largest map, at most 512
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    width: usize,
}

const DEFAULTS: Defaults = Defaults {
    out: "runs/mnist_dcgan",
    lipschitz: Strategy::Clip,
    clip: Tuning { learning_rate: 2e-4, generator_steps: 800 },
    gp: Tuning { learning_rate: 2e-4, generator_steps: 800 },
    div: Tuning { learning_rate: 2e-4, generator_steps: 800 },
};

const DIGITS: usize = 10;

fn main() -> ExitCode {
    common::main(&DEFAULTS, run)
}

fn run(arguments: &Arguments) -> Result<()> {
    let run = Run::new(&arguments.flags, &DEFAULTS)?;
    ensure!(
        !arguments.labels || run.digits.labels().is_some(),
        "--labels: the folder of the images has no train-labels-idx1-ubyte"
    );
    let (width, classes) = (arguments.width, arguments.labels.then_some(DIGITS));
    let generator_config =
        DcganGeneratorConfig { image_size: 28, channels: 1, width, classes, ..Default::default() };
    // One critic for all three strategies: penalties do not allow batch normalisation.
    let critic_config = DcganCriticConfig {
        image_size: 28,
        channels: 1,
        width,
        norm: CriticNorm::None,
        classes,
        ..Default::default()
    };
    let settings = run.settings(&generator_config, &critic_config)?;

    let build = run.build();
    let generator = build.generator(|vb| DcganGenerator::new(generator_config, vb))?;
    let critic = build.critic(|vb| DcganCritic::new(critic_config, vb))?;

    let trainer = WganTrainer::new(generator, critic, run.config.clone())?;
    // The grid shows each class in turn: with a column for each, every column is one digit.
    let grid = if arguments.labels { [10, DIGITS] } else { [8, 8] };
    run.train(trainer, settings, "DCGAN on MNIST", grid)
}
