//! What the generator makes of the same latent points as it learns.

use std::path::PathBuf;

use candle_core::Tensor;

use super::{Flow, Models, Observer, Snapshot};
use crate::error::{Error, Result};
use crate::files;
use crate::random::Stream;
use crate::report::image_grid;

const SCALE: usize = 2;
const SIDES: std::ops::RangeInclusive<usize> = 1..=256;

/// Writes grids of generated images, always of the same latent points.
///
/// At its interval it writes `samples-000500.png`, named after the generator step with at least six digits, and
/// at the end of the run `samples.png`. Each shows `rows * columns` images at twice their size.
///
/// The generator must yield images `(batch, 1 or 3, height, width)`; otherwise the run is refused with
/// [`Error::Shape`].
///
/// ```
/// use wgan::observers::{Every, SampleGrid};
/// // 64 digits: samples-000500.png, samples-001000.png, ... and samples.png.
/// let (every, observer) = (Every::Steps(500), SampleGrid::new("runs/mnist", 8, 8, 42));
/// ```
#[derive(Debug)]
pub struct SampleGrid {
    folder: PathBuf,
    rows: usize,
    columns: usize,
    seed: u64,
    latent: Option<Tensor>,
}

impl SampleGrid {
    /// Writes into this folder, which is made if need be, grids of `rows` by `columns` images, 1 to 256 each.
    ///
    /// The latent points are drawn from N(0, 1) and follow from the seed alone; other numbers are out of range
    /// when the run starts.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, rows: usize, columns: usize, seed: u64) -> Self {
        Self { folder: folder.into(), rows, columns, seed, latent: None }
    }

    fn write(&mut self, models: &dyn Models, name: &str) -> Result<()> {
        let latent = match self.latent.clone() {
            Some(latent) => latent,
            None => self.latent.insert(self.draw_latent(models)?).clone(),
        };
        let images = models.generate(&latent, 0)?;
        image_grid(&images, self.columns)?.scaled(SCALE)?.save_png(self.folder.join(name))
    }

    fn check_sides(&self) -> Result<()> {
        for (name, value) in
            [("sample grid rows", self.rows), ("sample grid columns", self.columns)]
        {
            if !SIDES.contains(&value) {
                return Err(Error::config(name, value, "1 to 256"));
            }
        }
        Ok(())
    }

    fn draw_latent(&self, models: &dyn Models) -> Result<Tensor> {
        self.check_sides()?;
        let shape = (self.rows * self.columns, models.latent_dim());
        Stream::new(self.seed, "observer/grid", 0).normal(shape, models.dtype(), models.device())
    }
}

impl Observer for SampleGrid {
    fn prepare(&mut self, models: &dyn Models) -> Result<()> {
        let latent = self.draw_latent(models)?;
        // One picture now rather than the first error hours into the run.
        image_grid(&models.generate(&latent.narrow(0, 0, 1)?, 0)?, 1)?;
        self.latent = Some(latent);
        files::ensure_replaceable(&self.folder.join("samples.png"))
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        let name = format!("samples-{:06}.png", snapshot.record.step);
        self.write(snapshot.models, &name).map(Into::into)
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        self.write(snapshot.models, "samples.png")
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;

    #[test]
    fn the_files_are_those_of_the_docs_and_show_the_same_points() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let models = FakeModels::new(DType::F32);
        let mut observer = SampleGrid::new(folder.path().join("new"), 2, 3, 42);
        observer.prepare(&models)?;
        for step in [500, 1_234_567] {
            with_snapshot(&[record(step)], &models, |s| observer.on_step(s))?;
        }
        with_snapshot(&[record(1_234_567)], &models, |s| observer.on_end(s))?;

        let file = |name| std::fs::read(folder.path().join("new").join(name)).unwrap();
        let latent =
            Stream::new(42, "observer/grid", 0).normal((6, 4), DType::F32, &Device::Cpu)?;
        let expected = image_grid(&models.generate(&latent, 0)?, 3)?.scaled(2)?;
        assert_eq!((expected.width(), expected.height()), (20, 12));
        for name in ["samples-000500.png", "samples-1234567.png", "samples.png"] {
            assert_eq!(file(name), expected.encode_png()?, "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 3);
        Ok(())
    }

    #[test]
    fn latent_points_are_of_the_models_type() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut observer = SampleGrid::new(folder.path(), 1, 1, 0);
        for dtype in [DType::F64, DType::F32] {
            let models = FakeModels::new(dtype);
            observer.prepare(&models)?;
            with_snapshot(&[record(1)], &models, |s| observer.on_end(s))?;
            assert_eq!(models.seen.borrow()[0].dtype(), dtype);
            assert_eq!(models.seen.borrow()[0].dims(), [1, 4]);
        }
        Ok(())
    }

    #[test]
    fn what_cannot_work_ends_the_run_before_it_starts() {
        let models = FakeModels::new(DType::F32);
        let folder = tempfile::tempdir().unwrap();
        for (rows, columns) in [(0, 3), (3, 0), (257, 1), (1, usize::MAX)] {
            let error =
                SampleGrid::new(folder.path(), rows, columns, 0).prepare(&models).unwrap_err();
            assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = SampleGrid::new(file.path().join("out"), 1, 1, 0).prepare(&models).unwrap_err();
        assert!(error.to_string().contains("out"), "{error}");
    }
}
