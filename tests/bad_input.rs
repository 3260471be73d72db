//! What a caller can get wrong: each gets an error that names the thing, the value and what was expected, before any
//! training step, and changes nothing.

use candle_core::{DType, Device, Tensor};
use candle_nn::{BatchNorm, Linear, VarBuilder, batch_norm, linear};
use wgan::data::{Dataset, TensorDataset};
use wgan::layers::Activation;
use wgan::observers::{Every, callback};
use wgan::optimizers::OptimizerConfig;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{
    Critic, CriticDraws, Error, Lipschitz, ModelBuilder, Network, Parameters, Result, Traced,
    TrainConfig, WganTrainer,
};

const BATCH: usize = 4;

fn generator_config() -> MlpGeneratorConfig {
    MlpGeneratorConfig {
        latent_dim: 3,
        hidden: vec![8, 8],
        sample_shape: vec![1, 2, 2],
        ..Default::default()
    }
}

fn generator() -> Network<MlpGenerator> {
    ModelBuilder::new(0).generator(|vb| MlpGenerator::new(generator_config(), vb)).unwrap()
}

fn critic() -> Network<MlpCritic> {
    let config =
        MlpCriticConfig { sample_shape: vec![1, 2, 2], hidden: vec![8], ..Default::default() };
    ModelBuilder::new(0).critic(|vb| MlpCritic::new(config, vb)).unwrap()
}

fn config(config: TrainConfig) -> TrainConfig {
    TrainConfig { batch_size: BATCH, n_critic: 2, generator_steps: 2, ..config }
}

fn data(samples: usize, shape: &[usize]) -> TensorDataset {
    let shape = [&[samples], shape].concat();
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    TensorDataset::new(Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn values(parameters: &Parameters) -> Vec<Vec<f32>> {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
    parameters.tensors().values().map(flat).collect()
}

/// Fits, and holds that the error came before the first step and left both models as they were.
fn refused<C: Critic, D: Dataset>(critic: Network<C>, settings: TrainConfig, data: D) -> Error {
    let started = std::rc::Rc::new(std::cell::Cell::new(false));
    let seen = started.clone();
    let observer = callback(move |_| {
        seen.set(true);
        Ok(())
    });
    let mut trainer =
        WganTrainer::new(generator(), critic, settings).unwrap().observe(Every::Step, observer);
    let models = |trainer: &WganTrainer<MlpGenerator, C>| {
        (values(trainer.generator().parameters()), values(trainer.critic().parameters()))
    };
    let before = models(&trainer);
    let error = trainer.fit(&data).unwrap_err();
    assert!(!started.get() && trainer.steps() == 0);
    assert_eq!(models(&trainer), before, "{error}");
    error
}

#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

#[test]
fn data_sets_that_are_too_small() {
    let settings = config(TrainConfig::wgan());
    for samples in [0, 3] {
        let error = refused(critic(), settings.clone(), data(samples, &[1, 2, 2]));
        assert_says(&error, &[&format!("holds {samples} samples"), "at least 4"]);
    }
}

#[test]
fn data_that_is_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0f32; 8 * 4];
        values[13] = bad;
        let samples = Tensor::from_vec(values, (8, 1, 2, 2), &Device::Cpu).unwrap();
        let error = TensorDataset::new(samples).unwrap_err();
        assert_says(&error, &["[3, 0, 0, 1]", "expected finite"]);
    }
}

/// A data set of the caller's own is looked through as well.
#[test]
fn data_that_is_not_finite_in_a_data_set_of_ones_own() {
    struct Late;
    impl Dataset for Late {
        fn len(&self) -> usize {
            9
        }
        fn sample_shape(&self) -> &[usize] {
            &[1, 2, 2]
        }
        fn dtype(&self) -> DType {
            DType::F32
        }
        fn batch(&self, indices: &[usize]) -> Result<Tensor> {
            let value = |&i: &usize| if i == 7 { [0.0, 0.0, 0.0, f32::NAN] } else { [0.5; 4] };
            let values: Vec<f32> = indices.iter().flat_map(value).collect();
            Ok(Tensor::from_vec(values, (indices.len(), 1, 2, 2), &Device::Cpu)?)
        }
    }
    let error = refused(critic(), config(TrainConfig::wgan_gp()), Late);
    assert_says(&error, &["NaN", "[7, 0, 1, 1]"]);
}

#[test]
fn sample_shapes_that_a_model_does_not_take() {
    for settings in [TrainConfig::wgan(), TrainConfig::wgan_gp()] {
        let error = refused(critic(), config(settings.clone()), data(8, &[1, 2, 3]));
        assert_says(&error, &["the generator's output", "[4, 1, 2, 2]", "[4, 1, 2, 3]"]);

        let other = MlpCriticConfig { sample_shape: vec![4], ..Default::default() };
        let other = ModelBuilder::new(0).critic(|vb| MlpCritic::new(other, vb)).unwrap();
        let error = refused(other, config(settings), data(8, &[1, 2, 2]));
        assert_says(&error, &["critic", "[4, 1, 2, 2]", "[4]"]);
    }
}

#[test]
fn settings_outside_their_range() {
    let base = config(TrainConfig::wgan());
    let clip = |c| TrainConfig { lipschitz: Lipschitz::Clip { c }, ..base.clone() };
    let gp = |lambda| TrainConfig {
        lipschitz: Lipschitz::GradientPenalty { lambda, target: 1.0, sides: Default::default() },
        ..base.clone()
    };
    for (settings, parts) in [
        (TrainConfig { n_critic: 0, ..base.clone() }, ["n_critic is 0", "1 or more"]),
        (TrainConfig { batch_size: 0, ..base.clone() }, ["batch_size is 0", "1 or more"]),
        (clip(0.0), ["lipschitz.c is 0", "above 0"]),
        (clip(-0.01), ["lipschitz.c is -0.01", "above 0"]),
        (clip(f64::INFINITY), ["lipschitz.c is inf", "finite"]),
        (gp(-10.0), ["lipschitz.lambda is -10", "at least 0"]),
        (gp(f64::NAN), ["lipschitz.lambda is NaN", "finite"]),
    ] {
        assert_says(&WganTrainer::new(generator(), critic(), settings).unwrap_err(), &parts);
    }
}

/// A critic made of one linear layer and a function of its output.
struct Shaped {
    fc: Linear,
    shape: fn(Traced) -> Result<Traced>,
}

impl Critic for Shaped {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        (self.shape)(samples.flatten_from(1)?.apply(&self.fc)?)
    }
}

fn shaped(outputs: usize, shape: fn(Traced) -> Result<Traced>) -> Network<Shaped> {
    ModelBuilder::new(0).critic(|vb| Ok(Shaped { fc: linear(4, outputs, vb)?, shape })).unwrap()
}

#[test]
fn critics_that_do_not_give_one_score_a_sample() {
    for settings in [TrainConfig::wgan(), TrainConfig::wgan_gp(), TrainConfig::wgan_div()] {
        for (critic, got) in [
            (shaped(2, Ok), "[4, 2]"),
            (shaped(1, |x| x.sum((0, 1))), "[]"),
            (shaped(1, |x| x.sum(0)), "[1]"),
            (shaped(2, |x| x.reshape(8)), "[8]"),
            (shaped(1, |x| x.unsqueeze(0)), "[1, 4, 1]"),
        ] {
            let error = refused(critic, config(settings.clone()), data(8, &[1, 2, 2]));
            assert_says(&error, &["the critic's output", got, "(4,) or (4, 1)"]);
        }
    }
}

struct WithBatchNorm(Linear, BatchNorm, Linear);

impl Critic for WithBatchNorm {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        let x = samples.flatten_from(1)?.apply(&self.0)?.apply(&self.1)?;
        x.leaky_relu(0.2)?.apply(&self.2)
    }
}

#[test]
fn batch_norm_in_a_critic_is_for_clipping_only() {
    let build = |vb: VarBuilder| {
        let norm = batch_norm(8, 1e-5, vb.pp("bn"))?;
        Ok(WithBatchNorm(linear(4, 8, vb.pp("fc1"))?, norm, linear(8, 1, vb.pp("fc2"))?))
    };
    let critic = || ModelBuilder::new(0).critic(build).unwrap();
    for settings in
        [TrainConfig::wgan_gp(), TrainConfig::wgan_div(), TrainConfig::wgan_div_tutorials()]
    {
        let error = refused(critic(), config(settings), data(8, &[1, 2, 2]));
        assert!(matches!(error, Error::BatchNormUnderPenalty { .. }));
        assert_says(&error, &["batch normalisation", "[4, 1, 2, 2]", "layer normalisation"]);
    }
    let mut trainer = WganTrainer::new(generator(), critic(), config(TrainConfig::wgan())).unwrap();
    assert_eq!(trainer.fit(&data(8, &[1, 2, 2])).unwrap().len(), 2);
}

#[test]
fn models_that_do_not_fit_together() {
    let other = ModelBuilder::new(0)
        .dtype(DType::F64)
        .critic(|vb| MlpCritic::new(Default::default(), vb))
        .unwrap();
    let error = WganTrainer::new(generator(), other, config(TrainConfig::wgan())).unwrap_err();
    assert!(matches!(error, Error::DType { .. }));
    assert_says(&error, &["F32 (generator)", "F64 (critic)"]);

    struct Constant;
    impl Critic for Constant {
        fn forward(&self, samples: &Traced) -> Result<Traced> {
            samples.flatten_from(1)?.mean(1)
        }
    }
    let empty = ModelBuilder::new(0).critic(|_| Ok(Constant)).unwrap();
    let error = WganTrainer::new(generator(), empty, config(TrainConfig::wgan())).unwrap_err();
    assert_says(&error, &["the critic", "without trained parameters"]);
}

#[test]
fn model_settings_outside_their_range() {
    let build = ModelBuilder::new(0);
    for wrong in [
        MlpGeneratorConfig { latent_dim: 0, ..generator_config() },
        MlpGeneratorConfig { hidden: vec![8, 0], ..generator_config() },
        MlpGeneratorConfig { sample_shape: vec![], ..generator_config() },
        MlpGeneratorConfig { sample_shape: vec![usize::MAX, 2], ..generator_config() },
        MlpGeneratorConfig { batch_norm_eps: 0.0, ..generator_config() },
    ] {
        let error = build.generator(|vb| MlpGenerator::new(wrong, vb)).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
}

/// A run that turns NaN ends with the step, the quantity and the likely cause, and the step that would have spread it
/// changes no parameter.
#[test]
fn a_loss_that_is_not_finite_ends_the_run() {
    let explosive = TrainConfig {
        critic_optimizer: OptimizerConfig::rms_prop(1e30),
        lipschitz: Lipschitz::gradient_penalty(),
        ..config(TrainConfig::wgan())
    };
    let mut trainer = WganTrainer::new(generator(), critic(), explosive).unwrap();
    let error = trainer.fit(&data(8, &[1, 2, 2])).unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 1, .. }), "{error}");
    assert_says(&error, &["at step 1", "learning rate"]);

    let logarithm = shaped(1, |x| x.sqr()?.neg()?.log());
    let mut trainer =
        WganTrainer::new(generator(), logarithm, config(TrainConfig::wgan())).unwrap();
    let before = values(trainer.critic().parameters());
    let error = trainer.fit(&data(8, &[1, 2, 2])).unwrap_err();
    assert_says(&error, &["the Wasserstein estimate is NaN at step 1"]);
    assert_eq!(values(trainer.critic().parameters()), before);
}

/// A layer that was made but never used is a mistake, and an optimiser that skips it would hide it.
#[test]
fn a_parameter_without_a_gradient_is_named() {
    struct Forgetful(Linear, #[expect(dead_code, reason = "that is the mistake")] Linear);
    impl Critic for Forgetful {
        fn forward(&self, samples: &Traced) -> Result<Traced> {
            samples.flatten_from(1)?.apply(&self.0)
        }
    }
    let forgetful = ModelBuilder::new(0)
        .critic(|vb| Ok(Forgetful(linear(4, 1, vb.pp("used"))?, linear(4, 1, vb.pp("forgotten"))?)))
        .unwrap();
    let before = values(forgetful.parameters());
    let mut trainer =
        WganTrainer::new(generator(), forgetful, config(TrainConfig::wgan())).unwrap();
    let error = trainer.fit(&data(8, &[1, 2, 2])).unwrap_err();
    assert!(matches!(&error, Error::MissingGradient { name } if name == "forgotten.bias"));
    assert_eq!(values(trainer.critic().parameters()), before);
}

#[test]
fn draws_that_do_not_fit() {
    let trainer = |settings| WganTrainer::new(generator(), critic(), config(settings)).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let draws = |latent: &[usize], epsilon: Option<Tensor>| {
        CriticDraws::new(zeros(&[4, 1, 2, 2]), zeros(latent), epsilon)
    };

    let error = trainer(TrainConfig::wgan_gp()).critic_step(&draws(&[4, 3], None)).unwrap_err();
    assert_says(&error, &["epsilon", "(4,)"]);
    let short = draws(&[4, 3], Some(zeros(&[3])));
    let error = trainer(TrainConfig::wgan_div()).critic_step(&short).unwrap_err();
    assert_says(&error, &["epsilon", "[3]", "(4,)"]);
    let narrow = draws(&[4, 2], None);
    let error = trainer(TrainConfig::wgan()).critic_step(&narrow).unwrap_err();
    assert_says(&error, &["latent", "[4, 2]", "(batch, 3)"]);
    let fewer = draws(&[3, 3], Some(zeros(&[4])));
    let error = trainer(TrainConfig::wgan_gp()).critic_step(&fewer).unwrap_err();
    assert_says(&error, &["generated batch", "[3, 1, 2, 2]", "[4, 1, 2, 2]"]);

    let error = trainer(TrainConfig::wgan()).generator_step(zeros(&[1, 3])).unwrap_err();
    assert_says(&error, &["bn2 (BatchNorm)", "[1, 8]", "more than one value a channel"]);
    let error = trainer(TrainConfig::wgan()).generator_step(zeros(&[4, 9])).unwrap_err();
    assert_says(&error, &["latent", "[4, 9]"]);
    assert!(trainer(TrainConfig::wgan()).generator_step(zeros(&[3])).is_err());
    assert!(trainer(TrainConfig::wgan()).sample(0).is_err());
}

/// Every folder is tried before the first step; what was in it stays.
#[test]
fn an_output_folder_that_cannot_be_written() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "mine").unwrap();
    let folder = file.path().join("run");
    let mut trainer = WganTrainer::new(generator(), critic(), config(TrainConfig::wgan()))
        .unwrap()
        .observe(Every::Step, wgan::observers::HistoryCsv::new(&folder));
    let error = trainer.fit(&data(8, &[1, 2, 2])).unwrap_err();
    assert_says(&error, &[folder.to_str().unwrap()]);
    assert_eq!(trainer.steps(), 0);
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "mine");
}

/// An activation of candle-nn without an exact second order here says which ones have one.
#[test]
fn an_activation_without_a_second_order_is_named() {
    let x = Traced::input(&Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
    let error = x.apply(&candle_nn::Activation::Gelu).unwrap_err();
    assert_says(&error, &["Gelu", "LeakyRelu"]);
    assert!(x.apply(&Activation::Identity).is_ok());
}

/// A batch of one with batch normalisation in the generator is refused before an observer replaces a file.
#[test]
fn nothing_is_replaced_by_a_run_that_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mine = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "mine").unwrap();
        path
    };
    let files = ["config.json", "history.csv", "generator.safetensors"].map(mine);
    let run = |settings: TrainConfig| {
        let config = wgan::observers::ConfigJson::new(folder.path(), &settings).unwrap();
        WganTrainer::new(generator(), critic(), settings)
            .unwrap()
            .observe(Every::Never, config)
            .observe(Every::Step, wgan::observers::HistoryCsv::new(folder.path()))
            .observe(Every::Step, wgan::observers::Weights::new(folder.path()))
            .fit(&data(8, &[1, 2, 2]))
    };
    let error = run(TrainConfig { batch_size: 1, ..config(TrainConfig::wgan()) }).unwrap_err();
    assert_says(&error, &["bn2 (BatchNorm)", "more than one value"]);

    // The last observer refuses: the ones before it must not have replaced anything.
    std::fs::create_dir(folder.path().join("critic.safetensors")).unwrap();
    let error = run(config(TrainConfig::wgan())).unwrap_err();
    assert_says(&error, &["critic.safetensors"]);
    for file in files {
        assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
    }
}

/// Batch normalisation hidden in an opaque module is found by the running statistics it keeps.
#[test]
fn batch_norm_in_an_opaque_critic_is_found() {
    let opaque = ModelBuilder::new(0)
        .critic(|vb| {
            wgan::ModuleCritic::new(vb, |vb| {
                let norm = batch_norm(4, 1e-5, vb.pp("bn"))?;
                let fc = linear(4, 1, vb.pp("fc"))?;
                Ok(move |x: &Tensor| x.flatten_from(1)?.apply_t(&norm, true)?.apply(&fc))
            })
        })
        .unwrap();
    let error = refused(opaque, config(TrainConfig::wgan_gp()), data(8, &[1, 2, 2]));
    assert!(matches!(error, Error::BatchNormUnderPenalty { .. }), "{error}");
}

/// A gradient can overflow where the loss does not: the run ends before a parameter is touched.
#[test]
fn a_gradient_that_is_not_finite_ends_the_run() {
    let steep = shaped(1, |x| x.affine(1e25, 0.0)?.sqr()?.affine(1e-30, 0.0)?.affine(1e-30, 0.0));
    let mut trainer = WganTrainer::new(generator(), steep, config(TrainConfig::wgan())).unwrap();
    let before = values(trainer.critic().parameters());
    let error = trainer.fit(&data(8, &[1, 2, 2])).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    assert_eq!(values(trainer.critic().parameters()), before);
}

/// An interval of no steps is no interval.
#[test]
fn an_interval_of_zero_is_refused() {
    let mut trainer = WganTrainer::new(generator(), critic(), config(TrainConfig::wgan()))
        .unwrap()
        .observe(Every::Steps(0), callback(|_| Ok(())));
    assert_says(&trainer.fit(&data(8, &[1, 2, 2])).unwrap_err(), &["interval", "0", "1 or more"]);
}

/// A grid of pictures of samples that are no pictures is refused at once, not at the first grid hours later.
#[cfg(feature = "report")]
#[test]
fn samples_that_are_no_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let config_2d = MlpGeneratorConfig { sample_shape: vec![4], ..generator_config() };
    let build = ModelBuilder::new(0);
    let points = build.generator(|vb| MlpGenerator::new(config_2d, vb)).unwrap();
    let critic_2d =
        MlpCriticConfig { sample_shape: vec![4], hidden: vec![8], ..Default::default() };
    let critic = build.critic(|vb| MlpCritic::new(critic_2d, vb)).unwrap();
    let mut trainer = WganTrainer::new(points, critic, config(TrainConfig::wgan()))
        .unwrap()
        .observe(Every::Steps(1000), wgan::observers::SampleGrid::new(folder.path(), 2, 2, 0));
    let error = trainer.fit(&data(8, &[4])).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    assert_eq!(trainer.steps(), 0);
}
