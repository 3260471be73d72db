//! A look at both models at intervals, as a table.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::line_file::start;
use super::{Flow, Models, Observer, Snapshot};
use crate::data::Dataset;
use crate::diagnosis::{Diagnosis, Norms};
use crate::draws::CriticDraws;
use crate::error::{Error, Result};
use crate::files;
use crate::random::Stream;

/// Writes `diagnostics.csv`: one line for each look at the models, at its interval and at the end.
///
/// The columns are `step`, `critic_loss`, `held_out_critic_loss`, `gap`, `real_mean`, `real_max`, `fake_mean`, `fake_max`,
/// `interpolates_mean`, `interpolates_max`, `lipschitz`, `share_at_bound`, then `critic.<layer>` and `generator.<layer>`, the
/// norms of the gradients of each layer: see [`diagnosis`](crate::diagnosis) for what they say. A field is empty where there
/// is no such figure. The samples are drawn anew for each look, from the seed and the step, so that a run that is continued
/// writes what it would have written; lines of steps that it does again are dropped first.
///
/// A look costs about four critic steps of its own batch size; the steps between cost nothing.
///
/// ```
/// use candle_core::{DType, Device};
/// use wgan::data::TensorDataset;
/// use wgan::observers::{Diagnostics, Every};
/// use wgan::random::Stream;
/// # fn main() -> wgan::Result<()> {
/// let points = Stream::new(0, "points", 0).normal((1024, 2), DType::F32, &Device::Cpu)?;
/// let (training, held_out) = (points.narrow(0, 0, 896)?, points.narrow(0, 896, 128)?);
/// let training = TensorDataset::new(training)?;
/// let observer = Diagnostics::new("runs/points", training.clone(), 42)
///     .held_out(TensorDataset::new(held_out)?);
/// let every = Every::Steps(500);
/// # let _ = (every, observer);
/// # Ok(())
/// # }
/// ```
pub struct Diagnostics {
    folder: PathBuf,
    training: Box<dyn Dataset>,
    held_out: Option<Box<dyn Dataset>>,
    seed: u64,
    batch_size: usize,
    /// Steps that were done when the run was prepared.
    earlier: u64,
    last: Option<u64>,
    file: Option<File>,
}

impl Diagnostics {
    /// Writes into this folder, which is made if need be, what is found on samples of the training set.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, training: impl Dataset + 'static, seed: u64) -> Self {
        Self {
            folder: folder.into(),
            training: Box::new(training),
            held_out: None,
            seed,
            batch_size: 256,
            earlier: 0,
            last: None,
            file: None,
        }
    }

    /// The same with samples that the critic is not trained on.
    #[must_use]
    pub fn held_out(self, data: impl Dataset + 'static) -> Self {
        Self { held_out: Some(Box::new(data)), ..self }
    }

    /// Takes so many samples for each look, of each set; 256 where nothing is said.
    #[must_use]
    pub fn batch_size(self, batch_size: usize) -> Self {
        Self { batch_size, ..self }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("diagnostics.csv")
    }

    /// Draws for one look, each sample of the set as likely as the others.
    fn draws(
        &self,
        data: &dyn Dataset,
        name: &str,
        step: u64,
        models: &dyn Models,
    ) -> Result<CriticDraws> {
        let (device, dtype, count) = (models.device(), models.dtype(), self.batch_size);
        let stream = |what: &str| {
            Stream::new(self.seed, &format!("observer/diagnostics/{name}/{what}"), step)
        };
        let mut indices = stream("samples");
        let indices: Vec<usize> =
            (0..count).map(|_| indices.below(data.len() as u64) as usize).collect();
        let real = data.batch(&indices)?.to_device(device)?.to_dtype(dtype)?;
        let latent = stream("latent").normal((count, models.latent_dim()), dtype, device)?;
        let epsilon = stream("epsilon").uniform(0.0, 1.0, count, dtype, device)?;
        let draws = CriticDraws::new(real, latent, Some(epsilon));
        let Some(classes) = models.classes() else {
            return Ok(draws);
        };
        let labels = data.label_batch(&indices)?.ok_or_else(|| {
            let expected = format!("a label below {classes} for each sample");
            Error::config(format!("the labels of the {name} set"), "absent", expected)
        })?;
        Ok(draws.with_labels(labels))
    }

    fn look(&self, step: u64, models: &dyn Models) -> Result<Diagnosis> {
        let training = self.draws(&*self.training, "training", step, models)?;
        let held_out = self.held_out.as_deref();
        let held_out =
            held_out.map(|data| self.draws(data, "held-out", step, models)).transpose()?;
        models.diagnose(&training, held_out.as_ref())
    }

    fn write(&mut self, step: u64, models: &dyn Models) -> Result<()> {
        let found = self.look(step, models)?;
        let path = self.path();
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(start(&path, &header(&found), self.earlier)?),
        };
        file.write_all(line(step, &found).as_bytes())
            .map_err(|e| Error::io(&path, "appending to the file", e))?;
        self.last = Some(step);
        Ok(())
    }
}

impl Observer for Diagnostics {
    fn prepare(&mut self, models: &dyn Models) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::config("the batch size of diagnostics", 0, "1 or more"));
        }
        for data in [Some(&self.training), self.held_out.as_ref()].into_iter().flatten() {
            if data.is_empty() {
                let purpose = "diagnostics".into();
                return Err(Error::DatasetTooSmall { len: 0, needed: 1, purpose });
            }
        }
        // One look now rather than the first error hours into the run.
        self.look(models.steps(), models)?;
        // The run may have been restored to an earlier step: later lines are of another course.
        self.earlier = models.steps();
        (self.last, self.file) = (None, None);
        files::ensure_replaceable(&self.path())
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        self.write(snapshot.record.step, snapshot.models).map(Into::into)
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        let step = snapshot.record.step;
        if self.last == Some(step) { Ok(()) } else { self.write(step, snapshot.models) }
    }
}

impl std::fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diagnostics").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn header(found: &Diagnosis) -> String {
    let mut columns: Vec<String> = [
        "step",
        "critic_loss",
        "held_out_critic_loss",
        "gap",
        "real_mean",
        "real_max",
        "fake_mean",
        "fake_max",
        "interpolates_mean",
        "interpolates_max",
        "lipschitz",
        "share_at_bound",
    ]
    .map(String::from)
    .into();
    columns.extend(found.critic_gradients.iter().map(|(layer, _)| format!("critic.{layer}")));
    columns.extend(found.generator_gradients.iter().map(|(layer, _)| format!("generator.{layer}")));
    columns.join(",")
}

fn line(step: u64, found: &Diagnosis) -> String {
    let of = |norms: Option<Norms>| [norms.map(|norms| norms.mean), norms.map(|norms| norms.max)];
    let mut fields = vec![Some(found.critic_loss), found.held_out_critic_loss, found.gap()];
    fields.extend([found.real, found.fake, found.interpolates].map(of).concat());
    fields.extend([found.lipschitz(), found.share_at_bound]);
    let layers = found.critic_gradients.iter().chain(&found.generator_gradients);
    fields.extend(layers.map(|(_, norm)| Some(*norm)));
    let fields: Vec<String> = (fields.into_iter())
        .map(|field| field.map_or_else(String::new, |number| format!("{number:?}")))
        .collect();
    format!("{step},{}\n", fields.join(","))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device, Tensor};

    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;
    use crate::data::TensorDataset;

    const HEADER: &str = "step,critic_loss,held_out_critic_loss,gap,real_mean,real_max,fake_mean,\
        fake_max,interpolates_mean,interpolates_max,lipschitz,share_at_bound,critic.fc1,\
        generator.fc1,generator.out";

    fn constant(value: f32) -> TensorDataset {
        let samples = Tensor::full(value, (5, 1, 2, 2), &Device::Cpu).unwrap();
        TensorDataset::new(samples).unwrap()
    }

    fn text(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("diagnostics.csv")).unwrap()
    }

    #[test]
    fn a_line_for_each_look_and_one_at_the_end() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let models = FakeModels::new(DType::F32);
        let mut observer =
            Diagnostics::new(folder.path().join("new"), constant(0.5), 1).held_out(constant(0.75));
        observer.prepare(&models)?;
        for step in [100, 200] {
            with_snapshot(&[record(step)], &models, |s| observer.on_step(s))?;
        }
        with_snapshot(&[record(200)], &models, |s| observer.on_end(s))?;
        with_snapshot(&[record(250)], &models, |s| observer.on_end(s))?;
        let row = "0.5,0.75,0.25,1.0,2.0,3.0,6.0,,,6.0,0.25,0.5,0.125,NaN";
        let expected = format!("{HEADER}\n100,{row}\n200,{row}\n250,{row}\n");
        assert_eq!(text(&folder.path().join("new")), expected);
        // Other samples for each look, and as many as were asked for.
        let seen = models.diagnosed.borrow();
        assert!(seen.iter().all(|draws| draws.real.dims() == [256, 1, 2, 2]));
        let latent = |i: usize| seen[i].latent.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_ne!(latent(1), latent(2));
        Ok(())
    }

    #[test]
    fn a_run_that_is_continued_keeps_its_lines_and_another_replaces_them() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let observe = |earlier: u64, steps: &[u64]| -> Result<Vec<u64>> {
            let models = FakeModels { steps: earlier, ..FakeModels::new(DType::F64) };
            let mut observer = Diagnostics::new(folder.path(), constant(0.5), 1).batch_size(3);
            observer.prepare(&models)?;
            for &step in steps {
                with_snapshot(&[record(step)], &models, |s| observer.on_step(s))?;
            }
            let steps = text(folder.path());
            let steps = steps.lines().skip(1).map(|line| line.split(',').next().unwrap());
            Ok(steps.map(|step| step.parse().unwrap()).collect())
        };
        assert_eq!(observe(0, &[10, 20, 30])?, [10, 20, 30]);
        assert_eq!(observe(20, &[30, 40])?, [10, 20, 30, 40]);
        assert_eq!(observe(25, &[30])?, [10, 20, 30]);
        assert_eq!(observe(0, &[5])?, [5]);
        // What is no such file is not kept.
        std::fs::write(folder.path().join("diagnostics.csv"), "step\n1\n").unwrap();
        assert_eq!(observe(20, &[30])?, [30]);
        Ok(())
    }

    #[test]
    fn a_run_that_goes_back_has_each_line_once() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut observer = Diagnostics::new(folder.path(), constant(0.5), 1).batch_size(3);
        for (steps, end) in [(0, 30), (20, 30)] {
            let models = FakeModels { steps, ..FakeModels::new(DType::F64) };
            observer.prepare(&models)?;
            with_snapshot(&[record(end)], &models, |s| observer.on_end(s))?;
            assert_eq!(text(folder.path()).lines().count(), 2);
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused_before_the_run() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let models = FakeModels::new(DType::F32);
        let new = || Diagnostics::new(folder.path(), constant(0.5), 1);
        let error = new().batch_size(0).prepare(&models).unwrap_err().to_string();
        assert!(error.contains("batch size"), "{error}");
        let none = TensorDataset::new(Tensor::zeros((0, 1, 2, 2), DType::F32, &Device::Cpu)?)?;
        assert!(matches!(
            new().held_out(none).prepare(&models),
            Err(Error::DatasetTooSmall { len: 0, .. })
        ));
        let conditional = FakeModels { classes: Some(3), ..models };
        let error = new().prepare(&conditional).unwrap_err().to_string();
        assert!(error.contains("the labels of the training set is absent"), "{error}");
        let labelled = constant(0.5).with_labels(vec![0, 1, 2, 0, 1])?;
        Diagnostics::new(folder.path(), labelled, 1).prepare(&conditional)?;
        assert_eq!(conditional.diagnosed.borrow()[0].labels.as_ref().unwrap().dims(), [256]);
        Ok(())
    }
}
