//! The learning curve as a file.

use std::path::PathBuf;

use super::{Flow, Models, Observer, Snapshot};
use crate::error::Result;
use crate::files;
use crate::report::learning_curve_svg;

/// Writes `learning_curve.svg`, each time over the one before, at its interval and at the end of the run.
///
/// See [`learning_curve_svg`] for what it shows. A call reads the whole history; for a million records it takes
/// well below a second.
///
/// ```
/// use wgan::observers::{Every, LearningCurve};
/// let (every, observer) = (Every::Steps(500), LearningCurve::new("runs/mnist", "WGAN-GP on MNIST"));
/// ```
#[derive(Debug)]
pub struct LearningCurve {
    folder: PathBuf,
    title: String,
}

impl LearningCurve {
    /// Writes into this folder, which is made if need be, with this title over the figure.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, title: impl Into<String>) -> Self {
        Self { folder: folder.into(), title: title.into() }
    }
}

impl Observer for LearningCurve {
    fn prepare(&mut self, _models: &dyn Models) -> Result<()> {
        files::ensure_replaceable(&self.folder.join("learning_curve.svg"))
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        let svg = learning_curve_svg(snapshot.history, &self.title)?;
        files::write_atomically(&self.folder.join("learning_curve.svg"), svg.as_bytes())
            .map(Into::into)
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        self.on_step(snapshot).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;
    use crate::history::History;

    #[test]
    fn the_file_shows_the_history_so_far() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let models = FakeModels::new(DType::F32);
        let mut observer = LearningCurve::new(folder.path().join("new"), "fake");
        let file =
            || std::fs::read_to_string(folder.path().join("new/learning_curve.svg")).unwrap();
        let history: History = (1..=4).map(record).collect();
        observer.prepare(&models)?;
        with_snapshot(&history[..2], &models, |s| observer.on_step(s))?;
        assert_eq!(file(), learning_curve_svg(&history[..2], "fake")?);
        with_snapshot(&history, &models, |s| observer.on_end(s))?;
        assert_eq!(file(), learning_curve_svg(&history, "fake")?);
        Ok(())
    }

    #[test]
    fn a_folder_that_cannot_be_made_ends_the_run_before_it_starts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = LearningCurve::new(file.path().join("out"), "")
            .prepare(&FakeModels::new(DType::F32))
            .unwrap_err();
        assert!(error.to_string().contains("out"), "{error}");
    }
}
