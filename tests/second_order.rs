//! Every operation of `Traced`, to the second order, against central differences and PyTorch.
//!
//! A wrong pull-back gives a wrong gradient; one that detaches a factor gives a right gradient whose own gradient
//! lacks a term, which no test of the first order sees. So each operation is put under `sum(c y^2 + d y)`, which
//! sends it a gradient that depends on the input and on the parameters, and what is compared is the gradient of
//! `sum(w sin(gradient))` for the input and for every parameter.

mod support;

use candle_core::{D, DType, Device, Module, Tensor, Var};
use candle_nn::{BatchNorm, LayerNorm, Linear, PReLU, RmsNorm};
use proptest::prelude::*;
use support::{Reference, assert_close, distance, normal};
use wgan::layers::Activation;
use wgan::second_order::Layer;
use wgan::{Error, Result, Traced};

/// Values on both sides of 0 and away from it, so that no kink and no pole lies within a difference's step.
fn away_from_zero(name: &str, dims: &[usize]) -> Tensor {
    let x = normal(name, dims, DType::F64);
    let sign = x.ge(0.0).unwrap().to_dtype(DType::F64).unwrap().affine(2.0, -1.0).unwrap();
    x.abs().unwrap().affine(0.5, 0.5).unwrap().mul(&sign).unwrap()
}

fn positive(name: &str, dims: &[usize]) -> Tensor {
    away_from_zero(name, dims).abs().unwrap()
}

/// How the variables lie in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Memory {
    Contiguous,
    /// The function sees views with the first and last dimension swapped.
    Turned,
}

impl Memory {
    fn turn(self, t: &Tensor) -> Tensor {
        match self {
            Self::Turned if t.rank() > 1 => t.transpose(0, t.rank() - 1).unwrap(),
            _ => t.clone(),
        }
    }

    fn variable(self, value: &Tensor, dtype: DType) -> Var {
        Var::from_tensor(&self.turn(value).contiguous().unwrap().to_dtype(dtype).unwrap()).unwrap()
    }
}

/// What the crate computes for one function at one point.
struct Outcome {
    gradient: Tensor,
    /// Of the score's own sum, for each parameter.
    first: Vec<Tensor>,
    /// Of the penalty, for the input and each parameter.
    second: Vec<Tensor>,
}

/// A function of an input and parameters, and the point at which it is examined.
struct Case<'a> {
    what: &'a str,
    x: Tensor,
    parameters: Vec<Tensor>,
    f: &'a dyn Fn(&Traced, &[Tensor]) -> Result<Traced>,
}

impl Case<'_> {
    /// `c y^2 + d y`, elementwise.
    fn score(&self, x: &Traced, parameters: &[Tensor]) -> Traced {
        let y = (self.f)(x, parameters).unwrap_or_else(|error| panic!("{}: {error}", self.what));
        let constant = |name| Traced::untracked(&normal(name, y.dims(), y.dtype()));
        let linear = y.mul(&constant("d")).unwrap();
        y.sqr().unwrap().mul(&constant("c")).unwrap().add(&linear).unwrap()
    }

    fn penalty(&self, gradient: &Tensor) -> Tensor {
        let weights = normal("w", gradient.dims(), gradient.dtype());
        gradient.sin().unwrap().mul(&weights).unwrap().sum_all().unwrap()
    }

    fn outcome(&self, dtype: DType, memory: Memory) -> Outcome {
        let x = memory.variable(&self.x, dtype);
        let parameters: Vec<Var> =
            self.parameters.iter().map(|value| memory.variable(value, dtype)).collect();
        let x_view = memory.turn(&x);
        let views: Vec<Tensor> = parameters.iter().map(|var| memory.turn(var)).collect();
        let or_zeros = |gradient: Option<&Tensor>, var: &Var| match gradient {
            Some(gradient) => memory.turn(gradient),
            None => memory.turn(&var.zeros_like().unwrap()),
        };
        let total = |score: &Traced| score.value().sum_all().unwrap();

        let input = Traced::input(&x_view);
        let score = self.score(&input, &views);
        let gradient = score.gradient(&input).unwrap();
        assert_eq!(gradient.dims(), self.x.dims(), "{}", self.what);
        let found = self.penalty(&gradient).backward().unwrap();
        let variables = std::iter::once(&x).chain(&parameters);
        let second = variables.map(|var| or_zeros(found.get(var), var)).collect();

        let untracked = self.score(&Traced::untracked(&x_view), &views);
        assert!(!untracked.is_tracked() && untracked.gradient(&input).is_err());
        assert_eq!(
            support::tensor_bits(untracked.value()),
            support::tensor_bits(score.value()),
            "{}: the same values at no extra cost",
            self.what
        );
        let found = total(&untracked).backward().unwrap();
        let first = parameters.iter().map(|var| or_zeros(found.get(var), var)).collect();

        let frozen = self.score(&Traced::frozen(&x_view), &views);
        assert!(frozen.is_frozen());
        let found = total(&frozen).backward().unwrap();
        for var in &parameters {
            assert!(found.get(var).is_none(), "{}: a frozen parameter has a gradient", self.what);
        }
        let tolerance = if dtype == DType::F64 { 1e-10 } else { 1e-4 };
        let (got, expected) = (or_zeros(found.get(&x), &x), gradient.to_dtype(DType::F64).unwrap());
        assert_close(&got, &expected, tolerance, &format!("{}, frozen", self.what));
        Outcome { gradient: gradient.detach(), first, second }
    }

    /// Central differences of the fourth order of `of(x, parameters)` along every element of variable `which`, 0 being
    /// the input.
    fn differences(&self, which: usize, of: impl Fn(&Tensor, &[Tensor]) -> f64) -> Tensor {
        let h = 1e-4;
        let mut variables = vec![self.x.clone()];
        variables.extend(self.parameters.iter().cloned());
        let dims = variables[which].dims().to_vec();
        let values: Vec<f64> = variables[which].flatten_all().unwrap().to_vec1().unwrap();
        let slopes = (0..values.len()).map(|i| {
            let mut at = |shift: f64| {
                let mut values = values.clone();
                values[i] += shift;
                variables[which] = Tensor::from_vec(values, dims.as_slice(), &Device::Cpu).unwrap();
                of(&variables[0], &variables[1..])
            };
            (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
        });
        let slopes = slopes.collect::<Vec<f64>>();
        Tensor::from_vec(slopes, dims.as_slice(), &Device::Cpu).unwrap()
    }

    fn check(&self, memories: &[Memory]) {
        let number = |t: &Tensor| t.to_scalar::<f64>().unwrap();
        let total = |x: &Tensor, parameters: &[Tensor]| {
            number(&self.score(&Traced::untracked(x), parameters).value().sum_all().unwrap())
        };
        let penalty = |x: &Tensor, parameters: &[Tensor]| {
            let input = Traced::input(x);
            let gradient = self.score(&input, parameters).gradient(&input).unwrap();
            number(&self.penalty(&gradient))
        };
        let mut first: Vec<_> =
            (0..=self.parameters.len()).map(|which| self.differences(which, total)).collect();
        let gradient = first.remove(0);
        let second: Vec<_> =
            (0..=self.parameters.len()).map(|which| self.differences(which, penalty)).collect();

        let compare = |outcome: &Outcome, tolerance: f64, what: &str| {
            let what = |part: String| format!("{}, {what}, {part}", self.what);
            assert_close(&outcome.gradient, &gradient, tolerance, &what("first order".into()));
            for (i, (got, expected)) in outcome.first.iter().zip(&first).enumerate() {
                let part = format!("first order for parameter {i}");
                assert_close(got, expected, tolerance, &what(part));
            }
            for (i, (got, expected)) in outcome.second.iter().zip(&second).enumerate() {
                let part = format!("second order for variable {i}");
                assert_close(got, expected, tolerance, &what(part));
            }
        };
        for &memory in memories {
            compare(&self.outcome(DType::F64, memory), 1e-6, &format!("f64, {memory:?}"));
            compare(&self.outcome(DType::F32, memory), 2e-3, &format!("f32, {memory:?}"));
        }
    }
}

fn check(
    what: &str,
    x: Tensor,
    parameters: Vec<Tensor>,
    f: impl Fn(&Traced, &[Tensor]) -> Result<Traced>,
) {
    Case { what, x, parameters, f: &f }.check(&[Memory::Contiguous, Memory::Turned]);
}

/// The check itself: a pull-back without one factor passes the first order and fails the second.
#[test]
fn a_detached_factor_is_seen_in_the_second_order_only() {
    let (x, w) = (away_from_zero("x", &[3, 4]), away_from_zero("p", &[3, 4]));
    let right = |x: &Traced, p: &[Tensor]| x.mul(&x.parameter(&p[0]));
    let wrong = |x: &Traced, p: &[Tensor]| x.mul(&x.parameter(&p[0].detach()));
    let outcome = |f: &dyn Fn(&Traced, &[Tensor]) -> Result<Traced>| {
        let case = Case { what: "a product", x: x.clone(), parameters: vec![w.clone()], f };
        case.outcome(DType::F64, Memory::Contiguous)
    };
    let (right, wrong) = (outcome(&right), outcome(&wrong));
    assert_close(&wrong.gradient, &right.gradient, 0.0, "first order");
    assert!(distance(&wrong.second[1], &right.second[1]) > 0.1);
}

#[test]
fn arithmetic_with_parameters_on_either_side() {
    let x = || away_from_zero("x", &[3, 4]);
    let p = || vec![away_from_zero("p", &[3, 4])];
    check("x + p", x(), p(), |x, p| x.add(&x.parameter(&p[0])));
    check("p + x", x(), p(), |x, p| x.parameter(&p[0]).add(x));
    check("x - p", x(), p(), |x, p| x.sub(&x.parameter(&p[0])));
    check("p - x", x(), p(), |x, p| x.parameter(&p[0]).sub(x));
    check("x * p", x(), p(), |x, p| x.mul(&x.parameter(&p[0])));
    check("p * x", x(), p(), |x, p| x.parameter(&p[0]).mul(x));
    check("x / p", x(), p(), |x, p| x.div(&x.parameter(&p[0])));
    check("p / x", x(), p(), |x, p| x.parameter(&p[0]).div(x));
}

#[test]
fn elementwise_functions() {
    let x = || away_from_zero("x", &[3, 4]);
    check("affine", x(), vec![], |x, _| x.affine(-1.5, 0.25));
    check("neg", x(), vec![], |x, _| x.neg());
    check("sqr", x(), vec![], |x, _| x.sqr());
    check("exp", x(), vec![], |x, _| x.exp());
    check("sqrt", positive("x", &[3, 4]), vec![], |x, _| x.sqrt());
    check("log", positive("x", &[3, 4]), vec![], |x, _| x.log());
    check("relu", x(), vec![], |x, _| x.relu());
    check("leaky_relu", x(), vec![], |x, _| x.leaky_relu(0.2));
    check("leaky_relu of slope 1.5", x(), vec![], |x, _| x.leaky_relu(1.5));
    check("leaky_relu of slope -0.5", x(), vec![], |x, _| x.leaky_relu(-0.5));
    check("elu", x(), vec![], |x, _| x.elu(0.7));
    check("tanh", x(), vec![], |x, _| x.tanh());
    check("sigmoid", x(), vec![], |x, _| x.sigmoid());
    check("softplus", x(), vec![], |x, _| x.softplus());
    check("silu", x(), vec![], |x, _| x.silu());
}

#[test]
fn activations_as_layers() {
    use candle_nn::Activation as Candle;
    let x = || away_from_zero("x", &[3, 4]);
    for activation in [
        Activation::Relu,
        Activation::LeakyRelu(0.1),
        Activation::Elu(1.3),
        Activation::Silu,
        Activation::Softplus,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Identity,
    ] {
        check(&format!("{activation:?}"), x(), vec![], |x, _| x.apply(&activation));
        let y = Traced::untracked(&x()).apply(&activation).unwrap();
        assert_close(&activation.forward(&x()).unwrap(), y.value(), 0.0, "the same value");
    }
    for activation in [
        Candle::Relu,
        Candle::LeakyRelu(0.1),
        Candle::Elu(1.3),
        Candle::Silu,
        Candle::Swish,
        Candle::Sigmoid,
    ] {
        check(&format!("candle's {activation:?}"), x(), vec![], |x, _| x.apply(&activation));
        let y = Traced::untracked(&x()).apply(&activation).unwrap();
        let expected = Module::forward(&activation, &x()).unwrap();
        assert_close(y.value(), &expected, 1e-12, &format!("candle's {activation:?}"));
    }
    for activation in [Candle::Gelu, Candle::Relu2, Candle::HardSwish, Candle::Mish] {
        let error = Traced::input(&x()).apply(&activation).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }));
        assert!(error.to_string().contains(&format!("{activation:?}")), "{error}");
    }
}

#[test]
fn operations_that_move_elements() {
    let x = || away_from_zero("x", &[2, 3, 4]);
    check("reshape", x(), vec![], |x, _| x.reshape((4, 6)));
    check("reshape with a hole", x(), vec![], |x, _| x.reshape((2, ())));
    check("flatten_from", x(), vec![], |x, _| x.flatten_from(1));
    check("flatten_from the last but one", x(), vec![], |x, _| x.flatten_from(D::Minus2));
    check("unsqueeze", x(), vec![], |x, _| x.unsqueeze(1));
    check("unsqueeze at the end", x(), vec![], |x, _| x.unsqueeze(D::Minus1));
    check("squeeze", away_from_zero("x", &[3, 1, 4]), vec![], |x, _| x.squeeze(1));
    check("squeeze of more than one", x(), vec![], |x, _| x.squeeze(1));
    check("transpose", x(), vec![], |x, _| x.transpose(0, 2));
    check("transpose by name", x(), vec![], |x, _| x.transpose(D::Minus1, D::Minus2));
    check("narrow", x(), vec![], |x, _| x.narrow(1, 1, 2));
    check("narrow at the end", x(), vec![], |x, _| x.narrow(D::Minus1, 3, 1));
    check("broadcast_as", away_from_zero("x", &[3, 1]), vec![], |x, _| x.broadcast_as(&[2, 3, 4]));
    let p = || vec![away_from_zero("p", &[2, 2, 4])];
    check("cat", x(), p(), |x, p| Traced::cat(&[x, &x.parameter(&p[0])], 1));
    check("cat with itself", x(), p(), |x, p| {
        Traced::cat(&[&x.parameter(&p[0]), x, &x.tanh()?, x], 1)
    });
}

#[test]
fn sums_and_means() {
    let x = || away_from_zero("x", &[2, 3, 4]);
    check("sum", x(), vec![], |x, _| x.sum(1));
    check("sum over two", x(), vec![], |x, _| x.sum((0, 2)));
    check("sum over all", x(), vec![], |x, _| x.sum((0, 1, 2)));
    check("sum over the last", x(), vec![], |x, _| x.sum(D::Minus1));
    check("sum_keepdim", x(), vec![], |x, _| x.sum_keepdim((1, 2)));
    check("mean", x(), vec![], |x, _| x.mean(2));
    check("mean over two", x(), vec![], |x, _| x.mean((0, 1)));
    check("mean_keepdim", x(), vec![], |x, _| x.mean_keepdim((0, 2)));
}

#[test]
fn matrix_products() {
    let p = |dims: &[usize]| vec![away_from_zero("p", dims)];
    let x = || away_from_zero("x", &[3, 4]);
    check("x p", x(), p(&[4, 2]), |x, p| x.matmul(&x.parameter(&p[0])));
    check("p x", x(), p(&[5, 3]), |x, p| x.parameter(&p[0]).matmul(x));
    check("x xᵀ", x(), vec![], |x, _| x.matmul(&x.transpose(0, 1)?));
    let x = || away_from_zero("x", &[2, 3, 4]);
    check("batched x p", x(), p(&[2, 4, 2]), |x, p| x.matmul(&x.parameter(&p[0])));
    check("batched p x", x(), p(&[2, 5, 3]), |x, p| x.parameter(&p[0]).matmul(x));
    check("batched x xᵀ", x(), vec![], |x, _| x.matmul(&x.transpose(1, 2)?));
}

fn check_attention(what: &str, f: impl Fn(&Traced, &[Tensor]) -> Result<Traced>) {
    let x = away_from_zero("x", &[2, 2, 2, 3]);
    let parameters = vec![away_from_zero("p", &[2, 2, 3, 2])];
    Case { what, x, parameters, f: &f }.check(&[Memory::Contiguous]);
}

/// Candle multiplies in four dimensions where both operands are contiguous.
#[test]
fn products_in_four_dimensions() {
    check_attention("a product", |x, p| x.matmul(&x.parameter(&p[0])));
}

/// The heads of attention are put together again like this, and the gradient comes back turned in memory.
#[test]
fn turned_products_in_four_dimensions() {
    check_attention("a turned product", |x, p| {
        x.matmul(&x.parameter(&p[0]))?.transpose(1, 2)?.reshape((2, 2, 4))
    });
}

#[test]
fn layers_of_candle_nn() {
    let p = |shapes: &[&[usize]]| -> Vec<Tensor> {
        shapes.iter().enumerate().map(|(i, s)| away_from_zero(&format!("p{i}"), s)).collect()
    };
    for dims in [&[3, 4][..], &[2, 3, 4], &[1, 4]] {
        let x = || away_from_zero("x", dims);
        let what = |layer: &str| format!("{layer} on {dims:?}");
        check(&what("linear"), x(), p(&[&[5, 4], &[5]]), |x, p| {
            x.apply(&Linear::new(p[0].clone(), Some(p[1].clone())))
        });
        check(&what("linear without bias"), x(), p(&[&[5, 4]]), |x, p| {
            x.apply(&Linear::new(p[0].clone(), None))
        });
        check(&what("layer norm"), x(), p(&[&[4], &[4]]), |x, p| {
            x.apply(&LayerNorm::new(p[0].clone(), p[1].clone(), 1e-2))
        });
        check(&what("layer norm without bias"), x(), p(&[&[4]]), |x, p| {
            x.apply(&LayerNorm::new_no_bias(p[0].clone(), 1e-2))
        });
        check(&what("RMS norm"), x(), p(&[&[4]]), |x, p| {
            x.apply(&RmsNorm::new(p[0].clone(), 1e-2))
        });
        check(&what("PReLU"), x(), p(&[&[1]]), |x, p| x.apply(&PReLU::new(p[0].clone(), true)));
        let channels = [dims[1]];
        check(&what("PReLU by channel"), x(), p(&[&channels]), |x, p| {
            x.apply(&PReLU::new(p[0].clone(), false))
        });
    }
}

/// Traced layers give what candle-nn's own forward pass gives: in f32, as its normalisations know no f64.
#[test]
fn layers_have_candles_values() {
    fn same(x: &Tensor, layer: &(impl Layer + Module), what: &str) {
        let traced = Traced::input(x).apply(layer).unwrap();
        let expected = Module::forward(layer, x).unwrap().to_dtype(DType::F64).unwrap();
        assert_close(traced.value(), &expected, 1e-6, what);
    }
    let p = |name, dims: &[usize]| away_from_zero(name, dims).to_dtype(DType::F32).unwrap();
    for dims in [&[3, 4][..], &[2, 4, 4]] {
        let (x, w, b) = (p("x", dims), p("w", &[4]), p("b", &[4]));
        same(&x, &Linear::new(p("w", &[5, 4]), Some(p("b", &[5]))), "linear");
        // An epsilon that is not small shows where it is added.
        same(&x, &LayerNorm::new(w.clone(), b, 0.5), "layer norm");
        same(&x, &LayerNorm::new_no_bias(w.clone(), 0.5), "layer norm without bias");
        same(&x, &RmsNorm::new(w.clone(), 0.5), "RMS norm");
        same(&x, &PReLU::new(p("w", &[1]), true), "PReLU");
        same(&p("x", &[3, 4, 2]), &PReLU::new(w, false), "PReLU by channel");
    }
}

#[test]
fn closures_and_layers_of_ones_own() {
    struct Scale(Tensor);
    impl Layer for Scale {
        fn forward(&self, x: &Traced) -> Result<Traced> {
            x.broadcast_mul(&x.parameter(&self.0))
        }
    }
    let x = || away_from_zero("x", &[3, 4]);
    check("a closure", x(), vec![away_from_zero("p", &[4])], |x, p| {
        let swish = |x: &Traced| x.mul(&x.sigmoid()?);
        x.apply(&swish)?.apply(&Scale(p[0].clone()))
    });
    check("a boxed layer", x(), vec![away_from_zero("p", &[4])], |x, p| {
        let layer: Box<dyn Layer> = Box::new(Scale(p[0].clone()));
        x.apply(layer.as_ref())
    });
}

/// A value that is used more than once gets the sum of what its uses send back.
#[test]
fn residuals_and_diamonds() {
    let x = || away_from_zero("x", &[3, 4]);
    let p = || vec![away_from_zero("p", &[4, 4]), away_from_zero("q", &[4])];
    let linear = |p: &[Tensor]| Linear::new(p[0].clone(), Some(p[1].clone()));
    check("x + x", x(), vec![], |x, _| x.add(x));
    check("x * x", x(), vec![], |x, _| x.mul(x));
    check("x / (x + 3)", x(), vec![], |x, _| x.div(&x.affine(1.0, 3.0)?));
    check("x - x tanh(x)", x(), vec![], |x, _| x.sub(&x.mul(&x.tanh()?)?));
    check("residual", x(), p(), |x, p| x.add(&x.apply(&linear(p))?.tanh()?));
    check("a layer used twice", x(), p(), |x, p| {
        x.apply(&linear(p))?.tanh()?.apply(&linear(p))?.softplus()
    });
    check("diamond", x(), p(), |x, p| {
        let h = x.apply(&linear(p))?.affine(0.3, 0.0)?;
        let (a, b) = (h.exp()?, h.sigmoid()?);
        a.mul(&b)?.add(&a.div(&b)?)?.sub(&h)
    });
    check("diamond of unequal depth", x(), p(), |x, p| {
        let short = x.sqr()?;
        let long = x.apply(&linear(p))?.tanh()?.sqr()?.affine(1.0, 1.0)?.log()?;
        short.mul(&long)?.add(x)
    });
}

/// One step of a random network on `(batch, n)`.
fn step(x: &Traced, kind: usize, weight: &Tensor, bias: &Tensor) -> Result<Traced> {
    match kind {
        0 => x.apply(&Linear::new(weight.clone(), Some(bias.clone()))),
        1 => x.apply(&LayerNorm::new(bias.clone(), bias.clone(), 0.1)),
        2 => x.softplus(),
        3 => x.add(&x.apply(&Linear::new(weight.clone(), None))?.tanh()?),
        4 => x.silu()?.broadcast_mul(&x.parameter(bias)),
        5 => x.mul(&x.mean_keepdim(1)?.sigmoid()?.broadcast_as(x.dims())?),
        6 => x.matmul(&x.parameter(weight))?.tanh(),
        _ => x.sub(
            &x.transpose(0, 1)?
                .sqr()?
                .sum_keepdim(0)?
                .transpose(0, 1)?
                .tanh()?
                .broadcast_as(x.dims())?,
        ),
    }
}

/// Pairs of shapes that broadcast together.
fn broadcastable() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    (prop::collection::vec((1usize..4, 0u8..3), 1..4), 0usize..4, any::<bool>()).prop_map(
        |(dims, cut, swap)| {
            let one = |keep: bool, dim: usize| if keep { dim } else { 1 };
            let a: Vec<_> = dims.iter().map(|&(dim, mode)| one(mode != 1, dim)).collect();
            let b: Vec<_> = dims.iter().map(|&(dim, mode)| one(mode != 2, dim)).collect();
            let b = b[cut.min(b.len() - 1)..].to_vec();
            if swap { (b, a) } else { (a, b) }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn broadcasting_of_any_shapes((a, b) in broadcastable()) {
        let x = || away_from_zero("x", &a);
        let p = || vec![away_from_zero("p", &b)];
        let what = |name: &str| format!("{name} of {a:?} and {b:?}");
        check(&what("sum"), x(), p(), |x, p| x.broadcast_add(&x.parameter(&p[0])));
        check(&what("difference"), x(), p(), |x, p| x.broadcast_sub(&x.parameter(&p[0])));
        check(&what("product"), x(), p(), |x, p| x.broadcast_mul(&x.parameter(&p[0])));
        check(&what("quotient"), x(), p(), |x, p| x.broadcast_div(&x.parameter(&p[0])));
        check(&what("quotient by x"), x(), p(), |x, p| x.parameter(&p[0]).broadcast_div(x));
    }

    #[test]
    fn products_of_any_shape(batch in 1usize..4, m in 1usize..5, k in 1usize..5, n in 1usize..5) {
        let what = |name: &str| format!("{name} of {m}, {k}, {n} in {batch}");
        let p = |dims: &[usize]| vec![away_from_zero("p", dims)];
        check(&what("product"), away_from_zero("x", &[m, k]), p(&[k, n]), |x, p| {
            x.matmul(&x.parameter(&p[0]))
        });
        check(&what("batched product"), away_from_zero("x", &[batch, m, k]), p(&[batch, k, n]), |x, p| {
            x.matmul(&x.parameter(&p[0]))
        });
        check(&what("linear"), away_from_zero("x", &[batch, m, k]), p(&[n, k]), |x, p| {
            x.apply(&Linear::new(p[0].clone(), None))
        });
    }

    #[test]
    fn views_and_sums_of_any_shape(
        dims in prop::collection::vec(1usize..4, 3),
        (from, to) in (0usize..3, 0usize..3),
        (start, len) in (0usize..3, 1usize..4),
        summed in prop::collection::btree_set(0usize..3, 1..=3),
    ) {
        let x = || away_from_zero("x", &dims);
        let what = |name: &str| format!("{name} of {dims:?}");
        check(&what("transpose"), x(), vec![], |x, _| x.transpose(from, to));
        let start = start.min(dims[from] - 1);
        let len = len.min(dims[from] - start);
        check(&what("narrow"), x(), vec![], |x, _| x.narrow(from, start, len));
        let summed: Vec<usize> = summed.into_iter().collect();
        check(&what("sum"), x(), vec![], |x, _| x.sum(summed.as_slice()));
        check(&what("mean"), x(), vec![], |x, _| x.mean_keepdim(summed.as_slice()));
        let mut other = dims.clone();
        other[to] = len;
        check(&what("cat"), x(), vec![away_from_zero("p", &other)], |x, p| {
            Traced::cat(&[x, &x.parameter(&p[0])], to)
        });
    }

    #[test]
    fn networks_of_any_depth(
        batch in 1usize..4,
        width in 1usize..5,
        kinds in prop::collection::vec(0usize..8, 1..5),
    ) {
        let parameters = (kinds.iter().enumerate())
            .flat_map(|(i, _)| {
                let draw = |name: String, dims: &[usize]| {
                    away_from_zero(&name, dims).affine(0.5, 0.0).unwrap()
                };
                [draw(format!("w{i}"), &[width, width]), draw(format!("b{i}"), &[width])]
            })
            .collect();
        let x = away_from_zero("x", &[batch, width]);
        check(&format!("{kinds:?} on {batch} x {width}"), x, parameters, |x, p| {
            kinds.iter().enumerate().try_fold(x.clone(), |x, (i, &kind)| {
                step(&x, kind, &p[2 * i], &p[2 * i + 1])
            })
        });
    }
}

/// PyTorch's conventions at kinks, and no overflow or cancellation far out: values, derivatives and second
/// derivatives at 42 points, 0, -0 and 1e-300 among them.
#[test]
fn activations_equal_pytorch() {
    type Function = dyn Fn(&Traced) -> Result<Traced>;
    let reference = Reference::read("activations_f64.safetensors");
    let prelu = |x: &Traced| {
        x.apply(&PReLU::new(Tensor::full(0.25, 1, &Device::Cpu)?.to_dtype(x.dtype())?, true))
    };
    let functions: [(&str, &Function); 8] = [
        ("relu", &|x| x.relu()),
        ("leaky_relu", &|x| x.leaky_relu(0.2)),
        ("tanh", &|x| x.tanh()),
        ("sigmoid", &|x| x.sigmoid()),
        ("softplus_exact", &|x| x.softplus()),
        ("elu", &|x| x.elu(1.0)),
        ("silu", &|x| x.silu()),
        ("prelu", &prelu),
    ];
    for (name, function) in functions {
        for dtype in [DType::F64, DType::F32] {
            let tolerance = if dtype == DType::F64 { 1e-12 } else { 1e-6 };
            let x = Var::from_tensor(&reference.as_type("x", dtype)).unwrap();
            // 1e-300 is 0 in f32, on the other side of a kink.
            let underflows = |i: usize| {
                dtype == DType::F32 && (1e-310..1e-45).contains(&reference.numbers("x")[i].abs())
            };
            let input = Traced::input(&x);
            let y = function(&input).unwrap();
            let first = y.gradient(&input).unwrap();
            let second = if first.track_op() {
                first.sum_all().unwrap().backward().unwrap().remove(&x)
            } else {
                None
            };
            let second = second.unwrap_or_else(|| x.zeros_like().unwrap());
            for (got, order) in [(y.value(), "y"), (&first, "dy"), (&second, "d2y")] {
                let what = format!("{name}.{order}");
                // Of each point, not of the largest: the values reach 40.
                let got: Vec<f64> = got.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
                for (i, (got, expected)) in got.iter().zip(reference.numbers(&what)).enumerate() {
                    // PyTorch's elu has the second derivative 0 at 0, its limit from the right.
                    let jump = what == "elu.d2y" && reference.numbers("x")[i] == 0.0;
                    if jump || underflows(i) {
                        continue;
                    }
                    let off = (got - expected).abs();
                    assert!(off <= tolerance * expected.abs().max(1.0), "{what} at {i}: {off:e}");
                }
            }
            // The first derivative that candle's own backward takes, as in a generator's step.
            let found = function(&Traced::frozen(&x)).unwrap().value().sum_all().unwrap();
            let found = found.backward().unwrap().remove(&x).unwrap();
            let expected = first.to_dtype(DType::F64).unwrap();
            assert_close(&found, &expected, tolerance, &format!("{name}.dy by backward"));
        }
    }
}

/// The derivative at a kink, by name: candle's own relu has 1 at 0, its leaky_relu (1 + slope) / 2.
#[test]
fn derivatives_at_zero() {
    let slope = |f: &dyn Fn(&Traced) -> Result<Traced>, at: f64| -> f64 {
        let x = Traced::input(&Tensor::full(at, 1, &Device::Cpu).unwrap());
        f(&x).unwrap().gradient(&x).unwrap().to_vec1::<f64>().unwrap()[0]
    };
    for zero in [0.0, -0.0] {
        assert_eq!(slope(&|x| x.relu(), zero), 0.0);
        assert_eq!(slope(&|x| x.leaky_relu(0.2), zero), 0.2);
        assert_eq!(slope(&|x| x.apply(&candle_nn::Activation::Relu), zero), 0.0);
        assert_eq!(slope(&|x| x.apply(&candle_nn::Activation::LeakyRelu(0.2)), zero), 0.2);
        assert_eq!(slope(&|x| x.elu(1.0), zero), 1.0);
        assert_eq!(slope(&|x| x.softplus(), zero), 0.5);
    }
}

#[test]
fn a_gradient_needs_a_path() {
    let not_connected = |y: &Traced, x: &Traced| match y.gradient(x) {
        Err(error @ Error::NotConnected { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let value = away_from_zero("x", &[3, 4]);
    let (x, other) = (Traced::input(&value), Traced::input(&away_from_zero("y", &[2])));
    let y = x.sqr().unwrap();
    let message = not_connected(&y, &other);
    assert!(message.contains("[3, 4]") && message.contains("[2]"), "{message}");
    // Made before and made after the other input.
    not_connected(&other.exp().unwrap(), &x);
    not_connected(&Traced::input(&value), &x);
    // Nothing was noted, or there is nothing to note.
    not_connected(&Traced::untracked(&value).sqr().unwrap(), &x);
    not_connected(&y, &Traced::untracked(&value));
    not_connected(&Traced::frozen(&value).sqr().unwrap(), &x);
    not_connected(&x.parameter(&value).sqr().unwrap(), &x);
    // Upstream is no path.
    not_connected(&x, &y);
    // A path from one of two inputs is enough, and only that one counts.
    let both = y.broadcast_mul(&other.sum(0).unwrap()).unwrap();
    let gradient = both.gradient(&other).unwrap();
    assert_eq!(gradient.dims(), [2]);
    assert!(!not_connected(&both.detached(), &x).is_empty());
}

trait Detached {
    fn detached(&self) -> Traced;
}

impl Detached for Traced {
    fn detached(&self) -> Traced {
        Traced::untracked(self.value())
    }
}

/// A gradient may be taken with respect to anything on the way, and to the thing itself.
#[test]
fn gradients_with_respect_to_intermediate_values() {
    let x = Traced::input(&away_from_zero("x", &[3]));
    let h = x.sqr().unwrap();
    let y = h.exp().unwrap().add(&h).unwrap();
    let expected = h.value().exp().unwrap().affine(1.0, 1.0).unwrap();
    assert_close(&y.gradient(&h).unwrap(), &expected, 1e-12, "for h");
    let for_x = expected.mul(x.value()).unwrap().affine(2.0, 0.0).unwrap();
    assert_close(&y.gradient(&x).unwrap(), &for_x, 1e-12, "for x");
    assert_eq!(y.gradient(&y).unwrap().to_vec1::<f64>().unwrap(), [1.0; 3]);
    assert_eq!(x.gradient(&x).unwrap().to_vec1::<f64>().unwrap(), [1.0; 3]);
}

/// A gradient can be differentiated by the trace only once: what it returns is candle's, for candle's `backward`.
/// Asked twice, it is the same.
#[test]
fn a_gradient_can_be_taken_twice() {
    let x = Traced::input(&away_from_zero("x", &[3, 2]));
    let y = x.tanh().unwrap().sum(1).unwrap();
    let (one, two) = (y.gradient(&x).unwrap(), y.gradient(&x).unwrap());
    assert_eq!(support::tensor_bits(&one), support::tensor_bits(&two));
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let x = Traced::input(&away_from_zero("x", &[3, 4]));
    let p = x.parameter(&away_from_zero("p", &[3, 5]));
    for result in [x.add(&p), x.mul(&p), x.div(&p), x.broadcast_add(&p), x.matmul(&p)] {
        assert!(matches!(result, Err(Error::Candle(_))), "{result:?}");
    }
    assert!(x.reshape((5, 5)).is_err());
    assert!(x.narrow(1, 2, 3).is_err());
    assert!(x.narrow(2, 0, 1).is_err());
    assert!(x.sum(2).is_err());
    assert!(x.mean(2).is_err());
    assert!(x.transpose(0, 2).is_err());
    assert!(x.squeeze(3).is_err());
    assert!(Traced::cat(&[], 0).is_err());
    assert!(Traced::cat(&[&x, &p], 0).is_err());
    assert!(Traced::cat(&[&x], 2).is_err());
    assert!(Traced::cat(&[&x, &x], 2).is_err());
    let empty = Traced::input(&Tensor::zeros((0, 4), DType::F64, &Device::Cpu).unwrap());
    assert!(matches!(empty.mean(0), Err(Error::Shape { .. })));

    let shape_error = |result: Result<Traced>, expected: &str| match result {
        Err(error @ Error::Shape { .. }) => {
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().contains("[3, 4]"), "{error}");
        }
        other => panic!("{other:?}"),
    };
    let ones = |dims: &[usize]| Tensor::ones(dims, DType::F64, &Device::Cpu).unwrap();
    shape_error(x.apply(&Linear::new(ones(&[2, 5]), None)), "(batch, 5)");
    shape_error(x.apply(&LayerNorm::new(ones(&[3]), ones(&[3]), 1e-5)), "(..., 3)");
    shape_error(x.apply(&RmsNorm::new(ones(&[3]), 1e-5)), "(..., 3)");
    shape_error(x.apply(&PReLU::new(ones(&[3]), false)), "(batch, 3, ...)");
}

/// Batch normalisation serves the passes without a gradient per sample: both see the batch's statistics and move
/// the running ones.
#[test]
fn batch_normalisation_outside_a_penalty() {
    let x = Var::from_tensor(&away_from_zero("x", &[6, 3])).unwrap();
    let make = || {
        let weight = Var::from_tensor(&away_from_zero("w", &[3])).unwrap();
        let bias = Var::from_tensor(&away_from_zero("b", &[3])).unwrap();
        let mean = Tensor::zeros(3, DType::F64, &Device::Cpu).unwrap();
        let variance = Tensor::ones(3, DType::F64, &Device::Cpu).unwrap();
        let (w, b) = (weight.as_tensor().clone(), bias.as_tensor().clone());
        (BatchNorm::new(3, mean, variance, w, b, 1e-5).unwrap(), weight, bias)
    };
    let ((trained, w, b), (frozen, ..)) = (make(), make());
    let scores = |x: &Traced, layer: &BatchNorm| x.apply(layer).unwrap().sqr().unwrap();
    let one = scores(&Traced::untracked(&x), &trained);
    let two = scores(&Traced::frozen(&x), &frozen);
    assert_close(two.value(), one.value(), 1e-12, "scores");
    let gradients = |y: &Traced| {
        let weights = normal("c", y.dims(), DType::F64);
        y.value().mul(&weights).unwrap().sum_all().unwrap().backward().unwrap()
    };
    let (of_one, of_two) = (gradients(&one), gradients(&two));
    assert_close(of_two.get(&x).unwrap(), of_one.get(&x).unwrap(), 1e-12, "for the input");
    assert!(of_one.get(&w).is_some() && of_one.get(&b).is_some());
    assert_close(frozen.running_mean(), trained.running_mean(), 1e-12, "running mean");
    assert_close(frozen.running_var(), trained.running_var(), 1e-12, "running variance");
    assert!(
        frozen.running_mean().abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap() > 0.0
    );

    let error = Traced::input(&x).apply(&trained).unwrap_err();
    assert!(matches!(&error, Error::BatchNormUnderPenalty { shape } if shape == &[6, 3]));
}

/// The variance of one value is not defined; candle's would fill the running one with NaN.
#[test]
fn batch_normalisation_of_one_value() {
    let vb = candle_nn::VarBuilder::zeros(DType::F64, &Device::Cpu);
    let layer = candle_nn::batch_norm(3, 1e-5, vb).unwrap();
    let one = away_from_zero("x", &[1, 3]);
    for x in [Traced::untracked(&one), Traced::frozen(&one)] {
        let error = x.apply(&layer).unwrap_err();
        assert!(matches!(&error, Error::Shape { got, .. } if got == &[1, 3]), "{error}");
        assert_eq!(layer.running_var().to_vec1::<f64>().unwrap(), [0.0; 3]);
    }
}

/// The generator's step must see the critic that the critic's step trains.
#[test]
fn batch_normalisation_without_centring_is_frozen_as_it_is() {
    let config = candle_nn::BatchNormConfig { remove_mean: false, ..Default::default() };
    let map = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
    let layer = candle_nn::batch_norm(3, config, vb).unwrap();
    let x = away_from_zero("x", &[6, 3]);
    let trained = Traced::untracked(&x).apply(&layer).unwrap();
    let frozen = Traced::frozen(&x).apply(&layer).unwrap();
    assert_close(frozen.value(), trained.value(), 1e-12, "frozen");
}
