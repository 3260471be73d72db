//! Losses, penalties and all of their gradients against PyTorch, for a critic written by hand as a user would.
//!
//! A wrong program would take norms over the wrong axis, share one epsilon in a batch, or, as candle's own
//! `backward` leads to, leave whole layers out of a penalty's gradient while its value is right. The first two
//! are in the reference file, the third is done here; each must be told from the crate's own result.

mod support;

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Module, Tensor, Var};
use candle_nn::{Linear, VarBuilder, linear};
use support::{Reference, assert_close, assert_number, distance};
use wgan::losses::{Batching, critic_loss, generator_loss, wasserstein_estimate};
use wgan::{
    Critic, Error, Lipschitz, ModelBuilder, ModuleCritic, Network, Parameters, PenaltyPoints,
    Result, Sides, Traced,
};

const F64: f64 = 1e-9;
const F32: f64 = 1e-4;

/// `(batch, 2, 3)` to `(batch, 1)`, with kinks or smooth.
struct Small {
    fc: [Linear; 3],
    smooth: bool,
}

impl Small {
    fn new(smooth: bool, vb: VarBuilder) -> Result<Self> {
        let fc =
            [linear(6, 8, vb.pp("fc1"))?, linear(8, 7, vb.pp("fc2"))?, linear(7, 1, vb.pp("fc3"))?];
        Ok(Self { fc, smooth })
    }
}

impl Critic for Small {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        let [fc1, fc2, fc3] = &self.fc;
        let x = samples.flatten_from(1)?.apply(fc1)?;
        if self.smooth {
            x.tanh()?.apply(fc2)?.softplus()?.apply(fc3)
        } else {
            x.leaky_relu(0.2)?.apply(fc2)?.leaky_relu(0.2)?.apply(fc3)
        }
    }
}

/// The same in candle's own operations.
impl Module for Small {
    fn forward(&self, samples: &Tensor) -> candle_core::Result<Tensor> {
        let [fc1, fc2, fc3] = &self.fc;
        let x = fc1.forward(&samples.flatten_from(1)?)?;
        if self.smooth {
            fc3.forward(&fc2.forward(&x.tanh()?)?.exp()?.affine(1.0, 1.0)?.log()?)
        } else {
            let leaky = |x: &Tensor| candle_nn::ops::leaky_relu(x, 0.2);
            fc3.forward(&leaky(&fc2.forward(&leaky(&x)?)?)?)
        }
    }
}

fn strategies() -> [(&'static str, Lipschitz); 6] {
    let gp = |lambda, target, sides| Lipschitz::GradientPenalty { lambda, target, sides };
    let div = |k, points| Lipschitz::Divergence { k, p: 6.0, points };
    [
        ("gp_two", gp(10.0, 1.0, Sides::Two)),
        ("gp_one", gp(10.0, 1.0, Sides::One)),
        ("gp_weak", gp(3.0, 0.5, Sides::Two)),
        ("div_k2", div(2.0, PenaltyPoints::Interpolates)),
        ("div_k10", div(10.0, PenaltyPoints::Interpolates)),
        ("div_tutorial", div(2.0, PenaltyPoints::RealAndFake)),
    ]
}

/// One critic of the reference file with its batches, in one type.
struct Case {
    reference: Reference,
    prefix: &'static str,
    smooth: bool,
    dtype: DType,
    real: Tensor,
    fake: Tensor,
    eps: Tensor,
}

impl Case {
    fn new(smooth: bool, dtype: DType) -> Self {
        let reference = Reference::read("losses.safetensors");
        let prefix = if smooth { "smooth." } else { "" };
        let get = |name| reference.as_type(&format!("{prefix}{name}"), dtype);
        let (real, fake, eps) = (get("real"), get("fake"), get("eps"));
        Self { reference, prefix, smooth, dtype, real, fake, eps }
    }

    fn all() -> Vec<(Self, f64)> {
        let case = |smooth, (dtype, tolerance)| (Self::new(smooth, dtype), tolerance);
        [(DType::F64, F64), (DType::F32, F32)]
            .into_iter()
            .flat_map(|kind| [case(false, kind), case(true, kind)])
            .collect()
    }

    fn get(&self, name: &str) -> &Tensor {
        self.reference.get(&format!("{}{name}", self.prefix))
    }

    fn number(&self, name: &str) -> f64 {
        self.reference.number(&format!("{}{name}", self.prefix))
    }

    fn below(&self, name: &str) -> BTreeMap<String, Tensor> {
        self.reference.below(&format!("{}{name}", self.prefix))
    }

    fn build<C: Critic>(&self, build: impl FnOnce(VarBuilder<'static>) -> Result<C>) -> Network<C> {
        let critic = ModelBuilder::new(0).dtype(self.dtype).critic(build).unwrap();
        let names: Vec<_> =
            critic.parameters().trained().map(|(name, _)| name.to_owned()).collect();
        let weights = names.iter().map(|name| (name.clone(), self.get(name).clone())).collect();
        critic.parameters().assign(weights).unwrap();
        critic
    }

    fn critic(&self) -> Network<Small> {
        self.build(|vb| Small::new(self.smooth, vb))
    }

    fn opaque(&self) -> Network<ModuleCritic<Small>> {
        self.build(|vb| ModuleCritic::new(vb, |vb| Small::new(self.smooth, vb)))
    }

    fn penalty(&self, critic: &dyn Critic, lipschitz: Lipschitz) -> Traced {
        lipschitz.penalty(critic, &self.real, &self.fake, Some(&self.eps)).unwrap().unwrap()
    }

    fn interpolates(&self) -> Tensor {
        let eps = self.eps.reshape((5, 1, 1)).unwrap();
        let rest = self.fake.broadcast_mul(&eps.affine(-1.0, 1.0).unwrap()).unwrap();
        self.real.broadcast_mul(&eps).unwrap().add(&rest).unwrap()
    }

    /// Penalty and total loss of every strategy but `except`, and their gradients for every parameter.
    fn check_penalties(
        &self,
        critic: &dyn Critic,
        parameters: &Parameters,
        tolerance: f64,
        except: &[&str],
    ) {
        for (strategy, lipschitz) in strategies() {
            if except.contains(&strategy) {
                continue;
            }
            let what = |name| format!("{}{strategy}.{name} in {:?}", self.prefix, self.dtype);
            let penalty = self.penalty(critic, lipschitz);
            let expected = self.number(&format!("{strategy}.penalty"));
            assert_number(number(&penalty), expected, tolerance, &what("penalty"));
            let estimate =
                wasserstein_estimate(critic, &self.real, &self.fake, Batching::Together).unwrap();
            let total = critic_loss(&estimate, Some(&penalty)).unwrap();
            let expected = self.number(&format!("{strategy}.critic_loss"));
            assert_number(number(&total), expected, tolerance, &what("critic_loss"));
            for (loss, name) in [(penalty, "grad"), (total, "total_grad")] {
                let expected = self.below(&format!("{strategy}.{name}"));
                // Candle's backward pass, which goes on along the tape, and the tape's.
                for gradients in [loss.value().backward().unwrap(), loss.backward().unwrap()] {
                    let wrong = mismatches(parameters, &gradients, &expected, tolerance);
                    assert!(wrong.is_empty(), "{}: {wrong:?}", what(name));
                }
            }
        }
    }
}

fn number(scalar: &Traced) -> f64 {
    assert!(scalar.dims().is_empty());
    scalar.detach().to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

/// The parameters whose gradient is not the expected one. No gradient is a gradient of zeros, as PyTorch's
/// `materialize_grads` has it.
fn mismatches(
    parameters: &Parameters,
    gradients: &GradStore,
    expected: &BTreeMap<String, Tensor>,
    tolerance: f64,
) -> Vec<String> {
    assert_eq!(parameters.trained().count(), expected.len());
    (parameters.trained())
        .filter(|(name, var)| {
            let zeros = || var.zeros_like().unwrap();
            let got = gradients.get(var).cloned().unwrap_or_else(zeros);
            distance(&got, &expected[*name]) > tolerance
        })
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[test]
fn scores_and_plain_losses() {
    for (case, tolerance) in Case::all() {
        let critic = case.critic();
        let (model, parameters) = (critic.model(), critic.parameters());
        let close = |got: &Tensor, name: &str| assert_close(got, case.get(name), tolerance, name);
        close(&model.scores(&case.real).unwrap(), "scores_real");
        close(&model.scores(&case.fake).unwrap(), "scores_fake");
        close(&model.scores_frozen(&case.fake).unwrap(), "scores_fake");

        let estimate =
            wasserstein_estimate(model, &case.real, &case.fake, Batching::Apart).unwrap();
        assert_number(number(&estimate), case.number("estimate"), tolerance, "estimate");
        let loss = critic_loss(&estimate, None).unwrap();
        assert_number(number(&loss), case.number("critic_loss"), tolerance, "critic_loss");
        let expected = case.below("critic_loss_grad");
        let gradients = loss.backward().unwrap();
        let wrong = mismatches(parameters, &gradients, &expected, tolerance);
        assert!(wrong.is_empty(), "{wrong:?}");
        // A flipped sign is no rounding error.
        assert!((number(&estimate) - case.number("critic_loss")).abs() > 1e-2);
        let flipped = estimate.backward().unwrap();
        assert!(!mismatches(parameters, &flipped, &expected, tolerance).is_empty());
    }
}

/// The same from the frozen pass as from the trained one; only the latter reaches the critic's parameters.
#[test]
fn generator_loss_and_its_gradient_at_the_fakes() {
    for (case, tolerance) in Case::all() {
        let critic = case.critic();
        for frozen in [true, false] {
            let fake = Var::from_tensor(&case.fake).unwrap();
            let scores = if frozen {
                critic.model().scores_frozen(&fake).unwrap()
            } else {
                critic.model().scores(&fake).unwrap()
            };
            let loss = generator_loss(&Traced::untracked(&scores)).unwrap();
            assert_number(number(&loss), case.number("generator_loss"), tolerance, "loss");
            let gradients = loss.backward().unwrap();
            let expected = case.get("generator_loss_grad_fake");
            assert_close(gradients.get(&fake).unwrap(), expected, tolerance, "gradient");
            for (name, parameter) in critic.parameters().trained() {
                assert_eq!(gradients.get(parameter).is_none(), frozen, "{name}");
            }
        }
    }
}

/// The reference draws give norms on both sides of each target, so that one-sided and two-sided differ.
#[test]
fn each_sample_has_the_norm_of_its_own_gradient() {
    for (case, tolerance) in Case::all() {
        let critic = case.critic();
        let norms = |points: &Tensor| {
            let (scores, gradient) = critic.model().scores_and_gradient(points).unwrap();
            assert_close(
                &scores,
                &critic.model().scores(points).unwrap().to_dtype(DType::F64).unwrap(),
                0.0,
                "scores beside a gradient",
            );
            gradient.flatten_from(1).unwrap().sqr().unwrap().sum(1).unwrap().sqrt().unwrap()
        };
        let points = case.interpolates();
        assert_close(&norms(&points), case.get("gp_two.norms"), tolerance, "interpolates");
        assert_close(&norms(&case.real), case.get("div_tutorial.norms_real"), tolerance, "real");
        assert_close(&norms(&case.fake), case.get("div_tutorial.norms_fake"), tolerance, "fake");
    }
}

#[test]
fn every_strategy_to_the_second_order() {
    for (case, tolerance) in Case::all() {
        let critic = case.critic();
        case.check_penalties(critic.model(), critic.parameters(), tolerance, &[]);
    }
}

/// A box must forward every method: `penalty` of an opaque critic is not the trait's own, which fails for it.
#[test]
fn critics_behind_a_pointer() {
    for (case, tolerance) in Case::all() {
        let boxed = case.build(|vb| Ok(Box::new(Small::new(case.smooth, vb)?) as Box<dyn Critic>));
        case.check_penalties(boxed.model(), boxed.parameters(), tolerance, &[]);
    }
    let case = Case::new(false, DType::F64);
    let boxed = case.build(|vb| {
        let opaque = ModuleCritic::new(vb, |vb| Small::new(false, vb))?;
        Ok(Box::new(opaque) as Box<dyn Critic>)
    });
    case.check_penalties(boxed.model(), boxed.parameters(), F64, &[]);
}

/// The two well-known mistakes, both in the file; the second is made here as well, which proves that the file
/// holds that mistake and not some other number.
#[test]
fn wrong_norm_axes_and_a_shared_epsilon_are_far_off() {
    for smooth in [false, true] {
        let case = Case::new(smooth, DType::F64);
        let critic = case.critic();
        let penalty = number(&case.penalty(critic.model(), Lipschitz::gradient_penalty()));
        for wrong in ["wrong.norm_axis", "wrong.one_eps"] {
            let wrong = case.number(wrong);
            assert!((penalty - wrong).abs() > 0.01 * penalty, "{wrong} for {penalty}");
        }
        let shared = case.eps.narrow(0, 0, 1).unwrap().broadcast_as(5).unwrap();
        let wrong = Lipschitz::gradient_penalty()
            .penalty(critic.model(), &case.real, &case.fake, Some(&shared))
            .unwrap()
            .unwrap();
        assert_number(number(&wrong), case.number("wrong.one_eps"), F64, "one epsilon");
    }
}

/// Candle's `backward` detaches what it makes: a penalty on its gradient has the right value and reaches the
/// first layer at most.
#[test]
fn a_penalty_on_candles_own_gradient_misses_layers() {
    for smooth in [false, true] {
        let case = Case::new(smooth, DType::F64);
        let critic = case.critic();
        let naive = |points: &Tensor| -> Tensor {
            let points = Var::from_tensor(points).unwrap();
            let scores = Module::forward(critic.model(), &points).unwrap();
            scores.sum_all().unwrap().backward().unwrap().remove(&points).unwrap()
        };
        let points = case.interpolates();
        let norms = naive(&points).flatten_from(1).unwrap().sqr().unwrap().sum(1).unwrap();
        let excess = norms.sqrt().unwrap().affine(1.0, -1.0).unwrap();
        let penalty = excess.sqr().unwrap().mean_all().unwrap().affine(10.0, 0.0).unwrap();
        let value = number(&Traced::untracked(&penalty));
        assert_number(value, case.number("gp_two.penalty"), F64, "the naive value");
        let gradients = penalty.backward().unwrap();
        let expected = case.below("gp_two.grad");
        let wrong = mismatches(critic.parameters(), &gradients, &expected, 1e-3);
        assert!(wrong.contains(&"fc2.weight".into()), "{wrong:?}");
        assert!(wrong.contains(&"fc3.weight".into()), "{wrong:?}");
    }
}

/// One layer that is detached, as a bug in one pull-back would have it, and the comparison names that layer.
#[test]
fn a_penalty_that_misses_one_layer_is_named() {
    for smooth in [false, true] {
        let case = Case::new(smooth, DType::F64);
        for (i, missed) in ["fc1", "fc2", "fc3"].into_iter().enumerate() {
            let critic = case.critic();
            let fc = std::array::from_fn(|j| {
                let layer = &critic.model().fc[j];
                if i == j {
                    Linear::new(layer.weight().detach(), layer.bias().map(|bias| bias.detach()))
                } else {
                    layer.clone()
                }
            });
            let broken = Small { fc, smooth };
            let penalty = case.penalty(&broken, Lipschitz::gradient_penalty());
            assert_number(number(&penalty), case.number("gp_two.penalty"), F64, "the value");
            let gradients = penalty.backward().unwrap();
            let expected = case.below("gp_two.grad");
            let wrong = mismatches(critic.parameters(), &gradients, &expected, 1e-3);
            assert!(wrong.contains(&format!("{missed}.weight")), "{missed}: {wrong:?}");
            assert!(wrong.iter().all(|name| name.starts_with(missed)), "{missed}: {wrong:?}");
        }
    }
}

/// Whether a kink of a leaky ReLU lies within the step of an f32 central difference of one of the points: along the
/// critic's gradient there, as every penalty here is one on its length.
fn a_kink_is_near(case: &Case, points: &Tensor) -> bool {
    let critic = case.critic();
    let [fc1, fc2, _] = &critic.model().fc;
    let x = Traced::input(points);
    let hidden = x.flatten_from(1).unwrap().apply(fc1).unwrap();
    let next = hidden.leaky_relu(0.2).unwrap().apply(fc2).unwrap();
    let rows = |t: &Tensor| t.flatten_from(1).unwrap().to_vec2::<f64>().unwrap();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (_, gradient) = critic.model().scores_and_gradient(points).unwrap();
    let (points, gradient) = (rows(points), rows(&gradient));
    [hidden, next].iter().any(|layer| {
        (0..layer.dims()[1]).any(|unit| {
            let unit = layer.narrow(1, unit, 1).unwrap();
            let (values, slopes) = (rows(unit.value()), rows(&unit.gradient(&x).unwrap()));
            (0..points.len()).any(|i| {
                let step =
                    f64::from(f32::EPSILON).cbrt() * (1.0 + dot(&points[i], &points[i]).sqrt());
                let slope = dot(&slopes[i], &gradient[i]) / dot(&gradient[i], &gradient[i]).sqrt();
                values[i][0].abs() < step * slope.abs()
            })
        })
    })
}

/// Within what `ModuleCritic` promises: 1e-9 in f64 and 1e-3 in f32, for both kinds of critic. Among the draws is a
/// sample with a kink within the f32 step, where it promises nothing.
#[test]
fn an_opaque_critic_by_central_differences() {
    for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-3)] {
        for smooth in [false, true] {
            let case = Case::new(smooth, dtype);
            let critic = case.opaque();
            let reached: Vec<_> = strategies()
                .into_iter()
                .filter(|(_, lipschitz)| {
                    let exact = Case::new(smooth, DType::F64);
                    let points = if lipschitz.interpolates() {
                        exact.interpolates()
                    } else {
                        Tensor::cat(&[&exact.real, &exact.fake], 0).unwrap()
                    };
                    dtype == DType::F32 && !smooth && a_kink_is_near(&exact, &points)
                })
                .collect();
            let names: Vec<_> = reached.iter().map(|(name, _)| *name).collect();
            let kinked = dtype == DType::F32 && !smooth;
            assert_eq!(names, if kinked { &["div_tutorial"][..] } else { &[] });
            case.check_penalties(critic.model(), critic.parameters(), tolerance, &names);
            let (scores, gradient) = critic.model().scores_and_gradient(&case.real).unwrap();
            let exact = if dtype == DType::F64 { F64 } else { F32 };
            assert_close(&scores, case.get("scores_real"), exact, "scores");
            let norms = gradient.flatten_from(1).unwrap().sqr().unwrap().sum(1).unwrap();
            let norms = norms.sqrt().unwrap();
            assert_close(&norms, case.get("div_tutorial.norms_real"), exact, "norms");
            assert!(!gradient.track_op(), "this gradient cannot be differentiated again");
        }
    }
}

/// An opaque critic never pretends that its gradient can be traced, and its frozen twin does no work for the
/// parameters.
#[test]
fn an_opaque_critic_refuses_what_it_cannot_do() {
    let case = Case::new(true, DType::F64);
    let critic = case.opaque();
    let error = Critic::forward(critic.model(), &Traced::input(&case.real)).unwrap_err();
    assert!(matches!(error, Error::NotConnected { .. }), "{error}");
    let fake = Var::from_tensor(&case.fake).unwrap();
    let scores = critic.model().scores_frozen(&fake).unwrap();
    let loss = generator_loss(&Traced::untracked(&scores)).unwrap();
    let gradients = loss.backward().unwrap();
    let expected = case.get("generator_loss_grad_fake");
    assert_close(gradients.get(&fake).unwrap(), expected, F64, "gradient");
    assert!(critic.parameters().trained().all(|(_, var)| gradients.get(var).is_none()));
    // The twin sees an update of the parameters at once.
    let (_, bias) = critic.parameters().trained().find(|(name, _)| *name == "fc3.bias").unwrap();
    let before = critic.model().scores_frozen(&case.real).unwrap();
    bias.set(&bias.affine(1.0, 2.5).unwrap().detach()).unwrap();
    let after = critic.model().scores_frozen(&case.real).unwrap();
    assert_close(&after, &before.affine(1.0, 2.5).unwrap(), 1e-12, "scores after an update");
}
