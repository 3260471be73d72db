//! Activation functions whose gradients follow PyTorch's conventions, to the second order.
//!
//! Candle's own `relu` has gradient 1 at 0 (PyTorch: 0) and its `leaky_relu` is five operations with gradient
//! (1 + slope) / 2 there (PyTorch: slope).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType};

use super::{has_kernel, mul};
use crate::kernels::activation::{self as kernels, Function, gate, map};
use crate::kernels::{for_real, slice};

/// `f(x)`, elementwise.
pub(crate) fn activate(function: Function, x: &Tensor) -> Result<Tensor> {
    if has_kernel(x) {
        x.contiguous()?.apply_op1(Activation { function, order: 0 })
    } else {
        composed(function, x)
    }
}

/// `gradient * f'(x)`, elementwise, differentiable in both: the pullback of [`activate`].
pub(crate) fn activate_gradient(
    function: Function,
    gradient: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    match function {
        // f' is constant but for a jump, so nothing flows to x.
        Function::LeakyRelu { slope } => {
            let x = x.detach();
            if has_kernel(&x) && gradient.dtype() == x.dtype() {
                gradient.contiguous()?.apply_op2(&x.contiguous()?, Gate { slope })
            } else {
                gradient.mul(&slopes(&x, slope)?)
            }
        }
        _ if has_kernel(x) => {
            mul(gradient, &x.contiguous()?.apply_op1(Activation { function, order: 1 })?)
        }
        _ => gradient.mul(&composed_derivative(function, x)?),
    }
}

/// `gradient * f^(order)(x)`, elementwise, for an order of 1 or 2; a constant to candle.
pub(crate) fn times_derivative(
    function: Function,
    order: u8,
    gradient: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let (gradient, x) = (&gradient.detach(), &x.detach());
    match order {
        1 => activate_gradient(function, gradient, x),
        2 if has_kernel(x) => {
            mul(gradient, &x.contiguous()?.apply_op1_no_bwd(&Activation { function, order })?)
        }
        2 => gradient.mul(&composed_second_derivative(function, x)?),
        _ => candle_core::bail!("{function:?} has no derivative of order {order} here"),
    }
}

/// `gradient * (1 - y^2)`, elementwise, for `y` = tanh x: its derivative without a second tanh; a constant to candle.
pub(crate) fn tanh_gradient(gradient: &Tensor, y: &Tensor) -> Result<Tensor> {
    if has_kernel(y) && gradient.dtype() == y.dtype() {
        gradient.contiguous()?.apply_op2_no_bwd(&y.contiguous()?, &TanhGradient)
    } else {
        gradient.mul(&y.sqr()?.affine(-1.0, 1.0)?)
    }
}

struct Activation {
    function: Function,
    order: u8,
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        for_real!(x, T => {
            let y = map(self.function, self.order, slice::<T>(x, layout)?);
            Ok((<T as WithDType>::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let x = x.detach();
        let for_x = if self.order == 0 && self.function == Function::Tanh {
            gradient.contiguous()?.apply_op2_no_bwd(&y.detach(), &TanhGradient)?
        } else if self.order == 0 {
            activate_gradient(self.function, gradient, &x)?
        } else {
            let next = Activation { function: self.function, order: self.order + 1 };
            mul(gradient, &x.apply_op1_no_bwd(&next)?)?
        };
        Ok(Some(for_x))
    }
}

/// `gradient * (x > 0 ? 1 : slope)`; x must be detached.
struct Gate {
    slope: f64,
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "leaky-relu-gradient"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_real!(x, T => {
            let out = gate(self.slope, slice::<T>(gradient, gradient_layout)?, slice::<T>(x, x_layout)?);
            Ok((<T as WithDType>::to_cpu_storage_owned(out), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        _: &Tensor,
        x: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let for_gradient =
            gradient.contiguous()?.apply_op2_no_bwd(x, &Gate { slope: self.slope })?;
        Ok((Some(for_gradient), None))
    }
}

/// `gradient * (1 - y^2)` for y = tanh(x), which spares the second tanh; not differentiable.
struct TanhGradient;

impl CustomOp2 for TanhGradient {
    fn name(&self) -> &'static str {
        "tanh-gradient"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_real!(y, T => {
            let out = kernels::tanh_gradient::<T>(slice(gradient, gradient_layout)?, slice(y, y_layout)?);
            Ok((<T as WithDType>::to_cpu_storage_owned(out), y_layout.shape().clone()))
        })
    }
}

/// 1 where x > 0, the slope elsewhere; not differentiable.
fn slopes(x: &Tensor, slope: f64) -> Result<Tensor> {
    x.detach().gt(0.0)?.to_dtype(x.dtype())?.affine(1.0 - slope, slope)
}

/// The function in candle's own operators, for devices without a kernel.
fn composed(function: Function, x: &Tensor) -> Result<Tensor> {
    match function {
        Function::LeakyRelu { slope } => x.mul(&slopes(x, slope)?),
        Function::Elu { alpha } => x.elu(alpha),
        Function::Tanh => x.tanh(),
        Function::Sigmoid => sigmoid(x),
        Function::Softplus => x.relu()?.add(&x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?),
        Function::Silu => x.mul(&sigmoid(x)?),
    }
}

fn composed_derivative(function: Function, x: &Tensor) -> Result<Tensor> {
    let complement = |y: &Tensor| y.affine(-1.0, 1.0);
    match function {
        Function::LeakyRelu { slope } => slopes(x, slope),
        Function::Elu { alpha } => {
            let positive = slopes(x, 0.0)?;
            let negative = complement(&positive)?;
            // The exponential only ever sees numbers that are not positive.
            positive.add(&x.mul(&negative)?.exp()?.mul(&negative)?.affine(alpha, 0.0)?)
        }
        Function::Tanh => complement(&x.tanh()?.sqr()?),
        Function::Sigmoid => {
            let y = sigmoid(x)?;
            y.mul(&complement(&y)?)
        }
        Function::Softplus => sigmoid(x),
        Function::Silu => {
            let y = sigmoid(x)?;
            y.mul(&x.mul(&complement(&y)?)?.affine(1.0, 1.0)?)
        }
    }
}

fn composed_second_derivative(function: Function, x: &Tensor) -> Result<Tensor> {
    let complement = |y: &Tensor| y.affine(-1.0, 1.0);
    match function {
        Function::LeakyRelu { .. } => x.zeros_like(),
        Function::Elu { alpha } => {
            let negative = complement(&slopes(x, 0.0)?)?;
            x.mul(&negative)?.exp()?.mul(&negative)?.affine(alpha, 0.0)
        }
        Function::Tanh => {
            let y = x.tanh()?;
            y.mul(&complement(&y.sqr()?)?)?.affine(-2.0, 0.0)
        }
        Function::Sigmoid => {
            let y = sigmoid(x)?;
            y.mul(&complement(&y)?)?.mul(&y.affine(-2.0, 1.0)?)
        }
        Function::Softplus => {
            let y = sigmoid(x)?;
            y.mul(&complement(&y)?)
        }
        Function::Silu => {
            let y = sigmoid(x)?;
            let bend = x.mul(&y.affine(-2.0, 1.0)?)?.affine(1.0, 2.0)?;
            y.mul(&complement(&y)?)?.mul(&bend)
        }
    }
}

/// By tanh, which neither overflows nor lacks a gradient on any device.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    x.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    const ALL: [Function; 7] = [
        Function::LeakyRelu { slope: 0.2 },
        Function::LeakyRelu { slope: 0.0 },
        Function::Elu { alpha: 0.7 },
        Function::Tanh,
        Function::Sigmoid,
        Function::Softplus,
        Function::Silu,
    ];

    /// The GPU's path, run on the CPU, against the kernels: value, gradient and gradient of the gradient.
    #[test]
    fn kernels_and_compositions_agree_to_the_second_order() -> Result<()> {
        let device = Device::Cpu;
        let x = Var::from_tensor(&Tensor::arange(-20f64, 20.0, &device)?.affine(0.25, 0.1)?)?;
        let g = Var::from_tensor(&x.as_tensor().sin()?)?;
        let close = |a: &Tensor, b: &Tensor| -> Result<()> {
            let difference = a.sub(b)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(difference < 1e-13, "{difference}");
            Ok(())
        };
        for function in ALL {
            let (fast, plain) = (activate(function, &x)?, composed(function, &x)?);
            close(&fast, &plain)?;
            let first = |y: &Tensor| -> Result<Tensor> {
                Ok(y.sqr()?.sum_all()?.backward()?.remove(&x).expect("x is tracked"))
            };
            close(&first(&fast)?, &first(&plain)?)?;

            let plain = g.mul(&composed_second_derivative(function, &x)?)?;
            close(&times_derivative(function, 2, &g, &x)?, &plain)?;
            if function == Function::Tanh {
                let y = x.as_tensor().tanh()?;
                close(&tanh_gradient(&g, &y)?, &g.mul(&composed_derivative(function, &x)?)?)?;
            }

            let fast = activate_gradient(function, &g, &x)?;
            let plain = g.mul(&composed_derivative(function, &x)?)?;
            close(&fast, &plain)?;
            let (fast, plain) =
                (fast.sqr()?.sum_all()?.backward()?, plain.sqr()?.sum_all()?.backward()?);
            close(fast.get(&g).expect("g is tracked"), plain.get(&g).expect("g is tracked"))?;
            match (fast.get(&x), plain.get(&x)) {
                (Some(fast), Some(plain)) => close(fast, plain)?,
                (None, None) => assert!(matches!(function, Function::LeakyRelu { .. })),
                _ => panic!("{function:?}: one path has a gradient for x and the other has none"),
            }
        }
        Ok(())
    }
}
