//! The critic: samples to scores, and everything that follows from its one forward pass.

mod conditional;
mod opaque;

pub(crate) use conditional::given;
pub use opaque::ModuleCritic;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::second_order::Traced;

/// A network that gives each sample a score.
///
/// Only [`forward`](Self::forward) is written, once, with candle's operations on [`Traced`] tensors. The other
/// methods follow from it: scores, the exact gradient of each score with respect to its sample, and penalties on
/// that gradient which reach every weight.
///
/// ```
/// use candle_core::Tensor;
/// use candle_nn::{Linear, VarBuilder, linear};
/// use wgan::{Critic, ModelBuilder, Result, Traced};
///
/// struct TwoLayers {
///     fc1: Linear,
///     fc2: Linear,
/// }
///
/// impl TwoLayers {
///     fn new(vb: VarBuilder) -> Result<Self> {
///         Ok(Self { fc1: linear(2, 64, vb.pp("fc1"))?, fc2: linear(64, 1, vb.pp("fc2"))? })
///     }
/// }
///
/// impl Critic for TwoLayers {
///     fn forward(&self, samples: &Traced) -> Result<Traced> {
///         samples.apply(&self.fc1)?.leaky_relu(0.2)?.apply(&self.fc2)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let critic = ModelBuilder::new(0).critic(TwoLayers::new)?;
/// let samples = Tensor::new(&[[0f32, 1.0], [2.0, 3.0]], &candle_core::Device::Cpu)?;
/// let (scores, gradient) = critic.model().scores_and_gradient(&samples)?;
/// assert_eq!(scores.dims(), [2]);
/// assert_eq!(gradient.dims(), [2, 2]);
/// // A penalty on the gradient is a loss like any other: candle's backward reaches every weight.
/// let gradients = gradient.sqr()?.sum_all()?.backward()?;
/// assert!(critic.parameters().trained().all(|(name, var)| name == "fc1.bias"
///     || name == "fc2.bias"
///     || gradients.get(var).is_some()));
/// # Ok(())
/// # }
/// ```
pub trait Critic {
    /// Maps samples `(batch, ...)` to scores `(batch,)` or `(batch, 1)`. Each score must depend on its own
    /// sample alone.
    ///
    /// A pass must not change in place what another may have used: neither trained parameters nor anything else but buffers, which
    /// are given to the tape as copies ([`parameter`](Traced::parameter)). A trainer differentiates one pass while it makes the next,
    /// and a gradient penalty takes what a linear layer makes of interpolates from what it made of the samples in the same step.
    ///
    /// # Errors
    /// [`Error::Shape`] or candle's where the samples do not fit.
    fn forward(&self, samples: &Traced) -> Result<Traced>;

    /// How many classes the critic tells apart; `None`, the default, for a critic of samples alone.
    fn classes(&self) -> Option<usize> {
        None
    }

    /// Maps samples `(batch, ...)` of known classes to scores `(batch,)` or `(batch, 1)`: the forward pass of a
    /// class-conditional critic, which has [`classes`](Self::classes). Labels `(batch,)` are of type `u32`.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::InvalidConfig`] for a label that is no class, and from a critic that
    /// takes no labels.
    fn forward_conditional(&self, samples: &Traced, labels: &Tensor) -> Result<Traced> {
        let _ = (samples, labels);
        Err(Error::config("the critic's batch of labels", "present", "none: it has no classes"))
    }

    /// The scores `(batch,)`, part of candle's graph: its `backward` reaches the parameters, and the samples where candle
    /// computed them.
    ///
    /// # Errors
    /// The forward pass's; [`Error::Shape`] where it gives anything but one score a sample.
    fn scores(&self, samples: &Tensor) -> Result<Tensor> {
        score(self, &Traced::untracked(samples)).map(|scores| scores.value().clone())
    }

    /// The scores `(batch,)` with every parameter a constant: candle's `backward` reaches the samples and does no work
    /// for the critic.
    ///
    /// # Errors
    /// Those of [`scores`](Self::scores).
    fn scores_frozen(&self, samples: &Tensor) -> Result<Tensor> {
        score(self, &Traced::frozen(samples)).map(|scores| scores.value().clone())
    }

    /// The scores `(batch,)` and the gradient of each score with respect to its own sample, in the shape of
    /// `samples`. Both are part of candle's graph: the gradient can be differentiated again, exactly.
    ///
    /// # Errors
    /// Those of [`scores`](Self::scores); [`Error::BatchNormUnderPenalty`] for a critic with batch normalisation. (That a
    /// critic mixes samples in some other way is not noticed.)
    fn scores_and_gradient(&self, samples: &Tensor) -> Result<(Tensor, Tensor)> {
        let samples = Traced::input(samples);
        let scores = score(self, &samples)?;
        let gradient = scores.gradient(&samples)?;
        Ok((scores.value().clone(), gradient))
    }

    /// A scalar made of the critic's gradient at these points, such as a gradient penalty, whose own gradient
    /// reaches every parameter: by [`Traced::backward`], or candle's on its [`value`](Traced::value).
    ///
    /// `points` are a [`Traced::input`]; `of_gradient` gets the gradients, in their shape.
    ///
    /// # Errors
    /// Those of [`scores_and_gradient`](Self::scores_and_gradient) and of `of_gradient`.
    fn penalty(
        &self,
        points: &Traced,
        of_gradient: &dyn Fn(&Traced) -> Result<Traced>,
    ) -> Result<Traced> {
        of_gradient(&score(self, points)?.differentiate(points)?)
    }
}

/// A pointer to a critic is one.
macro_rules! impl_for_pointer {
    ($($pointer:ty),*) => {$(
        impl<C: Critic + ?Sized> Critic for $pointer {
            fn forward(&self, samples: &Traced) -> Result<Traced> {
                (**self).forward(samples)
            }

            fn classes(&self) -> Option<usize> {
                (**self).classes()
            }

            fn forward_conditional(&self, samples: &Traced, labels: &Tensor) -> Result<Traced> {
                (**self).forward_conditional(samples, labels)
            }

            fn scores(&self, samples: &Tensor) -> Result<Tensor> {
                (**self).scores(samples)
            }

            fn scores_frozen(&self, samples: &Tensor) -> Result<Tensor> {
                (**self).scores_frozen(samples)
            }

            fn scores_and_gradient(&self, samples: &Tensor) -> Result<(Tensor, Tensor)> {
                (**self).scores_and_gradient(samples)
            }

            fn penalty(
                &self,
                points: &Traced,
                of_gradient: &dyn Fn(&Traced) -> Result<Traced>,
            ) -> Result<Traced> {
                (**self).penalty(points, of_gradient)
            }
        }
    )*};
}
impl_for_pointer!(&C, Box<C>);

/// Runs the forward pass and holds its result to one score a sample, `(batch,)`.
pub(crate) fn score<C: Critic + ?Sized>(critic: &C, samples: &Traced) -> Result<Traced> {
    let scores = critic.forward(samples)?;
    match (samples.dims().first(), scores.dims()) {
        (Some(&batch), &[count]) if count == batch => Ok(scores),
        (Some(&batch), &[count, 1]) if count == batch => scores.reshape(batch),
        (batch, got) => Err(Error::Shape {
            what: "the critic's output".into(),
            got: got.to_vec(),
            expected: match batch {
                Some(batch) => format!("one score a sample, ({batch},) or ({batch}, 1)"),
                None => "samples with a batch dimension".into(),
            },
        }),
    }
}
