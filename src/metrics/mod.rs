//! Distances between distributions and the field's measures of sample quality, usable without any training.
//!
//! All figures are computed in `f64` from [`Points`] or from batches of tensors, whatever type those have.

pub mod divergence;
mod points;
pub mod transport;
mod weighted;
mod weights;

pub use points::Points;
pub use weighted::WeightedPoints;
