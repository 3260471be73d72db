//! Watching a run: everything that is not the mathematics of training.
//!
//! [`WganTrainer::fit`](crate::WganTrainer::fit) hands a [`Snapshot`] to every [`Observer`] at an interval of
//! the observer's own. Progress bars, files and pictures are observers; the loop knows none of them.
//!
//! | observer | what it leaves behind |
//! |---|---|
//! | [`HistoryCsv`] | `history.csv` |
//! | [`Weights`] | `generator.safetensors`, `critic.safetensors`, `generator_ema.safetensors` |
//! | [`ConfigJson`] | `config.json` |
//! | [`Diagnostics`] | `diagnostics.csv` |
//! | [`Scores`] | `scores.csv`, and scores in the history |
//! | [`Watch`], which every trainer has | warnings, through `tracing` |
#![cfg_attr(
    feature = "report",
    doc = "| [`SampleGrid`] | `samples-000500.png` for each interval, `samples.png` at the end |",
    doc = "| [`LearningCurve`] | `learning_curve.svg` |",
    doc = "| [`Progress`] | a bar or lines on standard error |"
)]
//! | [`callback`] | what a closure does |

mod callback;
mod config_json;
#[cfg(feature = "report")]
mod curve;
mod diagnostics;
#[cfg(test)]
mod fake;
mod history_csv;
mod line_file;
#[cfg(feature = "report")]
mod progress;
#[cfg(feature = "report")]
mod samples;
mod scores;
mod watch;
mod weights;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::diagnosis::Diagnosis;
use crate::draws::CriticDraws;
use crate::error::Result;
use crate::history::Record;

pub use callback::callback;
pub use config_json::ConfigJson;
#[cfg(feature = "report")]
pub use curve::LearningCurve;
pub use diagnostics::Diagnostics;
pub use history_csv::{HistoryCsv, read_history_csv};
#[cfg(feature = "report")]
pub use progress::Progress;
#[cfg(feature = "report")]
pub use samples::SampleGrid;
pub use scores::Scores;
pub use watch::{Symptom, Watch};
pub use weights::Weights;

/// A run as an observer sees it after a generator step.
#[non_exhaustive]
pub struct Snapshot<'a> {
    /// The figures of this step.
    pub record: &'a Record,
    /// All records of the run so far, `record` last.
    pub history: &'a [Record],
    /// Generator steps that the run will have done when it ends.
    pub total_steps: u64,
    /// Real samples that this generator step took: `n_critic` batches.
    pub samples_per_step: usize,
    /// The models.
    pub models: &'a dyn Models,
}

/// What an observer may ask of the models. Nothing in it changes a run.
pub trait Models {
    /// Draws from the generator in evaluation mode, or from its moving average where that is on: latent points
    /// `(batch, latent)` to samples, of each class in turn where it has classes. `first` is the number of the batch's first
    /// sample, with which the classes begin: 0, or where an earlier batch ended.
    ///
    /// # Errors
    /// Whatever the generator's forward pass returns.
    fn generate(&self, latent: &Tensor, first: usize) -> Result<Tensor>;

    /// The size of a latent point.
    fn latent_dim(&self) -> usize;

    /// Where the models lie.
    fn device(&self) -> &Device;

    /// The type of their parameters.
    fn dtype(&self) -> DType;

    /// The generator's parameters and buffers by name.
    fn generator_tensors(&self) -> BTreeMap<String, Tensor>;

    /// The critic's parameters and buffers by name.
    fn critic_tensors(&self) -> BTreeMap<String, Tensor>;

    /// Generator steps done so far: 0 when a run is prepared, more where one is continued.
    fn steps(&self) -> u64;

    /// The number of classes that both models know, where they do.
    fn classes(&self) -> Option<usize>;

    /// Looks at both models as they are, as [`WganTrainer::diagnose`](crate::WganTrainer::diagnose) does.
    ///
    /// # Errors
    /// Those of a critic step.
    fn diagnose(&self, training: &CriticDraws, held_out: Option<&CriticDraws>)
    -> Result<Diagnosis>;

    /// The moving average of the generator's parameters, with its buffers, by name: `None` where it is off, and before the
    /// first step.
    fn average_tensors(&self) -> Option<BTreeMap<String, Tensor>> {
        None
    }
}

/// Whether a run goes on after an observer has seen a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    #[default]
    Continue,
    /// It ends after this step as if it were its last, for this reason, which
    /// [`WganTrainer::ended`](crate::WganTrainer::ended) then tells. All other observers see the step too.
    Stop(String),
}

impl Flow {
    /// Ends the run, for this reason.
    #[must_use]
    pub fn stop(reason: impl Into<String>) -> Self {
        Self::Stop(reason.into())
    }
}

/// Nothing said is [`Flow::Continue`].
impl From<()> for Flow {
    fn from((): ()) -> Self {
        Self::Continue
    }
}

/// Something that watches a run.
///
/// An error from any of its methods ends the run and is returned by `fit`.
pub trait Observer {
    /// Called once before the run starts: the place to find out that a folder cannot be written or that the models'
    /// samples are not what the observer takes. Must leave existing files as they are: another observer, or the
    /// run itself, may still refuse.
    ///
    /// # Errors
    /// Ends the run before anything is replaced.
    fn prepare(&mut self, models: &dyn Models) -> Result<()> {
        let _ = models;
        Ok(())
    }

    /// Called once, after every observer is prepared and before the first step.
    ///
    /// # Errors
    /// Ends the run before its first step.
    fn on_start(&mut self, total_steps: u64) -> Result<()> {
        let _ = total_steps;
        Ok(())
    }

    /// Called after each generator step that the observer's interval selects. What it returns says whether the run goes on.
    ///
    /// # Errors
    /// Ends the run.
    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow>;

    /// Called once with the last step, whatever the interval.
    ///
    /// # Errors
    /// Is returned by `fit`; the models are trained all the same.
    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        let _ = snapshot;
        Ok(())
    }

    /// What it measured of the step that it saw last, by name, each figure given once: the run adds them to the step's
    /// [`scores`](crate::history::Record::scores), in time for the step's checkpoint.
    fn take_scores(&mut self) -> Vec<(String, f64)> {
        Vec::new()
    }
}

/// When an observer is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// After every generator step.
    Step,
    /// After each generator step whose number is a multiple of this one, which must not be 0.
    Steps(u64),
    /// Only at the start and the end.
    Never,
}

impl Every {
    /// Whether an observer with this interval is called after generator step `step`, counted from 1.
    ///
    /// ```
    /// use wgan::observers::Every;
    /// assert!(Every::Step.selects(7));
    /// assert!(Every::Steps(5).selects(10) && !Every::Steps(5).selects(11));
    /// ```
    #[must_use]
    pub fn selects(self, step: u64) -> bool {
        match self {
            Self::Step => true,
            Self::Steps(n) => n != 0 && step.is_multiple_of(n),
            Self::Never => false,
        }
    }
}
