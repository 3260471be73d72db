//! Scores images against a data set: `cargo run --example evaluate -- IMAGES`.
//!
//! `IMAGES` is a folder of pictures, a safetensors file with one tensor of images, a checkpoint or a folder of
//! checkpoints, which stands for its newest, or a generator's weights beside the config.json of its run. Values are to
//! be from -1 (black) to 1 (white): others are refused, and where none is below 0 a warning says so. Without `IMAGES`
//! MNIST's training digits are scored, which shows what every score is at its best: `cargo run --example evaluate` takes
//! some 40 seconds of two idle cores.
//!
//! Scores of two networks do not compare: each is printed with its own. Nor do those of different numbers of samples.

#[path = "common/experiment.rs"]
#[expect(dead_code, reason = "scores are no claims")]
mod experiment;
#[path = "common/generators.rs"]
mod generators;
#[path = "common/images.rs"]
mod images;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use clap::{Parser, ValueEnum};
use experiment::{Experiment, Flags};
use images::{Images, Reading};
use serde::Serialize;
use wgan::data::mnist::Split;
use wgan::metrics::{
    Features, Inception, KernelDistance, Measure, MnistClassifier, MsSsim, Quality, Score,
};
use wgan::report::{Picture, image_grid};

const MNIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist");

/// Scores images against a data set by the features of a network.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,

    /// What to score: a folder of pictures (PNG or JPEG), a safetensors file of images (count, channels, height, width)
    /// from -1 to 1, a checkpoint, a folder of checkpoints (the newest), or a generator's weights [default: MNIST's
    /// training digits]
    #[arg(value_name = "IMAGES")]
    generated: Option<PathBuf>,

    /// The data set: a folder of pictures or of MNIST's files, or a safetensors file of images [default: data/mnist of the
    /// repository]
    #[arg(long, value_name = "PATH", default_value = MNIST, hide_default_value = true)]
    real: PathBuf,

    /// The part of a data set in MNIST's files
    #[arg(long, value_enum, default_value = "test")]
    split: Part,

    /// Inception-v3 of the standard FID, whose weights are in this file, in place of the classifier of digits
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,

    /// The config.json of the run that a checkpoint or a generator's weights are of, where it is not near them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Images of each side: the first so many, or all where there are fewer [default: 10000, 1000 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=10_000_000))]
    count: Option<u64>,

    /// Only these measures
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["frechet", "kernel", "inception", "precision", "density", "ms-ssim"])]
    measures: Vec<Kind>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Train,
    Test,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Frechet distance
    Frechet,
    /// Kernel distance
    Kernel,
    /// Inception score, by the network's classes
    Inception,
    /// Precision and recall
    Precision,
    /// Density and coverage
    Density,
    /// Multi-scale structural similarity of neighbouring images, of either side by itself
    MsSsim,
}

#[derive(Serialize)]
struct Settings<'a> {
    generated: &'a Path,
    real: &'a Path,
    features: &'a str,
    generated_images: usize,
    real_images: usize,
}

fn main() -> ExitCode {
    experiment::main(run)
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let experiment = Experiment::start("evaluate", &arguments.flags)?;
    let network: Box<dyn Features> = match &arguments.inception {
        Some(weights) => Box::new(Inception::load(weights)?),
        None => Box::new(MnistClassifier::shipped()?),
    };
    let most = arguments.count.unwrap_or(arguments.flags.pick(10_000, 1_000)) as usize;
    let reading = |split| Reading {
        most,
        split,
        // Digits are often kept as pictures of three equal channels.
        grey: arguments.inception.is_none(),
        config: arguments.config.as_deref(),
        seed: arguments.flags.seed,
    };
    let split = match arguments.split {
        Part::Train => Split::Train,
        Part::Test => Split::Test,
    };
    let path = arguments.generated.as_deref().unwrap_or(Path::new(MNIST));
    let generated = Images::open(path, &reading(Split::Train))?;
    let real = Images::open(&arguments.real, &reading(split))?;
    for images in [&generated, &real] {
        let (found, path) = (images.count(), images.path.display());
        ensure!(found > 1, "{path}: {found} image; expected 2 or more");
        if arguments.measures.contains(&Kind::MsSsim) {
            ensure_room(images)?;
        }
    }

    for (images, name) in [(&generated, "generated.png"), (&real, "real.png")] {
        picture(images)?.save_png(experiment.folder.folder().join(name))?;
    }
    let features = network.name().to_owned();
    let settings = Settings {
        generated: &generated.path,
        real: &real.path,
        features: &features,
        generated_images: generated.count(),
        real_images: real.count(),
    };
    let scores = scores(&arguments.measures, network, &generated, &real)?;
    for score in &scores {
        // Nobody may be reading: results.json has them too.
        let _ = writeln!(std::io::stdout(), "{score}");
    }
    experiment.finish_without_claims(&settings, &scores)
}

fn scores(
    kinds: &[Kind],
    network: Box<dyn Features>,
    generated: &Images,
    real: &Images,
) -> Result<Vec<Score>> {
    let fewest = generated.count().min(real.count());
    let kernel = KernelDistance::default();
    let measures: Vec<Measure> = kinds
        .iter()
        .filter_map(|kind| {
            Some(match kind {
                Kind::Frechet => Measure::FrechetDistance,
                Kind::Kernel => Measure::KernelDistance(KernelDistance {
                    // Subsets of all there is would be one and the same.
                    subset_size: (fewest / 2).clamp(2, kernel.subset_size),
                    ..kernel
                }),
                Kind::Inception => Measure::InceptionScore { splits: 10.min(generated.count()) },
                Kind::Precision => Measure::PrecisionRecall { k: 3 },
                Kind::Density => Measure::DensityCoverage { k: 5 },
                Kind::MsSsim => return None,
            })
        })
        .collect();
    let mut scores = Vec::new();
    if !measures.is_empty() {
        let quality = Quality::new(network, measures, real.batches()).context("the data set")?;
        scores = quality.measure(generated.count(), generated.batches())?;
    }
    if kinds.contains(&Kind::MsSsim) {
        for (measure, images) in
            [("structural_similarity", generated), ("structural_similarity_of_the_data_set", real)]
        {
            scores.push(similarity(measure, images)?);
        }
    }
    Ok(scores)
}

/// At how many scales images of this size have room for the window of structural similarity.
fn scales(height: usize, width: usize) -> usize {
    let window = MsSsim::default().window;
    (1..=5).take_while(|scale| height.min(width) >> (scale - 1) >= window).count()
}

/// An error for images without room for one scale: before anything is computed.
fn ensure_room(images: &Images) -> Result<()> {
    let (_, _, height, width) = first(images)?.dims4()?;
    ensure!(
        scales(height, width) > 0,
        "{}: images of {height} x {width} pixels; structural similarity takes {} or more a side: \
         leave ms-ssim out of --measures",
        images.path.display(),
        MsSsim::default().window
    );
    Ok(())
}

/// The mean similarity of neighbours, at as many scales as the images have room for.
fn similarity(measure: &str, images: &Images) -> Result<Score> {
    let (mut sum, mut pairs, mut settings) = (0.0, 0, String::new());
    for batch in images.batches() {
        let batch = batch?;
        let (count, _, height, width) = batch.dims4()?;
        let scales = scales(height, width);
        if scales < MsSsim::default().weights.len() {
            settings = format!("[scales={scales}]");
        }
        if count > 1 {
            sum += (count / 2) as f64 * MsSsim::scales(scales)?.of_pairs(&batch)?;
            pairs += count / 2;
        }
    }
    ensure!(pairs > 0, "{}: one image; structural similarity compares two", images.path.display());
    Ok(Score {
        measure: format!("{measure}{settings}"),
        value: sum / pairs as f64,
        deviation: None,
        features: None,
        samples: 2 * pairs,
        real: None,
    })
}

fn first(images: &Images) -> Result<Tensor> {
    Ok(images.batches().next().context("there are no images")??)
}

/// The first 64 images.
fn picture(images: &Images) -> Result<Picture> {
    let first = first(images)?;
    Ok(image_grid(&first.narrow(0, 0, first.dims()[0].min(64))?, 8)?.scaled(2)?)
}
