//! All measures that compare features, from one pass of the network over the samples.

use std::mem::discriminant;

use candle_core::Tensor;

use super::features::{Features, read};
#[cfg(feature = "metrics")]
use super::{Gaussian, eigen::Root};
use super::{InceptionScore, KernelDistance, Points, Score, density_coverage, precision_recall};
use crate::error::{Error, Result};

/// A measure of generated samples by a network's features or classes.
///
/// Settings other than the papers' change the figure, and so are a part of its name:
/// `precision[k=5]`, `kernel_distance[subsets=50 subset_size=500]`.
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

impl Measure {
    /// Refuses settings outside their range.
    fn check(&self) -> Result<()> {
        match self {
            Self::KernelDistance(settings) => settings.check(),
            Self::InceptionScore { splits: 0 } => {
                Err(Error::config("the number of splits", 0, "1 or more"))
            }
            Self::PrecisionRecall { k: 0 } | Self::DensityCoverage { k: 0 } => {
                Err(Error::config("k, the number of the neighbour", 0, "1 or more"))
            }
            _ => Ok(()),
        }
    }

    /// The settings that are not the papers', as a part of the scores' names.
    fn settings(&self) -> String {
        let mut settings = Vec::new();
        let mut note = |name: &str, value: String, papers: String| {
            if value != papers {
                settings.push(format!("{name}={value}"));
            }
        };
        match self {
            #[cfg(feature = "metrics")]
            Self::FrechetDistance => {}
            Self::KernelDistance(kernel) => {
                let KernelDistance { subsets, subset_size, degree, gamma, coefficient, seed } =
                    *kernel;
                let papers = KernelDistance::default();
                let factor = |gamma: Option<f64>| gamma.map_or("none".into(), |x| x.to_string());
                note("subsets", subsets.to_string(), papers.subsets.to_string());
                note("subset_size", subset_size.to_string(), papers.subset_size.to_string());
                note("degree", degree.to_string(), papers.degree.to_string());
                note("gamma", factor(gamma), factor(papers.gamma));
                note("coefficient", coefficient.to_string(), papers.coefficient.to_string());
                note("seed", seed.to_string(), papers.seed.to_string());
            }
            Self::InceptionScore { splits } => note("splits", splits.to_string(), "10".into()),
            Self::PrecisionRecall { k } => note("k", k.to_string(), "3".into()),
            Self::DensityCoverage { k } => note("k", k.to_string(), "5".into()),
        }
        if settings.is_empty() { String::new() } else { format!("[{}]", settings.join(" ")) }
    }

    /// Refuses fewer real or generated samples than it takes.
    fn check_count(&self, len: usize, real: bool) -> Result<()> {
        let needed = match *self {
            #[cfg(feature = "metrics")]
            Self::FrechetDistance => 2,
            Self::KernelDistance(settings) => settings.subset_size,
            Self::InceptionScore { splits } if !real => splits,
            Self::PrecisionRecall { k } => k.saturating_add(1),
            Self::DensityCoverage { k } if real => k.saturating_add(1),
            _ => 1,
        };
        if len < needed {
            let side = if real { "real" } else { "generated" };
            let purpose = format!("as {side} samples for {self:?}");
            return Err(Error::DatasetTooSmall { len, needed, purpose });
        }
        Ok(())
    }
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
///     println!("{score}"); // Frechet distance 3.210 (features: mnist-cnn-1, 10000 against 10000 samples)
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Quality<F> {
    network: F,
    measures: Vec<Measure>,
    real: Collected,
    /// That of the real features' distribution, which takes as long as all else of a Fréchet distance.
    #[cfg(feature = "metrics")]
    root: Option<Root>,
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
    /// [`Error::InvalidConfig`] for no measures, one that is given twice (its scores would have one name), a setting outside
    /// its range, and an inception score without classes; [`Error::DatasetTooSmall`]; those of the batches and the network.
    pub fn new(
        network: F,
        measures: impl Into<Vec<Measure>>,
        real: impl IntoIterator<Item = Result<Tensor>>,
    ) -> Result<Self> {
        let measures = measures.into();
        if measures.is_empty() {
            return Err(Error::config("the list of measures", "empty", "at least one"));
        }
        for (at, measure) in measures.iter().enumerate() {
            measure.check()?;
            let same = |other: &Measure| discriminant(other) == discriminant(measure);
            if measures[..at].iter().any(same) {
                let expected = "each measure once, as its scores have its name alone";
                return Err(Error::config(
                    "the list of measures",
                    format!("{measures:?}"),
                    expected,
                ));
            }
            if let (Measure::InceptionScore { .. }, None) = (measure, network.classes()) {
                let name = format!("the classes of the network {}", network.name());
                return Err(Error::config(name, "absent", "a classifier, for the inception score"));
            }
        }
        let real = collect(&network, &measures, real, |_| Ok(()))?;
        measures.iter().try_for_each(|measure| measure.check_count(real.samples, true))?;
        Ok(Self {
            network,
            measures,
            #[cfg(feature = "metrics")]
            root: real.gaussian.as_ref().map(Gaussian::root).transpose()?,
            real,
        })
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
            measure.check_count(samples, false)?;
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
            let settings = measure.settings();
            let mut add = |name: &str, value: f64, deviation: Option<f64>| {
                let real = !matches!(measure, Measure::InceptionScore { .. });
                scores.push(Score {
                    measure: format!("{name}{settings}"),
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
                    let real = self.real.gaussian.as_ref().zip(self.root.as_ref());
                    if let Some(((real, root), generated)) = real.zip(generated.gaussian.as_ref()) {
                        let distance =
                            real.frechet_distance_by_roots(root, generated, &generated.root()?)?;
                        add("frechet_distance", distance, None);
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
        let (features, probabilities) = read(network, &images?, samples)?;
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use candle_core::{DType, Device};

    use super::super::Outputs;
    use super::*;

    /// An image's two pixels, which counts its calls; NaN for pixels above 9.
    #[derive(Debug)]
    struct Pixels(Cell<usize>);

    impl Features for Pixels {
        fn name(&self) -> &str {
            "pixels"
        }

        fn dims(&self) -> usize {
            2
        }

        fn outputs(&self, images: &Tensor) -> Result<Outputs> {
            self.0.set(self.0.get() + 1);
            let nan = images.affine(0.0, f64::NAN)?;
            let features = images.gt(9.0)?.where_cond(&nan, images)?.flatten_from(1)?;
            Ok(Outputs { features, probabilities: None })
        }
    }

    fn images(count: u32) -> Tensor {
        let pixels = Tensor::arange(0, 2 * count, &Device::Cpu).unwrap();
        let pixels = (pixels.to_dtype(DType::F64).unwrap() * 0.01).unwrap();
        pixels.reshape((count as usize, 1, 1, 2)).unwrap()
    }

    #[test]
    fn what_cannot_be_measured_is_refused_before_the_network_runs() {
        let network = Pixels(Cell::new(0));
        let kernel = KernelDistance { subset_size: 1, ..Default::default() };
        for measures in [
            vec![],
            vec![Measure::PrecisionRecall { k: 0 }],
            vec![Measure::DensityCoverage { k: 0 }],
            vec![Measure::KernelDistance(kernel)],
            vec![Measure::InceptionScore { splits: 0 }],
            vec![Measure::InceptionScore { splits: 1 }],
            vec![Measure::PrecisionRecall { k: 3 }, Measure::PrecisionRecall { k: 5 }],
        ] {
            let error = Quality::new(&network, measures, batches_of(&images(9), 4)).unwrap_err();
            assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        }
        assert_eq!(network.0.get(), 0);
        let few =
            Quality::new(&network, [Measure::DensityCoverage { k: 9 }], batches_of(&images(9), 4));
        assert!(matches!(few, Err(Error::DatasetTooSmall { len: 9, needed: 10, .. })));
        let quality =
            Quality::new(&network, [Measure::PrecisionRecall { k: 4 }], batches_of(&images(9), 4));
        let calls = network.0.get();
        let few = quality.unwrap().measure(4, batches_of(&images(4), 4));
        assert!(matches!(few, Err(Error::DatasetTooSmall { len: 4, needed: 5, .. })));
        assert_eq!(network.0.get(), calls);
    }

    #[test]
    fn features_that_are_not_finite_name_the_network_and_the_sample() -> Result<()> {
        let network = Rc::new(Pixels(Cell::new(0)));
        let measures = [Measure::PrecisionRecall { k: 1 }];
        let quality = Quality::new(Rc::clone(&network), measures, batches_of(&images(9), 4))?;
        let bad = Tensor::cat(&[images(5), (images(2) + 8.99)?], 0)?;
        let error = quality.measure(7, batches_of(&bad, 4)).unwrap_err().to_string();
        let expected =
            "the features of the network pixels, by sample and place, holds NaN at [6, 0]";
        assert!(error.starts_with(expected), "{error}");
        Ok(())
    }

    #[test]
    fn settings_other_than_the_papers_are_told_by_name() -> Result<()> {
        let papers = KernelDistance::default();
        let other = KernelDistance { subsets: 7, gamma: Some(0.5), ..papers };
        for (measure, settings) in [
            (Measure::KernelDistance(papers), ""),
            (Measure::KernelDistance(other), "[subsets=7 gamma=0.5]"),
            (
                Measure::KernelDistance(KernelDistance {
                    subset_size: 4,
                    degree: 2,
                    coefficient: 0.25,
                    seed: 1,
                    ..papers
                }),
                "[subset_size=4 degree=2 coefficient=0.25 seed=1]",
            ),
            (Measure::InceptionScore { splits: 10 }, ""),
            (Measure::InceptionScore { splits: 5 }, "[splits=5]"),
            (Measure::PrecisionRecall { k: 3 }, ""),
            (Measure::PrecisionRecall { k: 5 }, "[k=5]"),
            (Measure::DensityCoverage { k: 5 }, ""),
            (Measure::DensityCoverage { k: 3 }, "[k=3]"),
        ] {
            assert_eq!(measure.settings(), settings);
        }
        let network = Pixels(Cell::new(0));
        let names = |k| -> Result<Vec<String>> {
            let measures = [Measure::PrecisionRecall { k }];
            let quality = Quality::new(&network, measures, batches_of(&images(9), 4))?;
            let scores = quality.measure(7, batches_of(&images(7), 4))?;
            Ok(scores.iter().map(Score::name).collect())
        };
        assert_eq!(names(3)?, ["precision (pixels)", "recall (pixels)"]);
        assert_eq!(names(2)?, ["precision[k=2] (pixels)", "recall[k=2] (pixels)"]);
        Ok(())
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn the_distance_by_the_kept_root_is_the_distance() -> Result<()> {
        let (real, generated) = (images(9), images(7));
        let network = Pixels(Cell::new(0));
        let quality = Quality::new(&network, [Measure::FrechetDistance], batches_of(&real, 4))?;
        let of = |images: &Tensor| Gaussian::of(&Points::from_tensor(images)?);
        let expected = of(&real)?.frechet_distance(&of(&generated)?)?;
        let found = quality.measure(7, batches_of(&generated, 7))?[0].value;
        assert!((found - expected).abs() < 1e-12 * expected, "{found} {expected}");
        Ok(())
    }
}
