//! Holding many calls to being refused with a message that says enough, and showing all that were not.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wgan::Result;

/// What is wrong with how something was taken: nothing where its value is `right`, or where the error has all `parts`.
pub fn complaint<T>(
    label: &str,
    run: impl FnOnce() -> Result<T>,
    right: impl FnOnce(&T) -> bool,
    parts: &[&str],
) -> Option<String> {
    let fault = match catch_unwind(AssertUnwindSafe(run)) {
        Err(panic) => format!(
            "panicked: {:?} {:?}",
            panic.downcast_ref::<String>(),
            panic.downcast_ref::<&str>()
        ),
        Ok(Ok(value)) if right(&value) => return None,
        Ok(Ok(_)) => "was taken, with a wrong result".into(),
        Ok(Err(error)) if parts.iter().all(|part| error.to_string().contains(part)) => return None,
        Ok(Err(error)) => format!("error without one of {parts:?}: {error}"),
    };
    Some(format!("{label}: {fault}"))
}

#[track_caller]
pub fn none(complaints: impl IntoIterator<Item = Option<String>>) {
    let all: Vec<_> = complaints.into_iter().flatten().collect();
    assert!(all.is_empty(), "{} faults:\n{}", all.len(), all.join("\n"));
}

pub fn refused<T>(label: &str, run: impl FnOnce() -> Result<T>, parts: &[&str]) -> Option<String> {
    complaint(label, run, |_| false, parts)
}
