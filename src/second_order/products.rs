//! Matrix products.

use candle_core::Tensor;

use super::Traced;
use super::gradients::Gradient;
use super::tape::{PullBack, pull_back};
use crate::error::Result;
use crate::ops::{self, has_kernel};

/// Which operand is transposed, in the letters of BLAS; the two gradients of each are again among the three.
#[derive(Debug, Clone, Copy)]
enum Product {
    /// `a bᵀ`
    Nt,
    /// `a b`
    Nn,
    /// `aᵀ b`
    Tn,
}

/// The product of two matrices.
fn product(product: Product, a: &Traced, b: &Traced) -> Result<Traced> {
    let value = match product {
        Product::Nt => ops::matmul_nt(a.raw(), b.raw())?,
        Product::Nn => ops::matmul(a.raw(), b.raw())?,
        Product::Tn => ops::matmul_tn(a.raw(), b.raw())?,
    };
    Ok(Traced::from_operands(value, pull_backs(product, a, b)))
}

fn pull_backs<'a>(kind: Product, a: &'a Traced, b: &'a Traced) -> [(&'a Traced, PullBack); 2] {
    let (for_a, for_b) = (b.clone(), a.clone());
    let for_a = pull_back(move |g| match kind {
        Product::Nt => product(Product::Nn, g, &for_a),
        Product::Nn => product(Product::Nt, g, &for_a),
        Product::Tn => product(Product::Nt, &for_a, g),
    });
    let waits = is_variable(b) && !is_variable(a) && has_kernel(a.raw()) && has_kernel(b.raw());
    let for_b: PullBack = Box::new(move |g| {
        let (left, right) = match kind {
            Product::Nt => (g, &for_b),
            Product::Nn => (&for_b, g),
            Product::Tn => return product(Product::Nn, &for_b, g).map(Gradient::from),
        };
        if waits && !g.is_recorded() && is_large(left, right) {
            return Ok(Gradient::product(left.raw().clone(), right.raw().clone()));
        }
        product(Product::Tn, left, right).map(Gradient::from)
    });
    [(a, for_a), (b, for_b)]
}

fn is_variable(x: &Traced) -> bool {
    x.node().and_then(|node| node.as_leaf()).is_some_and(Tensor::is_variable)
}

/// Whether `aᵀ b`, (rows, m) and (rows, n), is as large as its factors, more or less: only then is it worth keeping these.
fn is_large(a: &Traced, b: &Traced) -> bool {
    match (a.dims(), b.dims()) {
        (&[rows, m], &[_, n]) => {
            rows.saturating_mul(m + n) <= m.saturating_mul(n).saturating_mul(4)
        }
        _ => false,
    }
}

/// The product of batches of matrices. Candle's takes a transposed operand, but not one turned in any other way.
fn batched(a: &Traced, b: &Traced) -> Result<Traced> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let value = a.raw().matmul(b.raw())?;
    Ok(batched_with_value(value, &a, &b))
}

fn batched_with_value(value: Tensor, a: &Traced, b: &Traced) -> Traced {
    let turned = |t: &Traced| t.transpose(t.dims().len() - 2, t.dims().len() - 1);
    let (for_a, for_b) = (b.clone(), a.clone());
    let for_a = pull_back(move |g| batched(g, &turned(&for_a.beside(g))?));
    let for_b = pull_back(move |g| batched(&turned(&for_b.beside(g))?, g));
    Traced::from_operands(value, [(a, for_a), (b, for_b)])
}

impl Traced {
    /// Matrix product of `(..., m, k)` and `(..., k, n)`.
    ///
    /// # Errors
    /// Candle's where the shapes do not fit.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        if self.dims().len() == 2 && other.dims().len() == 2 {
            product(Product::Nn, self, other)
        } else {
            Ok(batched_with_value(self.raw().matmul(other.raw())?, self, other))
        }
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
        let (outputs, inputs) = weight.dims2()?;
        let mut dims = self.dims().to_vec();
        let rows = match dims.split_last() {
            Some((&last, leading)) if last == inputs && !leading.is_empty() => {
                leading.iter().product::<usize>()
            }
            _ => {
                return Err(crate::Error::input(layer, &dims, format!("(batch, {inputs})")));
            }
        };
        if dims.len() != 2 {
            dims.pop();
            dims.push(outputs);
            return self.reshape((rows, inputs))?.linear(weight, bias, layer)?.reshape(dims);
        }
        let parameters = (weight, bias);
        let (weight, bias) = (self.parameter(weight), bias.map(|bias| self.parameter(bias)));
        let compute = || ops::linear(self.raw(), weight.raw(), bias.as_ref().map(Self::raw));
        let value = match self.rows() {
            Some(rows) => rows.output(parameters, compute)?,
            None => compute()?,
        };
        let mut operands = Vec::from(pull_backs(Product::Nt, self, &weight));
        if let Some(bias) = &bias {
            operands.push((bias, pull_back(move |g| g.channel_totals(outputs, 1))));
        }
        Ok(Self::from_operands(value, operands))
    }
}
