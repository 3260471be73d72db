//! Distances between distributions and the field's measures of sample quality, usable without any training.
//!
//! All figures are computed in `f64` from [`Points`] or from batches of tensors, whatever type those have.
//!
//! | question | measure |
//! |---|---|
//! | do generated samples look like real ones? | [`Quality`], by the features of a network: `frechet_distance`, `kernel_distance`, `inception_score` |
//! | are they good, and do they show all that there is? | [`precision_recall`], [`density_coverage`] |
//! | how many modes do they show? | [`ModeCoverage`] |
//! | do they differ from each other? | [`MsSsim::of_pairs`] |
//! | how far is one set of points from another? | [`transport`]: Wasserstein distances, exact, sliced and entropic |
//! | how far is one histogram from another? | [`divergence`]: Kullback-Leibler, Jensen-Shannon, total variation |
//! | how far is one normal distribution from another? | [`Gaussian`], in closed form |
//!
//! The networks are [`Features`]: one that comes with the crate, for digits, and Inception-v3 of the standard Fréchet
//! Inception distance, whose weights come in a file. Every [`Score`] names its network, as figures of two networks do not
//! compare. [`observers::Scores`](crate::observers::Scores) measures in the course of a run.
//!
//! What has no figure is an error, never NaN: a single sample, NaN and infinities, sizes that do not fit. Fewer samples
//! than features give a Fréchet distance with a warning through `tracing`.

pub mod divergence;
#[cfg(feature = "metrics")]
mod eigen;
mod features;
mod finite;
#[cfg(feature = "metrics")]
mod gaussian;
#[cfg(feature = "metrics")]
mod gaussian_distances;
mod inception;
mod inception_score;
mod kernel_distance;
mod memory;
#[cfg(feature = "metrics")]
mod mnist_classifier;
mod modes;
#[cfg(feature = "metrics")]
mod moments;
mod ms_ssim;
mod neighbours;
mod points;
mod quality;
mod score;
pub mod transport;
mod weighted;
mod weights;

pub use features::{Features, Outputs};
#[cfg(feature = "metrics")]
pub use gaussian::Gaussian;
pub use inception::Inception;
pub use inception_score::InceptionScore;
pub use kernel_distance::{Estimate, KernelDistance};
#[cfg(feature = "metrics")]
pub use mnist_classifier::MnistClassifier;
pub use modes::ModeCoverage;
pub use ms_ssim::MsSsim;
pub use neighbours::{
    DensityCoverage, Neighbourhoods, PrecisionRecall, density_coverage, precision_recall,
};
pub use points::Points;
pub use quality::{Measure, Quality, batches_of};
pub use score::Score;
pub use weighted::WeightedPoints;
