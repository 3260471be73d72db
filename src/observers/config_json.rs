//! The settings of a run as a file.

use std::path::PathBuf;

use serde::Serialize;

use super::{Flow, Models, Observer, Snapshot};
use crate::error::{Error, Result};
use crate::files;

/// Writes `config.json` when the run starts: after every check, so that a run that is refused replaces nothing.
///
/// ```
/// use wgan::TrainConfig;
/// use wgan::observers::{ConfigJson, Every};
/// let (every, observer) = (Every::Never, ConfigJson::new("runs/mnist", &TrainConfig::wgan_gp())?);
/// # Ok::<(), wgan::Error>(())
/// ```
#[derive(Debug)]
pub struct ConfigJson {
    folder: PathBuf,
    json: String,
}

impl ConfigJson {
    /// Will write these settings into this folder, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Format`] for settings that cannot be written as JSON, such as a map with keys that are no text.
    pub fn new(folder: impl Into<PathBuf>, settings: &impl Serialize) -> Result<Self> {
        let folder = folder.into();
        let json = serde_json::to_string_pretty(settings).map_err(|error| Error::Format {
            path: folder.join("config.json"),
            problem: format!("the settings cannot be written as JSON: {error}"),
        })?;
        Ok(Self { folder, json: json + "\n" })
    }
}

impl Observer for ConfigJson {
    fn prepare(&mut self, _models: &dyn Models) -> Result<()> {
        files::ensure_replaceable(&self.folder.join("config.json"))
    }

    fn on_start(&mut self, _total_steps: u64) -> Result<()> {
        files::write_atomically(&self.folder.join("config.json"), self.json.as_bytes())
    }

    fn on_step(&mut self, _snapshot: &Snapshot<'_>) -> Result<Flow> {
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainConfig;

    #[test]
    fn what_is_written_reads_back() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = TrainConfig::wgan_div();
        ConfigJson::new(folder.path(), &settings)?.on_start(1)?;
        let text = std::fs::read_to_string(folder.path().join("config.json")).expect("a file");
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).expect("JSON"), settings);
        Ok(())
    }
}
