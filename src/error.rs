//! What can go wrong, in one enum.

use std::path::{Path, PathBuf};

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error this crate returns.
///
/// Each message of this crate's own names the thing, the value that came and what was expected in its place.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a tensor failed inside candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A setting is outside its range.
    #[error("{name} is {value}; expected {expected}")]
    InvalidConfig {
        /// The setting, as it is named in [`TrainConfig`](crate::TrainConfig) or on the command line.
        name: String,
        /// Its value.
        value: String,
        /// The values that are allowed.
        expected: String,
    },

    /// A tensor does not have the shape that the receiver takes.
    #[error("{what} has shape {got:?}; expected {expected}")]
    Shape {
        /// The tensor or the layer that was handed it.
        what: String,
        /// Its dimensions.
        got: Vec<usize>,
        /// The shapes that are allowed.
        expected: String,
    },

    /// A tensor has an element type that the receiver does not take.
    #[error("{what} is of type {got}; expected {expected}")]
    DType {
        /// The tensor.
        what: String,
        /// Its element type.
        got: String,
        /// The types that are allowed.
        expected: String,
    },

    /// Two things that work together lie on different devices.
    #[error(
        "{first} is on {first_device} but {second} is on {second_device}; both must be on one device"
    )]
    DeviceMismatch {
        /// The first of the two.
        first: String,
        /// Where it is.
        first_device: String,
        /// The second of the two.
        second: String,
        /// Where that is.
        second_device: String,
    },

    /// A device that was asked for cannot be used.
    #[error("device {name} cannot be used: {reason}")]
    Device {
        /// The device as it was asked for.
        name: String,
        /// Why not, and what to do.
        reason: String,
    },

    /// A data set holds too little for what was asked of it.
    #[error("the data set holds {len} samples; expected at least {needed} ({purpose})")]
    DatasetTooSmall {
        /// How many samples it holds.
        len: usize,
        /// How many are needed.
        needed: usize,
        /// What they are needed for.
        purpose: String,
    },

    /// Data that a model should learn from holds NaN or infinity.
    #[error("{what} holds {value} at {position:?}; expected finite values only")]
    NonFiniteData {
        /// The data.
        what: String,
        /// The first offending value.
        value: f64,
        /// Its index.
        position: Vec<usize>,
    },

    /// Iterations did not come as near to their limit as was asked.
    #[error(
        "{what} misses its aim by {residual:e} after {iterations} iterations; expected at most {tolerance:e}: \
         allow more of them or a larger tolerance"
    )]
    NotConverged {
        /// What was to be computed.
        what: String,
        /// How many iterations were allowed.
        iterations: usize,
        /// How far off it is.
        residual: f64,
        /// How far off it may be.
        tolerance: f64,
    },

    /// A quantity became NaN or infinite during training.
    ///
    /// The optimiser has not been stepped with it: the parameters are those of the step before. (The running
    /// statistics of a batch normalisation move with each forward pass, and so have moved.) Only where it is the update
    /// itself that overflows, and `quantity` a parameter after it, do the parameters hold it.
    #[error(
        "{quantity} is {value} at step {step}: {}{cause}{}",
        first_in(first.as_deref()), last_good(checkpoint.as_deref())
    )]
    NonFinite {
        /// The generator step, counted from 1, during which it arose.
        step: u64,
        /// The quantity.
        quantity: String,
        /// Its value: NaN or an infinity.
        value: f64,
        /// Where it arose, such as `the critic's layer fc2`: in a forward pass the first layer whose parameters, output or
        /// activation are not finite, in a backward pass the last; or the batch that was not finite to begin with. `None`
        /// where that cannot be told.
        first: Option<String>,
        /// The likely cause, and what usually helps.
        cause: String,
        /// The newest checkpoint of the run, where it has any: one from before.
        checkpoint: Option<PathBuf>,
    },

    /// A trainable parameter received no gradient, so the loss does not depend on it.
    #[error(
        "parameter {name} received no gradient: the loss does not depend on it; \
         expected every trainable parameter to be used in the forward pass"
    )]
    MissingGradient {
        /// The parameter's name.
        name: String,
    },

    /// A critic that mixes the samples of a batch was asked for a gradient per sample.
    #[error(
        "the critic applies batch normalisation to a tensor of shape {shape:?} while the gradient of each \
         sample's own score is taken; expected a critic without it: batch statistics make a score depend on \
         the whole batch, so the per-sample penalty is not defined (WGAN-GP, section 4). Use layer \
         normalisation, or weight clipping"
    )]
    BatchNormUnderPenalty {
        /// The shape of the tensor that it was applied to.
        shape: Vec<usize>,
    },

    /// A derivative that a gradient check computed is not the one that it measured.
    #[error("{what} is {got:e}; a central difference gives {expected:e}")]
    WrongGradient {
        /// Which derivative.
        what: String,
        /// What the model computed.
        got: f64,
        /// What was measured.
        expected: f64,
    },

    /// The gradient with respect to a tensor was asked of something that does not depend on it.
    #[error("{what} does not depend on {on}; expected a tensor computed from it")]
    NotConnected {
        /// The tensor that was to be differentiated.
        what: String,
        /// The tensor that it should depend on.
        on: String,
    },

    /// Weights do not fit the model, which stays as it was.
    #[error(
        "{origin}: does not fit the model: missing {missing:?}, unexpected {unexpected:?}, wrong shape or type \
         {mismatched:?}; expected exactly the model's own tensors"
    )]
    Weights {
        /// Where the weights come from.
        origin: String,
        /// Tensors of the model that are missing there.
        missing: Vec<String>,
        /// Tensors there that the model lacks.
        unexpected: Vec<String>,
        /// Tensors whose shape or type differs, with both.
        mismatched: Vec<String>,
    },

    /// A file's content is not what its name or header promises.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what was expected.
        problem: String,
    },

    /// A checkpoint is whole but of another run; nothing was taken from it.
    #[error("{}: is a checkpoint of another run: {}", path.display(), differences.join("; "))]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs, each with both values.
        differences: Vec<String>,
    },

    /// None of the checkpoints in a folder can be used.
    #[error(
        "{}: no checkpoint here can be used: {}; expected at least one that is whole and of this run",
        folder.display(),
        refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    NoGoodCheckpoint {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with each of them, newest first.
        refused: Vec<Error>,
    },

    /// A folder holds checkpoints that a run would make again.
    #[error(
        "{}: holds a checkpoint of step {newest}, and this run, at step {steps_done}, would come by that step again; \
         resume from it, choose another folder, or move it away",
        folder.display()
    )]
    NewerCheckpoints {
        /// The folder.
        folder: PathBuf,
        /// The generator step of the newest one.
        newest: u64,
        /// The generator steps that the trainer has done.
        steps_done: u64,
    },

    /// Another run writes into the same folder.
    #[error(
        "{}: is in use by another run{}; expected a folder of its own for each run",
        path.display(), holder.map_or(String::new(), |pid| format!(", process {pid}"))
    )]
    FolderInUse {
        /// The folder.
        path: PathBuf,
        /// The number of the other run's process, where it is known.
        holder: Option<u32>,
    },

    /// A file or folder could not be read or written.
    #[error("{}: {action} failed: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The operating system's error; part of the message, and so not repeated as a source.
        error: std::io::Error,
    },
}

fn first_in(first: Option<&str>) -> String {
    first.map_or_else(String::new, |first| format!("it arose in {first}; "))
}

fn last_good(checkpoint: Option<&Path>) -> String {
    checkpoint
        .map_or(String::new(), |path| format!("; the last good checkpoint is {}", path.display()))
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, error: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action, error }
    }

    /// As candle's error, for code that answers to a trait of candle's.
    pub(crate) fn into_candle(self) -> candle_core::Error {
        match self {
            Self::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }

    /// The misfit of a layer's input.
    pub(crate) fn input(layer: &str, got: &[usize], expected: impl Into<String>) -> Self {
        Self::Shape {
            what: format!("the input of {layer}"),
            got: got.to_vec(),
            expected: expected.into(),
        }
    }

    pub(crate) fn config(
        name: impl Into<String>,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidConfig {
            name: name.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}
