//! Checkpoints that are not this run's, or not whole.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use wgan::checkpoint::{Checkpoint, Checkpoints};
use wgan::data::TensorDataset;
use wgan::layers::Activation;
use wgan::optimizers::OptimizerConfig;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{Ema, Error, Lipschitz, ModelBuilder, TrainConfig};

use super::tiny::{self, State, Tiny};

/// The checkpoints of steps 2, 4 and 6.
fn run(folder: &Path) {
    let mut trainer =
        tiny::trainer(tiny::settings()).with_checkpoints(Checkpoints::new(folder).every_steps(2));
    trainer.fit_until(&tiny::data(), 6).unwrap();
}

fn path(folder: &Path, step: u64) -> std::path::PathBuf {
    folder.join(format!("checkpoint-{step:06}.safetensors"))
}

#[track_caller]
fn assert_refused(mut trainer: Tiny, path: &Path, parts: &[&str]) {
    let before = State::of(&trainer);
    let error = trainer.restore(path).unwrap_err();
    let text = error.to_string();
    let file = path.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(file), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    State::of(&trainer).assert_is(&before, &text);
}

#[test]
fn another_configuration_is_refused_by_field() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path());
    let path = path(folder.path(), 6);
    let base = tiny::settings();
    let refused = |config: TrainConfig, parts: &[&str]| {
        assert_refused(tiny::trainer(config), &path, parts);
    };
    refused(TrainConfig { seed: 10, ..base.clone() }, &["seed is 10, in the checkpoint 9"]);
    refused(
        TrainConfig { batch_size: 5, ..base.clone() },
        &["batch_size is 5, in the checkpoint 4"],
    );
    refused(TrainConfig { n_critic: 3, ..base.clone() }, &["n_critic is 3, in the checkpoint 2"]);
    refused(
        TrainConfig { lipschitz: Lipschitz::Clip { c: 0.01 }, seed: 8, ..base.clone() },
        &["lipschitz.strategy is \"clip\", in the checkpoint \"gradient_penalty\"", "seed is 8"],
    );
    refused(
        TrainConfig { critic_optimizer: OptimizerConfig::adam(1e-3, 0.0, 0.9), ..base.clone() },
        &["critic_optimizer.learning_rate is 0.001, in the checkpoint 0.0001"],
    );
    refused(TrainConfig { ema: Some(Ema::new(0.9)), ..base.clone() }, &["ema is {"]);

    // When a run ends is its own affair.
    let mut longer = TrainConfig { generator_steps: 1, ..base };
    longer.stop.seconds = Some(1e6);
    let mut trainer = tiny::trainer(longer);
    trainer.restore(&path).unwrap();
    assert_eq!(trainer.steps(), 6);
}

#[test]
fn another_model_is_refused_by_tensor_or_by_what_it_makes() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path());
    let path = path(folder.path(), 6);
    let trainer = |generator: MlpGeneratorConfig, critic: MlpCriticConfig, dtype: DType| {
        let build = ModelBuilder::new(1).dtype(dtype);
        wgan::WganTrainer::new(
            build.generator(|vb| MlpGenerator::new(generator, vb)).unwrap(),
            build.critic(|vb| MlpCritic::new(critic, vb)).unwrap(),
            tiny::settings(),
        )
        .unwrap()
    };
    let generator = || MlpGeneratorConfig {
        latent_dim: 2,
        hidden: vec![5, 6],
        sample_shape: vec![2],
        ..Default::default()
    };
    let critic =
        || MlpCriticConfig { sample_shape: vec![2], hidden: vec![6], ..Default::default() };

    // Other first values are no other model.
    let mut same = trainer(generator(), critic(), DType::F32);
    same.restore(&path).unwrap();

    let wider = MlpGeneratorConfig { hidden: vec![5, 7], ..generator() };
    assert_refused(
        trainer(wider, critic(), DType::F32),
        &path,
        &["generator.fc2.weight is [7, 5] of F32, in the checkpoint [6, 5] of F32"],
    );
    let deeper = MlpCriticConfig { hidden: vec![6, 6], ..critic() };
    assert_refused(
        trainer(generator(), deeper, DType::F32),
        &path,
        &["critic.fc3.weight is missing from the checkpoint"],
    );
    let plain = MlpGeneratorConfig { batch_norm: false, ..generator() };
    assert_refused(
        trainer(plain, critic(), DType::F32),
        &path,
        &["\"generator.bn2.running_mean\" is in the checkpoint and not in this run"],
    );
    assert_refused(
        trainer(generator(), critic(), DType::F64),
        &path,
        &["critic.fc1.bias is [6] of F64, in the checkpoint [6] of F32"],
    );
    // The same tensors with something else between them.
    let steeper = MlpGeneratorConfig { activation: Activation::LeakyRelu(0.3), ..generator() };
    assert_refused(
        trainer(steeper, critic(), DType::F32),
        &path,
        &["the generator makes other samples of the same latent points"],
    );
    let smooth = MlpCriticConfig { activation: Activation::Silu, ..critic() };
    assert_refused(
        trainer(generator(), smooth, DType::F32),
        &path,
        &["the critic gives the same samples other scores"],
    );
}

#[test]
fn other_data_is_refused_before_a_step() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path());
    let mut trainer = tiny::trainer(tiny::settings());
    trainer.restore(path(folder.path(), 6)).unwrap();
    let other = |len: usize| {
        TensorDataset::new(Tensor::ones((len, 2), DType::F32, &Device::Cpu).unwrap()).unwrap()
    };
    for (data, expected) in [
        (other(54), "the data set's number of samples is 54, in the checkpoint 53"),
        (other(53), "the data set's samples or labels have other values"),
    ] {
        let error = trainer.fit_until(&data, 8).unwrap_err();
        assert!(matches!(&error, Error::OtherRun { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(trainer.steps(), 6);
    }
    trainer.fit_until(&tiny::data(), 8).unwrap();
    // From then on it is the caller's affair, as ever.
    trainer.fit_until(&other(60), 9).unwrap();
}

/// The newest good one is used, each bad one before it named, and none of them is touched.
#[test]
fn damaged_ones_are_passed_over_and_named() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path());
    let whole = std::fs::read(path(folder.path(), 6)).unwrap();
    let cut = &whole[..whole.len() / 2];
    std::fs::write(path(folder.path(), 6), cut).unwrap();
    let mut altered = std::fs::read(path(folder.path(), 4)).unwrap();
    // Past the header, in the tensors.
    let late = altered.len() - 100;
    altered[late] ^= 0x10;
    std::fs::write(path(folder.path(), 4), &altered).unwrap();
    // One that is whole but has another's name.
    std::fs::copy(path(folder.path(), 2), path(folder.path(), 8)).unwrap();

    let mut whole_run = tiny::trainer(tiny::settings());
    whole_run.fit_until(&tiny::data(), 9).unwrap();
    let mut trainer = tiny::trainer(tiny::settings())
        .with_checkpoints(Checkpoints::new(folder.path()).every_steps(2));
    let resumed = trainer.resume().unwrap().unwrap();
    assert_eq!((resumed.step, resumed.path), (2, path(folder.path(), 2)));
    let refused: Vec<String> = resumed.refused.iter().map(ToString::to_string).collect();
    for (text, parts) in refused.iter().zip([
        ["000008", "its name says step 8, its content step 2"],
        ["000006", "was cut short"],
        ["000004", "was altered or damaged"],
    ]) {
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}: {text}");
    }
    assert_eq!(refused.len(), 3);
    assert_eq!(std::fs::read(path(folder.path(), 6)).unwrap(), cut);
    // The run comes by the same steps again and replaces them.
    trainer.fit_until(&tiny::data(), 9).unwrap();
    State::of(&trainer).assert_is(&State::of(&whole_run), "resumed from the third");
    for step in [6, 8, 9] {
        assert_eq!(Checkpoint::read(path(folder.path(), step)).unwrap().step(), step);
    }
}

/// Where there are checkpoints and none is good, the run does not begin anew over them.
#[test]
fn no_good_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path());
    for step in [2, 4, 6] {
        std::fs::write(path(folder.path(), step), format!("step {step}")).unwrap();
    }
    let mut trainer =
        tiny::trainer(tiny::settings()).with_checkpoints(Checkpoints::new(folder.path()));
    for _ in 0..2 {
        let error = trainer.resume().unwrap_err();
        let Error::NoGoodCheckpoint { refused, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(refused.len(), 3);
        assert!(error.to_string().contains("checkpoint-000002"), "{error}");
        assert_eq!(trainer.steps(), 0);
    }
    let error = trainer.fit_until(&tiny::data(), 1).unwrap_err();
    assert!(matches!(error, Error::NewerCheckpoints { newest: 6, steps_done: 0, .. }), "{error}");
    assert_eq!(std::fs::read(path(folder.path(), 6)).unwrap(), b"step 6");
}

#[test]
fn a_run_without_checkpoints_says_how_to_have_them() {
    let error = tiny::trainer(tiny::settings()).resume().unwrap_err().to_string();
    assert!(error.contains("with_checkpoints"), "{error}");
}

/// A run writes no file but its own, whatever lies in the folder.
#[cfg(unix)]
#[test]
fn a_link_leads_nowhere() {
    let [folder, outside] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let target = outside.path().join("precious");
    std::fs::write(&target, "mine").unwrap();
    for step in [2, 4] {
        std::os::unix::fs::symlink(&target, path(folder.path(), step)).unwrap();
    }
    let mut trainer = tiny::trainer(tiny::settings())
        .with_checkpoints(Checkpoints::new(folder.path()).every_steps(1).keep(1));
    // They are in the way of a fresh run, and removed by a person only.
    assert!(trainer.fit_until(&tiny::data(), 5).is_err());
    assert!(matches!(trainer.resume(), Err(Error::NoGoodCheckpoint { .. })));
    std::fs::remove_file(path(folder.path(), 4)).unwrap();
    trainer.fit_until(&tiny::data(), 1).unwrap_err();
    std::fs::remove_file(path(folder.path(), 2)).unwrap();
    trainer.fit_until(&tiny::data(), 1).unwrap();
    for step in [2, 4] {
        std::os::unix::fs::symlink(&target, path(folder.path(), step)).unwrap();
    }
    drop(trainer);
    let mut trainer = tiny::trainer(tiny::settings())
        .with_checkpoints(Checkpoints::new(folder.path()).every_steps(1).keep(1));
    assert_eq!(trainer.resume().unwrap().unwrap().step, 1);
    trainer.fit_until(&tiny::data(), 5).unwrap();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine");
    assert!(path(folder.path(), 5).is_file());
}
