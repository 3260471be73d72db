//! Ctrl-C: the step is finished, the run saved, and the reader told how to go on.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use wgan::WganTrainer;
use wgan::observers::{Flow, Observer, callback};
use wgan::stop::Ended;
use wgan::{Critic, Generator};

/// What a shell calls a process that Ctrl-C has ended.
pub const EXIT_CODE: u8 = 130;
const REASON: &str = "interrupted";

static ASKED: AtomicBool = AtomicBool::new(false);

/// Ends the run after the step in which Ctrl-C, or the signal that a cluster sends before it ends a job, has come.
pub fn observer() -> Result<impl Observer> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
        eprintln!("\nfinishing the step; once more to end at once, without a checkpoint");
    })
    .context("Ctrl-C cannot be watched for")?;
    Ok(callback(|_| {
        let asked = ASKED.load(Ordering::Relaxed);
        Ok(if asked { Flow::stop(REASON) } else { Flow::Continue })
    }))
}

/// How to go on with a run that was interrupted.
#[derive(Debug, thiserror::Error)]
#[error("interrupted after generator step {step}; to go on: {command}")]
pub struct Interrupted {
    step: u64,
    command: String,
}

/// An error where the run was interrupted.
pub fn check<G: Generator, C: Critic>(trainer: &WganTrainer<G, C>) -> Result<()> {
    if trainer.ended() == Some(&Ended::Observer(REASON.into())) {
        let mut words: Vec<String> = std::env::args().map(quoted).collect();
        if !words.iter().any(|word| word == "--resume") {
            words.push("--resume".into());
        }
        bail!(Interrupted { step: trainer.steps(), command: words.join(" ") });
    }
    Ok(())
}

/// As a shell takes it.
fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
