//! Writing files so that nothing that existed is lost when something fails.

mod lock;

pub use lock::FolderLock;

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

/// What the name of a file that is not yet whole ends in; it begins with a dot.
const PARTIAL: &str = ".wgan-partial";

/// Writes a file whole or not at all: into a temporary file beside it, flushed to disk, then renamed over it, and the
/// folder flushed, so that after a power cut the file is the old one or the new one.
///
/// A process that is killed meanwhile leaves `.NAME.XXXXXX.wgan-partial` behind, which [`FolderLock::acquire`] removes.
///
/// # Errors
/// [`Error::Io`] that names the file; what was there before is untouched. Only where the folder cannot be flushed is the
/// new file in place all the same.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    let fail = |e| Error::io(path, "writing the file", e);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(PARTIAL);
    // The usual mode of a new file, less the umask; a temporary file's own would be private to its owner.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(fail)?;
    file.write_all(contents).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    flush_folder(folder)
}

/// Makes a renaming in the folder last through a power cut.
fn flush_folder(folder: &Path) -> Result<()> {
    // Elsewhere a folder cannot be opened as a file.
    #[cfg(unix)]
    {
        use std::io::ErrorKind::{InvalidInput, Unsupported};
        match std::fs::File::open(folder).and_then(|folder| folder.sync_all()) {
            // Some network file systems have no such thing.
            Err(error) if !matches!(error.kind(), InvalidInput | Unsupported) => {
                return Err(Error::io(folder, "flushing the folder", error));
            }
            _ => {}
        }
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Removes what killed processes left half written in this folder.
fn remove_partial(folder: &Path) -> Result<()> {
    let fail = |e| Error::io(folder, "reading the folder", e);
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && name.starts_with('.') && name.ends_with(PARTIAL) {
            let path = entry.path();
            std::fs::remove_file(&path)
                .map_err(|e| Error::io(&path, "removing a half-written file", e))?;
        }
    }
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
