//! Matrix products.

use candle_core::Tensor;

use super::Traced;
use super::traced::PullBack;
use crate::error::Result;
use crate::ops;

impl Traced {
    /// Matrix product of `(..., m, k)` and `(..., k, n)`.
    ///
    /// # Errors
    /// Candle's where the shapes do not fit.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        let (a, b) = (self.value().clone(), other.value().clone());
        let flat = a.rank() == 2 && b.rank() == 2;
        let value = if flat { ops::matmul(&a, &b)? } else { a.matmul(&b)? };
        // Candle's batched product takes a transposed operand, but not one turned in any other way.
        let batched = |a: &Tensor, b: &Tensor| a.contiguous()?.matmul(&b.contiguous()?);
        let turned = |t: &Tensor| t.transpose(t.rank() - 2, t.rank() - 1);
        let for_a = {
            let b = b.clone();
            move |g: &Tensor| {
                if flat { ops::matmul_nt(g, &b) } else { batched(g, &turned(&b)?) }
            }
        };
        let for_b = move |g: &Tensor| {
            if flat { ops::matmul_tn(&a, g) } else { batched(&turned(&a)?, g) }
        };
        let (for_a, for_b): (PullBack, PullBack) = (Box::new(for_a), Box::new(for_b));
        Ok(Self::from_operands(value, [(self, for_a), (other, for_b)]))
    }

    /// `x Wᵀ + b` for `(..., in)`, a weight `(out, in)` and a bias `(out,)`.
    ///
    /// `layer` is what an error calls it.
    pub(crate) fn linear(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        layer: &str,
    ) -> Result<Self> {
        self.check_factor(layer, weight)?;
        let weight = self.weight(weight);
        let bias = bias.map(|bias| self.weight(bias));
        let (outputs, inputs) = weight.dims2()?;
        let dims = self.dims().to_vec();
        let (rows, mut out_dims) = match dims.split_last() {
            Some((&last, leading)) if last == inputs && !leading.is_empty() => {
                (leading.iter().product::<usize>(), leading.to_vec())
            }
            _ => {
                return Err(crate::Error::input(layer, &dims, format!("(batch, {inputs})")));
            }
        };
        out_dims.push(outputs);
        let flat = self.value().reshape((rows, inputs))?;
        let value = ops::linear(&flat, &weight, bias.as_ref())?.reshape(out_dims)?;
        Ok(self.unary(value, move |g| {
            ops::matmul(&g.reshape((rows, outputs))?, &weight)?.reshape(dims.as_slice())
        }))
    }
}
