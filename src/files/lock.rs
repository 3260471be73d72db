//! One run in a folder at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::{ensure_writable_folder, remove_partial};
use crate::error::{Error, Result};

/// Keeps every other run out of a folder for as long as it lives.
///
/// It is a lock of the operating system on the file `.lock` in the folder, so that it ends with its process, however
/// that ends; the file stays. On a file system without locks a warning is logged and nobody is kept out.
///
/// ```
/// # let temporary = tempfile::tempdir().expect("a folder");
/// # let folder = temporary.path().join("run");
/// use wgan::files::FolderLock;
/// let lock = FolderLock::acquire(&folder)?;
/// assert!(FolderLock::acquire(&folder).is_err());
/// drop(lock);
/// FolderLock::acquire(&folder)?;
/// # Ok::<(), wgan::Error>(())
/// ```
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    /// Locked until it is closed.
    _file: File,
}

impl FolderLock {
    /// Takes the folder, which is made if need be, and removes what a killed run left half written in it.
    ///
    /// # Errors
    /// [`Error::FolderInUse`] where another run holds it, in this process or another one; [`Error::Io`] that names the
    /// folder or a file in it.
    pub fn acquire(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        ensure_writable_folder(folder)?;
        let path = folder.join(".lock");
        let fail = |e| Error::io(&path, "locking the file", e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::FolderInUse {
                    path: folder.to_path_buf(),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                tracing::warn!(
                    "{}: the file system has no locks; two runs here at once would not be noticed",
                    folder.display()
                );
            }
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        // For the message of those who come later.
        let pid = format!("{}\n", std::process::id());
        (file.set_len(0).and_then(|()| file.write_all(pid.as_bytes()))).map_err(fail)?;
        remove_partial(folder)?;
        Ok(Self { folder: folder.to_path_buf(), _file: file })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The process that wrote its number into the file; nothing where it cannot be read.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_told_who_holds_the_folder() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = FolderLock::acquire(folder.path())?;
        let error = FolderLock::acquire(folder.path()).expect_err("it is held");
        assert!(
            matches!(&error, Error::FolderInUse { holder: Some(pid), .. } if *pid == std::process::id()),
            "{error:?}"
        );
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        assert_eq!(FolderLock::acquire(folder.path())?.folder(), folder.path());
        Ok(())
    }

    #[test]
    fn half_written_files_go_and_others_stay() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [".a.csv.x1y2z3.wgan-partial", "b.wgan-partial", ".c", "d.csv"] {
            std::fs::write(folder.path().join(name), "x").expect("a file");
        }
        std::fs::create_dir(folder.path().join(".e.wgan-partial")).expect("a folder");
        let _lock = FolderLock::acquire(folder.path())?;
        let mut left: Vec<_> = (std::fs::read_dir(folder.path()).expect("a folder"))
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        left.sort();
        assert_eq!(left, [".c", ".e.wgan-partial", ".lock", "b.wgan-partial", "d.csv"]);
        Ok(())
    }
}
