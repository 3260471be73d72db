//! Every operation of `Traced`, to the second order, against central differences and PyTorch.
//!
//! A wrong pull-back gives a wrong gradient; one that detaches a factor gives a right gradient whose own gradient
//! lacks a term, which no test of the first order sees. So each operation is put under `sum(c y^2 + d y)`, which
//! sends it a gradient that depends on the input and on the parameters, and what is compared is the gradient of
//! `sum(w sin(gradient))` for the input and for every parameter.

mod case;
#[path = "../support/mod.rs"]
mod support;
mod trace;

use candle_core::{D, DType, Module, Tensor};
use candle_nn::{LayerNorm, Linear, PReLU, RmsNorm};
use proptest::prelude::*;
use support::{assert_close, distance};
use wgan::layers::Activation;
use wgan::second_order::Layer;
use wgan::{Error, Result, Traced};

use case::{Case, Memory, away_from_zero, check, positive};

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
