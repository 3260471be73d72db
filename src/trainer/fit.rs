//! The loop.

use std::time::Instant;

use super::WganTrainer;
use super::round::Prepared;
use super::view::View;
use crate::average::Average;
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::error::{Error, Result};
use crate::generator::Generator;
use crate::history::{History, Record};
use crate::observers::{Every, Flow, Snapshot};
use crate::stop::{Ended, Stop};

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// Trains for [`generator_steps`](crate::TrainConfig::generator_steps), or until one of
    /// [`stop`](crate::TrainConfig::stop)'s conditions holds or an observer ends the run, and returns a record of each step;
    /// [`ended`](Self::ended) tells which it was.
    ///
    /// A second call goes on where the first ended: two calls of N steps equal one of 2 N, and observers see one
    /// history. So does one after [`resume`](Self::resume) or [`restore`](Self::restore). One that has nothing left to do,
    /// as a condition holds already, returns no record and calls no observer.
    ///
    /// # Errors
    /// Before the first step: [`Error::DatasetTooSmall`](crate::Error::DatasetTooSmall),
    /// [`Error::NonFiniteData`](crate::Error::NonFiniteData), [`Error::Shape`](crate::Error::Shape) for models
    /// that do not take the data, [`Error::BatchNormUnderPenalty`](crate::Error::BatchNormUnderPenalty), and
    /// whatever an observer's start returns; with checkpoints [`Error::FolderInUse`](crate::Error::FolderInUse),
    /// [`Error::NewerCheckpoints`](crate::Error::NewerCheckpoints) for a folder of another run, and, after a resume,
    /// [`Error::OtherRun`](crate::Error::OtherRun) for other data. Later: those of the steps, the observers and the last
    /// checkpoint.
    pub fn fit<D: Dataset + ?Sized>(&mut self, data: &D) -> Result<History> {
        self.fit_until(data, self.generator_steps.saturating_add(self.config.generator_steps))
    }

    /// Trains like [`fit`](Self::fit), but until this many generator steps are done in all: what a run that may have been
    /// resumed calls.
    ///
    /// # Errors
    /// Those of [`fit`](Self::fit).
    pub fn fit_until<D: Dataset + ?Sized>(&mut self, data: &D, total: u64) -> Result<History> {
        self.train(data, total).map_err(|error| self.naming_checkpoint(error))
    }

    fn train<D: Dataset + ?Sized>(&mut self, data: &D, total: u64) -> Result<History> {
        let mut batches = Loader::new(data, self.config.batch_size, self.config.seed)?;
        batches.seek(self.critic_steps);
        self.check_models(data)?;
        self.check_labels(data)?;
        data.ensure_finite()?;
        let epoch = batches.batches_per_epoch();
        let mut stop = Stop::new(self.config.stop, total, epoch, &self.history);
        self.ended = stop.reached(self.critic_steps);
        if self.ended.is_some() {
            return Ok(History::new());
        }
        self.check_checkpoints(data)?;
        self.start_observers(total)?;

        let first = self.history.len();
        let earlier = self.history.last().map_or(0.0, |record| record.seconds);
        let started = Instant::now();
        while self.ended.is_none() {
            let n_critic = self.n_critic()?;
            let (critic, prepared) = self.critic_round(&mut batches, n_critic)?;
            let Prepared { draws, fake } = prepared?;
            let generator = self.update_generator(&draws, fake)?;
            let record = Record {
                step: self.generator_steps,
                wasserstein_estimate: critic.wasserstein_estimate,
                critic_loss: critic.loss,
                penalty: critic.penalty,
                generator_loss: generator.loss,
                gradient_norm: generator.gradient_norm,
                seconds: earlier + started.elapsed().as_secs_f64(),
                scores: Default::default(),
            };
            stop.follow(&record);
            self.history.push(record);
            let ended = self.notify(total, n_critic, stop.reached(self.critic_steps))?;
            self.save_checkpoint(ended.as_ref())?;
            self.ended = ended;
        }
        if let Some(ended) = &self.ended {
            tracing::info!(step = self.generator_steps, "the run ended: {ended}");
        }
        Ok(self.history[first..].to_vec())
    }

    /// Lets every observer refuse before the first of them replaces a file.
    fn start_observers(&mut self, total_steps: u64) -> Result<()> {
        let models = View {
            generator: &self.generator,
            critic: &self.critic,
            average: self.average.as_ref().and_then(Average::values),
            lipschitz: self.config.lipschitz,
            steps: self.generator_steps,
        };
        for (every, observer) in &mut self.observers {
            if *every == Every::Steps(0) {
                return Err(Error::config("an observer's interval in steps", 0, "1 or more"));
            }
            observer.prepare(&models)?;
        }
        for (_, observer) in &mut self.observers {
            observer.on_start(total_steps)?;
        }
        Ok(())
    }

    /// Shows the last record to every observer that is due, and to all of them where the run ends here, be it that one of
    /// them ends it, and adds what they measured to it. Returns why it does.
    fn notify(
        &mut self,
        total_steps: u64,
        n_critic: usize,
        mut ended: Option<Ended>,
    ) -> Result<Option<Ended>> {
        let Self { generator, critic, average, config, history, observers, .. } = self;
        let Some(record) = history.last() else {
            return Ok(ended);
        };
        let models = View {
            generator,
            critic,
            average: average.as_ref().and_then(Average::values),
            lipschitz: config.lipschitz,
            steps: record.step,
        };
        let snapshot = Snapshot {
            record,
            history,
            total_steps,
            samples_per_step: n_critic.saturating_mul(config.batch_size),
            models: &models,
        };
        for (every, observer) in observers.iter_mut() {
            if every.selects(record.step)
                && let Flow::Stop(reason) = observer.on_step(&snapshot)?
            {
                ended.get_or_insert(Ended::Observer(reason));
            }
        }
        if ended.is_some() {
            for (_, observer) in observers.iter_mut() {
                observer.on_end(&snapshot)?;
            }
        }
        let scores: Vec<_> = observers.iter_mut().flat_map(|(_, o)| o.take_scores()).collect();
        if let Some(record) = history.last_mut() {
            record.scores.extend(scores);
        }
        Ok(ended)
    }
}
