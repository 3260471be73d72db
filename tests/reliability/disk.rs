//! Disks that are full and folders that cannot be written.
#![cfg(unix)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use wgan::Error;
use wgan::checkpoint::{Checkpoint, Checkpoints};

use super::tiny::{self, State};

/// Keeps the library's warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
                write!(self.0, "{value:?}").unwrap();
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoint-{step:06}.safetensors"))
}

/// A run to step 3 with a checkpoint of each.
fn first_steps(folder: &Path) {
    let mut trainer =
        tiny::trainer(tiny::settings()).with_checkpoints(Checkpoints::new(folder).every_steps(1));
    trainer.fit_until(&tiny::data(), 3).unwrap();
}

fn all(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = (std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(".lock"))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    all.sort();
    all
}

/// Goes on where no checkpoint can be written: each failure is a warning, the last one the error, the run itself is
/// right, and so is every file that was there.
#[test]
#[ignore = "run by the tests below"]
fn a_run_that_cannot_write() {
    let Some(folder) = tiny::folder_of_this_process() else {
        return;
    };
    let before = all(&folder);
    let mut whole = tiny::trainer(tiny::settings());
    whole.fit_until(&tiny::data(), 6).unwrap();

    let mut trainer = tiny::trainer(tiny::settings())
        .with_checkpoints(Checkpoints::new(&folder).every_steps(1).keep(100));
    assert_eq!(trainer.resume().unwrap().unwrap().step, 3);
    let warnings = Warnings::default();
    let outcome =
        tracing::subscriber::with_default(warnings.clone(), || trainer.fit_until(&tiny::data(), 6));
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == self::path(&folder, 6)), "{error}");
    State::of(&trainer).assert_is(&State::of(&whole), "the run on a full disk");
    let warnings = warnings.0.lock().unwrap().clone();
    for (step, warning) in [4, 5].into_iter().zip(&warnings) {
        let file = path(&folder, step).display().to_string();
        assert!(warning.contains(&file) && warning.contains("is still"), "{warning}");
    }
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(all(&folder), before, "neither lost nor half written");
    println!("\nerror {error}");
}

/// Steps until the disk is full, and from the newest checkpoint on once there is room again.
#[test]
#[ignore = "run by a_full_disk_is_named"]
fn a_run_that_fills_a_disk() {
    let Some(folder) = tiny::folder_of_this_process() else {
        return;
    };
    let mut whole = tiny::trainer(tiny::settings());
    whole.fit_until(&tiny::data(), 40).unwrap();
    let trainer = || {
        tiny::trainer(tiny::settings())
            .with_checkpoints(Checkpoints::new(&folder).every_steps(1).keep(1000))
    };
    let mut first = trainer();
    let error = first.fit_until(&tiny::data(), 40).unwrap_err();
    assert!(
        matches!(&error, Error::Io { path, .. } if *path == self::path(&folder, 40)),
        "{error}"
    );
    State::of(&first).assert_is(&State::of(&whole), "the run that filled the disk");
    drop(first);
    let kept = all(&folder);
    assert!((2..40).contains(&kept.len()), "{} checkpoints", kept.len());
    for (path, _) in &kept {
        Checkpoint::read(path).unwrap();
    }
    for (path, _) in &kept[..2] {
        std::fs::remove_file(path).unwrap();
    }
    let mut second = trainer();
    let step = second.resume().unwrap().unwrap().step;
    assert_eq!(self::path(&folder, step), kept.last().unwrap().0);
    second.fit_until(&tiny::data(), step + 1).unwrap();
    assert_eq!(Checkpoint::read(self::path(&folder, step + 1)).unwrap().step(), step + 1);
    println!("\nerror {error}");
}

/// A run is refused before its first step, and what is in the folder can still be read.
#[test]
#[ignore = "run by a_read_only_folder_is_named"]
fn a_run_in_a_read_only_folder() {
    let Some(folder) = tiny::folder_of_this_process() else {
        return;
    };
    let mut trainer = tiny::trainer(tiny::settings()).with_checkpoints(Checkpoints::new(&folder));
    let before = State::of(&trainer);
    for error in [trainer.resume().unwrap_err(), trainer.fit_until(&tiny::data(), 6).unwrap_err()] {
        let text = error.to_string();
        assert!(matches!(error, Error::Io { .. }), "{text}");
        assert!(text.contains(folder.to_str().unwrap()), "{text}");
    }
    State::of(&trainer).assert_is(&before, "a run that was refused");
    trainer.restore(path(&folder, 3)).unwrap();
    assert_eq!(trainer.steps(), 3);
    println!("\nerror done");
}

/// The child's test must have run to its end.
#[track_caller]
fn assert_done(output: &Output) {
    let [text, errors] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success() && text.contains("\nerror "), "{text}\n{errors}");
}

/// Whether this machine lets a test mount something for itself.
fn may_mount() -> bool {
    let script = "mount -t tmpfs none /tmp";
    let tried = Command::new("unshare").args(["-rm", "sh", "-c", script]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        eprintln!("this machine lets nobody mount a file system: that part is left out");
    }
    may
}

/// The same command with mounts of its own.
fn unshared(script: &str, test: &str, folder: &Path) -> Command {
    let inner = tiny::scripted(script, test, folder);
    let mut command = Command::new("unshare");
    command.arg("-rm").arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    command
}

/// Files may have a kilobyte, which no checkpoint fits in.
#[test]
fn a_file_that_cannot_grow_is_named() {
    let folder = tempfile::tempdir().unwrap();
    first_steps(folder.path());
    let script = r#"trap "" XFSZ; ulimit -f 2; exec "$@""#;
    let output = tiny::scripted(script, "disk::a_run_that_cannot_write", folder.path()).output();
    assert_done(&output.unwrap());
}

#[test]
fn a_full_disk_is_named() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script =
        format!(r#"mount -t tmpfs -o size=160k none "{}" && exec "$@""#, folder.path().display());
    let output = unshared(&script, "disk::a_run_that_fills_a_disk", folder.path()).output();
    let output = output.unwrap();
    assert_done(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("No space left on device"));
}

#[test]
fn a_read_only_folder_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    first_steps(folder.path());
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.path(), permissions).unwrap();
    };
    mode(0o555);
    // Root may write all the same.
    let writable = tempfile::tempfile_in(folder.path()).is_ok();
    let output = if !writable {
        Some(tiny::process("disk::a_run_in_a_read_only_folder", folder.path()).output())
    } else if may_mount() {
        let script = format!(
            r#"mount --bind "{0}" "{0}" && mount -o remount,bind,ro "{0}" && exec "$@""#,
            folder.path().display()
        );
        Some(unshared(&script, "disk::a_run_in_a_read_only_folder", folder.path()).output())
    } else {
        None
    };
    mode(0o755);
    if let Some(output) = output {
        assert_done(&output.unwrap());
    }
}
