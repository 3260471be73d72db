//! Stacked MNIST: how many of 1,000 modes a generator finds.
//!
//! **Claim** (Metz et al. 2017; Lin et al. 2018, PacGAN, section 4.2). Three random digits, one in each channel, make an image of
//! 1,000 classes; of 26,000 generated images a classifier of digits tells the classes, and the modes found and the reverse KL
//! divergence of their shares show how much of the data a generator has left out. A critic with a penalty keeps it from
//! leaving out much.
//!
//! **Settings.** 128,000 training images as in PacGAN, each drawn from the 60,000 training digits when it is asked for, so that
//! none is kept. DCGANs for 28 pixels without normalisation in the critic, batch 64, n_critic as the strategy's paper has it. The
//! shares that the divergence is from are those of the training digits' labels. Ours: the crate's own classifier of digits; Adam
//! 2e-4 (0.5, 0.9), RMSProp 2e-4 and c = 0.02 under clipping; rates are constant, so that a run can be made longer later; samples
//! from the generator's moving average (0.999). With `--pack M` the critic sees M images at once, along the channels, as PacGAN's
//! does; a batch then has 64 packs, and there are 128,000 of them.
//!
//! The folder has a config.json too, from which `evaluate` builds the generator of a checkpoint; its classifier of digits is for
//! images of one channel, so that it measures these with `--inception` or `--measures ms-ssim`.
//!
//! Published figures are in `results.json` beside those measured. They are by other networks and other classifiers, after longer
//! runs: a hint of what is good, not a comparison.
//!
//! `cargo run --example stacked_mnist -- --checkpoint-every 500` runs for half an hour or more on two cores, can be ended by Ctrl-C at
//! any time and goes on with `--resume`, also to more `--generator-steps`; `--quick`, smaller networks with higher rates, takes
//! less than a minute.

#[path = "common/experiment.rs"]
mod experiment;
#[path = "common/interrupt.rs"]
mod interrupt;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use clap::builder::RangedU64ValueParser;
use clap::{Parser, ValueEnum};
use experiment::{Claim, Experiment, Flags};
use serde::Serialize;
use wgan::checkpoint::{Best, Checkpoints};
use wgan::data::mnist::{self, Split};
use wgan::data::{Dataset, TensorDataset};
use wgan::history::Record;
use wgan::metrics::{Features, MnistClassifier, ModeCoverage, Score, batches_of};
use wgan::observers::{
    ConfigJson, Every, Flow, HistoryCsv, LearningCurve, Observer, Progress, Scores, callback,
};
use wgan::optimizers::OptimizerConfig;
use wgan::random::Stream;
use wgan::report::{Figure, Panel, image_grid};
use wgan::zoo::{CriticNorm, DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig};
use wgan::{Ema, Generator, Lipschitz, ModelBuilder, Traced, TrainConfig, WganTrainer};

/// Trains a DCGAN on images of three digits each and counts which of the 1,000 combinations it makes.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,

    /// How the critic is kept Lipschitz: weight clipping, gradient penalty or WGAN-div
    #[arg(long, value_enum, default_value = "gp")]
    lipschitz: Strategy,

    /// Images that the critic sees at once
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=16))]
    pack: usize,

    /// Generator steps to train for, in all where a run is resumed [default: 10000, with --quick 150]
    #[arg(long, value_name = "N")]
    generator_steps: Option<u64>,

    /// Count modes every so many generator steps, and at the end [default: 500, with --quick 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    look_every: Option<u64>,

    /// Channels of each network's largest map, at most 512 [default: 32, with --quick 16]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    width: Option<usize>,

    /// Write a checkpoint every so many generator steps, and at the end; the newest three are kept, and the one of most modes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: Option<u64>,

    /// Go on from the newest good checkpoint in the folder of --out; begin anew where there is none
    #[arg(long)]
    resume: bool,

    /// Folder with the MNIST files, packed or not [default: data/mnist of the repository]
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"), hide_default_value = true)]
    mnist: PathBuf,
}

fn main() -> ExitCode {
    experiment::main(|arguments: &Arguments| match run(arguments) {
        Err(error) if error.is::<interrupt::Interrupted>() => {
            eprintln!("{error}");
            Ok(ExitCode::from(interrupt::EXIT_CODE))
        }
        ended => ended,
    })
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Strategy {
    Clip,
    Gp,
    Div,
}

/// Digits in an image.
const DIGITS: usize = 3;
const SIDE: usize = 28;
const MODES: usize = 1000;
/// Images in the training set.
const IMAGES: usize = 128_000;

#[derive(Serialize)]
struct Settings {
    lipschitz: Strategy,
    pack: usize,
    /// Generated images that are counted.
    samples: usize,
    look_every: u64,
    classifier: String,
    training: TrainConfig,
    generator: DcganGeneratorConfig,
    critic: DcganCriticConfig,
}

fn default_steps(flags: &Flags) -> u64 {
    flags.pick(10_000, 150)
}

impl Settings {
    fn new(arguments: &Arguments, classifier: &MnistClassifier) -> Self {
        let &Arguments { ref flags, lipschitz, pack, .. } = arguments;
        let paper = match lipschitz {
            Strategy::Clip => TrainConfig::wgan(),
            Strategy::Gp => TrainConfig::wgan_gp(),
            Strategy::Div => TrainConfig::wgan_div(),
        };
        let rate = flags.pick(2e-4, 2e-3);
        let (constraint, optimizer) = match lipschitz {
            Strategy::Clip => (Lipschitz::Clip { c: 0.02 }, OptimizerConfig::rms_prop(rate)),
            _ => (paper.lipschitz, OptimizerConfig::adam(rate, 0.5, 0.9)),
        };
        let training = TrainConfig {
            seed: flags.seed,
            generator_steps: arguments.generator_steps.unwrap_or(default_steps(flags)),
            lipschitz: constraint,
            critic_optimizer: optimizer,
            generator_optimizer: optimizer,
            ema: Some(Ema::new(flags.pick(0.999, 0.9))),
            ..paper
        };
        let width = arguments.width.unwrap_or(flags.pick(32, 16));
        Self {
            lipschitz,
            pack,
            samples: flags.pick(26_000, 2_600),
            look_every: arguments.look_every.unwrap_or(flags.pick(500, 50)),
            classifier: classifier.name().into(),
            training,
            generator: DcganGeneratorConfig {
                image_size: SIDE,
                channels: DIGITS,
                width,
                ..Default::default()
            },
            // One critic for all three strategies: penalties do not allow batch normalisation.
            critic: DcganCriticConfig {
                image_size: SIDE,
                channels: pack * DIGITS,
                width,
                norm: CriticNorm::None,
                ..Default::default()
            },
        }
    }
}

/// Packs of images of three random digits each, made when they are asked for.
struct Stacked {
    digits: TensorDataset,
    seed: u64,
    shape: [usize; 3],
}

impl Stacked {
    /// The digits of a pack, by their numbers: what its own number and the seed decide.
    fn drawn(&self, pack: usize) -> Vec<usize> {
        let mut stream = Stream::new(self.seed, "stacked_mnist/digits", pack as u64);
        let digits = self.digits.len() as u64;
        (0..self.shape[0]).map(|_| stream.below(digits) as usize).collect()
    }
}

impl Dataset for Stacked {
    fn len(&self) -> usize {
        IMAGES
    }

    fn sample_shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.digits.dtype()
    }

    fn batch(&self, indices: &[usize]) -> wgan::Result<Tensor> {
        let drawn: Vec<usize> = indices.iter().flat_map(|&pack| self.drawn(pack)).collect();
        let [channels, height, width] = self.shape;
        Ok(self.digits.batch(&drawn)?.reshape((indices.len(), channels, height, width))?)
    }

    /// The digits are.
    fn ensure_finite(&self) -> wgan::Result<()> {
        Ok(())
    }
}

/// A generator whose samples a critic of packs is shown: of a latent point as long as those of all images of a pack it makes them
/// all, along the channels.
struct Packed {
    generator: DcganGenerator,
    pack: usize,
}

impl Generator for Packed {
    fn latent_dim(&self) -> usize {
        self.pack * self.generator.latent_dim()
    }

    fn forward(&self, latent: &Tensor, train: bool) -> wgan::Result<Tensor> {
        let latent = latent.reshape(((), self.generator.latent_dim()))?;
        let images = self.generator.forward(&latent, train)?;
        Ok(images.reshape(((), self.pack * DIGITS, SIDE, SIDE))?)
    }

    fn forward_traced(
        &self,
        latent: &Traced,
        labels: Option<&Tensor>,
        train: bool,
    ) -> wgan::Result<Traced> {
        let latent = latent.reshape(((), self.generator.latent_dim()))?;
        let images = self.generator.forward_traced(&latent, labels, train)?;
        images.reshape(((), self.pack * DIGITS, SIDE, SIDE))
    }

    fn as_sync(&self) -> Option<&(dyn Generator + Sync)> {
        Some(self)
    }
}

/// The images of packs.
fn unpacked(packs: &Tensor) -> wgan::Result<Tensor> {
    Ok(packs.reshape(((), DIGITS, SIDE, SIDE))?)
}

/// What a count found.
#[derive(Serialize, Clone, Copy)]
struct Look {
    step: u64,
    modes: f64,
    reverse_kl: f64,
}

impl Look {
    /// Of the steps that had one.
    fn of(record: &Record, classifier: &str) -> Option<Self> {
        let score = |measure| record.scores.get(&format!("{measure} ({classifier})")).copied();
        Some(Self { step: record.step, modes: score("modes")?, reverse_kl: score("reverse_kl")? })
    }
}

#[derive(Serialize)]
struct Published {
    model: &'static str,
    modes: u32,
    reverse_kl: f64,
}

const PUBLISHED: [Published; 4] = [
    Published { model: "DCGAN", modes: 99, reverse_kl: 3.40 },
    Published { model: "WGAN-GP", modes: 959, reverse_kl: 0.7276 },
    Published { model: "PacDCGAN2", modes: 1000, reverse_kl: 0.06 },
    Published { model: "R3GAN", modes: 1000, reverse_kl: 0.029 },
];

#[derive(Serialize)]
struct Measured {
    looks: Vec<Look>,
    /// What as many real images have, by the labels of their digits: the divergence that chance alone leaves.
    real: Look,
    published_by_other_networks_and_classifiers: [Published; 4],
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let flags = &arguments.flags;
    let classifier = MnistClassifier::shipped()?;
    let settings = Settings::new(arguments, &classifier);
    settings.training.check()?;
    let experiment = Experiment::start("stacked_mnist", flags)?;
    let data = Stacked {
        digits: mnist::load(&arguments.mnist, Split::Train)?,
        seed: flags.seed,
        shape: [arguments.pack * DIGITS, SIDE, SIDE],
    };
    let shape = data.digits.sample_shape();
    ensure!(shape == [1, SIDE, SIDE], "--mnist: images of {shape:?}; expected [1, 28, 28]");
    let labels = data.digits.labels().context("--mnist: no file of labels beside the images")?;
    let shares = shares(labels)?;
    let real = real(&data, labels, &shares, settings.samples)?;

    let looks = train(arguments, &settings, &data, classifier, shares, &experiment)?;
    let measured = Measured { looks, real, published_by_other_networks_and_classifiers: PUBLISHED };
    experiment.figure("stacked_mnist", &figure(&measured))?;
    experiment.finish(&settings, &measured, &verdict(&settings, &measured, flags))
}

/// How often each of the 1,000 classes comes up where three digits with these labels are drawn.
fn shares(labels: &[u32]) -> Result<Vec<f64>> {
    let mut of_digit = [0.0; 10];
    for &label in labels {
        let share = of_digit.get_mut(label as usize);
        *share.with_context(|| format!("--mnist: a label is {label}; expected 0 to 9"))? +=
            1.0 / labels.len() as f64;
    }
    let digit = |class: usize, power: usize| of_digit[class / power % 10];
    Ok((0..MODES).map(|class| digit(class, 100) * digit(class, 10) * digit(class, 1)).collect())
}

/// Real images' modes by their labels.
fn real(data: &Stacked, labels: &[u32], shares: &[f64], count: usize) -> Result<Look> {
    let class = |pack| {
        let digits = data.drawn(pack);
        digits[..DIGITS].iter().fold(0, |class, &digit| 10 * class + labels[digit])
    };
    let found = ModeCoverage::of_classes(&(0..count).map(class).collect::<Vec<_>>(), shares)?;
    Ok(Look { step: 0, modes: found.found as f64, reverse_kl: found.reverse_kl })
}

fn train(
    arguments: &Arguments,
    settings: &Settings,
    data: &Stacked,
    classifier: MnistClassifier,
    shares: Vec<f64>,
    experiment: &Experiment<'_>,
) -> Result<Vec<Look>> {
    let Settings { training, pack, look_every, samples, .. } = settings;
    let folder = experiment.folder.folder();
    let build = ModelBuilder::new(training.seed);
    let generator = build.generator(|vb| {
        let generator = DcganGenerator::new(settings.generator.clone(), vb)?;
        Ok(Packed { generator, pack: *pack })
    })?;
    let critic = build.critic(|vb| DcganCritic::new(settings.critic.clone(), vb))?;

    let samples = *samples;
    let look = Scores::new(folder, samples.div_ceil(*pack), training.seed, move |packs| {
        count_modes(&classifier, &shares, samples, packs)
    });
    let looks = Every::Steps(*look_every);
    let mut trainer = WganTrainer::new(generator, critic, training.clone())?
        .observe(Every::Never, ConfigJson::new(folder, settings)?)
        .observe(Every::Step, Progress::new())
        .observe(Every::Step, HistoryCsv::new(folder))
        .observe(looks, LearningCurve::new(folder, "DCGAN on stacked MNIST"))
        .observe(looks, pictures(folder.join("samples.png"), training.seed))
        .observe(looks, look)
        .observe(Every::Step, interrupt::observer()?)
        .with_checkpoints(checkpoints(arguments, folder.join("checkpoints"), settings));
    if arguments.resume {
        match trainer.resume()? {
            Some(from) => eprintln!("{}: going on after step {}", from.path.display(), from.step),
            None => {
                eprintln!("{}: no checkpoint to resume from: beginning anew", folder.display());
            }
        }
    }
    trainer.fit_until(data, training.generator_steps)?;
    interrupt::check(&trainer)?;
    // The looks before a resume are in it too; those at a Ctrl-C are left out, or the results would tell of it.
    let history = trainer.checkpoint()?.history().clone();
    let due = |step| looks.selects(step) || step == training.generator_steps;
    let records = history.iter().filter(|record| due(record.step));
    Ok(records.filter_map(|record| Look::of(record, &settings.classifier)).collect())
}

/// Tells the classes of generated packs, of so many images, and counts.
fn count_modes(
    classifier: &MnistClassifier,
    shares: &[f64],
    samples: usize,
    packs: impl Iterator<Item = wgan::Result<Tensor>>,
) -> wgan::Result<Vec<Score>> {
    let mut classes = Vec::new();
    for images in packs {
        // Three digits an image: some hundred at a time are enough memory.
        for images in batches_of(&unpacked(&images?)?, 256) {
            classes.extend(classifier.classify_stacked(&images?)?);
        }
    }
    classes.truncate(samples);
    let found = ModeCoverage::of_classes(&classes, shares)?;
    Ok(found.scores(classes.len(), Some(classifier.name())))
}

/// Writes a picture of 64 images, digits as colours, always of the same latent points.
fn pictures(path: PathBuf, seed: u64) -> impl Observer {
    callback(move |snapshot| {
        let models = snapshot.models;
        let shape = (64, models.latent_dim());
        let mut latent = Stream::new(seed, "stacked_mnist/picture", 0);
        let latent = latent.normal(shape, models.dtype(), models.device())?;
        let images = unpacked(&models.generate(&latent, 0)?)?.narrow(0, 0, 64)?;
        image_grid(&images, 8)?.scaled(2)?.save_png(&path)?;
        Ok(Flow::Continue)
    })
}

/// Those that the flags ask for; without any, one is written where the run is interrupted.
fn checkpoints(arguments: &Arguments, folder: PathBuf, settings: &Settings) -> Checkpoints {
    let most = Best::highest_score(format!("modes ({})", settings.classifier));
    let checkpoints = Checkpoints::new(folder).keep_best(most);
    match arguments.checkpoint_every {
        Some(steps) => checkpoints.every_steps(steps),
        None if arguments.resume => checkpoints,
        None => checkpoints.only_if_interrupted(),
    }
}

fn figure(measured: &Measured) -> Figure {
    let Measured { looks, real, .. } = measured;
    let curve = |of: fn(&Look) -> f64| looks.iter().map(move |look| (look.step as f64, of(look)));
    let ends = looks.last().map_or(0.0, |look| look.step as f64);
    let level = |y: f64| [(0.0, y), (ends, y)];
    Figure::new("Stacked MNIST: 1,000 modes")
        .columns(2)
        .panel_size(420, 300)
        .panel(
            Panel::new("modes found")
                .x("generator step")
                .y("modes")
                .line("generated", curve(|look| look.modes))
                .line("real", level(real.modes)),
        )
        .panel(
            Panel::new("divergence of their shares")
                .x("generator step")
                .y("reverse KL, nats")
                .log_y()
                .line("generated", curve(|look| look.reverse_kl))
                .line("real", level(real.reverse_kl)),
        )
}

/// How many modes there are to be is claimed of runs of the default length and longer; a run with a single look has
/// none to compare it with.
fn verdict(settings: &Settings, measured: &Measured, flags: &Flags) -> Vec<Claim> {
    let (classifier, looks) = (&settings.classifier, &measured.looks);
    let mut claims = Vec::new();
    let Some(last) = looks.last() else { return claims };
    if settings.training.generator_steps >= default_steps(flags) {
        let least = flags.pick(900.0, 300.0);
        claims.push(Claim::new(
            format!("more than {least} of the 1,000 modes are found (our bound, no paper's)"),
            format!("{} modes, reverse KL {:.4} ({classifier})", last.modes, last.reverse_kl),
            last.modes > least,
        ));
    }
    if let [first, .., last] = &looks[..] {
        claims.push(Claim::new(
            format!("their shares are nearer to the real ones than after {} steps", first.step),
            format!(
                "reverse KL {:.4} against {:.4} ({classifier})",
                last.reverse_kl, first.reverse_kl
            ),
            last.reverse_kl < first.reverse_kl,
        ));
    }
    claims
}
