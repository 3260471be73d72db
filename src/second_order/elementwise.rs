//! Elementwise operations and activation functions.

use candle_core::Tensor;

use super::Traced;
use super::tape::pull_back;
use crate::error::{Error, Result};
use crate::ops::{self, Function, activate};

impl Traced {
    /// Elementwise sum of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let value = ops::add(self.raw(), other.raw())?;
        let same = || pull_back(|g| Ok(g.clone()));
        Ok(Self::from_operands(value, [(self, same()), (other, same())]))
    }

    /// Elementwise difference of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        let value = ops::sub(self.raw(), other.raw())?;
        let operands = [(self, pull_back(|g| Ok(g.clone()))), (other, pull_back(Self::neg))];
        Ok(Self::from_operands(value, operands))
    }

    /// Elementwise product of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        let value = ops::mul(self.raw(), other.raw())?;
        let (a, b) = (self.clone(), other.clone());
        let operands =
            [(self, pull_back(move |g| g.mul(&b))), (other, pull_back(move |g| g.mul(&a)))];
        Ok(Self::from_operands(value, operands))
    }

    /// Elementwise quotient of two tensors of one shape.
    ///
    /// # Errors
    /// Candle's where the shapes differ.
    pub fn div(&self, other: &Self) -> Result<Self> {
        let value = self.raw().div(other.raw())?;
        let (a, b) = (self.clone(), other.clone());
        let for_a = {
            let b = b.clone();
            pull_back(move |g| g.div(&b))
        };
        let for_b = pull_back(move |g| g.mul(&a)?.div(&b)?.div(&b)?.neg());
        Ok(Self::from_operands(value, [(self, for_a), (other, for_b)]))
    }

    /// Broadcasts the tensor to a shape.
    ///
    /// # Errors
    /// Candle's where the shape cannot be reached by broadcasting.
    pub fn broadcast_as(&self, dims: &[usize]) -> Result<Self> {
        if self.dims() == dims {
            return Ok(self.clone());
        }
        let from = self.dims().to_vec();
        let value = self.raw().broadcast_as(dims)?;
        Ok(self.unary(value, move |g| g.sum_to(&from)))
    }

    /// The sum over the dimensions along which an operand of this shape was broadcast.
    pub(super) fn sum_to(&self, dims: &[usize]) -> Result<Self> {
        if self.dims() == dims {
            return Ok(self.clone());
        }
        let (rank, added) = (self.dims().len(), self.dims().len() - dims.len());
        let spread: Vec<usize> = (0..rank)
            .filter(|&d| d < added || (dims[d - added] == 1 && self.dims()[d] != 1))
            .collect();
        self.sum_keepdim(spread)?.reshape(dims)
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
            self.raw().shape().broadcast_shape_binary_op(other.raw().shape(), "broadcast")?;
        Ok((self.broadcast_as(shape.dims())?, other.broadcast_as(shape.dims())?))
    }

    /// `mul * x + add`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        Ok(self.unary(self.raw().affine(mul, add)?, move |g| g.affine(mul, 0.0)))
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
        let x = self.clone();
        Ok(self.unary(ops::sqr(self.raw())?, move |g| g.mul(&x)?.affine(2.0, 0.0)))
    }

    /// The square root. Its derivative at 0 is infinite: keep an epsilon inside.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn sqrt(&self) -> Result<Self> {
        Ok(self.root(self.raw().sqrt()?))
    }

    /// The square root, which is known.
    fn root(&self, root: Tensor) -> Self {
        let (x, y) = (self.clone(), root.clone());
        self.unary(root, move |g| g.div(&x.beside(g).root(y.clone()))?.affine(0.5, 0.0))
    }

    /// `e^x`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn exp(&self) -> Result<Self> {
        Ok(self.exponential(self.raw().exp()?))
    }

    /// `e^x`, which is known.
    fn exponential(&self, exponential: Tensor) -> Self {
        let (x, y) = (self.clone(), exponential.clone());
        self.unary(exponential, move |g| g.mul(&x.beside(g).exponential(y.clone())))
    }

    /// The natural logarithm.
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn log(&self) -> Result<Self> {
        let x = self.clone();
        Ok(self.unary(self.raw().log()?, move |g| g.div(&x)))
    }

    /// `x^exponent`
    ///
    /// # Errors
    /// Candle's for types it cannot do arithmetic in.
    pub fn powf(&self, exponent: f64) -> Result<Self> {
        let x = self.clone();
        Ok(self.unary(self.raw().powf(exponent)?, move |g| {
            g.mul(&x.beside(g).powf(exponent - 1.0)?)?.affine(exponent, 0.0)
        }))
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
        let y = activate(function, self.raw())?;
        Ok(match function {
            Function::LeakyRelu { slope } => {
                // Which side of the kink: y tells it as well, and is what the next layer keeps anyway.
                let side = if slope >= 0.0 { y.clone() } else { self.raw().clone() };
                self.unary(y, move |g| g.gate(slope, &side))
            }
            Function::Tanh => {
                let (x, tanh) = (self.clone(), y.clone());
                self.unary(y, move |g| {
                    if g.is_recorded() {
                        g.times_derivative(function, 1, &x)
                    } else {
                        Ok(Self::unrecorded(ops::tanh_gradient(g.raw(), &tanh)?))
                    }
                })
            }
            _ => {
                let x = self.clone();
                self.unary(y, move |g| g.times_derivative(function, 1, &x))
            }
        })
    }

    /// This tensor where `side` is positive, `slope` times it elsewhere: the gradient of a leaky ReLU, whose own derivative
    /// for `side` is zero but for a jump.
    fn gate(&self, slope: f64, side: &Tensor) -> Result<Self> {
        let value = ops::activate_gradient(Function::LeakyRelu { slope }, self.raw(), side)?;
        let side = side.clone();
        Ok(self.unary(value, move |g| g.gate(slope, &side)))
    }

    /// This tensor times the function's derivative of this order at `x`.
    fn times_derivative(&self, function: Function, order: u8, x: &Self) -> Result<Self> {
        let value = ops::times_derivative(function, order, self.raw(), x.raw())?;
        let for_self = {
            let x = x.clone();
            pull_back(move |g| g.times_derivative(function, order, &x))
        };
        let factor = self.clone();
        let at = x.clone();
        let for_x = pull_back(move |g| g.mul(&factor)?.times_derivative(function, order + 1, &at));
        Ok(Self::from_operands(value, [(self, for_self), (x, for_x)]))
    }
}
