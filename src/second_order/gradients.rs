//! Gradients as they arrive: sums of tensors, and of products that are not multiplied yet.
//!
//! The gradient of a fully connected layer's weight is a product of two small matrices that is as large as the weight. Each term
//! of a loss has one, and they are of no use but in their sum. So their factors are kept until all have arrived, and multiplied
//! as one product, with the rows of all of them below each other:
//!
//! ```text
//! g₁ᵀ x₁ + g₂ᵀ x₂ = [g₁; g₂]ᵀ [x₁; x₂]
//! ```
//!
//! Of a small weight in front of many rows the factors are larger, and it is multiplied at once; so it is where no kernel is.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId};

use super::Traced;
use crate::error::Result;
use crate::ops;

/// A gradient, or a share of one: a sum.
#[derive(Default)]
pub(crate) struct Gradient {
    sum: Option<Traced>,
    /// Of `aᵀ b` each: (rows, m), (rows, n).
    factors: Vec<(Tensor, Tensor)>,
}

impl From<Traced> for Gradient {
    fn from(tensor: Traced) -> Self {
        Self { sum: Some(tensor), factors: Vec::new() }
    }
}

impl Gradient {
    /// `aᵀ b`: (rows, m), (rows, n) -> (m, n).
    pub(super) fn product(a: Tensor, b: Tensor) -> Self {
        Self { sum: None, factors: vec![(a, b)] }
    }

    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        self.factors.extend(other.factors);
        self.sum = match (self.sum.take(), other.sum) {
            (Some(sum), Some(other)) => Some(sum.add(&other)?),
            (sum, other) => sum.or(other),
        };
        Ok(())
    }

    /// The tensor. Factors come from gradients that are not recorded only, so nothing that is recorded is lost.
    pub(super) fn traced(self) -> Result<Traced> {
        match self {
            Self { sum: Some(sum), factors } if factors.is_empty() => Ok(sum),
            products => Ok(Traced::unrecorded(products.multiplied()?.0)),
        }
    }

    /// The tensor, and whether it was seen to be finite: where not, nobody has looked.
    pub(crate) fn multiplied(self) -> Result<(Tensor, bool)> {
        match self {
            Self { sum: Some(sum), factors } if factors.is_empty() => Ok((sum.into_raw(), false)),
            Self { sum: Some(sum), factors } => {
                let product = ops::sum_of_products(&factors)?.0;
                Ok((ops::add(sum.raw(), &product)?, false))
            }
            Self { sum: None, factors } => Ok(ops::sum_of_products(&factors)?),
        }
    }
}

/// The gradients of a loss, or of a term of it, with respect to all variables that it was computed from.
#[derive(Default)]
pub(crate) struct Gradients(HashMap<TensorId, Gradient>);

impl Gradients {
    /// Those that candle's own backward pass has found.
    pub(super) fn of_candle(store: &GradStore) -> Self {
        let gradient = |&id: &TensorId| {
            let gradient = Traced::unrecorded(store.get_id(id)?.clone());
            Some((id, gradient.into()))
        };
        Self(store.get_ids().filter_map(gradient).collect())
    }

    pub(super) fn add(&mut self, variable: TensorId, share: Gradient) -> Result<()> {
        self.0.entry(variable).or_default().add(share)
    }

    /// The gradients of the sum of both losses.
    pub(crate) fn and(mut self, other: Self) -> Result<Self> {
        other.0.into_iter().try_for_each(|(variable, share)| self.add(variable, share))?;
        Ok(self)
    }

    /// The gradient of a variable, which is then no longer among these.
    pub(crate) fn remove(&mut self, variable: &Tensor) -> Option<Gradient> {
        self.0.remove(&variable.id())
    }

    /// All of them multiplied, as candle's own backward pass gives them.
    pub(super) fn into_store(self) -> Result<GradStore> {
        let mut store = GradStore::default();
        for (variable, gradient) in self.0 {
            store.insert_id(variable, gradient.multiplied()?.0);
        }
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::random::Stream;

    fn draw(name: &str, shape: (usize, usize)) -> Tensor {
        Stream::new(0, name, 0).normal(shape, DType::F64, &Device::Cpu).expect("drawn on the CPU")
    }

    /// The weight in two layers, as a matrix and as a plain factor, and by way of candle; and the same in candle's own operators.
    fn losses(weight: &Var, x: &Tensor) -> Result<(Traced, Tensor)> {
        let of_candle = (weight.as_tensor() / 3.0)?;
        let x_traced = Traced::untracked(x);
        let parameter = x_traced.parameter(weight);
        let h = x_traced.linear(weight, None, "first")?.tanh()?;
        let h = h.linear(weight, None, "second")?.tanh()?.matmul(&parameter)?;
        let h = h.linear(&of_candle, None, "third")?.tanh()?;
        let ours = h.sqr()?.sum_all()?.add(&parameter.sqr()?.sum_all()?)?;

        let h = x.matmul(&weight.t()?)?.tanh()?;
        let h = h.matmul(&weight.t()?)?.tanh()?.matmul(weight)?;
        let h = h.matmul(&of_candle.t()?)?.tanh()?;
        Ok((ours, (h.sqr()?.sum_all()? + weight.sqr()?.sum_all()?)?))
    }

    fn close(got: &Tensor, expected: &Tensor) -> Result<()> {
        let off: f64 = got.sub(expected)?.abs()?.max_all()?.to_scalar()?;
        assert!(off < 1e-12, "{off:e}");
        Ok(())
    }

    #[test]
    fn shares_of_all_kinds_are_added() -> Result<()> {
        let weight = Var::from_tensor(&draw("weight", (16, 16)))?;
        let (ours, candles) = losses(&weight, &draw("x", (7, 16)))?;
        let gradients = ours.gradients()?;
        let factors = &gradients.0[&weight.id()].factors;
        assert_eq!(factors.len(), 3, "two layers and a matrix");
        let expected = candles.backward()?.remove(&weight).expect("tracked");
        close(&gradients.into_store()?.remove(&weight).expect("tracked"), &expected)
    }

    /// Of two losses: one product for the weight of a layer, and each other's variables stay.
    #[test]
    fn the_gradients_of_a_sum_are_those_of_both() -> Result<()> {
        let weight = Var::from_tensor(&draw("weight", (16, 16)))?;
        let other = Var::from_tensor(&draw("other", (16, 16)))?;
        let mut expected = Vec::new();
        let mut sum = Gradients::default();
        for (name, weights) in [("x", vec![&weight]), ("y", vec![&weight, &other])] {
            for weight in weights {
                let (ours, candles) = losses(weight, &draw(name, (5, 16)))?;
                sum = sum.and(ours.gradients()?)?;
                expected.push(candles.backward()?.remove(weight).expect("tracked"));
            }
        }
        let of_both = sum.remove(&weight).expect("it has one");
        assert_eq!(of_both.factors.len(), 6);
        let stacked = [0, 1].map(|i| -> Result<Tensor> {
            let factors = of_both.factors.iter().map(|pair| if i == 0 { &pair.0 } else { &pair.1 });
            Ok(Tensor::cat(&factors.collect::<Vec<_>>(), 0)?)
        });
        let [a, b] = stacked;
        let of_stacked = (ops::matmul_tn(&a?, &b?)? + of_both.sum.as_ref().expect("dense").raw())?;
        let (product, _) = of_both.multiplied()?;
        assert_eq!(product.to_vec2::<f64>()?, of_stacked.to_vec2::<f64>()?, "one product");
        close(&product, &(&expected[0] + &expected[1])?)?;
        assert!(sum.remove(&weight).is_none());
        close(&sum.into_store()?.remove(&other).expect("it has one"), &expected[2])
    }

    /// What was seen of the product says nothing of what is added to it.
    #[test]
    fn a_share_that_is_not_finite_is_not_called_finite() -> Result<()> {
        let product = || Gradient::product(draw("a", (3, 4)), draw("b", (3, 5)));
        assert!(product().multiplied()?.1);
        let mut sum = product();
        let share = draw("c", (4, 5)).affine(1.0, f64::INFINITY)?;
        sum.add(Traced::unrecorded(share).into())?;
        assert!(!sum.multiplied()?.1);
        Ok(())
    }

    /// A product that is smaller than its factors is made at once.
    #[test]
    fn factors_of_many_rows_are_not_kept() -> Result<()> {
        let weight = Var::from_tensor(&draw("weight", (16, 16)))?;
        for (rows, kept) in [(8, 1), (32, 1), (33, 0), (1000, 0)] {
            let x = Traced::untracked(&draw("x", (rows, 16)));
            let gradients = x.linear(&weight, None, "a layer")?.sum_all()?.gradients()?;
            assert_eq!(gradients.0[&weight.id()].factors.len(), kept, "{rows} rows");
        }
        Ok(())
    }
}
