//! Saving a run and going on with it.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::WganTrainer;
use crate::checkpoint::{
    Checkpoint, CheckpointFile, Checkpoints, DataIdentity, FORMAT_VERSION, Header, Probe,
    ProbeOutcome, Resumed, compare_config, compare_layout, config_to_json,
};
use crate::critic::{Critic, given};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::generator::{Generator, generate, labels_in_turn};
use crate::stop::Ended;

const GENERATOR: &str = "generator";
const CRITIC: &str = "critic";
const AVERAGE: &str = "average";
const GENERATOR_OPTIMIZER: &str = "generator_optimizer";
const CRITIC_OPTIMIZER: &str = "critic_optimizer";
const PROBE_SAMPLES: &str = "probe.samples";
const PROBE_SCORES: &str = "probe.scores";

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// Has [`fit`](Self::fit) write checkpoints, each after all observers of its step.
    #[must_use]
    pub fn with_checkpoints(self, checkpoints: Checkpoints) -> Self {
        Self { checkpoints: Some(checkpoints), ..self }
    }

    /// The checkpoints that this run writes, where it does.
    pub fn checkpoints(&self) -> Option<&Checkpoints> {
        self.checkpoints.as_ref()
    }

    /// Goes on from the newest good checkpoint of the folder given to [`with_checkpoints`](Self::with_checkpoints): to
    /// be called before [`fit`](Self::fit). `None`, and nothing changed, where there is none at all.
    ///
    /// A newer one that is damaged or of another run is passed over, logged as a warning, and named in the result.
    ///
    /// # Errors
    /// [`Error::NoGoodCheckpoint`] where there are some and none can be used; [`Error::FolderInUse`] where another run
    /// writes there; [`Error::InvalidConfig`] for a trainer without checkpoints. The trainer stays as it was.
    pub fn resume(&mut self) -> Result<Option<Resumed>> {
        let Some(mut checkpoints) = self.checkpoints.take() else {
            let expected = "a folder to resume from, given by `with_checkpoints`";
            return Err(Error::config("the trainer's checkpoints", "absent", expected));
        };
        let resumed = self.resume_from(&mut checkpoints);
        self.checkpoints = Some(checkpoints);
        resumed
    }

    fn resume_from(&mut self, checkpoints: &mut Checkpoints) -> Result<Option<Resumed>> {
        checkpoints.lock()?;
        let mut refused = Vec::new();
        for step in checkpoints.steps()?.into_iter().rev() {
            let path = checkpoints.path(step);
            match self.restore_named(&path, Some(step)) {
                Ok(()) => {
                    for error in &refused {
                        tracing::warn!("a checkpoint was passed over: {error}");
                    }
                    checkpoints.resumed_from(step, &self.history)?;
                    return Ok(Some(Resumed { step, path, refused }));
                }
                Err(error) => {
                    checkpoints.refuse(step);
                    refused.push(error);
                }
            }
        }
        if refused.is_empty() {
            return Ok(None);
        }
        let folder = checkpoints.folder().to_path_buf();
        checkpoints.refuse_none();
        Err(Error::NoGoodCheckpoint { folder, refused })
    }

    /// Goes on from this checkpoint: parameters and buffers of both models, the average, optimisers, history and steps
    /// become those of the file. The data set is compared when [`fit`](Self::fit) gets it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a file that was cut short or altered or is of a newer format;
    /// [`Error::OtherRun`] with all that differs in models or settings. The trainer stays as it was.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.restore_named(path.as_ref(), None)
    }

    fn restore_named(&mut self, path: &Path, step: Option<u64>) -> Result<()> {
        let file = CheckpointFile::open(path)?;
        let before = self.checkpoint()?;
        let mut differences = compare_config(&before.header.config, &file.header().config);
        let averaged = self.average.is_some();
        let is_state = |name: &str| {
            // These hold their tensors to fit by themselves: a run before its first step has none yet.
            let of = |prefix: &str| name.strip_prefix(prefix).is_some_and(|s| s.starts_with('.'));
            of(GENERATOR_OPTIMIZER) || of(CRITIC_OPTIMIZER) || (averaged && of(AVERAGE))
        };
        let of_models: BTreeMap<String, Tensor> = (before.tensors.iter())
            .filter(|(name, _)| !is_state(name))
            .map(|(name, tensor)| (name.clone(), tensor.clone()))
            .collect();
        let is_other = |name: &str| CheckpointFile::is_bookkeeping(name) || is_state(name);
        differences.extend(compare_layout(&of_models, file.layout(), is_other));
        let holds = file.header().generator_steps;
        if let Some(step) = step.filter(|&step| step != holds) {
            differences.push(format!("its name says step {step}, its content step {holds}"));
        }
        if !differences.is_empty() {
            return Err(Error::OtherRun { path: path.to_path_buf(), differences });
        }

        let checkpoint = file.load()?;
        if let Err(error) =
            self.assume(&checkpoint, path).and_then(|()| self.probed(&checkpoint, path))
        {
            // What was collected from this very trainer fits it.
            self.assume(&before, path)?;
            return Err(error);
        }
        self.expected_data = checkpoint.header.data.map(|data| (path.to_path_buf(), data));
        Ok(())
    }

    /// Takes everything over; may leave half of it taken where it fails.
    fn assume(&mut self, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
        self.generator.parameters().assign(checkpoint.below(GENERATOR))?;
        self.critic.parameters().assign(checkpoint.below(CRITIC))?;
        let misfit = |what: &str, error: Error| Error::OtherRun {
            path: path.to_path_buf(),
            differences: vec![format!("{what}: {error}")],
        };
        let (generator, critic) = (self.generator.parameters(), self.critic.parameters());
        if let Some(average) = &mut self.average {
            let saved = checkpoint.below(AVERAGE);
            let saved = (!saved.is_empty()).then_some(&saved);
            average.load(generator, saved).map_err(|error| misfit(AVERAGE, error))?;
        }
        let state = checkpoint.below(GENERATOR_OPTIMIZER);
        (self.generator_updates.load_state(generator, &state))
            .map_err(|error| misfit(GENERATOR_OPTIMIZER, error))?;
        let state = checkpoint.below(CRITIC_OPTIMIZER);
        (self.critic_updates.load_state(critic, &state))
            .map_err(|error| misfit(CRITIC_OPTIMIZER, error))?;
        self.history.clone_from(&checkpoint.history);
        self.generator_steps = checkpoint.header.generator_steps;
        self.critic_steps = checkpoint.header.critic_steps;
        Ok(())
    }

    /// Holds the models to make of fixed latent points what the checkpoint's made of them.
    fn probed(&self, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
        let (Some(samples), Some(scores)) =
            (checkpoint.tensors.get(PROBE_SAMPLES), checkpoint.tensors.get(PROBE_SCORES))
        else {
            return Ok(()); // the layouts agree: there is no probe in either
        };
        let theirs = Probe { samples: samples.clone(), scores: scores.clone() };
        let (outcome, differences) = self.probe()?.compare(&theirs)?;
        match outcome {
            ProbeOutcome::Same => {}
            ProbeOutcome::Rounded => tracing::warn!(
                "{}: this machine or device rounds otherwise than that of the checkpoint; the run goes on, but not to \
                 the last bit as it would have there",
                path.display()
            ),
            ProbeOutcome::Other => {
                return Err(Error::OtherRun { path: path.to_path_buf(), differences });
            }
        }
        Ok(())
    }

    fn probe(&self) -> Result<Probe> {
        let latent = self.latent("latent/probe", 0, Probe::POINTS)?;
        let labels = labels_in_turn(self.generator.model(), 0, Probe::POINTS)?;
        let (generator, critic) = (&self.generator, &self.critic);
        let samples = (generator.parameters())
            .keeping_buffers(|| generate(generator.model(), &latent, labels.as_ref(), false))?
            .detach();
        let scores = (critic.parameters())
            .keeping_buffers(|| given(critic.model(), labels.as_ref()).scores(&samples))?
            .detach();
        Ok(Probe { samples, scores })
    }

    /// Everything that the next step depends on, as it is now.
    ///
    /// # Errors
    /// The models', which are run once on two samples; candle's where a tensor cannot be copied.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = self.view()?;
        for tensor in checkpoint.tensors.values_mut() {
            // The next step changes parameters where they lie.
            *tensor = tensor.copy()?;
        }
        Ok(checkpoint)
    }

    /// The same on the very memory of the run.
    fn view(&self) -> Result<Checkpoint> {
        let mut tensors = BTreeMap::new();
        let mut add = |prefix: &str, group: BTreeMap<String, Tensor>| {
            tensors.extend(group.into_iter().map(|(name, t)| (format!("{prefix}.{name}"), t)));
        };
        add(GENERATOR, self.generator.parameters().tensors());
        add(CRITIC, self.critic.parameters().tensors());
        if let Some(average) = self.average() {
            add(AVERAGE, average.tensors());
        }
        add(GENERATOR_OPTIMIZER, self.generator_updates.state()?);
        add(CRITIC_OPTIMIZER, self.critic_updates.state()?);
        let Probe { samples, scores } = self.probe()?;
        tensors.insert(PROBE_SAMPLES.into(), samples);
        tensors.insert(PROBE_SCORES.into(), scores);
        let header = Header {
            format_version: FORMAT_VERSION,
            wgan_version: env!("CARGO_PKG_VERSION").into(),
            generator_steps: self.generator_steps,
            critic_steps: self.critic_steps,
            config: config_to_json(&self.config)?,
            data: self.data.clone(),
        };
        Ok(Checkpoint { header, tensors, history: self.history.clone() })
    }

    /// After a generator step and its observers.
    pub(super) fn save_checkpoint(&mut self, ended: Option<&Ended>) -> Result<()> {
        let Some(mut checkpoints) = self.checkpoints.take() else {
            return Ok(());
        };
        let saved =
            checkpoints.after_step(self.generator_steps, ended, &self.history, || self.view());
        self.checkpoints = Some(checkpoints);
        saved
    }

    /// The error, with the checkpoint that a run which has gone astray can be taken up from.
    pub(super) fn naming_checkpoint(&self, error: Error) -> Error {
        match error {
            Error::NonFinite { step, quantity, value, first, cause, checkpoint: None } => {
                let checkpoint = self.checkpoints.as_ref().and_then(Checkpoints::newest);
                Error::NonFinite { step, quantity, value, first, cause, checkpoint }
            }
            other => other,
        }
    }

    /// Before the first step of a `fit`: holds the data to be that of the checkpoint gone on from, and the folder of
    /// checkpoints to have none that this run would make again.
    pub(super) fn check_checkpoints<D: Dataset + ?Sized>(&mut self, data: &D) -> Result<()> {
        let identity = DataIdentity::of(data)?;
        if let Some((path, expected)) = &self.expected_data {
            let differences = identity.differences(expected);
            if !differences.is_empty() {
                return Err(Error::OtherRun { path: path.clone(), differences });
            }
        }
        (self.data, self.expected_data) = (Some(identity), None);
        match &mut self.checkpoints {
            Some(checkpoints) => checkpoints.start(self.generator_steps),
            None => Ok(()),
        }
    }
}
