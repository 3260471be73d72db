//! A critic knows 1,000 digits by heart: figure 5b of the WGAN-GP paper.
//!
//! **Claim** (Gulrajani et al. 2017, section 5.3). With few training samples the critic overfits: its loss on the training
//! samples and on others part ways, as they do for any classifier that overfits. A curve of the training loss alone does not
//! show it.
//!
//! **Settings.** The paper's: 1,000 training digits, lambda 10, n_critic 5, Adam with betas (0, 0.9). Ours: MLPs instead of
//! convolutions, batch 64, and a learning rate of 3e-4 instead of 1e-4, so that the critic overfits within 1,500 generator
//! steps (1e-3 and 350 with `--quick`). Held out are the last 1,000 of the 60,000 training digits: the test set is of other
//! writers, and its first half easier. Beside it the same run on the first 50,000 digits, on which the two losses stay together.
//!
//! `cargo run --example mnist_overfit` takes some five minutes on two cores, `--quick` about one.

#[path = "common/experiment.rs"]
mod experiment;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Result, ensure};
use candle_core::{DType, Device};
use clap::Parser;
use experiment::{Claim, Experiment, Flags};
use serde::Serialize;
use wgan::data::TensorDataset;
use wgan::data::mnist::{self, Split};
use wgan::observers::{Every, Flow, Models, callback};
use wgan::optimizers::OptimizerConfig;
use wgan::random::Stream;
use wgan::report::{Figure, Panel};
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{CriticDraws, ModelBuilder, TrainConfig, WganTrainer};

/// Trains on 1,000 digits and on 50,000 and compares the critic's loss on training and on held-out digits.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,

    /// Folder with the MNIST files, packed or not [default: data/mnist of the repository]
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"), hide_default_value = true)]
    data: PathBuf,
}

fn main() -> ExitCode {
    experiment::main(run)
}

#[derive(Serialize)]
struct Settings {
    training: TrainConfig,
    generator: MlpGeneratorConfig,
    critic: MlpCriticConfig,
    looks_every: u64,
    digits_a_look: usize,
}

impl Settings {
    fn new(flags: &Flags) -> Self {
        let (steps, rate) = (flags.pick(1500, 350), flags.pick(3e-4, 1e-3));
        Self {
            training: TrainConfig {
                seed: flags.seed,
                generator_steps: steps,
                critic_optimizer: OptimizerConfig::adam(rate, 0.0, 0.9),
                generator_optimizer: OptimizerConfig::adam(rate, 0.0, 0.9),
                ..TrainConfig::wgan_gp()
            },
            generator: MlpGeneratorConfig {
                latent_dim: 64,
                hidden: vec![128, 256],
                ..Default::default()
            },
            critic: MlpCriticConfig { hidden: vec![256, 128], ..Default::default() },
            looks_every: steps / flags.pick(25, 10),
            digits_a_look: 500,
        }
    }
}

/// The critic's loss, with the sign turned as in the paper, at one step.
#[derive(Serialize, Clone, Copy)]
struct Look {
    step: u64,
    training: f64,
    held_out: f64,
}

#[derive(Serialize)]
struct Measured {
    training_digits: usize,
    /// The mean difference of the two over the last fifth of the run.
    gap: f64,
    looks: Vec<Look>,
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let flags = &arguments.flags;
    let experiment = Experiment::start("mnist_overfit", flags)?;
    let settings = Settings::new(flags);
    let digits = mnist::load(&arguments.data, Split::Train)?;
    let (folder, count) = (arguments.data.display(), digits.samples().dim(0)?);
    ensure!(count >= 60_000, "{folder}: {count} training digits; expected MNIST's 60000");
    let held_out = TensorDataset::new(digits.samples().narrow(0, 59_000, 1000)?)?;
    let sets = [digits.clone().take(1000)?, digits.take(50_000)?];
    let [few, all] = sets.map(|set| train(&settings, set, &held_out));
    let measured = [few?, all?];
    experiment.figure("mnist_overfit", &figure(&measured))?;
    experiment.finish(&settings, &measured, &verdict(&measured))
}

fn train(settings: &Settings, digits: TensorDataset, held_out: &TensorDataset) -> Result<Measured> {
    let training_digits = digits.samples().dim(0)?;
    let build = ModelBuilder::new(settings.training.seed);
    let generator = build.generator(|vb| MlpGenerator::new(settings.generator.clone(), vb))?;
    let critic = build.critic(|vb| MlpCritic::new(settings.critic.clone(), vb))?;

    let looks = Rc::new(RefCell::new(Vec::new()));
    let (seen, unseen, found) = (digits.clone(), held_out.clone(), Rc::clone(&looks));
    let (seed, count) = (settings.training.seed, settings.digits_a_look);
    let look = callback(move |snapshot| {
        let step = snapshot.record.step;
        let seen = draws(&seen, "seen", seed, step, count, snapshot.models)?;
        let unseen = draws(&unseen, "unseen", seed, step, count, snapshot.models)?;
        let look = snapshot.models.diagnose(&seen, Some(&unseen))?;
        let held_out = look.held_out_critic_loss.unwrap_or(f64::NAN);
        found.borrow_mut().push(Look { step, training: -look.critic_loss, held_out: -held_out });
        Ok(Flow::Continue)
    });
    let mut trainer = WganTrainer::new(generator, critic, settings.training.clone())?
        .observe(Every::Steps(settings.looks_every), look);
    trainer.fit(&digits)?;
    eprintln!("{training_digits} digits: done");

    let looks = looks.take();
    let last = &looks[looks.len() - looks.len() / 5..];
    let gap =
        last.iter().map(|look| look.training - look.held_out).sum::<f64>() / last.len() as f64;
    Ok(Measured { training_digits, gap, looks })
}

/// The draws of one look, each digit of the set as likely as the others.
fn draws(
    digits: &TensorDataset,
    name: &str,
    seed: u64,
    step: u64,
    count: usize,
    models: &dyn Models,
) -> wgan::Result<CriticDraws> {
    let stream = |what: &str| Stream::new(seed, &format!("look/{name}/{what}"), step);
    let (len, mut indices) = (digits.samples().dim(0)? as u64, stream("digits"));
    let indices: Vec<u32> = (0..count).map(|_| indices.below(len) as u32).collect();
    let indices = candle_core::Tensor::from_vec(indices, count, &Device::Cpu)?;
    let real = digits.samples().index_select(&indices, 0)?;
    let latent = stream("latent").normal((count, models.latent_dim()), DType::F32, &Device::Cpu)?;
    let epsilon = stream("epsilon").uniform(0.0, 1.0, count, DType::F32, &Device::Cpu)?;
    Ok(CriticDraws::new(real, latent, Some(epsilon)))
}

fn verdict([few, all]: &[Measured; 2]) -> Vec<Claim> {
    vec![
        Claim::new(
            "on 1,000 digits the critic's losses on training and on held-out digits part ways",
            format!("by {:.2} over the last fifth of the run", few.gap),
            few.gap > 0.1,
        ),
        Claim::new(
            "on 50,000 digits they stay together",
            format!("{:.2} apart", all.gap),
            all.gap.abs() < few.gap / 4.0,
        ),
    ]
}

fn figure(measured: &[Measured]) -> Figure {
    let mut figure = Figure::new("A critic's loss on digits it is trained on and on others")
        .columns(2)
        .panel_size(420, 300);
    for Measured { training_digits, looks, .. } in measured {
        let curve =
            |of: fn(&Look) -> f64| looks.iter().map(move |look| (look.step as f64, of(look)));
        let panel = Panel::new(format!("{training_digits} training digits"))
            .x("generator step")
            .y("negative critic loss")
            .line("training", curve(|look| look.training))
            .line("held out", curve(|look| look.held_out));
        figure = figure.panel(panel);
    }
    figure
}
