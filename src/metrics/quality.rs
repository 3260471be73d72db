//! All measures that compare features, from one pass of the network over the samples.

use candle_core::Tensor;

#[cfg(feature = "metrics")]
use super::Gaussian;
use super::features::{Features, read};
use super::{InceptionScore, KernelDistance, Points, Score, density_coverage, precision_recall};
use crate::error::{Error, Result};

/// A measure of generated samples by a network's features or classes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Measure {
    /// [`Gaussian::frechet_distance`] of the features, the FID where the network is Inception: `frechet_distance`. Lower is
    /// better. Features are not kept.
    #[cfg(feature = "metrics")]
    FrechetDistance,
    /// The [`KernelDistance`] of the features, the KID of Inception: `kernel_distance`. Lower is better.
    KernelDistance(KernelDistance),
    /// The [`InceptionScore`] of the classes: `inception_score`. Higher is better. Probabilities are not kept.
    InceptionScore {
        /// 10 in the paper.
        splits: usize,
    },
    /// [`precision_recall`]: `precision` and `recall`. Higher is better.
    PrecisionRecall {
        /// The number of the neighbour; 3 in the paper.
        k: usize,
    },
    /// [`density_coverage`]: `density` and `coverage`. Higher is better.
    DensityCoverage {
        /// The number of the neighbour; 5 in the paper.
        k: usize,
    },
}

/// Measures of generated samples against one set of real ones, whose features are computed once.
///
/// ```no_run
/// use candle_core::Tensor;
/// use wgan::data::mnist::{self, Split};
/// use wgan::metrics::{Measure, MnistClassifier, Quality, batches_of};
/// # fn main() -> wgan::Result<()> {
/// # let generated = Tensor::zeros((10_000, 1, 28, 28), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let real = mnist::load("data/mnist", Split::Test)?;
/// let quality = Quality::new(
///     MnistClassifier::shipped()?,
///     [Measure::FrechetDistance, Measure::PrecisionRecall { k: 3 }],
///     batches_of(real.samples(), 500),
/// )?;
/// for score in quality.measure(10_000, batches_of(&generated, 500))? {
///     println!("{score}"); // Frechet distance 3.2100 (features: mnist-cnn-1, 10000 against 10000 samples)
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Quality<F> {
    network: F,
    measures: Vec<Measure>,
    real: Collected,
}

/// The samples of a tensor `(samples, ...)`, so many at a time.
pub fn batches_of(
    samples: &Tensor,
    batch_size: usize,
) -> impl Iterator<Item = Result<Tensor>> + use<> {
    let (samples, size) = (samples.clone(), batch_size.max(1));
    let count = samples.dims().first().copied().unwrap_or(0);
    (0..count)
        .step_by(size)
        .map(move |first| Ok(samples.narrow(0, first, size.min(count - first))?))
}

/// What is left of a set of samples.
#[derive(Debug)]
struct Collected {
    samples: usize,
    #[cfg(feature = "metrics")]
    gaussian: Option<Gaussian>,
    features: Option<Points>,
}

impl<F: Features> Quality<F> {
    /// Reads the real samples, in batches of images `(batch, channels, height, width)`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an inception score without classes; [`Error::DatasetTooSmall`]; those of the batches, the
    /// network and the measures.
    pub fn new(
        network: F,
        measures: impl Into<Vec<Measure>>,
        real: impl IntoIterator<Item = Result<Tensor>>,
    ) -> Result<Self> {
        let measures = measures.into();
        for measure in &measures {
            if let (Measure::InceptionScore { .. }, None) = (measure, network.classes()) {
                let name = format!("the classes of the network {}", network.name());
                return Err(Error::config(name, "absent", "a classifier, for the inception score"));
            }
        }
        let real = collect(&network, &measures, real, |_| Ok(()))?;
        Ok(Self { network, measures, real })
    }

    /// The network.
    pub fn network(&self) -> &F {
        &self.network
    }

    /// The scores of this many generated samples that come in batches, in the order of the measures.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for another number of samples than that; those of the batches, the network and the measures.
    pub fn measure(
        &self,
        samples: usize,
        batches: impl IntoIterator<Item = Result<Tensor>>,
    ) -> Result<Vec<Score>> {
        let mut inception_scores = Vec::new();
        for measure in &self.measures {
            if let &Measure::InceptionScore { splits } = measure {
                inception_scores.push(InceptionScore::new(samples, splits)?);
            }
        }
        let generated = collect(&self.network, &self.measures, batches, |probabilities| {
            inception_scores.iter_mut().try_for_each(|score| score.add(probabilities))
        })?;
        if generated.samples != samples {
            let name = "the number of generated samples";
            return Err(Error::config(name, generated.samples, format!("{samples}, as was said")));
        }
        let mut inception_scores = inception_scores.into_iter();
        let mut scores = Vec::new();
        for measure in &self.measures {
            let mut add = |name: &str, value: f64, deviation: Option<f64>| {
                let real = !matches!(measure, Measure::InceptionScore { .. });
                scores.push(Score {
                    measure: name.into(),
                    value,
                    deviation,
                    features: Some(self.network.name().into()),
                    samples,
                    real: real.then_some(self.real.samples),
                });
            };
            let pair = || self.real.features.as_ref().zip(generated.features.as_ref());
            match *measure {
                #[cfg(feature = "metrics")]
                Measure::FrechetDistance => {
                    if let Some((real, generated)) =
                        self.real.gaussian.as_ref().zip(generated.gaussian.as_ref())
                    {
                        add("frechet_distance", real.frechet_distance(generated)?, None);
                    }
                }
                Measure::KernelDistance(settings) => {
                    if let Some((real, generated)) = pair() {
                        let estimate = settings.between(real, generated)?;
                        add("kernel_distance", estimate.mean, Some(estimate.deviation));
                    }
                }
                Measure::InceptionScore { .. } => {
                    if let Some(score) = inception_scores.next() {
                        let estimate = score.finish()?;
                        add("inception_score", estimate.mean, Some(estimate.deviation));
                    }
                }
                Measure::PrecisionRecall { k } => {
                    if let Some((real, generated)) = pair() {
                        let found = precision_recall(real, generated, k)?;
                        add("precision", found.precision, None);
                        add("recall", found.recall, None);
                    }
                }
                Measure::DensityCoverage { k } => {
                    if let Some((real, generated)) = pair() {
                        let found = density_coverage(real, generated, k)?;
                        add("density", found.density, None);
                        add("coverage", found.coverage, None);
                    }
                }
            }
        }
        Ok(scores)
    }
}

/// Runs the network over the batches, and keeps of the features what the measures need.
fn collect(
    network: &impl Features,
    measures: &[Measure],
    batches: impl IntoIterator<Item = Result<Tensor>>,
    mut with_probabilities: impl FnMut(&Points) -> Result<()>,
) -> Result<Collected> {
    let keeps = |measure: &Measure| {
        matches!(
            measure,
            Measure::KernelDistance(_)
                | Measure::PrecisionRecall { .. }
                | Measure::DensityCoverage { .. }
        )
    };
    let keeps = measures.iter().any(keeps);
    let (mut samples, mut kept) = (0, Vec::new());
    let features = batches.into_iter().map(|images| -> Result<Points> {
        let (features, probabilities) = read(network, &images?)?;
        samples += features.len();
        if let Some(probabilities) = probabilities {
            with_probabilities(&probabilities)?;
        }
        if keeps {
            kept.extend_from_slice(features.values());
        }
        Ok(features)
    });
    #[cfg(feature = "metrics")]
    let gaussian = if measures.contains(&Measure::FrechetDistance) {
        Some(Gaussian::of_batches(features)?)
    } else {
        drain(features)?;
        None
    };
    #[cfg(not(feature = "metrics"))]
    drain(features)?;
    if samples == 0 {
        let purpose = "measures of sample quality".into();
        return Err(Error::DatasetTooSmall { len: 0, needed: 1, purpose });
    }
    let features = keeps.then(|| Points::new(kept, network.dims())).transpose()?;
    Ok(Collected {
        samples,
        #[cfg(feature = "metrics")]
        gaussian,
        features,
    })
}

fn drain(mut batches: impl Iterator<Item = Result<Points>>) -> Result<()> {
    batches.try_for_each(|batch| batch.map(drop))
}
