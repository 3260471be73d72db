//! Sample quality at intervals of a run.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::line_file::start;
use super::{Flow, Models, Observer, Snapshot};
use crate::error::{Error, Result};
use crate::files;
use crate::metrics::Score;
use crate::random::Stream;

const HEADER: &str = "step,measure,value,deviation,features,samples,real";
/// Samples that the generator makes at a time.
const AT_ONCE: usize = 256;

/// Generated samples as a measure is given them, in batches `(batch, ...)`.
pub type Samples<'a> = dyn Iterator<Item = Result<Tensor>> + 'a;

type Measures = dyn FnMut(&mut Samples<'_>) -> Result<Vec<Score>>;

/// Measures the generator's samples at its interval and at the end, writes the scores to `scores.csv` and adds them to the
/// [`scores`](crate::history::Record::scores) of the step's record, by which
/// [`Best::lowest_score`](crate::checkpoint::Best::lowest_score) picks a checkpoint.
///
/// It works with any function of samples to [`Score`]s: [`Quality::measure`](crate::metrics::Quality::measure),
/// [`ModeCoverage::scores`](crate::metrics::ModeCoverage::scores), one of your own. Samples come from the generator in
/// evaluation mode, or from its moving average where that is on, at latent points that follow from the seed and are the same
/// at each look. The run is the same with and without it.
///
/// The samples are measured once before the first step too, so that what cannot be measured is refused there, as are two scores
/// of one name, and a file that another observer of the process writes: see [`file_name`](Self::file_name). The file has a
/// line for each score, `step,measure,value,deviation,features,samples,real`, with fields left empty where there is nothing to
/// say; a run that is continued drops the lines of steps that it does again.
///
/// ```no_run
/// # use wgan::data::mnist::{self, Split};
/// # use wgan::zoo::{MlpCritic, MlpGenerator};
/// # use wgan::{ModelBuilder, TrainConfig, WganTrainer};
/// use wgan::checkpoint::{Best, Checkpoints};
/// use wgan::metrics::{Measure, MnistClassifier, Quality, batches_of};
/// use wgan::observers::{Every, Scores};
///
/// # fn main() -> wgan::Result<()> {
/// # let digits = mnist::load("data/mnist", Split::Train)?;
/// # let build = ModelBuilder::new(42);
/// # let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb))?;
/// # let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb))?;
/// let test = mnist::load("data/mnist", Split::Test)?;
/// let quality = Quality::new(
///     MnistClassifier::shipped()?,
///     [Measure::FrechetDistance],
///     batches_of(test.samples(), 500),
/// )?;
/// let scores = Scores::new("runs/mine", 10_000, 42, move |samples| quality.measure(10_000, samples));
/// let best = Best::lowest_score("frechet_distance (mnist-cnn-1)");
/// let checkpoints = Checkpoints::new("runs/mine/checkpoints").every_steps(1000).keep_best(best);
/// let mut trainer = WganTrainer::new(generator, critic, TrainConfig::wgan_gp())?
///     .observe(Every::Steps(1000), scores)
///     .with_checkpoints(checkpoints);
/// trainer.fit(&digits)?;
/// # Ok(())
/// # }
/// ```
pub struct Scores {
    path: PathBuf,
    samples: usize,
    seed: u64,
    measures: Box<Measures>,
    claim: Option<Claim>,
    /// Steps that were done when the run was prepared.
    earlier: u64,
    last: Option<u64>,
    file: Option<File>,
    taken: Vec<(String, f64)>,
}

impl Scores {
    /// Writes into this folder, which is made if need be, what `measures` says of so many samples, 1 or more.
    #[must_use]
    pub fn new(
        folder: impl Into<PathBuf>,
        samples: usize,
        seed: u64,
        measures: impl FnMut(&mut Samples<'_>) -> Result<Vec<Score>> + 'static,
    ) -> Self {
        Self {
            path: folder.into().join("scores.csv"),
            samples,
            seed,
            measures: Box::new(measures),
            claim: None,
            earlier: 0,
            last: None,
            file: None,
            taken: Vec::new(),
        }
    }

    /// The file's name in the folder, `scores.csv` unless set. Observers of one run need different ones.
    #[must_use]
    pub fn file_name(self, name: impl AsRef<Path>) -> Self {
        Self { path: self.path.with_file_name(name.as_ref()), ..self }
    }

    fn measure(&mut self, models: &dyn Models) -> Result<Vec<Score>> {
        let (samples, seed) = (self.samples, self.seed);
        let mut batches = (0..samples.div_ceil(AT_ONCE)).map(|i| {
            let shape = (AT_ONCE.min(samples - i * AT_ONCE), models.latent_dim());
            let mut stream = Stream::new(seed, "observer/scores", i as u64);
            let latent = stream.normal(shape, models.dtype(), models.device())?;
            models.generate(&latent, i * AT_ONCE)
        });
        let scores = (self.measures)(&mut batches)?;
        for (at, score) in scores.iter().enumerate() {
            let name = score.name();
            let mut figures = [Some(score.value), score.deviation].into_iter().flatten();
            if let Some(value) = figures.find(|figure| !figure.is_finite()) {
                let what = format!("the score {name}");
                return Err(Error::NonFiniteData { what, value, position: vec![] });
            }
            if scores[..at].iter().any(|other| other.name() == name) {
                let expected = "a name of its own for each: the last would stand for all";
                return Err(Error::config("the name of two scores", name, expected));
            }
        }
        Ok(scores)
    }

    fn look(&mut self, step: u64, models: &dyn Models) -> Result<()> {
        if self.last == Some(step) {
            return Ok(());
        }
        let scores = self.measure(models)?;
        let path = &self.path;
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(start(path, HEADER, self.earlier)?),
        };
        let lines: String = scores.iter().map(|score| line(step, score)).collect();
        file.write_all(lines.as_bytes())
            .map_err(|e| Error::io(path, "appending to the file", e))?;
        for score in &scores {
            tracing::info!(step, "{score}");
        }
        self.taken = scores.iter().map(|score| (score.name(), score.value)).collect();
        self.last = Some(step);
        Ok(())
    }
}

/// The files that the observers of this process write.
static CLAIMED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A file that no other observer may write: the lines of two would be lost in turn.
struct Claim(PathBuf);

impl Claim {
    fn new(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|e| Error::io(path, "finding the file", e))?;
        if CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            return Ok(Self(path));
        }
        let expected =
            "a file of its own for each observer of scores: give this one another file_name";
        Err(Error::config("the file of the scores, which is taken,", path.display(), expected))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn line(step: u64, score: &Score) -> String {
    let Score { measure, value, deviation, features, samples, real } = score;
    let deviation = deviation.map_or_else(String::new, |deviation| format!("{deviation:?}"));
    let word = |text: &str| text.replace([',', '\n', '\r'], " ");
    let (measure, features) = (word(measure), word(features.as_deref().unwrap_or("")));
    let real = real.map_or_else(String::new, |real| real.to_string());
    format!("{step},{measure},{value:?},{deviation},{features},{samples},{real}\n")
}

impl Observer for Scores {
    fn prepare(&mut self, models: &dyn Models) -> Result<()> {
        if self.samples == 0 {
            return Err(Error::config("the number of samples to measure", 0, "1 or more"));
        }
        if self.claim.is_none() {
            self.claim = Some(Claim::new(&self.path)?);
        }
        self.measure(models)?;
        // The run may have been restored to an earlier step: later lines are of another course, and
        // a step that was measured is to be measured again.
        self.earlier = models.steps();
        (self.last, self.file) = (None, None);
        self.taken.clear();
        files::ensure_replaceable(&self.path)
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        self.look(snapshot.record.step, snapshot.models).map(Into::into)
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        self.look(snapshot.record.step, snapshot.models)
    }

    fn take_scores(&mut self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.taken)
    }
}

impl std::fmt::Debug for Scores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scores").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;

    fn score(value: f64, samples: usize) -> Score {
        Score {
            measure: "largest_pixel".into(),
            value,
            deviation: None,
            features: Some("none, really".into()),
            samples,
            real: Some(7),
        }
    }

    /// The largest pixel of all samples.
    fn observer(folder: &std::path::Path, samples: usize) -> Scores {
        Scores::new(folder, samples, 42, |batches| {
            let (mut largest, mut count) = (f64::NEG_INFINITY, 0);
            for batch in batches {
                let batch = batch?;
                count += batch.dims()[0];
                let pixels = batch.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
                largest = pixels.into_iter().fold(largest, f64::max);
            }
            Ok(vec![score(largest, count)])
        })
    }

    #[test]
    fn the_same_samples_are_measured_at_each_look() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let models = FakeModels::new(DType::F64);
        let mut observer = observer(&folder.path().join("new"), 600);
        observer.prepare(&models)?;
        assert!(observer.take_scores().is_empty());
        let mut scores = Vec::new();
        for step in [5, 10] {
            with_snapshot(&[record(step)], &models, |s| observer.on_step(s))?;
            scores.extend(observer.take_scores());
        }
        with_snapshot(&[record(10)], &models, |s| observer.on_end(s))?;
        assert!(observer.take_scores().is_empty(), "measured once");
        with_snapshot(&[record(12)], &models, |s| observer.on_end(s))?;
        scores.extend(observer.take_scores());
        let sizes: Vec<usize> =
            models.seen.borrow().iter().map(|latent| latent.dims()[0]).collect();
        assert_eq!(sizes, [256, 256, 88].repeat(4));
        assert_eq!(*models.firsts.borrow(), [0, 256, 512].repeat(4));

        let value = scores[0].1;
        assert_eq!(scores, vec![("largest_pixel (none, really)".to_owned(), value); 3]);
        let row = format!("largest_pixel,{value:?},,none  really,600,7");
        let text = std::fs::read_to_string(folder.path().join("new/scores.csv")).unwrap();
        assert_eq!(text, format!("{HEADER}\n5,{row}\n10,{row}\n12,{row}\n"));
        Ok(())
    }

    #[test]
    fn a_run_that_goes_back_drops_what_it_does_again() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut models = FakeModels::new(DType::F64);
        let mut observer = observer(folder.path(), 4);
        for (earlier, steps) in [(0, [3, 6, 9]), (3, [6, 8, 9])] {
            models.steps = earlier;
            observer.prepare(&models)?;
            for step in steps {
                with_snapshot(&[record(step)], &models, |s| observer.on_step(s))?;
                assert_eq!(observer.take_scores().len(), 1, "step {step}");
            }
        }
        let text = std::fs::read_to_string(folder.path().join("scores.csv")).unwrap();
        let steps: Vec<&str> = text.lines().skip(1).filter_map(|l| l.split(',').next()).collect();
        assert_eq!(steps, ["3", "6", "8", "9"]);
        Ok(())
    }

    #[test]
    fn what_cannot_be_measured_is_refused_before_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let models = FakeModels::new(DType::F32);
        let error = observer(folder.path(), 0).prepare(&models).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        let mut nan = Scores::new(folder.path(), 1, 0, |_| Ok(vec![score(f64::NAN, 1)]));
        let error = nan.prepare(&models).unwrap_err().to_string();
        assert!(error.contains("the score largest_pixel (none, really) holds NaN"), "{error}");
        drop(nan);
        let deviation = Score { deviation: Some(f64::INFINITY), ..score(1.0, 1) };
        let mut infinite = Scores::new(folder.path(), 1, 0, move |_| Ok(vec![deviation.clone()]));
        assert!(matches!(infinite.prepare(&models), Err(Error::NonFiniteData { .. })));
        drop(infinite);
        let mut twice =
            Scores::new(folder.path(), 1, 0, |_| Ok(vec![score(1.0, 1), score(2.0, 1)]));
        let error = twice.prepare(&models).unwrap_err().to_string();
        assert!(error.contains("a name of its own for each"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_observers_write_two_files() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let models = FakeModels::new(DType::F32);
        let mut first = observer(folder.path(), 4);
        first.prepare(&models)?;
        first.prepare(&models)?; // of a run that goes on
        let mut second = observer(folder.path(), 8);
        let error = second.prepare(&models).unwrap_err().to_string();
        assert!(error.contains("give this one another file_name"), "{error}");
        let mut second = second.file_name("second.csv");
        second.prepare(&models)?;
        for observer in [&mut first, &mut second] {
            with_snapshot(&[record(1)], &models, |s| observer.on_step(s))?;
        }
        for (name, samples) in [("scores.csv", 4), ("second.csv", 8)] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.ends_with(&format!(",{samples},7\n")), "{text}");
        }
        drop(first);
        observer(folder.path(), 4).prepare(&models)
    }
}
