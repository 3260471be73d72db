//! Optimisers against `torch.optim`, over 50 steps with gradients of every size from 1e-8 to 10.
//!
//! A wrong program would leave out a bias correction, put eps inside the root (which the small gradients show), or
//! let a step that fails change a parameter, its own averages or its own counter.

mod support;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use support::{Reference, assert_close, bits, distance};
use wgan::optimizers::{Optimizer, OptimizerConfig, Rates};
use wgan::{Error, Parameters};

const SETTINGS: [(&str, OptimizerConfig); 5] = [
    ("rmsprop_099", rms_prop(0.99)),
    ("rmsprop_09", rms_prop(0.9)),
    ("adam_0_09", adam(0.0, 0.9)),
    ("adam_05_0999", adam(0.5, 0.999)),
    ("adam_09_0999", adam(0.9, 0.999)),
];

const fn rms_prop(alpha: f64) -> OptimizerConfig {
    OptimizerConfig::RmsProp {
        learning_rate: 1e-2,
        alpha,
        eps: 1e-8,
        momentum: 0.0,
        centered: false,
        weight_decay: 0.0,
    }
}

const fn adam(beta1: f64, beta2: f64) -> OptimizerConfig {
    OptimizerConfig::Adam { learning_rate: 1e-2, beta1, beta2, eps: 1e-8 }
}

const STEPS: [usize; 4] = [1, 2, 10, 50];

fn parameters(reference: &Reference, dtype: DType) -> Parameters {
    let var = |name: &str| {
        let init = reference.as_type(&format!("init.{name}"), dtype);
        (name.to_owned(), Var::from_tensor(&init).unwrap())
    };
    // A buffer takes no part: it has no gradient, and is not touched.
    let buffer = Var::from_tensor(&Tensor::full(7.0, 3, &candle_core::Device::Cpu).unwrap());
    [var("a"), var("b"), ("bn.running_mean".to_owned(), buffer.unwrap())].into_iter().collect()
}

/// The gradients of one step, of the parameters that are named.
fn gradients(
    reference: &Reference,
    parameters: &Parameters,
    step: usize,
    names: &[&str],
) -> GradStore {
    let mut store = GradStore::default();
    for (name, var) in parameters.trained().filter(|(name, _)| names.contains(name)) {
        let gradient = reference.as_type(&format!("grads.{name}"), var.dtype());
        store.insert(var, gradient.get(step).unwrap());
    }
    store
}

/// The largest distance of the parameters from a setting's at this step.
fn away(reference: &Reference, parameters: &Parameters, setting: &str, step: usize) -> f64 {
    (parameters.trained())
        .map(|(name, var)| distance(var, reference.get(&format!("{setting}.after_{step}.{name}"))))
        .fold(0.0, f64::max)
}

fn run(
    config: OptimizerConfig,
    dtype: DType,
    mut each: impl FnMut(&Reference, &Parameters, &mut dyn Optimizer, usize),
) {
    let reference = Reference::read("optimizers.safetensors");
    let parameters = parameters(&reference, dtype);
    let mut optimizer = config.build();
    for step in 0..50 {
        let gradients = gradients(&reference, &parameters, step, &["a", "b"]);
        optimizer.step(&parameters, &gradients, &Rates::default()).unwrap();
        each(&reference, &parameters, optimizer.as_mut(), step + 1);
    }
    let (_, buffer) = parameters.buffers().next().unwrap();
    assert_eq!(buffer.to_vec1::<f64>().unwrap(), [7.0; 3]);
}

#[test]
fn fifty_steps_in_f64() {
    for (setting, config) in SETTINGS {
        run(config, DType::F64, |reference, parameters, _, step| {
            if !STEPS.contains(&step) {
                return;
            }
            for (name, var) in parameters.trained() {
                let expected = reference.get(&format!("{setting}.after_{step}.{name}"));
                assert_close(var, expected, 1e-12, &format!("{setting}: {name} after {step}"));
            }
            // No setting passes for another. After one step all Adams are one.
            for (other, _) in SETTINGS.iter().filter(|(other, _)| *other != setting) {
                let alike = step == 1 && setting.starts_with("adam") && other.starts_with("adam");
                let away = away(reference, parameters, other, step);
                assert!(alike || away > 1e-4, "{setting} and {other}: {away}");
            }
        });
    }
}

/// In f32 to 1e-5 of the largest element.
#[test]
fn fifty_steps_in_f32() {
    for (setting, config) in SETTINGS {
        run(config, DType::F32, |reference, parameters, _, step| {
            if STEPS.contains(&step) {
                let away = away(reference, parameters, setting, step);
                assert!(away < 1e-5, "{setting} after {step}: {away}");
            }
        });
    }
}

/// A step without one of the gradients changes nothing, neither the other parameter nor the optimiser's own state:
/// the steps after it are those of a run in which it never happened. One at the start would find no state yet.
#[test]
fn a_missing_gradient_is_named_and_changes_nothing() {
    for (setting, config) in SETTINGS {
        for (present, missing) in [("a", "b"), ("b", "a")] {
            let refuse = |reference: &Reference, parameters: &Parameters, o: &mut dyn Optimizer| {
                let before = bits(parameters);
                let gradients = gradients(reference, parameters, 7, &[present]);
                let error = o.step(parameters, &gradients, &Rates::default());
                let error = error.unwrap_err();
                assert!(matches!(&error, Error::MissingGradient { name } if name == missing));
                assert!(error.to_string().contains(&format!("parameter {missing}")), "{error}");
                assert_eq!(bits(parameters), before);
            };
            let reference = Reference::read("optimizers.safetensors");
            let fresh = parameters(&reference, DType::F64);
            refuse(&reference, &fresh, config.build().as_mut());

            run(config, DType::F64, |reference, parameters, optimizer, step| {
                if STEPS.contains(&step) {
                    let away = away(reference, parameters, setting, step);
                    assert!(away < 1e-12, "{setting} after {step}: {away}");
                    refuse(reference, parameters, optimizer);
                }
            });
        }
    }
}

/// Gradients as `backward` and views leave them: transposed in memory.
#[test]
fn a_gradient_need_not_be_contiguous() {
    for (setting, config) in SETTINGS {
        let reference = Reference::read("optimizers.safetensors");
        let parameters = parameters(&reference, DType::F64);
        let mut optimizer = config.build();
        for step in 0..2 {
            let mut store = gradients(&reference, &parameters, step, &["a", "b"]);
            let (_, a) = parameters.trained().next().unwrap();
            let turned = store.remove(a).unwrap().t().unwrap().contiguous().unwrap().t().unwrap();
            assert!(!turned.is_contiguous());
            store.insert(a, turned);
            optimizer.step(&parameters, &store, &Rates::default()).unwrap();
        }
        let away = away(&reference, &parameters, setting, 2);
        assert!(away < 1e-12, "{setting}: {away}");
    }
}

/// A gradient that is not its parameter's would otherwise move as many elements as it has.
#[test]
fn a_gradient_of_another_shape_or_type_is_refused() {
    let reference = Reference::read("optimizers.safetensors");
    for (setting, config) in SETTINGS {
        let parameters = parameters(&reference, DType::F64);
        let before = bits(&parameters);
        let mut optimizer = config.build();
        let (_, a) = parameters.trained().next().unwrap();
        let good = reference.get("grads.a").get(0).unwrap();
        for wrong in [
            good.t().unwrap(),
            good.narrow(0, 0, 2).unwrap(),
            reference.as_type("init.a", DType::F32),
        ] {
            let mut store = gradients(&reference, &parameters, 0, &["b"]);
            store.insert(a, wrong);
            let error = optimizer.step(&parameters, &store, &Rates::default()).unwrap_err();
            assert!(error.to_string().contains("the gradient of a"), "{setting}: {error}");
            assert_eq!(bits(&parameters), before);
        }
    }
}
