//! Runs that survive: everything that the next step depends on, in one file.
//!
//! [`WganTrainer::with_checkpoints`](crate::WganTrainer::with_checkpoints) has a run write [`Checkpoints`];
//! [`WganTrainer::resume`](crate::WganTrainer::resume) goes on from the newest good one. N steps, a kill, and M steps after
//! a resume are one run of N + M steps to the last bit: parameters, optimisers, samples and history, but for the
//! seconds.
//!
//! ```
//! # use candle_core::{DType, Device};
//! # use wgan::data::TensorDataset;
//! # use wgan::random::Stream;
//! # use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
//! # fn models() -> wgan::Result<(wgan::Network<MlpGenerator>, wgan::Network<MlpCritic>)> {
//! #     let generator = MlpGeneratorConfig { latent_dim: 2, hidden: vec![8], sample_shape: vec![2], ..Default::default() };
//! #     let critic = MlpCriticConfig { sample_shape: vec![2], hidden: vec![8], ..Default::default() };
//! #     let build = wgan::ModelBuilder::new(1);
//! #     Ok((build.generator(|vb| MlpGenerator::new(generator, vb))?, build.critic(|vb| MlpCritic::new(critic, vb))?))
//! # }
//! # let temporary = tempfile::tempdir().expect("a folder");
//! # let folder = temporary.path();
//! # let data = TensorDataset::new(Stream::new(1, "data", 0).normal((256, 2), DType::F32, &Device::Cpu)?)?;
//! use wgan::checkpoint::Checkpoints;
//! use wgan::{TrainConfig, WganTrainer};
//!
//! let config = TrainConfig { batch_size: 8, ..TrainConfig::wgan_gp() };
//! # let train = |total: u64| {
//! # let (generator, critic) = models()?;
//! let mut trainer = WganTrainer::new(generator, critic, config.clone())?
//!     .with_checkpoints(Checkpoints::new(folder).every_steps(5).keep(2));
//! // The first time there is nothing to resume; after a kill there is.
//! if let Some(resumed) = trainer.resume()? {
//!     println!("going on after step {} of {}", resumed.step, resumed.path.display());
//! }
//! trainer.fit_until(&data, total)?;
//! # Ok::<_, wgan::Error>(trainer.steps())
//! # };
//! # assert_eq!((train(8)?, train(12)?), (8, 12));
//! # assert!(!folder.join("checkpoint-000008.safetensors").exists());
//! # assert!(folder.join("checkpoint-000010.safetensors").exists());
//! # assert!(folder.join("checkpoint-000012.safetensors").exists());
//! # Ok::<(), wgan::Error>(())
//! ```
//!
//! # What a checkpoint holds
//!
//! `checkpoint-000500.safetensors`, of generator step 500, is one safetensors file that Python's `safetensors` package
//! reads too:
//!
//! | names | what |
//! |---|---|
//! | `generator.fc1.weight`, `critic.fc1.bias`, ... | parameters and buffers of both models |
//! | `average.fc1.weight`, ... | the average of the generator, where one is kept |
//! | `generator_optimizer.exp_avg.fc1.weight`, ... | the optimisers' state under PyTorch's names |
//! | `history.step`, `history.wasserstein_estimate`, ... | a column of the history each |
//! | `history.scores.<name>.step`, `history.scores.<name>.value` | the steps after which observers measured a score, and it |
//! | `probe.samples`, `probe.scores` | what the models make of two fixed latent points |
//! | `checksum` | the SHA-256 of all bytes of the file before it: the last 32 |
//!
//! and, as JSON under the one key `checkpoint` of the file's metadata, the format version, the steps done by both
//! networks, the whole [`TrainConfig`](crate::TrainConfig) and what the data set is known by. There is no state of a
//! random number generator to save: each draw is a function of `(seed, purpose, index)` (see
//! [`random`](crate::random)), the seed is in the configuration and the indices are the steps done. The same goes for
//! the epoch's shuffle, the place in it and schedules.
//!
//! ```python
//! import json
//! from safetensors import safe_open
//! with safe_open("checkpoint-000500.safetensors", "np") as file:
//!     about = json.loads(file.metadata()["checkpoint"])
//!     estimates = file.get_tensor("history.wasserstein_estimate")
//! ```
//!
//! # What is refused
//!
//! A file that was cut short or altered, or is of a newer format; one of models with other tensors, or with other
//! layers between the same tensors, which the probe shows; one of other data; one of another configuration. All fields
//! of the configuration must be as they were but for those that only say when a run ends:
//! `generator_steps` and `stop`. What is given to the trainer as code, such as an own optimiser or schedule, cannot be
//! compared but for an own optimiser's state: it has to be given again as it was.
//!
//! Observers, checkpoint settings, the device and the number of threads are free. On a device or a processor that
//! rounds otherwise the run goes on, though not bit for bit, and a warning is logged.
//!
//! Each file is written whole or not at all, and nothing in one makes the reader panic, take more memory than the file
//! is long, or touch another file.

mod best;
mod data_identity;
mod differences;
mod file;
mod folder;
mod history_columns;
mod keeper;
mod probe;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::history::History;

pub use best::Best;
pub(crate) use data_identity::DataIdentity;
pub(crate) use differences::{compare_config, compare_layout, config_to_json};
pub(crate) use file::CheckpointFile;
pub use keeper::{Checkpoints, Resumed};
pub(crate) use probe::{Probe, ProbeOutcome};

/// The format that this version of the crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

/// What a checkpoint says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub format_version: u64,
    /// The version of this crate that wrote it.
    pub wgan_version: String,
    pub generator_steps: u64,
    pub critic_steps: u64,
    pub config: serde_json::Value,
    /// Absent before the first `fit`.
    pub data: Option<DataIdentity>,
}

/// Everything that the next step of a run depends on; the [module's documentation](self) says what that is.
///
/// ```
/// # use wgan::zoo::{MlpCritic, MlpGenerator};
/// # use wgan::{ModelBuilder, TrainConfig, WganTrainer};
/// # let temporary = tempfile::tempdir().expect("a folder");
/// # let path = temporary.path().join("mine.safetensors");
/// use wgan::checkpoint::Checkpoint;
/// # let build = ModelBuilder::new(0);
/// # let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb))?;
/// # let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb))?;
/// let mut trainer = WganTrainer::new(generator, critic, TrainConfig::wgan())?;
/// trainer.checkpoint()?.write(&path)?;
///
/// let checkpoint = Checkpoint::read(&path)?;
/// assert_eq!(checkpoint.step(), 0);
/// assert_eq!(checkpoint.tensors()["generator.fc1.weight"].dims(), [128, 100]);
/// trainer.restore(&path)?;
/// # Ok::<(), wgan::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(crate) header: Header,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) history: History,
}

impl Checkpoint {
    /// Reads a file, tensors on the CPU.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), and [`Error::Format`](crate::Error::Format) for a file that was cut short or
    /// altered, is of a newer format or no checkpoint.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        CheckpointFile::open(path.as_ref())?.load()
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) that names the file; what was there before is untouched.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write(self, path.as_ref())
    }

    /// Generator steps done.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.header.generator_steps
    }

    /// Critic steps done, which are also the batches of data taken.
    #[must_use]
    pub fn critic_steps(&self) -> u64 {
        self.header.critic_steps
    }

    /// The settings of the run, as JSON in the form of [`TrainConfig`](crate::TrainConfig).
    #[must_use]
    pub fn config(&self) -> &serde_json::Value {
        &self.header.config
    }

    /// A record of each step.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// All tensors but those of the history, under the names that they have in the file.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The tensors below a prefix, by the rest of their names.
    pub(crate) fn below(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        (self.tensors.iter())
            .filter_map(|(name, tensor)| {
                Some((name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned(), tensor.clone()))
            })
            .collect()
    }
}
