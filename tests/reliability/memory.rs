//! Memory over a long run.
#![cfg(target_os = "linux")]

use wgan::checkpoint::Checkpoints;
use wgan::observers::{Every, HistoryCsv, callback};

use super::tiny;

const STEPS: u64 = 20_000;
/// By then every buffer has been used once.
const WARM: u64 = 4_000;
/// The allocator keeps what writing so many records took from then on: a megabyte or two, one time.
const LATE: u64 = 18_000;

/// A process of its own: other tests' memory would count.
#[test]
#[ignore = "run by memory_is_flat_over_20000_steps"]
fn a_long_run() {
    let Some(folder) = tiny::folder_of_this_process() else {
        return;
    };
    let mut trainer = tiny::trainer(tiny::settings())
        .observe(Every::Steps(100), HistoryCsv::new(&folder))
        .observe(
            Every::Steps(2_000),
            callback(|snapshot| {
                println!("\nresident {} {}", snapshot.record.step, resident());
                Ok(())
            }),
        )
        .with_checkpoints(Checkpoints::new(folder.join("checkpoints")).every_steps(2_000));
    trainer.fit_until(&tiny::data(), STEPS).unwrap();
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// The records alone take about a megabyte, twice that when their vector grows, and three copies of it while a
/// checkpoint is written: four in all. A step that kept a tenth of a kilobyte would add more than one.
#[test]
fn memory_is_flat_over_20000_steps() {
    let folder = tempfile::tempdir().unwrap();
    let output = tiny::process("memory::a_long_run", folder.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<(u64, u64)> = (text.lines())
        .filter_map(|line| {
            let (step, bytes) = line.strip_prefix("resident ")?.split_once(' ')?;
            Some((step.parse().unwrap(), bytes.parse().unwrap()))
        })
        .collect();
    assert_eq!(figures.last().map(|figure| figure.0), Some(STEPS), "{text}");
    let warm = figures.iter().find(|(step, _)| *step == WARM).unwrap().1;
    let most = figures.iter().filter(|(step, _)| *step <= LATE).map(|figure| figure.1).max();
    assert!(most.unwrap() - warm < 5 << 20, "{figures:?}");
}
