//! The two reverse passes: to the input, recorded, and to the parameters, not recorded.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::gradients::Gradients;
use super::tape::walk_back;
use super::{Traced, bridge};
use crate::error::{Error, Result};

impl Traced {
    /// The gradient of the sum of this tensor's elements with respect to `input`, in the shape of `input`, as a tensor of
    /// candle's: candle's `backward` of what is computed from it is exact.
    ///
    /// For scores `(batch,)` of a critic that looks at each sample alone this is each sample's own gradient. The
    /// result is a differentiable function of `input` and of every parameter on the way.
    ///
    /// # Errors
    /// [`Error::NotConnected`] where this tensor was not computed from `input`; candle's if a product fails.
    pub fn gradient(&self, input: &Self) -> Result<Tensor> {
        self.differentiate(input).map(|gradient| gradient.value().clone())
    }

    /// The same gradient as a traced tensor: PyTorch's `grad` with `create_graph=True`.
    ///
    /// ```
    /// # use candle_core::{Device, Tensor, Var};
    /// # use wgan::Traced;
    /// # fn main() -> wgan::Result<()> {
    /// let weight = Var::new(&[2f64, 3.0], &Device::Cpu)?;
    /// let x = Traced::input(&Tensor::new(&[5f64, 7.0], &Device::Cpu)?);
    /// let score = x.sqr()?.mul(&x.parameter(&weight))?.sum(0)?;
    /// let gradient = score.differentiate(&x)?; // 2 w x
    /// let gradients = gradient.sqr()?.sum(0)?.backward()?; // 8 w x^2
    /// assert_eq!(gradients.get(&weight).unwrap().to_vec1::<f64>()?, [400.0, 1176.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`gradient`](Self::gradient).
    pub fn differentiate(&self, input: &Self) -> Result<Self> {
        let not_connected = || Error::NotConnected {
            what: format!("a tensor of shape {:?}", self.dims()),
            on: format!("the input of shape {:?}", input.dims()),
        };
        let (Some(output), Some(target)) = (self.node(), input.node()) else {
            return Err(not_connected());
        };
        let way = output.way_to(target);
        let mut found = None;
        if way.holds(output) {
            let ones = self.parameter(&self.raw().ones_like()?);
            walk_back(
                output.clone(),
                ones,
                |node| way.holds(node),
                |node, gradient| {
                    let gradient = gradient.traced()?;
                    if !node.is(target) {
                        return Ok(Some(gradient));
                    }
                    found = Some(gradient);
                    Ok(None)
                },
            )?;
        }
        found.ok_or_else(not_connected)
    }

    /// The gradients of the sum of this tensor's elements, for a loss the one that it has, with respect to every variable that
    /// it was computed from: candle's `backward`.
    ///
    /// Nothing of the pass is recorded, and each part of the tape that nobody else holds is freed as it is passed. Where
    /// candle computed a leaf (generated samples, a weight over its norm), candle's own `backward` goes on from there.
    ///
    /// # Errors
    /// Candle's if a product fails.
    pub fn backward(self) -> Result<GradStore> {
        self.gradients()?.into_store()
    }

    /// The same, with those of weights not multiplied yet.
    pub(crate) fn gradients(self) -> Result<Gradients> {
        let ones = self.raw().ones_like()?;
        match self.into_node() {
            Some(node) if node.reaches_leaf() => bridge::backward(node, ones),
            _ => Ok(Gradients::default()),
        }
    }
}

#[cfg(test)]
mod tests;
