//! A step that fails leaves nothing behind: neither in the models nor in the optimisers nor in the counters.
//!
//! A wrong program would notice NaN only after it is in the weights, or count a step that was not done, so that a run
//! that goes on afterwards is another run.

mod support;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module, linear};
use support::{bits, normal};
use wgan::data::TensorDataset;
use wgan::observers::{Every, callback};
use wgan::optimizers::OptimizerConfig;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{
    Critic, CriticDraws, Error, Generator, ModelBuilder, Network, Parameters, Result, Traced,
    TrainConfig, WganTrainer,
};

const BATCH: usize = 4;

fn generator(batch_norm: bool) -> Network<MlpGenerator> {
    let config = MlpGeneratorConfig {
        latent_dim: 3,
        hidden: vec![6, 5],
        sample_shape: vec![2, 2],
        batch_norm,
        ..Default::default()
    };
    ModelBuilder::new(0).generator(|vb| MlpGenerator::new(config, vb)).unwrap()
}

fn critic() -> Network<MlpCritic> {
    let config =
        MlpCriticConfig { sample_shape: vec![2, 2], hidden: vec![5], ..Default::default() };
    ModelBuilder::new(0).critic(|vb| MlpCritic::new(config, vb)).unwrap()
}

fn settings(config: TrainConfig) -> TrainConfig {
    // Steps large enough for a second one to be seen.
    let optimizer = OptimizerConfig::adam(1e-2, 0.5, 0.9);
    TrainConfig {
        batch_size: BATCH,
        n_critic: 2,
        critic_optimizer: optimizer,
        generator_optimizer: optimizer,
        ..config
    }
}

fn strategies() -> [TrainConfig; 4] {
    [
        TrainConfig::wgan(),
        TrainConfig::wgan_gp(),
        TrainConfig::wgan_div(),
        TrainConfig::wgan_div_tutorials(),
    ]
    .map(settings)
}

fn draw(name: &str, dims: &[usize]) -> Tensor {
    normal(name, dims, DType::F32)
}

fn latent(step: usize) -> Tensor {
    draw(&format!("latent {step}"), &[BATCH, 3])
}

fn draws(step: usize) -> CriticDraws {
    let epsilon = Tensor::new(&[0.1f32, 0.9, 0.5, 0.3], &Device::Cpu).unwrap();
    CriticDraws::new(draw(&format!("real {step}"), &[BATCH, 2, 2]), latent(step), Some(epsilon))
}

fn nan(dims: &[usize]) -> Tensor {
    Tensor::full(f32::NAN, dims, &Device::Cpu).unwrap()
}

/// Both models, to the bit.
fn models<G: Generator, C: Critic>(trainer: &WganTrainer<G, C>) -> [BTreeMap<String, Vec<u64>>; 2] {
    [bits(trainer.generator().parameters()), bits(trainer.critic().parameters())]
}

/// Draws that do not fit, in every way there is.
fn bad_draws(step: usize, interpolates: bool) -> Vec<CriticDraws> {
    let CriticDraws { real, latent, epsilon, .. } = draws(step);
    let with_real = |real| CriticDraws::new(real, latent.clone(), epsilon.clone());
    let with_latent = |latent| CriticDraws::new(real.clone(), latent, epsilon.clone());
    let with_epsilon = |epsilon| CriticDraws::new(real.clone(), latent.clone(), epsilon);
    let mut bad = vec![
        with_real(nan(&[BATCH, 2, 2])),
        with_real(draw("real", &[BATCH, 4])),
        with_real(draw("real", &[BATCH, 2, 3])),
        with_real(draw("real", &[2, 2])),
        with_real(draw("real", &[0, 2, 2])),
        with_real(real.to_dtype(DType::F64).unwrap()),
        with_latent(nan(&[BATCH, 3])),
        with_latent(draw("latent", &[BATCH, 2])),
        with_latent(draw("latent", &[3])),
        with_latent(draw("latent", &[0, 3])),
        with_latent(latent.to_dtype(DType::F64).unwrap()),
    ];
    if interpolates {
        bad.extend([
            with_latent(draw("latent", &[BATCH - 1, 3])),
            with_epsilon(None),
            with_epsilon(Some(draw("epsilon", &[BATCH - 1]))),
            with_epsilon(Some(draw("epsilon", &[BATCH, 1]))),
            with_epsilon(Some(draw("epsilon", &[1]))),
        ]);
    }
    bad
}

fn bad_latents() -> Vec<Tensor> {
    vec![
        nan(&[BATCH, 3]),
        draw("latent", &[BATCH, 2]),
        draw("latent", &[3]),
        draw("latent", &[0, 3]),
        latent(0).to_dtype(DType::F64).unwrap(),
    ]
}

/// Every failure there is before, between and after the steps of a run, and the run is the one without them.
#[test]
fn a_run_goes_on_as_if_a_failed_step_had_not_been() {
    for config in strategies() {
        let run = |failures: bool| {
            let interpolates = config.lipschitz.interpolates();
            let mut trainer = WganTrainer::new(generator(false), critic(), config.clone()).unwrap();
            let mut reports = Vec::new();
            for step in 0..4 {
                let fail = |trainer: &mut WganTrainer<MlpGenerator, MlpCritic>| {
                    let before = (models(trainer), trainer.steps());
                    for bad in bad_draws(step, interpolates) {
                        let error = trainer.critic_step(&bad).unwrap_err();
                        assert_eq!((models(trainer), trainer.steps()), before, "{error}");
                    }
                    for bad in bad_latents() {
                        let error = trainer.generator_step(&bad).unwrap_err();
                        assert_eq!((models(trainer), trainer.steps()), before, "{error}");
                    }
                };
                if failures {
                    fail(&mut trainer);
                }
                let critic = trainer.critic_step(&draws(step)).unwrap();
                if failures {
                    fail(&mut trainer);
                }
                reports.push((critic, trainer.generator_step(latent(step + 100)).unwrap()));
            }
            (models(&trainer), reports)
        };
        let (clean, failed) = (run(false), run(true));
        assert_eq!(clean, failed, "{config:?}");
        assert_ne!(clean.1[0], clean.1[1], "the steps move something");
    }
}

/// Which quantity turned NaN, at which step, and why that may be.
#[test]
fn what_is_not_finite_is_named() {
    fn assert_names(error: Error, step: u64, quantity: &str, origin: &str) {
        let Error::NonFinite { step: at, quantity: what, value, first, cause, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!((*at, what.as_str(), first.as_deref()), (step, quantity, Some(origin)));
        assert!(!value.is_finite());
        assert!(cause.contains("learning rate"), "{cause}");
        let message = error.to_string();
        let expected = format!("{quantity} is {value} at step {step}: it arose in {origin}; ");
        assert!(message.starts_with(&expected), "{message}");
    }
    for config in strategies() {
        let mut trainer = WganTrainer::new(generator(true), critic(), config).unwrap();
        for step in 1..3 {
            let CriticDraws { latent: z, epsilon, .. } = draws(1);
            let bad = CriticDraws::new(nan(&[BATCH, 2, 2]), z, epsilon);
            let error = trainer.critic_step(&bad).unwrap_err();
            assert_names(error, step, "the Wasserstein estimate", "the real samples");
            let CriticDraws { real, epsilon, .. } = draws(1);
            let bad = CriticDraws::new(real, nan(&[BATCH, 3]), epsilon);
            let error = trainer.critic_step(&bad).unwrap_err();
            assert_names(error, step, "the Wasserstein estimate", "the latent points");
            let error = trainer.generator_step(nan(&[BATCH, 3])).unwrap_err();
            assert_names(error, step, "the generator loss", "the latent points");
            trainer.critic_step(&draws(step as usize)).unwrap();
            trainer.generator_step(latent(step as usize)).unwrap();
        }
    }
}

/// Three layers of each model in turn made so large that their output, or their gradient, overflows.
#[test]
fn the_layer_where_it_arose_is_named() {
    let build = ModelBuilder::new(0);
    let networks = || {
        let config = MlpGeneratorConfig {
            latent_dim: 3,
            hidden: vec![6, 5],
            sample_shape: vec![2, 2],
            ..Default::default()
        };
        let generator = build.generator(|vb| MlpGenerator::new(config, vb)).unwrap();
        let config =
            MlpCriticConfig { sample_shape: vec![2, 2], hidden: vec![5, 4], ..Default::default() };
        (generator, build.critic(|vb| MlpCritic::new(config, vb)).unwrap())
    };
    let set = |parameters: &Parameters, name: &str, value: f32| {
        let (_, var) = parameters.trained().find(|(known, _)| *known == name).unwrap();
        var.set(&Tensor::full(value, var.dims(), &Device::Cpu).unwrap()).unwrap();
    };
    let origin = |error: Error| match error {
        Error::NonFinite { first, .. } => first.expect("an origin"),
        other => panic!("{other}"),
    };
    for config in strategies() {
        for (layer, before) in [("fc1", None), ("fc2", Some("fc1")), ("fc3", Some("fc2"))] {
            let (generator, critic) = networks();
            set(critic.parameters(), &format!("{layer}.weight"), 3e38);
            set(critic.parameters(), &format!("{layer}.bias"), 3e38);
            if let Some(before) = before {
                set(critic.parameters(), &format!("{before}.bias"), 10.0);
            }
            let mut trainer = WganTrainer::new(generator, critic, config.clone()).unwrap();
            let expected = format!("the critic's layer {layer}");
            assert_eq!(origin(trainer.critic_step(&draws(0)).unwrap_err()), expected);
            assert_eq!(origin(trainer.generator_step(latent(0)).unwrap_err()), expected);

            // A parameter that is none itself.
            let (generator, critic) = networks();
            set(critic.parameters(), &format!("{layer}.bias"), f32::NAN);
            let mut trainer = WganTrainer::new(generator, critic, config.clone()).unwrap();
            let expected = format!("the critic's parameter {layer}.bias");
            assert_eq!(origin(trainer.critic_step(&draws(0)).unwrap_err()), expected);
            assert_eq!(origin(trainer.generator_step(latent(0)).unwrap_err()), expected);
        }
        // The generator's last activation holds what its last layer does.
        for layer in ["fc1", "fc2"] {
            let (generator, critic) = networks();
            set(generator.parameters(), &format!("{layer}.weight"), 3e38);
            set(generator.parameters(), &format!("{layer}.bias"), f32::INFINITY);
            let mut trainer = WganTrainer::new(generator, critic, config.clone()).unwrap();
            let expected = format!("the generator's parameter {layer}.bias");
            assert_eq!(origin(trainer.critic_step(&draws(0)).unwrap_err()), expected);
            assert_eq!(origin(trainer.generator_step(latent(0)).unwrap_err()), expected);
        }
    }
}

/// A residual critic whose layers are named against the order of its forward pass.
struct Residual {
    first: Linear,
    branch: Linear,
    shortcut: Linear,
    last: Linear,
}

impl Critic for Residual {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        let h = samples.flatten_from(1)?.apply(&self.first)?.leaky_relu(0.2)?;
        let branch = h.apply(&self.branch)?.leaky_relu(0.2)?;
        branch.add(&h.apply(&self.shortcut)?)?.leaky_relu(0.2)?.apply(&self.last)
    }
}

#[test]
fn the_order_is_that_of_the_forward_pass_and_not_of_the_names() {
    for layer in ["z.first", "y.branch", "x.shortcut", "a.last"] {
        let critic = ModelBuilder::new(0).critic(|vb| {
            Ok(Residual {
                first: linear(4, 5, vb.pp("z.first"))?,
                branch: linear(5, 6, vb.pp("y.branch"))?,
                shortcut: linear(5, 6, vb.pp("x.shortcut"))?,
                last: linear(6, 1, vb.pp("a.last"))?,
            })
        });
        let critic = critic.unwrap();
        // Biases that make the next product overflow, with no help from the samples' signs.
        for (name, var) in critic.parameters().trained() {
            let value = match name.strip_prefix(layer) {
                Some(_) => 3e38f32,
                None if name.ends_with("bias") => 10.0,
                None => 0.1,
            };
            var.set(&Tensor::full(value, var.dims(), &Device::Cpu).unwrap()).unwrap();
        }
        let mut trainer =
            WganTrainer::new(generator(false), critic, settings(TrainConfig::wgan())).unwrap();
        let error = trainer.critic_step(&draws(0)).unwrap_err();
        let Error::NonFinite { first, .. } = &error else { panic!("{error}") };
        assert_eq!(
            first.as_deref(),
            Some(format!("the critic's layer {layer}").as_str()),
            "{error}"
        );
    }
}

/// A loss that is finite where its gradient is not: in a backward pass the layer is the one nearest the loss.
#[test]
fn the_layer_where_a_gradient_overflows_is_named() {
    let config = settings(TrainConfig::wgan());
    let trainer = |values: [(&str, f32); 6]| {
        let critic =
            MlpCriticConfig { sample_shape: vec![2, 2], hidden: vec![5, 4], ..Default::default() };
        let critic = ModelBuilder::new(0).critic(|vb| MlpCritic::new(critic, vb)).unwrap();
        for ((name, var), (expected, value)) in critic.parameters().trained().zip(values) {
            assert_eq!(name, expected);
            var.set(&Tensor::full(value, var.dims(), &Device::Cpu).unwrap()).unwrap();
        }
        WganTrainer::new(generator(false), critic, config.clone()).unwrap()
    };
    let assert_says = |error: Error, quantity: &str, origin: &str| {
        let Error::NonFinite { quantity: what, first, .. } = &error else { panic!("{error}") };
        assert_eq!((what.as_str(), first.as_deref()), (quantity, Some(origin)), "{error}");
    };
    // 1e25 * 1e25 on the way back to the first layer; forward, 1e-30 * 1e25 * 1e25.
    let mut first = trainer([
        ("fc1.bias", 0.0),
        ("fc1.weight", 1e-30),
        ("fc2.bias", 0.0),
        ("fc2.weight", 1e25),
        ("fc3.bias", 0.0),
        ("fc3.weight", 1e25),
    ]);
    let before = models(&first);
    let error = first.critic_step(&draws(0)).unwrap_err();
    assert_says(error, "the gradient of fc1.bias", "the critic's layer fc1");
    let Error::NonFinite { first: origin, .. } = first.generator_step(latent(0)).unwrap_err()
    else {
        panic!("another error")
    };
    assert_eq!(origin.as_deref(), Some("the critic's gradient at the generated samples"));
    assert_eq!(models(&first), before);
    // 1e10 * 1e30 in the second layer's own gradient.
    let mut second = trainer([
        ("fc1.bias", 1e10),
        ("fc1.weight", 1e-3),
        ("fc2.bias", 0.0),
        ("fc2.weight", 1e-37),
        ("fc3.bias", 0.0),
        ("fc3.weight", 1e30),
    ]);
    let error = second.critic_step(&draws(0)).unwrap_err();
    assert_says(error, "the gradient of fc2.weight", "the critic's layer fc2");
}

/// An update that overflows is found at its own step, not at the next.
#[test]
fn an_update_that_overflows_is_found_at_its_step() {
    let endless = OptimizerConfig::sgd(1e300, 0.0);
    for base in strategies() {
        let config = TrainConfig { critic_optimizer: endless, ..base.clone() };
        let mut trainer = WganTrainer::new(generator(false), critic(), config).unwrap();
        let error = trainer.critic_step(&draws(0)).unwrap_err();
        assert!(error.to_string().contains("after its update is"), "{error}");
        let config = TrainConfig { generator_optimizer: endless, ..base };
        let mut trainer = WganTrainer::new(generator(false), critic(), config).unwrap();
        trainer.critic_step(&draws(0)).unwrap();
        let error = trainer.generator_step(latent(0)).unwrap_err();
        assert!(error.to_string().contains("after its update is"), "{error}");
        assert_eq!(trainer.steps(), 0);
    }
}

/// A step size that breaks the critic, or the generator: the run ends, and no parameter holds what broke it.
#[test]
fn a_step_size_that_is_far_too_high() {
    let explosive = OptimizerConfig::rms_prop(1e30);
    for base in strategies() {
        for (config, clipped) in [
            (
                TrainConfig { critic_optimizer: explosive, ..base.clone() },
                !base.lipschitz.penalises(),
            ),
            (TrainConfig { generator_optimizer: explosive, ..base.clone() }, false),
        ] {
            let critic_explodes = config.critic_optimizer == explosive;
            let mut trainer = WganTrainer::new(generator(false), critic(), config.clone()).unwrap();
            let mut outcome = None;
            for step in 0..20 {
                let before = models(&trainer);
                let result = trainer.critic_step(&draws(step)).map(drop);
                if let Err(error) = result {
                    outcome = Some((error, before, step));
                    break;
                }
                let before = models(&trainer);
                if let Err(error) = trainer.generator_step(latent(step)) {
                    outcome = Some((error, before, step));
                    break;
                }
            }
            for tensors in [
                trainer.generator().parameters().tensors(),
                trainer.critic().parameters().tensors(),
            ] {
                for (name, tensor) in tensors {
                    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                    assert!(values.iter().all(|value| value.is_finite()), "{name}");
                }
            }
            match outcome {
                Some((error, before, step)) => {
                    assert!(
                        matches!(&error, Error::NonFinite { step: at, .. } if *at == step as u64 + 1),
                        "{error}"
                    );
                    assert_eq!(models(&trainer), before, "{error}");
                }
                // The clamp, and the generator's tanh, hold what a step of any size does.
                None => assert!(clipped || !critic_explodes, "{config:?}"),
            }
        }
    }
}

/// Batch normalisation follows every forward pass; nothing else of the generator has moved.
#[test]
fn only_running_statistics_follow_a_failed_step() {
    for config in strategies() {
        let mut trainer = WganTrainer::new(generator(true), critic(), config).unwrap();
        let trained = |trainer: &WganTrainer<MlpGenerator, MlpCritic>| {
            let [mut generator, critic] = models(trainer);
            generator.retain(|name, _| !name.contains("running"));
            (generator, critic)
        };
        let before = trained(&trainer);
        let CriticDraws { latent: z, epsilon, .. } = draws(0);
        let bad = CriticDraws::new(nan(&[BATCH, 2, 2]), z, epsilon);
        assert!(trainer.critic_step(&bad).is_err());
        assert_eq!(trained(&trainer), before);
    }
}

struct Line(Linear, Option<Linear>, bool);

impl Generator for Line {
    fn latent_dim(&self) -> usize {
        3
    }

    fn forward(&self, latent: &Tensor, _: bool) -> Result<Tensor> {
        let x = self.0.forward(latent)?.reshape(((), 2, 2))?;
        Ok(if self.2 { x.detach() } else { x })
    }
}

/// A layer of the generator that was made but never used, and a generator that hides its parameters.
#[test]
fn a_generator_that_cannot_learn_is_found() {
    let build = |unused: bool, detach: bool| {
        ModelBuilder::new(0)
            .generator(|vb| {
                let extra = unused.then(|| linear(3, 4, vb.pp("unused"))).transpose()?;
                Ok(Line(linear(3, 4, vb.pp("fc"))?, extra, detach))
            })
            .unwrap()
    };
    for config in strategies() {
        for (unused, detach, expected) in [
            (true, false, "parameter unused.bias received no gradient"),
            (false, true, "the generator's output does not depend on the generator's parameters"),
        ] {
            let generator = build(unused, detach);
            assert_eq!(generator.model().1.is_some(), unused);
            let mut trainer = WganTrainer::new(generator, critic(), config.clone()).unwrap();
            let before = models(&trainer);
            let error = trainer.generator_step(latent(0)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(matches!(error, Error::MissingGradient { .. } | Error::NotConnected { .. }));
            assert_eq!((models(&trainer), trainer.steps()), (before, 0));
        }
    }
}

/// A critic that cuts its input off from its scores.
#[test]
fn a_critic_that_detaches_its_input_is_found() {
    struct Detached(Linear);
    impl Critic for Detached {
        fn forward(&self, samples: &Traced) -> Result<Traced> {
            let constant = samples.parameter(&samples.value().detach());
            constant.flatten_from(1)?.apply(&self.0)
        }
    }
    for config in strategies() {
        let critic = ModelBuilder::new(0).critic(|vb| Ok(Detached(linear(4, 1, vb)?))).unwrap();
        let penalises = config.lipschitz.penalises();
        let mut trainer = WganTrainer::new(generator(false), critic, config).unwrap();
        let before = models(&trainer);
        if penalises {
            let error = trainer.critic_step(&draws(0)).unwrap_err();
            assert!(matches!(error, Error::NotConnected { .. }), "{error}");
        }
        let error = trainer.generator_step(latent(0)).unwrap_err();
        assert!(matches!(error, Error::NotConnected { .. }), "{error}");
        assert_eq!((models(&trainer), trainer.steps()), (before, 0));
    }
}

/// An observer's error ends the run after the step that it saw, and what was trained is there to go on with.
#[test]
fn an_observers_error_ends_the_run_where_it_is() {
    let data = TensorDataset::new(draw("data", &[9, 2, 2])).unwrap();
    for config in strategies() {
        let trainer = |generator_steps| {
            let config = TrainConfig { generator_steps, ..config.clone() };
            WganTrainer::new(generator(true), critic(), config).unwrap()
        };
        let mut stopped = trainer(5).observe(
            Every::Step,
            callback(|snapshot| match snapshot.record.step {
                2 => Err(Error::InvalidConfig {
                    name: "the step".into(),
                    value: "2".into(),
                    expected: "another".into(),
                }),
                _ => Ok(()),
            }),
        );
        assert!(matches!(stopped.fit(&data), Err(Error::InvalidConfig { .. })));
        assert_eq!(stopped.steps(), 2);
        let mut short = trainer(2);
        short.fit(&data).unwrap();
        assert_eq!(models(&stopped), models(&short));
        let mut long = trainer(7);
        long.fit(&data).unwrap();
        stopped.fit(&data).unwrap();
        assert_eq!(stopped.steps(), 7);
        assert_eq!(models(&stopped), models(&long));
    }
}
