//! The names of checkpoints in their folder.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The checkpoint after this generator step.
pub(super) fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoint-{step:06}.safetensors"))
}

/// The steps of all checkpoints in the folder, oldest first; none where there is no such folder.
pub(super) fn steps(folder: &Path) -> Result<Vec<u64>> {
    let fail = |e| Error::io(folder, "reading the folder", e);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut steps = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        steps.extend(name.to_str().and_then(step));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// The step in a name that [`path`] gave.
fn step(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?;
    let step = digits.parse().ok()?;
    // Neither `+1` nor `0000000001`.
    (format!("{step:06}") == digits).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_count() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(steps(&folder.path().join("absent"))?.is_empty());
        for name in [
            "checkpoint-000020.safetensors",
            "checkpoint-1234567.safetensors",
            "checkpoint-000003.safetensors",
            "checkpoint-0000003.safetensors",
            "checkpoint-3.safetensors",
            "checkpoint-+00003.safetensors",
            "checkpoint-.safetensors",
            "checkpoint-99999999999999999999999.safetensors",
            "checkpoint-000004.safetensors.old",
            ".checkpoint-000005.safetensors.abcdef.wgan-partial",
            "generator.safetensors",
        ] {
            std::fs::write(folder.path().join(name), "").expect("a file");
        }
        assert_eq!(steps(folder.path())?, [3, 20, 1_234_567]);
        assert_eq!(path(Path::new("a"), 20), Path::new("a/checkpoint-000020.safetensors"));
        Ok(())
    }
}
