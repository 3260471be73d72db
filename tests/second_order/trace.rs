//! Values at single points, what a trace connects, and what is refused.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{BatchNorm, LayerNorm, Linear, PReLU, RmsNorm};
use wgan::{Error, Result, Traced};

use super::case::away_from_zero;
use super::support::{self, Reference, assert_close, normal};

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
