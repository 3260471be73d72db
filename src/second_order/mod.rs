//! Exact gradients of a critic's scores, and of those gradients.
//!
//! Candle's `backward` detaches every gradient it makes, so a penalty on a gradient reaches only part of the
//! weights, silently. And its tape cannot be walked from outside. So a critic's forward pass is written on [`Traced`]
//! tensors, which are a tape of their own: to candle their values are constants, and each operation notes how a gradient is
//! pulled back through it, **in traced operations again**. There are two passes over the notes.
//!
//! * [`Traced::differentiate`], to the input, walks only the way to it and is itself recorded: PyTorch's `create_graph=True`.
//! * [`Traced::backward`], to the parameters, of a loss or of a penalty made of such a gradient, records nothing, computes
//!   nothing that no parameter asked for, takes the first share of a gradient as it is where candle adds it to zeros, and
//!   frees each part of the tape as it is passed.
//!
//! It meets candle at both ends. A parameter is a leaf; so is a tensor that candle computed (generated samples, a weight over
//! its norm), from which candle's own backward pass goes on. And [`Traced::value`] is part of candle's graph: candle's
//! backward pass of what is computed from it goes on along the tape.
//!
//! A penalty is exact like this, for smooth activations too, in fewer passes than PyTorch's: for each layer one forward, one
//! to pull the gradient back, and one gradient for each operand of those two that needs one. PyTorch also sends zeros back
//! through every piecewise-linear activation, whose second derivative they are. Convolutions and matrix products of one
//! critic step under the gradient penalty, real and generated samples in one batch:
//!
//! | critic | forward | penalty | backward | all | PyTorch |
//! |---|---|---|---|---|---|
//! | [`MlpCritic`](crate::zoo::MlpCritic), 3 layers | 3 | 6 | 10 | 19 | 22 (3 + 6 + 13) |
//! | [`DcganCritic`](crate::zoo::DcganCritic) of 32 pixels, 4 layers, no norm | 4 | 8 | 14 | 26 | 32 (4 + 8 + 20) |
//! | [`ResNet32Critic`](crate::zoo::ResNet32Critic), 10 convolutions, 1 linear layer | 11 | 22 | 41 | 74 | 92 (11 + 22 + 59) |
//!
//! (Both columns are counted, by a unit test here and by `tests/pytorch/model_training.py` there.)
//!
//! For an `MlpCritic` a trainer makes one less: what a fully connected layer makes of an interpolate is the interpolate of what it
//! made of both samples. So it is for each layer of 64 inputs or more that is applied to the samples themselves, with no labels
//! appended, where the critic sees both batches in one pass.
//!
//! The designs that were weighed are in `docs/design.md`. This one lets the author write the forward pass once, in candle's
//! own words, and works behind `dyn Critic`.

mod apply;
mod bridge;
mod convolution;
mod elementwise;
mod gradients;
mod mixtures;
mod products;
mod reverse;
mod rows;
mod shape;
mod tape;
mod traced;

pub use apply::Layer;
pub(crate) use convolution::can_be_held;
pub(crate) use gradients::{Gradient, Gradients};
pub(crate) use mixtures::AtSamples;
pub use traced::Traced;
