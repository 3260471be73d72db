//! The models as files.

use std::path::PathBuf;

use super::{Flow, Models, Observer, Snapshot};
use crate::error::Result;
use crate::files;

/// Writes `generator.safetensors` and `critic.safetensors`, each over the one before, at its interval and at
/// the end of the run; beside them `generator_ema.safetensors`, the generator's moving average, where that is on.
///
/// They hold all parameters and buffers by name. Each file is replaced whole or not at all; where the process
/// is killed between them, they are one interval apart.
///
/// ```
/// use wgan::observers::{Every, Weights};
/// // To be called as often as the work of so many steps may be lost.
/// let (every, observer) = (Every::Steps(1000), Weights::new("runs/mnist"));
/// ```
#[derive(Debug)]
pub struct Weights {
    folder: PathBuf,
}

impl Weights {
    /// Writes into this folder, which is made if need be.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl Observer for Weights {
    fn prepare(&mut self, _models: &dyn Models) -> Result<()> {
        files::ensure_replaceable(&self.folder.join("generator.safetensors"))?;
        files::ensure_replaceable(&self.folder.join("generator_ema.safetensors"))?;
        files::ensure_replaceable(&self.folder.join("critic.safetensors"))
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        let write =
            |name: &str, tensors| files::write_safetensors(&self.folder.join(name), &tensors);
        write("generator.safetensors", snapshot.models.generator_tensors())?;
        write("critic.safetensors", snapshot.models.critic_tensors())?;
        if let Some(average) = snapshot.models.average_tensors() {
            write("generator_ema.safetensors", average)?;
        }
        Ok(Flow::Continue)
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        self.on_step(snapshot).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use candle_core::{DType, Device, Tensor};

    use super::super::Models;
    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;

    fn assert_holds(path: &Path, expected: &BTreeMap<String, Tensor>) -> Result<()> {
        let saved = candle_core::safetensors::load(path, &Device::Cpu)?;
        assert_eq!(saved.len(), expected.len());
        for (name, tensor) in expected {
            assert_eq!(saved[name].dtype(), tensor.dtype(), "{name}");
            assert_eq!(saved[name].dims(), tensor.dims(), "{name}");
            let values = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
            assert_eq!(values(&saved[name])?, values(tensor)?, "{name}");
        }
        Ok(())
    }

    #[test]
    fn every_tensor_comes_back() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("new");
            let models = FakeModels::new(dtype);
            let mut observer = Weights::new(&folder);
            observer.prepare(&models)?;
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
            with_snapshot(&[record(1)], &models, |s| observer.on_step(s))?;
            assert_holds(&folder.join("generator.safetensors"), &models.generator_tensors())?;
            assert_holds(&folder.join("critic.safetensors"), &models.critic_tensors())?;

            std::fs::remove_file(folder.join("critic.safetensors")).unwrap();
            with_snapshot(&[record(1)], &models, |s| observer.on_end(s))?;
            assert_holds(&folder.join("critic.safetensors"), &models.critic_tensors())?;
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        }
        Ok(())
    }

    #[test]
    fn the_average_has_a_file_of_its_own() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let average = Some(Tensor::new(&[1f32, 2.0], &Device::Cpu)?);
        let models = FakeModels { average, ..FakeModels::new(DType::F32) };
        let mut observer = Weights::new(folder.path());
        observer.prepare(&models)?;
        with_snapshot(&[record(1)], &models, |s| observer.on_step(s))?;
        let file = folder.path().join("generator_ema.safetensors");
        assert_holds(&file, &models.average_tensors().unwrap())
    }

    #[test]
    fn a_folder_that_cannot_be_made_ends_the_run_before_it_starts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Weights::new(file.path().join("out"))
            .prepare(&FakeModels::new(DType::F32))
            .unwrap_err();
        assert!(error.to_string().contains("out"), "{error}");
    }
}
