//! Trains a fully connected WGAN on MNIST: `cargo run --example mnist_mlp`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use wgan::data::{TensorDataset, mnist};
use wgan::observers::{
    ConfigJson, Every, HistoryCsv, LearningCurve, Progress, SampleGrid, Weights,
};
use wgan::optimizers::OptimizerConfig;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{ModelBuilder, TrainConfig, WganTrainer, files};

/// Trains a fully connected WGAN on the MNIST digits and leaves pictures, curves and weights in a folder.
#[derive(Parser)]
struct Arguments {
    /// How the critic is kept Lipschitz: weight clipping, gradient penalty or WGAN-div
    #[arg(long, value_enum, default_value_t = Strategy::Clip)]
    lipschitz: Strategy,

    /// Generator steps to train for [default: 4500 for clip, 3500 for gp and div]
    #[arg(long, value_name = "N")]
    generator_steps: Option<u64>,

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
    #[arg(long, value_name = "DIR", default_value = "runs/mnist_mlp")]
    out: PathBuf,

    /// Also write this many generated images, at most a million, to samples.safetensors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    samples: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Strategy {
    Clip,
    Gp,
    Div,
}

impl Strategy {
    /// The papers' settings, but for the learning rate and the length of the run: theirs are for convolutional
    /// networks and hours of training, these end within some minutes on two cores.
    fn config(self) -> TrainConfig {
        const LEARNING_RATE: f64 = 2e-4;
        let (paper, optimizer, generator_steps) = match self {
            Self::Clip => (TrainConfig::wgan(), OptimizerConfig::rms_prop(LEARNING_RATE), 4_500),
            Self::Gp => {
                (TrainConfig::wgan_gp(), OptimizerConfig::adam(LEARNING_RATE, 0.0, 0.9), 3_500)
            }
            Self::Div => {
                (TrainConfig::wgan_div(), OptimizerConfig::adam(LEARNING_RATE, 0.0, 0.9), 3_500)
            }
        };
        TrainConfig {
            generator_steps,
            critic_optimizer: optimizer,
            generator_optimizer: optimizer,
            ..paper
        }
    }
}

/// What `config.json` holds.
#[derive(Serialize)]
struct Settings<'a> {
    version: &'static str,
    device: &'a str,
    data: &'a Path,
    training: &'a TrainConfig,
    generator: &'a MlpGeneratorConfig,
    critic: &'a MlpCriticConfig,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let device = wgan::device(&arguments.device)?;
    let defaults = arguments.lipschitz.config();
    let config = TrainConfig {
        seed: arguments.seed,
        batch_size: arguments.batch_size,
        generator_steps: arguments.generator_steps.unwrap_or(defaults.generator_steps),
        ..defaults
    };
    config.check()?;
    let digits = load_digits(&arguments.data)?;

    let (generator_config, critic_config) = Default::default();
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION"),
        device: &arguments.device,
        data: &arguments.data,
        training: &config,
        generator: &generator_config,
        critic: &critic_config,
    };
    let out = &arguments.out;
    let config_json = ConfigJson::new(out, &settings)?;

    let build = ModelBuilder::new(arguments.seed).device(&device);
    let generator = build.generator(|vb| MlpGenerator::new(generator_config, vb))?;
    let critic = build.critic(|vb| MlpCritic::new(critic_config, vb))?;

    let pictures = Every::Steps((config.generator_steps / 10).max(1));
    let mut trainer = WganTrainer::new(generator, critic, config)?
        .observe(Every::Never, config_json)
        .observe(Every::Step, Progress::new())
        .observe(Every::Step, HistoryCsv::new(out))
        .observe(pictures, SampleGrid::new(out, 8, 8, arguments.seed))
        .observe(pictures, LearningCurve::new(out, "MLP on MNIST"))
        .observe(pictures, Weights::new(out));
    trainer.fit(&digits)?;

    if let Some(count) = arguments.samples {
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
    let images: Tensor = dataset.train_images.to_dtype(DType::F32)?.reshape(((), 1, 28, 28))?;
    Ok(TensorDataset::new(images.affine(2.0, -1.0)?)?)
}
