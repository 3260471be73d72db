//! Writing files so that nothing that existed is lost when something fails.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Makes the folder, with its parents, and proves that a file can be written in it.
///
/// # Errors
/// [`Error::Io`] that names the folder.
pub fn ensure_writable_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "creating the folder", e))?;
    tempfile::tempfile_in(folder).map_err(|e| Error::io(folder, "writing into the folder", e))?;
    Ok(())
}

/// Proves that this file can be written, or written anew, and leaves it as it is.
///
/// # Errors
/// [`Error::Io`] that names the file or its folder.
pub fn ensure_replaceable(path: &Path) -> Result<()> {
    ensure_writable_folder(folder_of(path))?;
    match std::fs::OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(path, "writing the file", error))
        }
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes a file whole or not at all: into a temporary file beside it, flushed to disk, then renamed over it.
///
/// # Errors
/// [`Error::Io`] that names the file; what was there before is untouched.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    let fail = |e| Error::io(path, "writing the file", e);
    let mut builder = tempfile::Builder::new();
    // The usual mode of a new file, less the umask; a temporary file's own would be private to its owner.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(fail)?;
    file.write_all(contents).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// Writes tensors as a safetensors file, whole or not at all. They may lie on any device.
///
/// The bytes depend on the names and values alone.
///
/// # Errors
/// [`Error::Io`] that names the file; candle's where a tensor cannot be copied from its device or is of a type
/// that the format lacks.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    // Serialising panics where a copy from the device fails: it is made here, where it returns an error.
    let on_host = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let bytes = safetensors::tensor::serialize(on_host, None).map_err(candle_core::Error::from)?;
    write_atomically(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_and_leaves_nothing_else() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io(Path::new("tmp"), "tempdir", e))?;
        let path = folder.path().join("a.txt");
        write_atomically(&path, b"one")?;
        write_atomically(&path, b"two")?;
        assert_eq!(std::fs::read(&path).ok().as_deref(), Some(&b"two"[..]));
        assert_eq!(std::fs::read_dir(folder.path()).map(Iterator::count).ok(), Some(1));
        Ok(())
    }

    #[test]
    fn a_file_that_could_be_replaced_is_left_as_it_is() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io(Path::new("tmp"), "tempdir", e))?;
        let path = folder.path().join("new/a.txt");
        ensure_replaceable(&path)?;
        assert!(!path.exists());
        write_atomically(&path, b"one")?;
        ensure_replaceable(&path)?;
        assert_eq!(std::fs::read(&path).ok().as_deref(), Some(&b"one"[..]));
        let error = ensure_replaceable(folder.path()).expect_err("a folder is no file");
        assert!(error.to_string().contains("writing the file"), "{error}");
        Ok(())
    }

    #[test]
    fn a_folder_that_is_a_file_is_named_in_the_error() -> Result<()> {
        let file = tempfile::NamedTempFile::new()
            .map_err(|e| Error::io(Path::new("tmp"), "tempfile", e))?;
        let error =
            ensure_writable_folder(&file.path().join("out")).expect_err("a file is no folder");
        assert!(error.to_string().contains("out"), "{error}");
        Ok(())
    }
}
