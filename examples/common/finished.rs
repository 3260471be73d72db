//! Runs whose outcomes are kept in files: an experiment that was interrupted goes on from those that are finished.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wgan::files;

/// All that a run's outcome depends on, and the file that keeps it.
pub struct Run<S> {
    pub settings: S,
    pub path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Finished<S, T> {
    version: String,
    settings: S,
    found: T,
}

impl<S: Serialize> Run<S> {
    /// What the run has left behind, or `None` where it has left nothing. What is of other settings is refused.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let file = self.path.display();
        let text = match std::fs::read(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("{file}: reading the file"))?,
        };
        let again = "remove it, and the run is done again";
        let damaged = || format!("{file}: not what a run leaves behind; {again}");
        let finished: Finished<Value, Value> =
            serde_json::from_slice(&text).with_context(damaged)?;
        // Through text, as the other side has come.
        let settings: Value = serde_json::from_slice(&serde_json::to_vec(&self.settings)?)?;
        let ours = [("version", env!("CARGO_PKG_VERSION").into()), ("settings", settings)];
        let theirs = [finished.version.into(), finished.settings];
        for ((name, ours), theirs) in ours.iter().zip(&theirs) {
            if let Some(difference) = difference(name, ours, theirs) {
                bail!("{file}: of another run: {difference}; {again}, or choose another --out");
            }
        }
        Ok(Some(serde_json::from_value(finished.found).with_context(damaged)?))
    }

    /// Writes what [`read`](Self::read) reads, whole or not at all, into a folder that is made if need be.
    fn write(&self, found: &impl Serialize) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION").into();
        let finished = Finished { version, settings: &self.settings, found };
        files::ensure_replaceable(&self.path)?;
        Ok(files::write_atomically(&self.path, &serde_json::to_vec(&finished)?)?)
    }
}

/// The first place where two settings differ.
fn difference(name: &str, ours: &Value, theirs: &Value) -> Option<String> {
    if let (Value::Object(ours), Value::Object(theirs)) = (ours, theirs) {
        return ours.keys().chain(theirs.keys()).find_map(|key| {
            let [ours, theirs] = [ours, theirs].map(|map| map.get(key).unwrap_or(&Value::Null));
            difference(&format!("{name}.{key}"), ours, theirs)
        });
    }
    (ours != theirs).then(|| format!("{name} is {theirs} there, {ours} here"))
}

/// What all runs have found, in their order, once those that are not finished are; nothing is computed where what one has left
/// behind is refused.
///
/// Small products leave a core idle: two runs go side by side, the longest first. None is begun after one that failed.
pub fn train_all<S: Serialize + Sync, T: Serialize + DeserializeOwned + Send, L: Ord>(
    runs: &[Run<S>],
    length: impl Fn(&S) -> L,
    train: impl Fn(&Run<S>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let mut found = runs.iter().map(Run::read).collect::<Result<Vec<Option<T>>>>()?;
    let mut to_do: Vec<usize> = (0..runs.len()).filter(|&i| found[i].is_none()).collect();
    to_do.sort_by_key(|&i| std::cmp::Reverse(length(&runs[i].settings)));
    let queue = Mutex::new(to_do.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<Vec<(usize, T)>> {
        let finish = |i: usize| {
            runs[i].write(&train(&runs[i])?)?;
            // As one that goes on from the file will read it.
            Ok((i, runs[i].read()?.context("what a run has left behind is gone")?))
        };
        std::iter::from_fn(next)
            .map(|i| finish(i).inspect_err(|_| while next().is_some() {}))
            .collect()
    };
    std::thread::scope(|scope| {
        for worker in [scope.spawn(work), scope.spawn(work)] {
            let finished = worker.join().ok().context("a run panicked")??;
            finished.into_iter().for_each(|(i, of_run)| found[i] = Some(of_run));
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let found: Vec<T> = found.into_iter().flatten().collect();
    ensure!(found.len() == runs.len(), "{} of {} runs are finished", found.len(), runs.len());
    Ok(found)
}
