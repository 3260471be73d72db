//! The checkpoints of a run: when they are written, and which are kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Best, Checkpoint, folder};
use crate::error::{Error, Result};
use crate::files::FolderLock;
use crate::history::Record;
use crate::stop::Ended;

/// A folder with the checkpoints of one run.
///
/// | setting | default | meaning |
/// |---|---|---|
/// | [`every_steps`](Self::every_steps) | none | generator steps from one to the next |
/// | [`every_minutes`](Self::every_minutes) | none | minutes from one to the next, at the end of a step |
/// | [`keep`](Self::keep) | 3 | the newest ones that are kept |
/// | [`keep_best`](Self::keep_best) | none | what tells the best one, which is kept too |
/// | [`only_if_interrupted`](Self::only_if_interrupted) | no | at the end only before the run's steps are done |
///
/// One is also written when the run ends, for whatever reason but an error. Each is written after every observer has
/// seen its step, so that what a checkpoint holds the observers have had: a resumed run leaves out nothing of theirs.
///
/// A write that fails, on a full disk say, is logged as a warning that names the file, and the run goes on to the next
/// one; the checkpoints before it stay. Only at the end of a run is it an error of `fit`: the last state is not on disk
/// then.
///
/// While a run uses the folder no other one may: see [`FolderLock`].
///
/// ```
/// use wgan::checkpoint::{Best, Checkpoints};
/// let checkpoints = Checkpoints::new("runs/mine/checkpoints")
///     .every_steps(1000)
///     .every_minutes(20.0)
///     .keep(2)
///     .keep_best(Best::lowest_estimate(500));
/// # let _ = checkpoints;
/// ```
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    every_steps: Option<u64>,
    every_minutes: Option<f64>,
    keep: usize,
    best: Option<Best>,
    only_if_interrupted: bool,
    lock: Option<FolderLock>,
    /// The newest one of this run.
    newest: Option<u64>,
    best_step: Option<u64>,
    /// Steps whose files were refused by a resume: they are nobody's to count or to remove.
    refused: Vec<u64>,
    since: Instant,
}

/// What a run was resumed from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// Generator steps done.
    pub step: u64,
    /// The checkpoint.
    pub path: PathBuf,
    /// What is wrong with each newer one, newest first. They are left as they are.
    pub refused: Vec<Error>,
}

impl Checkpoints {
    /// Checkpoints in this folder, which is made if need be.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            every_steps: None,
            every_minutes: None,
            keep: 3,
            best: None,
            only_if_interrupted: false,
            lock: None,
            newest: None,
            best_step: None,
            refused: Vec::new(),
            since: Instant::now(),
        }
    }

    /// Writes one after each generator step whose number is a multiple of this, 1 or more.
    #[must_use]
    pub fn every_steps(self, steps: u64) -> Self {
        Self { every_steps: Some(steps), ..self }
    }

    /// Writes one at the end of the first step that ends so many minutes, above 0, after the last one.
    #[must_use]
    pub fn every_minutes(self, minutes: f64) -> Self {
        Self { every_minutes: Some(minutes), ..self }
    }

    /// Keeps so many of the newest ones, 1 or more, and removes older ones.
    #[must_use]
    pub fn keep(self, newest: usize) -> Self {
        Self { keep: newest, ..self }
    }

    /// Keeps, beside the newest ones, the best of those that were written.
    #[must_use]
    pub fn keep_best(self, best: Best) -> Self {
        Self { best: Some(best), ..self }
    }

    /// Writes the one at the end only where the run ends before its steps are done, as by an observer or the time.
    #[must_use]
    pub fn only_if_interrupted(self) -> Self {
        Self { only_if_interrupted: true, ..self }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The newest checkpoint of this run: the last that was written, or what the run was resumed from.
    #[must_use]
    pub fn newest(&self) -> Option<PathBuf> {
        self.newest.map(|step| folder::path(&self.folder, step))
    }

    /// The best checkpoint when the last one was written, by the figure of [`keep_best`](Self::keep_best).
    #[must_use]
    pub fn best(&self) -> Option<PathBuf> {
        self.best_step.map(|step| folder::path(&self.folder, step))
    }

    fn check(&self) -> Result<()> {
        if self.every_steps == Some(0) {
            return Err(Error::config("the checkpoints' interval in steps", 0, "1 or more"));
        }
        if let Some(minutes) = self.every_minutes.filter(|&m| !(m.is_finite() && m > 0.0)) {
            let expected = "a finite number above 0";
            return Err(Error::config("the checkpoints' interval in minutes", minutes, expected));
        }
        if self.keep == 0 {
            return Err(Error::config("the number of checkpoints kept", 0, "1 or more"));
        }
        Ok(())
    }

    /// Takes the folder, so that nothing in it changes but by this run.
    pub(crate) fn lock(&mut self) -> Result<()> {
        self.check()?;
        if self.lock.is_none() {
            self.lock = Some(FolderLock::acquire(&self.folder)?);
        }
        Ok(())
    }

    /// Before the first step of a `fit`: a checkpoint of a later step would be another run's.
    pub(crate) fn start(&mut self, steps_done: u64) -> Result<()> {
        self.lock()?;
        if let Some(&newest) = self.steps()?.last().filter(|&&newest| newest > steps_done) {
            return Err(Error::NewerCheckpoints {
                folder: self.folder.clone(),
                newest,
                steps_done,
            });
        }
        self.since = Instant::now();
        Ok(())
    }

    /// The steps of the checkpoints here, oldest first.
    pub(crate) fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = folder::steps(&self.folder)?;
        steps.retain(|step| !self.refused.contains(step));
        Ok(steps)
    }

    pub(crate) fn path(&self, step: u64) -> PathBuf {
        folder::path(&self.folder, step)
    }

    /// Leaves this one out from now on.
    pub(crate) fn refuse(&mut self, step: u64) {
        self.refused.push(step);
    }

    /// After a resume that failed: nothing is left out.
    pub(crate) fn refuse_none(&mut self) {
        self.refused.clear();
    }

    pub(crate) fn resumed_from(&mut self, step: u64, history: &[Record]) -> Result<()> {
        self.newest = Some(step);
        self.find_best(&self.steps()?, history);
        Ok(())
    }

    fn find_best(&mut self, steps: &[u64], history: &[Record]) {
        self.best_step =
            self.best.as_ref().and_then(|best| best.of(steps.iter().copied(), history));
    }

    /// After a generator step: writes a checkpoint where one is due.
    pub(crate) fn after_step(
        &mut self,
        step: u64,
        ended: Option<&Ended>,
        history: &[Record],
        checkpoint: impl FnOnce() -> Result<Checkpoint>,
    ) -> Result<()> {
        let by_steps = self.every_steps.is_some_and(|every| step.is_multiple_of(every.max(1)));
        let by_time = self.every_minutes.is_some_and(|minutes| {
            Duration::try_from_secs_f64(60.0 * minutes).is_ok_and(|due| self.since.elapsed() >= due)
        });
        let is_last = match ended {
            Some(Ended::Steps(_)) => !self.only_if_interrupted,
            other => other.is_some(),
        };
        if !(by_steps || by_time || is_last) {
            return Ok(());
        }
        self.since = Instant::now();
        match checkpoint().and_then(|checkpoint| checkpoint.write(self.path(step))) {
            Ok(()) => {
                self.newest = Some(step);
                self.refused.retain(|&refused| refused != step);
                self.tidy(step, history);
                Ok(())
            }
            Err(error) if is_last => Err(error),
            Err(error) => {
                let before = match self.newest() {
                    Some(path) => format!("the newest is still {}", path.display()),
                    None => "there is none yet".into(),
                };
                tracing::warn!(
                    "no checkpoint of step {step}, and the run goes on: {error}; {before}"
                );
                Ok(())
            }
        }
    }

    /// Removes what is neither among the newest nor the best. What cannot be removed is in nobody's way.
    fn tidy(&mut self, step: u64, history: &[Record]) {
        let steps = match self.steps() {
            Ok(steps) => steps,
            Err(error) => return tracing::warn!("old checkpoints stay: {error}"),
        };
        self.find_best(&steps, history);
        let mine: Vec<u64> = steps.into_iter().filter(|&other| other <= step).collect();
        let old = mine.len().saturating_sub(self.keep);
        for &step in mine[..old].iter().filter(|&&step| self.best_step != Some(step)) {
            let path = self.path(step);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!("{}: removing the old checkpoint failed: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FORMAT_VERSION, Header, history_columns};
    use super::*;

    fn checkpoint(step: u64, history: &[Record]) -> Checkpoint {
        let header = Header {
            format_version: FORMAT_VERSION,
            wgan_version: String::new(),
            generator_steps: step,
            critic_steps: step,
            config: serde_json::json!({}),
            data: None,
        };
        Checkpoint { header, tensors: Default::default(), history: history.to_vec() }
    }

    fn history(estimates: &[f64]) -> Vec<Record> {
        (1..).zip(estimates).map(|(step, &w)| history_columns::record(step, [w; 6])).collect()
    }

    /// Runs steps from..=to of the history and gives the steps of the files then.
    fn run(
        checkpoints: &mut Checkpoints,
        history: &[Record],
        steps: std::ops::RangeInclusive<u64>,
    ) -> Result<Vec<u64>> {
        let last = *steps.end();
        for step in steps {
            let history = &history[..step as usize];
            let make = || Ok(checkpoint(step, history));
            let ended = (step == last).then_some(Ended::Steps(last));
            checkpoints.after_step(step, ended.as_ref(), history, make)?;
        }
        folder::steps(checkpoints.folder())
    }

    #[test]
    fn the_newest_and_the_best_are_kept() -> Result<()> {
        let history = history(&[9.0, 4.0, 8.0, 1.0, 7.0, 6.0, 5.0, 3.0, 2.0]);
        let temporary = tempfile::tempdir().expect("a folder");
        let new = |name: &str| Checkpoints::new(temporary.path().join(name)).keep(2);
        let mut plain = new("a").every_steps(2);
        plain.start(0)?;
        assert_eq!(run(&mut plain, &history, 1..=9)?, [8, 9]);
        assert_eq!((plain.newest(), plain.best()), (Some(plain.path(9)), None));

        let mut best = new("b").every_steps(2).keep_best(Best::lowest_estimate(1));
        best.start(0)?;
        assert_eq!(run(&mut best, &history, 1..=9)?, [4, 8, 9]);
        assert_eq!(best.best(), Some(best.path(4)));
        drop(best);
        // A run that goes on finds the best one again from the history alone.
        let mut resumed = new("b").every_steps(3).keep_best(Best::lowest_estimate(1));
        resumed.lock()?;
        resumed.resumed_from(9, &history)?;
        assert_eq!(resumed.best(), Some(resumed.path(4)));
        resumed.start(9)?;
        let longer =
            super::tests::history(&[9.0, 4.0, 8.0, 1.0, 7.0, 6.0, 5.0, 3.0, 2.0, 5.0, 5.0, 0.5]);
        assert_eq!(run(&mut resumed, &longer, 10..=12)?, [9, 12]);
        assert_eq!(resumed.best(), Some(resumed.path(12)));

        let mut only_last = new("c");
        only_last.start(0)?;
        assert_eq!(run(&mut only_last, &history, 1..=5)?, [5]);
        let mut by_time = new("d").keep(3).every_minutes(1e-9);
        by_time.start(0)?;
        assert_eq!(run(&mut by_time, &history, 1..=5)?, [3, 4, 5]);

        let mut interrupted = new("e").only_if_interrupted();
        interrupted.start(0)?;
        assert!(run(&mut interrupted, &history, 1..=5)?.is_empty());
        let ended = Ended::Observer("enough".into());
        interrupted.after_step(6, Some(&ended), &history, || Ok(checkpoint(6, &history[..6])))?;
        assert_eq!(folder::steps(interrupted.folder())?, [6]);
        Ok(())
    }

    #[test]
    fn later_checkpoints_of_others_are_not_written_over() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let history = history(&[1.0; 9]);
        let mut first = Checkpoints::new(folder.path()).every_steps(1);
        first.start(0)?;
        run(&mut first, &history, 1..=5)?;
        assert!(matches!(Checkpoints::new(folder.path()).start(5), Err(Error::FolderInUse { .. })));
        drop(first);
        let mut second = Checkpoints::new(folder.path());
        let error = second.start(4).unwrap_err();
        assert!(
            matches!(error, Error::NewerCheckpoints { newest: 5, steps_done: 4, .. }),
            "{error}"
        );
        // A refused one is left alone and does not count.
        second.refuse(5);
        second.start(4)?;
        assert_eq!(run(&mut second.keep(1), &history, 6..=6)?, [5, 6]);
        Ok(())
    }

    #[test]
    fn a_write_that_fails_is_an_error_at_the_end_only() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let history = history(&[1.0; 9]);
        let mut checkpoints = Checkpoints::new(folder.path()).every_steps(1);
        checkpoints.start(0)?;
        run(&mut checkpoints, &history, 1..=2)?;
        // A folder in the file's place.
        for step in [3, 4] {
            std::fs::create_dir(checkpoints.path(step)).expect("a folder");
        }
        let step = |checkpoints: &mut Checkpoints, step, is_last| {
            let ended = if is_last { Some(Ended::Steps(step)) } else { None };
            checkpoints
                .after_step(step, ended.as_ref(), &history, || Ok(checkpoint(step, &history[..3])))
        };
        step(&mut checkpoints, 3, false)?;
        assert_eq!(checkpoints.newest(), Some(checkpoints.path(2)));
        let error = step(&mut checkpoints, 4, true).unwrap_err();
        assert!(error.to_string().contains("checkpoint-000004.safetensors"), "{error}");
        assert_eq!(Checkpoint::read(checkpoints.path(2))?.step(), 2);
        Ok(())
    }

    #[test]
    fn settings_outside_their_range_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let new = || Checkpoints::new(folder.path());
        for (mut checkpoints, expected) in [
            (new().every_steps(0), "interval in steps is 0"),
            (new().every_minutes(0.0), "interval in minutes is 0"),
            (new().every_minutes(f64::NAN), "interval in minutes is NaN"),
            (new().keep(0), "number of checkpoints kept is 0"),
        ] {
            let error = checkpoints.start(0).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
