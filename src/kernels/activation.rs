//! Activation functions with their first and second derivatives, elementwise.

use super::Real;
use super::elementwise::{each, each_in, each_pair};

/// A scalar function that is applied to each element of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    /// x for x > 0, slope * x elsewhere. The derivative at 0 is the slope, as PyTorch has it.
    LeakyRelu {
        slope: f64,
    },
    /// x for x > 0, alpha (e^x - 1) elsewhere.
    Elu {
        alpha: f64,
    },
    Tanh,
    Sigmoid,
    /// ln(1 + e^x)
    Softplus,
    /// x sigmoid(x)
    Silu,
}

impl Function {
    /// The function (order 0) or its derivative of order 1 or 2 at `x`.
    #[inline(always)]
    pub(crate) fn derivative<T: Real>(self, order: u8, x: T) -> T {
        let (zero, one) = (T::zero(), T::one());
        let two = one + one;
        let sigmoid = |x: T| {
            // Never the exponential of a large positive number.
            let e = (-x.abs()).exp();
            if x >= zero { one / (one + e) } else { e / (one + e) }
        };
        match (self, order) {
            (Self::LeakyRelu { slope }, 0) => {
                let slope = <T as candle_core::WithDType>::from_f64(slope);
                // A product with slope 0 would make NaN of -infinity.
                if x > zero {
                    x
                } else if x <= zero && slope == zero {
                    zero
                } else {
                    slope * x
                }
            }
            (Self::LeakyRelu { slope }, 1) => {
                if x > zero {
                    one
                } else {
                    <T as candle_core::WithDType>::from_f64(slope)
                }
            }
            (Self::LeakyRelu { .. }, _) => zero,
            (Self::Elu { alpha }, order) => {
                let alpha = <T as candle_core::WithDType>::from_f64(alpha);
                match (x > zero, order) {
                    (true, 0) => x,
                    (true, 1) => one,
                    (true, _) => zero,
                    (false, 0) => alpha * x.exp_m1(),
                    (false, _) => alpha * x.exp(),
                }
            }
            (Self::Tanh, 0) => tanh(x),
            (Self::Tanh, 1) => {
                let y = tanh(x);
                one - y * y
            }
            (Self::Tanh, _) => {
                let y = tanh(x);
                -two * y * (one - y * y)
            }
            (Self::Sigmoid, 0) => sigmoid(x),
            (Self::Sigmoid, 1) => sigmoid(x) * sigmoid(-x),
            (Self::Sigmoid, _) => sigmoid(x) * sigmoid(-x) * (sigmoid(-x) - sigmoid(x)),
            (Self::Softplus, 0) => num_traits::Float::max(x, zero) + (-x.abs()).exp().ln_1p(),
            (Self::Softplus, 1) => sigmoid(x),
            (Self::Softplus, _) => sigmoid(x) * sigmoid(-x),
            (Self::Silu, 0) => x * sigmoid(x),
            (Self::Silu, 1) => sigmoid(x) * (one + x * sigmoid(-x)),
            (Self::Silu, _) => {
                let (s, c) = (sigmoid(x), sigmoid(-x));
                s * c * (two + x * (c - s))
            }
        }
    }
}

/// tanh x, the same on every machine, in a form that vectorises; within 2e-15 of the exact value (`f64`) and
/// correctly rounded but for rare last bits in `f32`, for which it computes in `f64`.
#[inline(always)]
fn tanh<T: Real>(x: T) -> T {
    let x = candle_core::WithDType::to_f64(x);
    // Beyond 20 the result is 1 to the last bit; the bound keeps the exponential in range. NaN passes.
    let a = if x.abs() > 20.0 { 20.0 } else { x.abs() };
    let e = exp_m1(-2.0 * a);
    let y = -e / (2.0 + e);
    <T as candle_core::WithDType>::from_f64(if x < 0.0 { -y } else { y })
}

/// e^x - 1 for x in [-40, 0], without branches.
///
/// x = k ln 2 + r with |r| <= ln 2 / 2, so e^x - 1 = 2^k (e^r - 1) + (2^k - 1), where the Taylor series of e^r - 1
/// to the 13th power is exact to the last bit.
#[inline(always)]
fn exp_m1(x: f64) -> f64 {
    // Adding and subtracting 1.5 * 2^52 rounds to an integer, which then stands in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut series = 1.0 / 6_227_020_800.0;
    for coefficient in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ] {
        series = series * r + coefficient;
    }
    let two_to_k = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    two_to_k * (series * r) + (two_to_k - 1.0)
}

/// The derivative of `function` of this order at each of `x`.
pub(crate) fn map<T: Real>(function: Function, order: u8, x: &[T]) -> Vec<T> {
    // The hot ones, without branches, so that they vectorise.
    match (function, order) {
        (Function::LeakyRelu { slope }, 0) if slope > 0.0 && slope < 1.0 => {
            let slope = <T as candle_core::WithDType>::from_f64(slope);
            each(x, move |x| if x > T::zero() { x } else { slope * x })
        }
        // NaN stays NaN, and minus infinity becomes 0.
        (Function::LeakyRelu { slope: 0.0 }, 0) => {
            each(x, |x| if x <= T::zero() { T::zero() } else { x })
        }
        (Function::Tanh, 0) => each_in(DEAR, x, tanh),
        _ => each_in(DEAR, x, move |x| function.derivative(order, x)),
    }
}

/// `gradient * (x > 0 ? 1 : slope)`: the product of a gradient with the derivative of a leaky ReLU.
pub(crate) fn gate<T: Real>(slope: f64, gradient: &[T], x: &[T]) -> Vec<T> {
    let slope = <T as candle_core::WithDType>::from_f64(slope);
    each_pair(gradient, x, move |gradient, x| {
        gradient * if x > T::zero() { T::one() } else { slope }
    })
}

/// `gradient * (1 - y^2)`: the product of a gradient with the derivative of a tanh that gave `y`.
pub(crate) fn tanh_gradient<T: Real>(gradient: &[T], y: &[T]) -> Vec<T> {
    each_pair(gradient, y, |gradient, y| gradient * (T::one() - y * y))
}

/// Elements that one task takes of a function that costs far more than to read and to write them.
const DEAR: usize = 2 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::CHUNK;
    use crate::kernels::tests::values;

    const ALL: [Function; 7] = [
        Function::LeakyRelu { slope: 0.2 },
        Function::LeakyRelu { slope: 0.0 },
        Function::Elu { alpha: 1.0 },
        Function::Tanh,
        Function::Sigmoid,
        Function::Softplus,
        Function::Silu,
    ];

    #[test]
    fn derivatives_match_central_differences() {
        for function in ALL {
            for order in [1, 2] {
                for i in 0..200 {
                    let x = (f64::from(i) - 100.3) * 0.07;
                    let h = 1e-5;
                    let difference = (function.derivative(order - 1, x + h)
                        - function.derivative(order - 1, x - h))
                        / (2.0 * h);
                    let exact = function.derivative(order, x);
                    assert!((difference - exact).abs() < 1e-8, "{function:?} order {order} at {x}");
                }
            }
        }
    }

    #[test]
    fn tanh_is_the_standard_library_s_to_the_last_bits() {
        let mut x = -25.0;
        while x < 25.0 {
            let (got, expected) = (tanh(x), f64::tanh(x));
            assert!((got - expected).abs() <= 2e-15 * expected.abs(), "{x}: {got} for {expected}");
            x += 0.000_73;
        }
        for x in [0.0, -0.0, 1e-300, 1e-20, -1e-9, 1e300, f64::INFINITY, f64::NEG_INFINITY] {
            let (got, expected) = (tanh(x), f64::tanh(x));
            assert!((got - expected).abs() <= 2e-15 * expected.abs(), "{x}: {got} for {expected}");
        }
        assert!(tanh(f64::NAN).is_nan());
    }

    #[test]
    fn extreme_arguments_stay_finite() {
        for function in ALL {
            for x in [-1e4f32, -100.0, 100.0, 1e4] {
                for order in 0..3 {
                    let y = function.derivative(order, x);
                    assert!(y.is_finite(), "{function:?} order {order} at {x}: {y}");
                }
            }
        }
        let relu = Function::LeakyRelu { slope: 0.0 };
        assert_eq!(relu.derivative(0, f32::NEG_INFINITY), 0.0);
        assert!(relu.derivative(0, f32::NAN).is_nan());
    }

    #[test]
    fn vectorised_loops_equal_the_scalar_function() {
        for n in [0, 1, 15, CHUNK - 1, CHUNK, 5 * CHUNK + 7] {
            let (x, g) = (values::<f32>(n, 1), values::<f32>(n, 2));
            for function in ALL {
                for order in 0..3 {
                    let naive: Vec<f32> =
                        x.iter().map(|&x| function.derivative(order, x)).collect();
                    assert_eq!(map(function, order, &x), naive);
                }
            }
            let slope = 0.2;
            let function = Function::LeakyRelu { slope };
            let naive: Vec<f32> =
                x.iter().zip(&g).map(|(&x, &g)| g * function.derivative(1, x)).collect();
            assert_eq!(gate(slope, &g, &x), naive);

            let y = map(Function::Tanh, 0, &x);
            let naive: Vec<f32> =
                x.iter().zip(&g).map(|(&x, &g)| g * Function::Tanh.derivative(1, x)).collect();
            assert_eq!(tanh_gradient(&g, &y), naive);
        }
    }
}
