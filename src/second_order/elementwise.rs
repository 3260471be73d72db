//! Elementwise operations and activation functions.

use candle_core::Tensor;

use super::Traced;
use super::traced::PullBack;
use crate::error::{Error, Result};
use crate::ops::{Function, activate, activate_gradient};

/// Sums a gradient over the dimensions along which an operand of this shape was broadcast.
pub(super) fn sum_to(gradient: &Tensor, dims: &[usize]) -> candle_core::Result<Tensor> {
    if gradient.dims() == dims {
        return Ok(gradient.clone());
    }
    let added = gradient.rank() - dims.len();
    let spread: Vec<usize> = (0..gradient.rank())
        .filter(|&d| d < added || (dims[d - added] == 1 && gradient.dims()[d] != 1))
        .collect();
    gradient.sum_keepdim(spread)?.reshape(dims)
}

fn pull_back(
    f: impl Fn(&Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'static,
) -> PullBack {
    Box::new(f)
}

impl Traced {
    /// Elementwise sum of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let value = self.value().add(other.value())?;
        let same = || pull_back(|g| Ok(g.clone()));
        Ok(Self::from_operands(value, [(self, same()), (other, same())]))
    }

    /// Elementwise difference of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        let value = self.value().sub(other.value())?;
        let operands = [(self, pull_back(|g| Ok(g.clone()))), (other, pull_back(Tensor::neg))];
        Ok(Self::from_operands(value, operands))
    }

    /// Elementwise product of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        let (a, b) = (self.value().clone(), other.value().clone());
        let value = a.mul(&b)?;
        let operands =
            [(self, pull_back(move |g| g.mul(&b))), (other, pull_back(move |g| g.mul(&a)))];
        Ok(Self::from_operands(value, operands))
    }

    /// Elementwise quotient of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn div(&self, other: &Self) -> Result<Self> {
        let (a, b) = (self.value().clone(), other.value().clone());
        let value = a.div(&b)?;
        let for_a = {
            let b = b.clone();
            pull_back(move |g| g.div(&b))
        };
        let for_b = pull_back(move |g| g.mul(&a)?.div(&b.sqr()?)?.neg());
        Ok(Self::from_operands(value, [(self, for_a), (other, for_b)]))
    }

    /// Broadcasts the tensor to a shape.
    ///
    /// # Errors
    /// Candle's where the shape cannot be reached by broadcasting.
    pub fn broadcast_as(&self, dims: &[usize]) -> Result<Self> {
        let from = self.dims().to_vec();
        let value = self.value().broadcast_as(dims)?;
        Ok(self.unary(value, move |g| sum_to(g, &from)))
    }

    /// Sum with broadcasting.
    ///
    /// # Errors
    /// Candle's where the shapes cannot be broadcast together.
    pub fn broadcast_add(&self, other: &Self) -> Result<Self> {
        let (a, b) = self.broadcast_pair(other)?;
        a.add(&b)
    }

    /// Difference with broadcasting.
    ///
    /// # Errors
    /// Candle's where the shapes cannot be broadcast together.
    pub fn broadcast_sub(&self, other: &Self) -> Result<Self> {
        let (a, b) = self.broadcast_pair(other)?;
        a.sub(&b)
    }

    /// Product with broadcasting.
    ///
    /// # Errors
    /// Candle's where the shapes cannot be broadcast together.
    pub fn broadcast_mul(&self, other: &Self) -> Result<Self> {
        let (a, b) = self.broadcast_pair(other)?;
        a.mul(&b)
    }

    /// Quotient with broadcasting.
    ///
    /// # Errors
    /// Candle's where the shapes cannot be broadcast together.
    pub fn broadcast_div(&self, other: &Self) -> Result<Self> {
        let (a, b) = self.broadcast_pair(other)?;
        a.div(&b)
    }

    fn broadcast_pair(&self, other: &Self) -> Result<(Self, Self)> {
        let shape =
            self.value().shape().broadcast_shape_binary_op(other.value().shape(), "broadcast")?;
        Ok((self.broadcast_as(shape.dims())?, other.broadcast_as(shape.dims())?))
    }

    /// `mul * x + add`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        Ok(self.unary(self.value().affine(mul, add)?, move |g| g.affine(mul, 0.0)))
    }

    /// `-x`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn neg(&self) -> Result<Self> {
        self.affine(-1.0, 0.0)
    }

    /// `x^2`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn sqr(&self) -> Result<Self> {
        let x = self.value().clone();
        Ok(self.unary(x.sqr()?, move |g| g.mul(&x)?.affine(2.0, 0.0)))
    }

    /// The square root. Its derivative at 0 is infinite: keep an epsilon inside.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn sqrt(&self) -> Result<Self> {
        let y = self.value().sqrt()?;
        let root = y.clone();
        Ok(self.unary(y, move |g| g.div(&root)?.affine(0.5, 0.0)))
    }

    /// `e^x`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn exp(&self) -> Result<Self> {
        let y = self.value().exp()?;
        let factor = y.clone();
        Ok(self.unary(y, move |g| g.mul(&factor)))
    }

    /// The natural logarithm.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn log(&self) -> Result<Self> {
        let x = self.value().clone();
        Ok(self.unary(x.log()?, move |g| g.div(&x)))
    }

    /// `max(x, 0)`, with derivative 0 at 0.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn relu(&self) -> Result<Self> {
        self.function(Function::LeakyRelu { slope: 0.0 })
    }

    /// `x` where positive, `negative_slope * x` elsewhere, with derivative `negative_slope` at 0.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn leaky_relu(&self, negative_slope: f64) -> Result<Self> {
        self.function(Function::LeakyRelu { slope: negative_slope })
    }

    /// `x` where positive, `alpha (e^x - 1)` elsewhere.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn elu(&self, alpha: f64) -> Result<Self> {
        self.function(Function::Elu { alpha })
    }

    /// The hyperbolic tangent.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn tanh(&self) -> Result<Self> {
        self.function(Function::Tanh)
    }

    /// `1 / (1 + e^-x)`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn sigmoid(&self) -> Result<Self> {
        self.function(Function::Sigmoid)
    }

    /// `ln(1 + e^x)`, without PyTorch's switch to `x` above 20.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn softplus(&self) -> Result<Self> {
        self.function(Function::Softplus)
    }

    /// `x sigmoid(x)`, also called swish.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn silu(&self) -> Result<Self> {
        self.function(Function::Silu)
    }

    /// `max(x, 0) + weight * min(x, 0)` with a weight `(1,)` for all or `(channels,)` for dimension 1.
    pub(crate) fn prelu(&self, weight: &Tensor, layer: &str) -> Result<Self> {
        self.check_input(layer, Some(weight))?;
        let count = weight.elem_count();
        let dims: Vec<usize> = match self.dims() {
            _ if count == 1 => Vec::new(),
            [_, channels, rest @ ..] if *channels == count => {
                [&[1, count], vec![1; rest.len()].as_slice()].concat()
            }
            got => {
                return Err(Error::Shape {
                    what: format!("the input of {layer} with {count} weights"),
                    got: got.to_vec(),
                    expected: format!("(batch, {count}, ...)"),
                });
            }
        };
        let weight = self.parameter(weight).reshape(dims)?;
        let positive = self.relu()?;
        positive.add(&self.sub(&positive)?.broadcast_mul(&weight)?)
    }

    pub(crate) fn function(&self, function: Function) -> Result<Self> {
        let x = self.value().clone();
        let value = activate(function, &x)?;
        Ok(self.unary(value, move |g| activate_gradient(function, g, &x)))
    }
}
