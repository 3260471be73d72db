//! Models so small that a step takes well below a millisecond, and all that a run of theirs leaves behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Tensor};
use wgan::checkpoint::Checkpoint;
use wgan::data::TensorDataset;
use wgan::history::Record;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{Critic, Generator, ModelBuilder, TrainConfig, WganTrainer};

use super::support::normal;

pub type Tiny = WganTrainer<MlpGenerator, MlpCritic>;

pub fn settings() -> TrainConfig {
    TrainConfig { seed: 9, batch_size: 4, n_critic: 2, ..TrainConfig::wgan_gp() }
}

/// Points of the plane; the generator has a batch normalisation, so that there are buffers.
pub fn trainer(config: TrainConfig) -> Tiny {
    let build = ModelBuilder::new(3);
    let generator = MlpGeneratorConfig {
        latent_dim: 2,
        hidden: vec![5, 6],
        sample_shape: vec![2],
        ..Default::default()
    };
    let critic = MlpCriticConfig { sample_shape: vec![2], hidden: vec![6], ..Default::default() };
    WganTrainer::new(
        build.generator(|vb| MlpGenerator::new(generator, vb)).unwrap(),
        build.critic(|vb| MlpCritic::new(critic, vb)).unwrap(),
        config,
    )
    .unwrap()
}

/// 13 batches of 4 and one sample over.
pub fn data() -> TensorDataset {
    TensorDataset::new(normal("data", (53, 2), DType::F32)).unwrap()
}

/// Everything a run leaves behind, as bits, but for the seconds.
#[derive(Debug, PartialEq)]
pub struct State {
    pub steps: [u64; 2],
    pub tensors: BTreeMap<String, Vec<u8>>,
    pub rows: Vec<[u64; 6]>,
}

impl State {
    pub fn of<G: Generator, C: Critic>(trainer: &WganTrainer<G, C>) -> Self {
        let mut state = Self::in_checkpoint(&trainer.checkpoint().unwrap());
        state.tensors.insert("samples".into(), bytes(&trainer.sample(3).unwrap()));
        state
    }

    pub fn in_checkpoint(checkpoint: &Checkpoint) -> Self {
        let tensors = checkpoint.tensors().iter();
        Self {
            steps: [checkpoint.step(), checkpoint.critic_steps()],
            tensors: tensors.map(|(name, tensor)| (name.clone(), bytes(tensor))).collect(),
            rows: rows(checkpoint.history()),
        }
    }

    /// The first thing that differs.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.steps != other.steps {
            return Some(format!("steps {:?} and {:?}", self.steps, other.steps));
        }
        let names = self.tensors.keys().chain(other.tensors.keys());
        let tensor =
            names.into_iter().find(|&name| self.tensors.get(name) != other.tensors.get(name));
        let row = || {
            let pairs = self.rows.iter().zip(&other.rows);
            pairs
                .into_iter()
                .find(|(a, b)| a != b)
                .map(|(a, _)| format!("the row of step {}", a[0]))
        };
        let lengths = || {
            let lengths = [self.rows.len(), other.rows.len()];
            (lengths[0] != lengths[1]).then(|| format!("{lengths:?} rows"))
        };
        tensor.cloned().or_else(row).or_else(lengths)
    }

    #[track_caller]
    pub fn assert_is(&self, expected: &Self, what: &str) {
        let difference = self.difference(expected);
        assert!(difference.is_none(), "{what}: {} differs", difference.unwrap_or_default());
    }
}

pub fn rows(history: &[Record]) -> Vec<[u64; 6]> {
    let row = |r: &Record| {
        [
            r.step,
            r.wasserstein_estimate.to_bits(),
            r.critic_loss.to_bits(),
            r.penalty.to_bits(),
            r.generator_loss.to_bits(),
            r.gradient_norm.to_bits(),
        ]
    };
    history.iter().map(row).collect()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    safetensors::View::data(&tensor.contiguous().unwrap()).into_owned()
}

/// The folder that a process of its own works in.
const FOLDER: &str = "WGAN_RELIABILITY_FOLDER";

/// This test binary, to be run for one of its ignored tests, which works in `folder`.
pub fn process(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments(test)).env(FOLDER, folder).env("RAYON_NUM_THREADS", "1");
    command
}

pub fn arguments(test: &str) -> [&str; 4] {
    ["--ignored", "--exact", test, "--nocapture"]
}

/// The same under a shell script, which ends in `exec "$@"`.
pub fn scripted(script: &str, test: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(arguments(test)).env(FOLDER, folder);
    command
}

/// Where a process of its own works. `None` where it was started by hand: there is nothing to hold then.
pub fn folder_of_this_process() -> Option<std::path::PathBuf> {
    std::env::var_os(FOLDER).map(Into::into)
}
