//! Sample quality at intervals of a run.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

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
/// The samples are measured once before the first step too, so that what cannot be measured is refused there. The file has a
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
    folder: PathBuf,
    samples: usize,
    seed: u64,
    measures: Box<Measures>,
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
            folder: folder.into(),
            samples,
            seed,
            measures: Box::new(measures),
            earlier: 0,
            last: None,
            file: None,
            taken: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("scores.csv")
    }

    fn measure(&mut self, models: &dyn Models) -> Result<Vec<Score>> {
        let (samples, seed) = (self.samples, self.seed);
        let mut batches = (0..samples.div_ceil(AT_ONCE)).map(|i| {
            let shape = (AT_ONCE.min(samples - i * AT_ONCE), models.latent_dim());
            let mut stream = Stream::new(seed, "observer/scores", i as u64);
            models.generate(&stream.normal(shape, models.dtype(), models.device())?)
        });
        let scores = (self.measures)(&mut batches)?;
        for score in &scores {
            if !score.value.is_finite() {
                return Err(Error::NonFiniteData {
                    what: format!("the score {}", score.name()),
                    value: score.value,
                    position: vec![],
                });
            }
        }
        Ok(scores)
    }

    fn look(&mut self, step: u64, models: &dyn Models) -> Result<()> {
        if self.last == Some(step) {
            return Ok(());
        }
        let scores = self.measure(models)?;
        let path = self.path();
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(start(&path, HEADER, self.earlier)?),
        };
        let lines: String = scores.iter().map(|score| line(step, score)).collect();
        file.write_all(lines.as_bytes())
            .map_err(|e| Error::io(&path, "appending to the file", e))?;
        for score in &scores {
            tracing::info!(step, "{score}");
        }
        self.taken = scores.iter().map(|score| (score.name(), score.value)).collect();
        self.last = Some(step);
        Ok(())
    }
}

fn line(step: u64, score: &Score) -> String {
    let Score { measure, value, deviation, features, samples, real } = score;
    let deviation = deviation.map_or_else(String::new, |deviation| format!("{deviation:?}"));
    let features = features.as_deref().unwrap_or("").replace([',', '\n'], " ");
    let real = real.map_or_else(String::new, |real| real.to_string());
    format!("{step},{measure},{value:?},{deviation},{features},{samples},{real}\n")
}

impl Observer for Scores {
    fn prepare(&mut self, models: &dyn Models) -> Result<()> {
        if self.samples == 0 {
            return Err(Error::config("the number of samples to measure", 0, "1 or more"));
        }
        self.measure(models)?;
        self.earlier = models.steps();
        files::ensure_replaceable(&self.path())
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
        f.debug_struct("Scores").field("folder", &self.folder).finish_non_exhaustive()
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

        let value = scores[0].1;
        assert_eq!(scores, vec![("largest_pixel (none, really)".to_owned(), value); 3]);
        let row = format!("largest_pixel,{value:?},,none  really,600,7");
        let text = std::fs::read_to_string(folder.path().join("new/scores.csv")).unwrap();
        assert_eq!(text, format!("{HEADER}\n5,{row}\n10,{row}\n12,{row}\n"));
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
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
