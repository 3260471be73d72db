//! A table that a run which is continued goes on with.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// A new file, with the lines of an old one up to step `earlier` where a run is continued.
pub(super) fn start(path: &Path, header: &str, earlier: u64) -> Result<File> {
    let mut text = format!("{header}\n");
    let old = match earlier {
        0 => String::new(),
        _ => std::fs::read_to_string(path).unwrap_or_default(),
    };
    let mut lines = old.lines();
    if lines.next() == Some(header) {
        let step = |line: &str| line.split(',').next().and_then(|step| step.parse::<u64>().ok());
        for line in lines.filter(|line| step(line).is_some_and(|step| step <= earlier)) {
            text += &format!("{line}\n");
        }
    }
    files::write_atomically(path, text.as_bytes())?;
    let options = std::fs::OpenOptions::new().append(true).open(path);
    options.map_err(|e| Error::io(path, "opening the file", e))
}
