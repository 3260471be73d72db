//! Training of one run, and what its samples are worth.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use wgan::data::TensorDataset;
use wgan::metrics::{
    Features, Gaussian, InceptionScore, MnistClassifier, Neighbourhoods, Points, batches_of,
};
use wgan::zoo::{DcganCritic, DcganGenerator, MlpCritic, MlpGenerator};
use wgan::{Critic, Generator, ModelBuilder, Network, WganTrainer, files};

use crate::finished::Run;
use crate::rows::{Networks, RunSettings};

/// Samples of each row in the picture.
pub const SHOWN: usize = 20;
/// Splits of the classifier score.
pub const SPLITS: usize = 10;
/// The neighbour whose distance is the radius of coverage's balls.
pub const NEIGHBOUR: usize = 5;

/// What samples are worth.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Figures {
    pub frechet_distance: f64,
    pub classifier_score: f64,
    pub coverage: f64,
}

impl Figures {
    /// Each by itself.
    pub fn each(of: impl Fn(fn(&Self) -> f64) -> f64) -> Self {
        Self {
            frechet_distance: of(|figures| figures.frechet_distance),
            classifier_score: of(|figures| figures.classifier_score),
            coverage: of(|figures| figures.coverage),
        }
    }
}

/// What measures samples against the test digits, whose features are computed once.
pub struct Judge<'a> {
    network: MnistClassifier,
    gaussian: Gaussian,
    neighbourhoods: Neighbourhoods<'a>,
}

impl<'a> Judge<'a> {
    pub fn new(network: MnistClassifier, real: &'a Points) -> Result<Self> {
        let gaussian = Gaussian::of(real)?;
        Ok(Self { network, gaussian, neighbourhoods: Neighbourhoods::new(real, NEIGHBOUR)? })
    }

    pub fn figures(&self, samples: &Tensor) -> Result<Figures> {
        let (features, classifier_score) = look(&self.network, samples)?;
        let frechet_distance = self.gaussian.frechet_distance(&Gaussian::of(&features)?)?;
        let coverage = self.neighbourhoods.coverage_by(&features)?;
        Ok(Figures { frechet_distance, classifier_score, coverage })
    }
}

/// The features of samples and their classifier score, from one pass of the network.
pub fn look(network: &MnistClassifier, samples: &Tensor) -> Result<(Points, f64)> {
    let mut score = InceptionScore::new(samples.dim(0)?, SPLITS)?;
    let mut features = Vec::new();
    for batch in batches_of(samples, 500) {
        let outputs = network.outputs(&batch?)?;
        features.extend_from_slice(Points::from_tensor(&outputs.features)?.values());
        let probabilities = outputs.probabilities.context("the network has no classes")?;
        score.add(&Points::from_tensor(&probabilities)?)?;
    }
    Ok((Points::new(features, network.dims())?, score.finish()?.mean))
}

/// Trains a row's networks with one seed, measures their samples, and leaves those that the picture shows beside the figures.
pub fn train(run: &Run<RunSettings>, digits: &TensorDataset, judge: &Judge<'_>) -> Result<Figures> {
    let build = ModelBuilder::new(run.settings.training.seed);
    match run.settings.networks.clone() {
        Networks::Mlp { generator, critic } => fit(
            run,
            build.generator(|vb| MlpGenerator::new(generator, vb))?,
            build.critic(|vb| MlpCritic::new(critic, vb))?,
            digits,
            judge,
        ),
        Networks::Dcgan { generator, critic } => fit(
            run,
            build.generator(|vb| DcganGenerator::new(generator, vb))?,
            build.critic(|vb| DcganCritic::new(critic, vb))?,
            digits,
            judge,
        ),
    }
}

fn fit<G: Generator, C: Critic>(
    run: &Run<RunSettings>,
    generator: Network<G>,
    critic: Network<C>,
    digits: &TensorDataset,
    judge: &Judge<'_>,
) -> Result<Figures> {
    let mut trainer = WganTrainer::new(generator, critic, run.settings.training.clone())?;
    trainer.fit(digits)?;
    let samples = trainer.sample(run.settings.samples)?;
    let figures = judge.figures(&samples)?;
    let shown = BTreeMap::from([("samples".to_owned(), samples.narrow(0, 0, SHOWN)?)]);
    files::write_safetensors(&samples_path(run), &shown)?;
    Ok(figures)
}

/// The file with the samples of a run that the picture shows.
pub fn samples_path(run: &Run<RunSettings>) -> PathBuf {
    run.path.with_extension("safetensors")
}
