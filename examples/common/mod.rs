//! What the examples share: flags, settings, the digits, and what a run leaves in its folder.

mod interrupt;
mod long_run;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::{Args, Command, Parser, ValueEnum};
use long_run::LongRun;
use serde::Serialize;
use wgan::checkpoint::Checkpoints;
use wgan::data::{TensorDataset, mnist};
use wgan::files::FolderLock;
use wgan::observers::{
    ConfigJson, Diagnostics, Every, HistoryCsv, LearningCurve, Progress, SampleGrid, Weights,
};
use wgan::optimizers::OptimizerConfig;
use wgan::{Critic, Generator, ModelBuilder, TrainConfig, WganTrainer, files};

/// What an example does where no flag says otherwise.
pub struct Defaults {
    /// Folder for everything the run leaves behind.
    pub out: &'static str,
    pub lipschitz: Strategy,
    pub clip: Tuning,
    pub gp: Tuning,
    pub div: Tuning,
}

/// What depends on the networks more than on the strategy.
pub struct Tuning {
    pub learning_rate: f64,
    pub generator_steps: u64,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Strategy {
    Clip,
    Gp,
    Div,
}

#[derive(Args)]
pub struct Flags {
    /// How the critic is kept Lipschitz: weight clipping, gradient penalty or WGAN-div
    #[arg(long, value_enum, required = false)]
    lipschitz: Strategy,

    /// Generator steps to train for, in all where a run is resumed
    #[arg(long, value_name = "N")]
    generator_steps: Option<u64>,

    /// Write a checkpoint every so many generator steps, and at the end; the newest three are kept
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: Option<u64>,

    /// Go on from the newest good checkpoint in the folder of --out; begin anew where there is none
    #[arg(long)]
    resume: bool,

    /// Images in each batch, real and generated
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,

    /// Decides every random draw: the same seed gives the same bytes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Where to compute: cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "cpu")]
    device: String,

    /// Folder with the MNIST files, packed or not [default: data/mnist of the repository]; where the training images are
    /// absent they are downloaded
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"), hide_default_value = true)]
    data: PathBuf,

    /// Folder for everything the run leaves behind
    #[arg(long, value_name = "DIR", required = false)]
    out: PathBuf,

    /// Also write this many generated images, at most a million, to samples.safetensors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    samples: Option<u64>,

    #[command(flatten)]
    long_run: LongRun,
}

/// Reads the flags, runs the example and prints its error, if any, in one line.
pub fn main<A: Parser>(defaults: &Defaults, run: impl FnOnce(&A) -> Result<()>) -> ExitCode {
    // The library says through `tracing` what goes wrong in a run; a program chooses where that goes.
    let colours = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours);
    subscriber.with_target(false).without_time().init();
    let mut matches = defaults.show(A::command()).get_matches();
    let arguments = A::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            eprintln!("{error}");
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Defaults {
    /// Gives the flags these defaults, and `--help` their values.
    fn show(&self, command: Command) -> Command {
        let [clip, gp, div] = [&self.clip, &self.gp, &self.div].map(|tuned| tuned.generator_steps);
        let steps = if clip == gp && gp == div {
            format!("{clip}")
        } else if gp == div {
            format!("{clip} for clip, {gp} for gp and div")
        } else {
            format!("{clip} for clip, {gp} for gp, {div} for div")
        };
        command
            .mut_arg("lipschitz", |flag| flag.default_value(self.lipschitz.name()))
            .mut_arg("generator_steps", |flag| {
                let what = "Generator steps to train for, in all where a run is resumed";
                flag.help(format!("{what} [default: {steps}]"))
            })
            .mut_arg("out", |flag| flag.default_value(self.out))
    }

    /// The papers' settings, but for the learning rate and the length of the run: theirs are for larger networks and
    /// hours of training, these end within some minutes on two cores.
    fn config(&self, strategy: Strategy) -> TrainConfig {
        let (paper, tuned) = match strategy {
            Strategy::Clip => (TrainConfig::wgan(), &self.clip),
            Strategy::Gp => (TrainConfig::wgan_gp(), &self.gp),
            Strategy::Div => (TrainConfig::wgan_div(), &self.div),
        };
        let optimizer = match strategy {
            Strategy::Clip => OptimizerConfig::rms_prop(tuned.learning_rate),
            Strategy::Gp | Strategy::Div => OptimizerConfig::adam(tuned.learning_rate, 0.0, 0.9),
        };
        TrainConfig {
            generator_steps: tuned.generator_steps,
            critic_optimizer: optimizer,
            generator_optimizer: optimizer,
            ..paper
        }
    }
}

impl Strategy {
    fn name(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Gp => "gp",
            Self::Div => "div",
        }
    }
}

/// Everything a run needs but the models.
pub struct Run<'a> {
    flags: &'a Flags,
    device: Device,
    /// No other run may write into the folder meanwhile.
    _lock: FolderLock,
    /// The settings that the flags and the example's defaults come to.
    pub config: TrainConfig,
    /// The training digits, `(1, 28, 28)` from -1 to 1.
    pub digits: TensorDataset,
    /// The test digits, where diagnostics are asked for and they are there.
    held_out: Option<TensorDataset>,
}

/// What `config.json` holds.
#[derive(Serialize)]
struct Settings<'a, G, C> {
    version: &'static str,
    device: &'a str,
    data: &'a Path,
    training: &'a TrainConfig,
    generator: &'a G,
    critic: &'a C,
}

impl<'a> Run<'a> {
    /// Checks the settings before the digits are read: that takes a while.
    pub fn new(flags: &'a Flags, defaults: &Defaults) -> Result<Self> {
        let device = wgan::device(&flags.device)?;
        let defaults = defaults.config(flags.lipschitz);
        let config = TrainConfig {
            seed: flags.seed,
            batch_size: flags.batch_size,
            generator_steps: flags.generator_steps.unwrap_or(defaults.generator_steps),
            ..defaults
        };
        let config = flags.long_run.apply(config);
        config.check()?;
        let lock = FolderLock::acquire(&flags.out)?;
        let digits = load_digits(&flags.data)?;
        let test = mnist::Split::Test;
        let held_out = match flags.long_run.diagnostics_every {
            Some(_) if mnist::is_present(&flags.data, test) => {
                Some(mnist::load(&flags.data, test)?)
            }
            _ => None,
        };
        Ok(Self { flags, device, _lock: lock, config, digits, held_out })
    }

    /// Makes models of the run's seed on its device.
    pub fn build(&self) -> ModelBuilder {
        ModelBuilder::new(self.config.seed).device(&self.device)
    }

    /// The settings of the run and of its two models, to be written when it starts.
    pub fn settings(
        &self,
        generator: &impl Serialize,
        critic: &impl Serialize,
    ) -> Result<ConfigJson> {
        let settings = Settings {
            version: env!("CARGO_PKG_VERSION"),
            device: &self.flags.device,
            data: &self.flags.data,
            training: &self.config,
            generator,
            critic,
        };
        Ok(ConfigJson::new(&self.flags.out, &settings)?)
    }

    /// The checkpoints that the flags ask for; without any, one is written where the run is interrupted.
    fn checkpoints(&self) -> Checkpoints {
        let checkpoints = Checkpoints::new(self.flags.out.join("checkpoints"));
        match self.flags.checkpoint_every {
            Some(steps) => checkpoints.every_steps(steps),
            None if self.flags.resume => checkpoints,
            None => checkpoints.only_if_interrupted(),
        }
    }

    /// Trains on the digits; pictures are grids of `rows` by `columns`.
    pub fn train<G: Generator, C: Critic>(
        &self,
        trainer: WganTrainer<G, C>,
        settings: ConfigJson,
        title: &str,
        [rows, columns]: [usize; 2],
    ) -> Result<()> {
        let out = &self.flags.out;
        let pictures = Every::Steps((self.config.generator_steps / 10).max(1));
        let mut trainer = trainer
            .observe(Every::Never, settings)
            .observe(Every::Step, Progress::new())
            .observe(Every::Step, HistoryCsv::new(out))
            .observe(pictures, SampleGrid::new(out, rows, columns, self.config.seed))
            .observe(pictures, LearningCurve::new(out, title))
            .observe(pictures, Weights::new(out))
            .observe(Every::Step, interrupt::observer()?)
            .with_checkpoints(self.checkpoints());
        if let Some(steps) = self.flags.long_run.diagnostics_every {
            let mut diagnostics = Diagnostics::new(out, self.digits.clone(), self.config.seed);
            if let Some(held_out) = &self.held_out {
                diagnostics = diagnostics.held_out(held_out.clone());
            }
            trainer = trainer.observe(Every::Steps(steps), diagnostics);
        }
        if self.flags.resume {
            match trainer.resume()? {
                Some(from) => {
                    eprintln!("{}: going on after step {}", from.path.display(), from.step)
                }
                None => {
                    eprintln!("{}: no checkpoint to resume from: beginning anew", out.display())
                }
            }
        }
        trainer.fit_until(&self.digits, self.config.generator_steps)?;
        interrupt::check(&trainer)?;

        if let Some(count) = self.flags.samples {
            let samples = trainer.sample(count as usize)?;
            let path = out.join("samples.safetensors");
            files::write_safetensors(&path, &BTreeMap::from([("samples".to_owned(), samples)]))?;
        }
        // Nobody may be reading: the run has done its work all the same.
        let _ = writeln!(
            std::io::stdout(),
            "{}: samples.png, learning_curve.svg, history.csv, config.json, weights",
            out.display()
        );
        Ok(())
    }
}

/// The training digits from the folder, or from the hub that candle-datasets downloads them from.
fn load_digits(folder: &Path) -> Result<TensorDataset> {
    if mnist::is_present(folder, mnist::Split::Train) {
        return Ok(mnist::load(folder, mnist::Split::Train)?);
    }
    eprintln!("{}: no MNIST files here; downloading them", folder.display());
    let dataset = candle_datasets::vision::mnist::load().with_context(|| {
        format!(
            "{}: expected the MNIST files in this folder, and the download failed",
            folder.display()
        )
    })?;
    let images = dataset.train_images.to_dtype(DType::F32)?.reshape(((), 1, 28, 28))?;
    let labels = dataset.train_labels.to_dtype(DType::U32)?.to_vec1()?;
    Ok(TensorDataset::new(images.affine(2.0, -1.0)?)?.with_labels(labels)?)
}
