//! The generator: latent points to samples.

use candle_core::Tensor;

use crate::error::Result;

/// A network that maps latent points to samples.
///
/// It is written on plain candle tensors with candle-nn's layers.
///
/// ```
/// use candle_core::{DType, Tensor};
/// use candle_nn::{Linear, Module, VarBuilder, linear};
/// use wgan::{Generator, ModelBuilder, Result};
///
/// struct Line(Linear);
///
/// impl Generator for Line {
///     fn latent_dim(&self) -> usize {
///         1
///     }
///
///     fn forward(&self, latent: &Tensor, _train: bool) -> Result<Tensor> {
///         Ok(self.0.forward(latent)?)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let generator = ModelBuilder::new(0).generator(|vb| Ok(Line(linear(1, 2, vb.pp("fc"))?)))?;
/// # let _ = generator;
/// # Ok(())
/// # }
/// ```
pub trait Generator {
    /// The size of a latent point.
    fn latent_dim(&self) -> usize;

    /// Maps latent points `(batch, latent)` to samples `(batch, ...)`, such as
    /// `(batch, channels, height, width)`.
    ///
    /// `train` tells layers such as batch normalisation to use and follow the batch's statistics.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) or candle's where the latent points do not fit.
    fn forward(&self, latent: &Tensor, train: bool) -> Result<Tensor>;
}

impl<G: Generator + ?Sized> Generator for Box<G> {
    fn latent_dim(&self) -> usize {
        (**self).latent_dim()
    }

    fn forward(&self, latent: &Tensor, train: bool) -> Result<Tensor> {
        (**self).forward(latent, train)
    }
}
