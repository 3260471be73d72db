//! Exact gradients of a critic's scores with respect to its input, as tensors that candle differentiates again.
//!
//! Candle's `backward` detaches every gradient it makes, so a penalty on a gradient reaches only part of the
//! weights, silently. Here a critic's forward pass is written on [`Traced`] tensors instead: each operation
//! computes its value with candle and notes how a gradient is pulled back through it, **in candle operations
//! again**. [`Traced::gradient`] then runs the notes in reverse; its result is an ordinary candle tensor, part
//! of candle's graph down to every weight, and `backward` on a penalty made of it is exact, for smooth
//! activations too. This is what PyTorch does under `create_graph=True`, in fewer passes: for each layer one forward, one to
//! pull the gradient back, and one gradient for each operand of those two that needs one. PyTorch also sends zeros back
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
//! Three designs were weighed. *Forward mode* (each layer pushes a tangent along dP/dg) needs five passes and a
//! second number beside every activation. *A second, hand-written backward pass* for each critic is fast but is
//! the very thing that goes wrong in users' hands. *Tracing*, chosen, lets the author write the forward pass
//! once, in candle's own words, and works behind `dyn Critic`.

mod apply;
mod convolution;
mod elementwise;
mod products;
mod shape;
mod traced;

pub use apply::Layer;
pub(crate) use convolution::can_be_held;
pub use traced::Traced;
