//! Settings from a file.

use std::io::Read;
use std::path::Path;

use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// Far above any settings, far below what would hurt.
const MAX_LEN: u64 = 1 << 20;

impl TrainConfig {
    /// Reads settings from a JSON file and checks them.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("config.json");
    /// use wgan::TrainConfig;
    /// std::fs::write(&path, r#"{"n_critic": 3, "lipschitz": {"strategy": "clip", "c": 0.05}}"#)?;
    /// assert_eq!(TrainConfig::load(&path)?.n_critic, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`], which names the file, for one that is no JSON, has an unknown field or a value
    /// outside its range, or is longer than a megabyte.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |e| Error::io(path, "reading the file", e);
        let fail = |problem: String| Error::Format { path: path.to_path_buf(), problem };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(io)?;
        file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(fail(format!("is longer than {MAX_LEN} bytes; expected settings as JSON")));
        }
        let config: Self = serde_json::from_slice(&bytes)
            .map_err(|error| fail(format!("{error}; expected settings as JSON")))?;
        config.check().map_err(|error| fail(error.to_string()))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let long = format!("{{}}{}", " ".repeat(MAX_LEN as usize));
        for (text, expected) in [
            ("{", "EOF"),
            ("{\"n_critics\": 3}", "unknown field `n_critics`"),
            ("{\"n_critic\": 0}", "n_critic is 0; expected 1 or more"),
            (&long, "longer than 1048576 bytes"),
        ] {
            std::fs::write(file.path(), text).expect("a file");
            let error = TrainConfig::load(file.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.starts_with(&file.path().display().to_string()), "{error}");
        }
        assert!(matches!(TrainConfig::load("/no/such.json"), Err(Error::Io { .. })));
    }
}
