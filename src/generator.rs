//! The generator: latent points to samples.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::second_order::Traced;

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

    /// The same on a traced tensor, of the classes asked for where there are labels: what a training step runs.
    ///
    /// The default goes through candle's graph. A generator that is written in traced operations, as those of the
    /// [`zoo`](crate::zoo) are, overrides it: its gradients then cost neither a memory of zeros nor a sum with them each.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward) and [`forward_conditional`](Self::forward_conditional).
    fn forward_traced(
        &self,
        latent: &Traced,
        labels: Option<&Tensor>,
        train: bool,
    ) -> Result<Traced> {
        latent.through_candle(|latent| generate(self, latent, labels, train))
    }

    /// How many classes the generator makes samples of; `None`, the default, for one that is not told a class.
    fn classes(&self) -> Option<usize> {
        None
    }

    /// Maps latent points `(batch, latent)` to samples `(batch, ...)` of the classes asked for: the forward pass of a
    /// class-conditional generator, which has [`classes`](Self::classes). Labels `(batch,)` are of type `u32`.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::InvalidConfig`] for a label that is no class, and from a generator that
    /// takes no labels.
    fn forward_conditional(&self, latent: &Tensor, labels: &Tensor, train: bool) -> Result<Tensor> {
        let _ = (latent, labels, train);
        Err(Error::config("the generator's batch of labels", "present", "none: it has no classes"))
    }

    /// The generator for another thread. [`fit`](crate::WganTrainer::fit) then makes the samples for a step, be it the critic's or
    /// the generator's own, while the critic learns from those of the step before, unless the results of a pass are larger than 32 MiB
    /// in all, since two passes hold more than one. The samples are the same; the default, `None`, is slower where there is more
    /// than one core.
    ///
    /// Say `Some(self)`, and never anything else, in a type that is `Sync` and whose forward pass depends on its parameters,
    /// its input and nothing else: not on the thread, nor on what the critic's pass changes (shared parameters, a shared
    /// generator of random numbers, candle's own on the CPU). It may move buffers of its own, as batch normalisation does.
    ///
    /// ```
    /// # use candle_core::Tensor;
    /// # use wgan::{Generator, Result};
    /// # struct Identity;
    /// impl Generator for Identity {
    ///     // ...
    /// #   fn latent_dim(&self) -> usize { 1 }
    /// #   fn forward(&self, latent: &Tensor, _train: bool) -> Result<Tensor> { Ok(latent.clone()) }
    ///     fn as_sync(&self) -> Option<&(dyn Generator + Sync)> {
    ///         Some(self)
    ///     }
    /// }
    /// ```
    fn as_sync(&self) -> Option<&(dyn Generator + Sync)> {
        None
    }
}

/// One call for both kinds of generator.
pub(crate) fn generate<G: Generator + ?Sized>(
    generator: &G,
    latent: &Tensor,
    labels: Option<&Tensor>,
    train: bool,
) -> Result<Tensor> {
    match labels {
        Some(labels) => generator.forward_conditional(latent, labels, train),
        None => generator.forward(latent, train),
    }
}

/// Labels `(count,)` for showing a generator's samples: each class in turn. `None` where it has no classes.
pub(crate) fn labels_in_turn<G: Generator + ?Sized>(
    generator: &G,
    first: usize,
    count: usize,
) -> Result<Option<Tensor>> {
    let in_turn = |classes: usize| {
        let labels = (first..first + count).map(|i| (i % classes.max(1)) as u32);
        Tensor::from_vec(labels.collect::<Vec<_>>(), count, &Device::Cpu)
    };
    Ok(generator.classes().map(in_turn).transpose()?)
}

impl<G: Generator + ?Sized> Generator for Box<G> {
    fn latent_dim(&self) -> usize {
        (**self).latent_dim()
    }

    fn forward(&self, latent: &Tensor, train: bool) -> Result<Tensor> {
        (**self).forward(latent, train)
    }

    fn classes(&self) -> Option<usize> {
        (**self).classes()
    }

    fn as_sync(&self) -> Option<&(dyn Generator + Sync)> {
        (**self).as_sync()
    }

    fn forward_conditional(&self, latent: &Tensor, labels: &Tensor, train: bool) -> Result<Tensor> {
        (**self).forward_conditional(latent, labels, train)
    }

    fn forward_traced(
        &self,
        latent: &Traced,
        labels: Option<&Tensor>,
        train: bool,
    ) -> Result<Traced> {
        (**self).forward_traced(latent, labels, train)
    }
}
