//! A training process killed at any moment.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use candle_core::Device;
use wgan::checkpoint::{Best, Checkpoint, Checkpoints};
use wgan::observers::{Diagnostics, Every, HistoryCsv, Weights, callback, read_history_csv};
use wgan::random::Stream;

use super::tiny::{self, State, rows};

const KILLS: u64 = 100;
const STEPS: u64 = 500;

/// A run that goes on from whatever it finds, and says how far it is.
#[test]
#[ignore = "run by a_run_killed_at_100_moments_is_the_undisturbed_run"]
fn a_run_to_be_killed() {
    let Some(folder) = tiny::folder_of_this_process() else {
        return;
    };
    let checkpoints = Checkpoints::new(folder.join("checkpoints"))
        .every_steps(3)
        .keep(2)
        .keep_best(Best::lowest_estimate(5));
    let mut trainer = tiny::trainer(tiny::settings())
        .observe(Every::Step, HistoryCsv::new(&folder))
        .observe(Every::Steps(7), Weights::new(&folder))
        .observe(Every::Steps(10), Diagnostics::new(&folder, tiny::data(), 4))
        .observe(
            Every::Step,
            callback(|snapshot| {
                // The reader may be gone: then this process is about to be killed.
                let _ = writeln!(std::io::stdout(), "\nstep {}", snapshot.record.step);
                Ok(())
            }),
        )
        .with_checkpoints(checkpoints);
    let resumed = trainer.resume().unwrap();
    // No write was ever seen half done.
    assert!(resumed.is_none_or(|resumed| resumed.refused.is_empty()));
    trainer.fit_until(&tiny::data(), STEPS).unwrap();
}

#[test]
fn a_run_killed_at_100_moments_is_the_undisturbed_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut undisturbed = tiny::trainer(tiny::settings())
        .observe(Every::Steps(10), Diagnostics::new(folder.path(), tiny::data(), 4));
    undisturbed.fit_until(&tiny::data(), STEPS).unwrap();
    let expected = State::in_checkpoint(&undisturbed.checkpoint().unwrap());
    let diagnostics = std::fs::read(folder.path().join("diagnostics.csv")).unwrap();

    let mut draws = Stream::new(1, "kills", 0);
    let mut kills = 0;
    while kills < KILLS {
        let folder = tempfile::tempdir().unwrap();
        while !run(folder.path(), &mut draws, kills < KILLS) {
            kills += 1;
        }
        compare(folder.path(), &expected);
        assert_eq!(std::fs::read(folder.path().join("diagnostics.csv")).unwrap(), diagnostics);
    }
}

/// Starts the run, kills it at a random moment if told to, and says whether it came to its end before.
fn run(folder: &Path, draws: &mut Stream, kill: bool) -> bool {
    let mut child =
        tiny::process("kill::a_run_to_be_killed", folder).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    if kill {
        // Some steps, and then up to some more: on the way to its first step as often as amid a write.
        let steps = draws.below(8) as usize;
        let patience = if steps == 0 { 20_000 } else { 4_000 };
        let mut lines = lines.by_ref().map_while(Result::ok);
        lines.by_ref().filter(|line| line.starts_with("step ")).take(steps).for_each(drop);
        std::thread::sleep(Duration::from_micros(draws.below(patience)));
        child.kill().unwrap();
    }
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().unwrap();
    assert!(status.success() || (kill && status.signal() == Some(9)), "{status}: {rest:?}");
    status.success()
}

/// Holds all that is in the folder to be what the undisturbed run would have left.
fn compare(folder: &Path, expected: &State) {
    let checkpoints = folder.join("checkpoints");
    let last = Checkpoint::read(checkpoints.join("checkpoint-000500.safetensors")).unwrap();
    State::in_checkpoint(&last).assert_is(expected, "the killed run");
    assert_eq!(rows(&read_history_csv(folder.join("history.csv")).unwrap()), expected.rows);
    for (network, file) in
        [("generator", "generator.safetensors"), ("critic", "critic.safetensors")]
    {
        let tensors = candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
        assert!(!tensors.is_empty());
        for (name, tensor) in tensors {
            let bytes = safetensors::View::data(&tensor).into_owned();
            assert_eq!(bytes, expected.tensors[&format!("{network}.{name}")], "{file}: {name}");
        }
    }
    // Two newest ones, the best one, and nothing half written.
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let kept = names(&checkpoints);
    assert!(kept.len() <= 4 && kept.contains(&"checkpoint-000498.safetensors".into()), "{kept:?}");
    // The folder of the observers has no lock here, which would have swept it.
    assert!(kept.iter().all(|name| !name.contains("partial")), "{kept:?}");
}
