//! N steps, a new process' worth of forgetting, and M steps are N + M steps.

use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;
use wgan::checkpoint::{Best, Checkpoints};
use wgan::data::TensorDataset;
use wgan::observers::{Every, Flow, HistoryCsv, callback, read_history_csv};
use wgan::optimizers::{Optimizer, Rates, State as OptimizerState, with_gradients};
use wgan::zoo::{
    CriticNorm, DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig, MlpCritic,
    MlpCriticConfig, MlpGenerator, MlpGeneratorConfig, ResNet32Config, ResNet32Critic,
    ResNet32Generator, ResNet64Config, ResNet64Critic, ResNet64Generator,
};
use wgan::{
    Critic, Ema, Generator, ModelBuilder, Network, Parameters, Result, TrainConfig, WganTrainer,
};

use super::support::normal;
use super::tiny::{self, State, rows};

type Trainer = WganTrainer<Box<dyn Generator>, Box<dyn Critic>>;
type Networks = (Network<Box<dyn Generator>>, Network<Box<dyn Critic>>);

const BATCH: usize = 4;
const CLASSES: usize = 3;

/// A kind of pair, as small as it gets.
#[derive(Debug, Clone, Copy)]
struct Pair {
    model: Model,
    labels: bool,
    /// Of the critic.
    norm: CriticNorm,
    spectral_norm: bool,
    dtype: DType,
}

#[derive(Debug, Clone, Copy)]
enum Model {
    Mlp,
    Dcgan(usize),
    ResNet32,
    ResNet64,
}

impl Pair {
    fn new(model: Model) -> Self {
        Self {
            model,
            labels: false,
            norm: CriticNorm::None,
            spectral_norm: false,
            dtype: DType::F32,
        }
    }

    fn sample_shape(&self) -> [usize; 3] {
        let side = match self.model {
            Model::Mlp => 3,
            Model::Dcgan(size) => size,
            Model::ResNet32 => 32,
            Model::ResNet64 => 64,
        };
        [1, side, side]
    }

    /// 11 samples: two batches an epoch and three samples over.
    fn data(&self) -> TensorDataset {
        let samples = normal("data", [&[11], &self.sample_shape()[..]].concat(), DType::F32);
        let data = TensorDataset::new(samples.tanh().unwrap()).unwrap();
        data.with_labels((0..11).map(|i| i % CLASSES as u32).collect()).unwrap()
    }

    fn build(&self) -> Networks {
        let build = ModelBuilder::new(5).dtype(self.dtype);
        let Self { norm, spectral_norm, .. } = *self;
        let classes = self.labels.then_some(CLASSES);
        let sample_shape = self.sample_shape().to_vec();
        let generator = build.generator(|vb| -> Result<Box<dyn Generator>> {
            Ok(match self.model {
                Model::Mlp => Box::new(MlpGenerator::new(
                    MlpGeneratorConfig {
                        latent_dim: 2,
                        hidden: vec![4, 5],
                        sample_shape: sample_shape.clone(),
                        classes,
                        ..Default::default()
                    },
                    vb,
                )?),
                Model::Dcgan(image_size) => Box::new(DcganGenerator::new(
                    DcganGeneratorConfig {
                        image_size,
                        channels: 1,
                        latent_dim: 3,
                        width: 2,
                        classes,
                        ..Default::default()
                    },
                    vb,
                )?),
                Model::ResNet32 => Box::new(ResNet32Generator::new(resnet32(classes), vb)?),
                Model::ResNet64 => Box::new(ResNet64Generator::new(resnet64(classes), vb)?),
            })
        });
        let critic = build.critic(|vb| -> Result<Box<dyn Critic>> {
            Ok(match self.model {
                Model::Mlp => Box::new(MlpCritic::new(
                    MlpCriticConfig {
                        sample_shape: sample_shape.clone(),
                        hidden: vec![5],
                        classes,
                        ..Default::default()
                    },
                    vb,
                )?),
                Model::Dcgan(image_size) => Box::new(DcganCritic::new(
                    DcganCriticConfig {
                        image_size,
                        channels: 1,
                        width: 2,
                        norm,
                        spectral_norm,
                        classes,
                        ..Default::default()
                    },
                    vb,
                )?),
                Model::ResNet32 => Box::new(ResNet32Critic::new(resnet32(classes), vb)?),
                Model::ResNet64 => Box::new(ResNet64Critic::new(resnet64(classes), vb)?),
            })
        });
        (generator.unwrap(), critic.unwrap())
    }

    fn trainer(&self, config: &TrainConfig) -> Trainer {
        let (generator, critic) = self.build();
        WganTrainer::new(generator, critic, config.clone()).unwrap()
    }
}

fn resnet32(classes: Option<usize>) -> ResNet32Config {
    ResNet32Config { channels: 1, latent_dim: 3, width: 2, classes }
}

fn resnet64(classes: Option<usize>) -> ResNet64Config {
    let norm = CriticNorm::Layer;
    ResNet64Config { channels: 1, latent_dim: 3, width: 1, norm, classes }
}

fn strategies() -> Vec<TrainConfig> {
    [
        TrainConfig::wgan(),
        TrainConfig::wgan_gp(),
        TrainConfig::wgan_div(),
        TrainConfig::wgan_div_tutorials(),
    ]
    .map(|config| TrainConfig { seed: 21, batch_size: BATCH, n_critic: 2, ..config })
    .to_vec()
}

/// Runs inside a pool of so many threads.
fn on<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}

/// Three steps in one go are one step, a forgotten trainer, and two steps: on another number of threads each.
#[track_caller]
fn assert_resumes(
    what: &str,
    data: &TensorDataset,
    trainer: impl Fn() -> Trainer + Sync,
    folder: &Path,
) {
    let whole = on(2, || {
        let mut whole = trainer();
        whole.fit_until(data, 3).unwrap();
        State::of(&whole)
    });
    on(1, || {
        let mut first = trainer().with_checkpoints(Checkpoints::new(folder).every_steps(1));
        assert!(first.resume().unwrap().is_none());
        first.fit_until(data, 1).unwrap();
    });
    let resumed = on(3, || {
        let mut second = trainer().with_checkpoints(Checkpoints::new(folder).every_steps(1));
        let resumed = second.resume().unwrap().unwrap();
        assert_eq!((resumed.step, second.steps()), (1, 1));
        assert!(resumed.refused.is_empty());
        let rest = second.fit_until(data, 3).unwrap();
        assert_eq!(rest.iter().map(|record| record.step).collect::<Vec<_>>(), [2, 3]);
        State::of(&second)
    });
    resumed.assert_is(&whole, what);
    let path = folder.join("checkpoint-000003.safetensors");
    let mut on_disk = State::in_checkpoint(&wgan::checkpoint::Checkpoint::read(path).unwrap());
    on_disk.tensors.insert("samples".into(), whole.tensors["samples"].clone());
    on_disk.assert_is(&whole, what);
}

#[test]
fn every_model_under_every_strategy() {
    let conditional = |pair: Pair| Pair { labels: true, ..pair };
    let mut pairs = vec![
        Pair::new(Model::Mlp),
        Pair { dtype: DType::F64, ..Pair::new(Model::Mlp) },
        conditional(Pair::new(Model::Mlp)),
        Pair::new(Model::Dcgan(28)),
        Pair { norm: CriticNorm::Layer, ..conditional(Pair::new(Model::Dcgan(32))) },
        Pair { norm: CriticNorm::Batch, ..Pair::new(Model::Dcgan(28)) },
        Pair { spectral_norm: true, ..Pair::new(Model::Dcgan(28)) },
        Pair::new(Model::ResNet32),
        conditional(Pair::new(Model::ResNet32)),
        Pair { norm: CriticNorm::Instance, ..Pair::new(Model::Dcgan(32)) },
    ];
    // The largest ones under one strategy each: they differ in size alone.
    let large = [
        Pair::new(Model::ResNet64),
        Pair { norm: CriticNorm::Layer, ..Pair::new(Model::Dcgan(64)) },
    ];
    pairs.extend(large);
    for pair in pairs {
        let data = pair.data();
        for config in strategies() {
            let penalises = config.lipschitz.penalises();
            let is_large = matches!(pair.model, Model::ResNet64 | Model::Dcgan(64));
            if penalises && (pair.norm == CriticNorm::Batch || is_large) {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let what = format!("{pair:?} {:?}", config.lipschitz);
            assert_resumes(&what, &data, || pair.trainer(&config), folder.path());
        }
    }
}

#[test]
fn every_optimizer_and_what_is_around_it() {
    let with = |json: &str| -> TrainConfig {
        let config: TrainConfig = serde_json::from_str(json).unwrap();
        TrainConfig { seed: 22, batch_size: BATCH, n_critic: 2, ..config }
    };
    let optimizers = [
        r#"{"optimizer": "rms_prop", "learning_rate": 0.01}"#,
        r#"{"optimizer": "rms_prop", "learning_rate": 0.01, "momentum": 0.9, "centered": true}"#,
        r#"{"optimizer": "adam", "learning_rate": 0.01, "beta1": 0.5}"#,
        r#"{"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}"#,
        r#"{"optimizer": "sgd", "learning_rate": 0.01}"#,
        r#"{"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, "nesterov": true}"#,
    ];
    let pair = Pair::new(Model::Mlp);
    let data = pair.data();
    for (index, one) in optimizers.iter().enumerate() {
        let other = optimizers[(index + 1) % optimizers.len()];
        let config = with(&format!(
            r#"{{"critic_optimizer": {one}, "generator_optimizer": {other},
                "lipschitz": {{"strategy": "gradient_penalty"}}, "ema": {{"decay": 0.9}},
                "n_critic_schedule": {{"schedule": "authors_code"}},
                "generator_updates": {{"schedule": {{"schedule": "linear", "until": 5}}}}}}"#
        ));
        // 100 critic steps for each of the first generator steps.
        let folder = tempfile::tempdir().unwrap();
        assert_resumes(&config_name(&config), &data, || pair.trainer(&config), folder.path());
    }
}

fn config_name(config: &TrainConfig) -> String {
    format!("{:?} and {:?}", config.critic_optimizer, config.generator_optimizer)
}

/// Steps along the sign of a moving mean of gradients.
struct SignMomentum(OptimizerState);

impl Optimizer for SignMomentum {
    fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        rates: &Rates<'_>,
    ) -> Result<bool> {
        let updates = with_gradients(parameters, gradients)?;
        self.0.advance(parameters)?;
        for (name, parameter, gradient) in updates {
            let mean = self.0.get("exp_avg", name)?;
            mean.set(&((mean.as_tensor() * 0.9)? + (gradient * 0.1)?)?.detach())?;
            let step = (mean.sign()? * rates.learning_rate(name, 0.01))?;
            parameter.set(&parameter.sub(&step)?.detach())?;
        }
        Ok(false)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.0.tensors()
    }

    fn load_state(
        &mut self,
        parameters: &Parameters,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        self.0.load(parameters, state)
    }
}

#[test]
fn an_optimizer_of_ones_own_and_schedules_in_code() {
    let pair = Pair::new(Model::Mlp);
    let config = TrainConfig { ema: Some(Ema::new(0.5)), ..strategies()[1].clone() };
    let trainer = || {
        pair.trainer(&config)
            .with_critic_optimizer(SignMomentum(OptimizerState::new(&["exp_avg"])))
            .with_n_critic(|step| 1 + step as usize)
            .with_generator_schedule(|step| 1.0 / (1.0 + step as f64))
    };
    let folder = tempfile::tempdir().unwrap();
    assert_resumes("an own optimiser", &pair.data(), trainer, folder.path());
}

/// A run that an observer ends, as Ctrl-C does, is saved at that step and goes on from it.
#[test]
fn a_run_that_was_ended_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny::data();
    let mut whole = tiny::trainer(tiny::settings());
    whole.fit_until(&data, 20).unwrap();

    let checkpoints = || Checkpoints::new(folder.path()).keep_best(Best::lowest_estimate(3));
    let mut first = tiny::trainer(tiny::settings())
        .observe(Every::Step, HistoryCsv::new(folder.path()))
        .observe(
            Every::Step,
            callback(|snapshot| {
                Ok(if snapshot.record.step == 7 { Flow::stop("enough") } else { Flow::Continue })
            }),
        )
        .with_checkpoints(checkpoints());
    assert_eq!(first.fit_until(&data, 20).unwrap().len(), 7);
    assert!(first.ended().unwrap().to_string().contains("enough"));
    let newest = first.checkpoints().unwrap().newest().unwrap();
    assert_eq!(newest, folder.path().join("checkpoint-000007.safetensors"));
    drop(first);

    let mut second = tiny::trainer(tiny::settings())
        .observe(Every::Steps(4), HistoryCsv::new(folder.path()))
        .with_checkpoints(checkpoints());
    assert_eq!(second.resume().unwrap().unwrap().path, newest);
    second.fit_until(&data, 20).unwrap();
    State::of(&second).assert_is(&State::of(&whole), "ended and resumed");
    let csv = read_history_csv(folder.path().join("history.csv")).unwrap();
    assert_eq!(rows(&csv), State::of(&whole).rows);
    assert!(csv.windows(2).all(|pair| pair[0].seconds <= pair[1].seconds), "time goes on");
    assert!(second.checkpoints().unwrap().best().is_some_and(|path| path.is_file()));

    // Nothing is left to do, and nothing is touched.
    drop(second);
    let modified = |name: &str| folder.path().join(name).metadata().unwrap().modified().unwrap();
    let before = [modified("history.csv"), modified("checkpoint-000020.safetensors")];
    let mut third = tiny::trainer(tiny::settings())
        .observe(Every::Step, HistoryCsv::new(folder.path()))
        .with_checkpoints(checkpoints());
    third.resume().unwrap().unwrap();
    assert!(third.fit_until(&data, 20).unwrap().is_empty());
    assert_eq!([modified("history.csv"), modified("checkpoint-000020.safetensors")], before);
}

/// Steps that were not `fit`'s count too.
#[test]
fn single_steps_are_part_of_it() {
    let latent = |seed: u64| normal(&format!("latent {seed}"), (4, 2), DType::F32);
    let draws = |seed: u64| {
        let real = normal(&format!("real {seed}"), (4, 2), DType::F32);
        let epsilon = Tensor::new(&[0.1f32, 0.5, 0.7, 0.2], &candle_core::Device::Cpu).unwrap();
        wgan::CriticDraws::new(real, latent(seed), Some(epsilon))
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.safetensors");
    let mut whole = tiny::trainer(tiny::settings());
    whole.critic_step(&draws(1)).unwrap();
    whole.checkpoint().unwrap().write(&path).unwrap();
    let mut restored = tiny::trainer(tiny::settings());
    restored.restore(&path).unwrap();
    for trainer in [&mut whole, &mut restored] {
        trainer.generator_step(latent(2)).unwrap();
        trainer.critic_step(&draws(3)).unwrap();
        trainer.fit_until(&tiny::data(), 5).unwrap();
    }
    State::of(&restored).assert_is(&State::of(&whole), "after single steps");
}

/// Where a value is not finite any more, the error says from where the run can be taken up again.
#[test]
fn a_run_that_goes_astray_names_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = |checkpoints: bool| {
        let mut trainer = tiny::trainer(tiny::settings())
            .with_critic_schedule(|step| if step < 5 { 1.0 } else { 1e300 });
        if checkpoints {
            let checkpoints = Checkpoints::new(folder.path()).every_steps(2);
            trainer = trainer.with_checkpoints(checkpoints);
        }
        trainer.fit_until(&tiny::data(), 20).unwrap_err()
    };
    let text = run(false).to_string();
    assert!(text.contains("at step 6") && !text.contains("checkpoint"), "{text}");
    let error = run(true);
    let newest = folder.path().join("checkpoint-000004.safetensors");
    assert!(
        matches!(&error, wgan::Error::NonFinite { checkpoint: Some(path), .. } if *path == newest),
        "{error:?}"
    );
    let expected = format!("the last good checkpoint is {}", newest.display());
    assert!(error.to_string().ends_with(&expected), "{error}");
}
