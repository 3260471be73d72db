//! What a finished run leaves in a file, with which an experiment that was interrupted goes on.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wgan::files;

#[derive(Serialize, Deserialize)]
struct Finished<S, T> {
    version: String,
    settings: S,
    found: T,
}

/// What the run has left in this file, or `None` where it has left none. That of other settings is refused.
pub fn read<T: DeserializeOwned>(path: &Path, settings: &impl Serialize) -> Result<Option<T>> {
    let file = path.display();
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("{file}: reading the file"))?,
    };
    let again = "remove it, and the run is done again";
    let finished: Finished<Value, T> = serde_json::from_slice(&text)
        .with_context(|| format!("{file}: not what a run leaves behind; {again}"))?;
    // Through text, as the other side has come.
    let settings: Value = serde_json::from_slice(&serde_json::to_vec(settings)?)?;
    ensure!(
        finished.settings == settings && finished.version == env!("CARGO_PKG_VERSION"),
        "{file}: of a run with other settings; {again}, or choose another --out"
    );
    Ok(Some(finished.found))
}

/// Writes what [`read`] reads, whole or not at all, into a folder that is made if need be.
pub fn write(path: &Path, settings: &impl Serialize, found: &impl Serialize) -> Result<()> {
    let finished = Finished { version: env!("CARGO_PKG_VERSION").into(), settings, found };
    files::ensure_replaceable(path)?;
    Ok(files::write_atomically(path, &serde_json::to_vec(&finished)?)?)
}
