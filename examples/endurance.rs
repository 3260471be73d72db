//! Kills training at random moments and holds what is left to the undisturbed run; then trains for long and shows time and
//! memory: `cargo build --examples && cargo run --example endurance`. See docs/reliability.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use wgan::checkpoint::{Checkpoint, Checkpoints};
use wgan::data::{TensorDataset, mnist};
use wgan::observers::{Every, HistoryCsv, callback, read_history_csv};
use wgan::random::Stream;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{ModelBuilder, TrainConfig, WganTrainer};

/// Shows that a killed run resumes to the last bit and that a long one stays as it began.
#[derive(Parser)]
struct Arguments {
    /// How often `mnist_mlp` is killed
    #[arg(long, default_value_t = 100)]
    kills: u64,

    /// Generator steps of the run that is killed
    #[arg(long, default_value_t = 300)]
    generator_steps: u64,

    /// Generator steps of the long run
    #[arg(long, default_value_t = 20_000)]
    steps: u64,

    /// What the long run learns
    #[arg(long, value_enum, default_value_t = Learns::Points)]
    learns: Learns,

    /// Decides the moments of the kills
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Learns {
    /// Points of the plane, by a small pair under the gradient penalty
    Points,
    /// MNIST, by the pair of `mnist_mlp` under weight clipping
    Mnist,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.kills > 0 {
        killed(&arguments)?;
    }
    if arguments.steps > 0 {
        match arguments.learns {
            Learns::Points => points(arguments.steps)?,
            Learns::Mnist => mnist(arguments.steps)?,
        }
    }
    Ok(())
}

/// `mnist_mlp` with these settings.
struct Training {
    program: PathBuf,
    generator_steps: u64,
}

impl Training {
    fn new(generator_steps: u64) -> Result<Self> {
        let name = format!("mnist_mlp{}", std::env::consts::EXE_SUFFIX);
        let program = std::env::current_exe()?.with_file_name(name);
        ensure!(program.is_file(), "{}: not there; cargo build --examples", program.display());
        Ok(Self { program, generator_steps })
    }

    fn start(&self, out: &Path) -> Result<Child> {
        let child = Command::new(&self.program)
            .args(["--lipschitz", "gp", "--batch-size", "16", "--samples", "16"])
            .args(["--checkpoint-every", "5", "--resume"])
            .args(["--generator-steps", &self.generator_steps.to_string()])
            .arg("--out")
            .arg(out)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.with_context(|| self.program.display().to_string())
    }

    /// The whole run, and how long it took.
    fn finish(&self, out: &Path) -> Result<Duration> {
        let start = Instant::now();
        let status = self.start(out)?.wait()?;
        ensure!(status.success(), "{}: {status}", self.program.display());
        Ok(start.elapsed())
    }
}

fn killed(arguments: &Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let training = Training::new(arguments.generator_steps)?;
    let undisturbed = folder.path().join("undisturbed");
    let whole = training.finish(&undisturbed)?;
    let starting = Training { generator_steps: 1, ..Training::new(1)? };
    let starting = starting.finish(&folder.path().join("starting"))?;
    println!(
        "undisturbed: {} steps in {:.1} s, of which {:.1} s to begin",
        arguments.generator_steps,
        whole.as_secs_f64(),
        starting.as_secs_f64()
    );

    // From the first moment on to some steps after the beginning.
    let longest = starting.as_micros() as u64 * 3 / 2 + whole.as_micros() as u64 / 20;
    let mut moments = Stream::new(arguments.seed, "kills", 0);
    let (mut kills, mut before, mut amid, mut runs) = (0, 0, 0, 0);
    let start = Instant::now();
    while kills < arguments.kills {
        runs += 1;
        let out = folder.path().join(format!("killed-{runs}"));
        loop {
            let mut child = training.start(&out)?;
            if kills < arguments.kills {
                std::thread::sleep(Duration::from_micros(moments.below(longest)));
                child.kill()?;
            }
            let status = child.wait()?;
            if status.success() {
                break;
            }
            ensure!(kills < arguments.kills, "the last run ended with {status}");
            ensure!(status.code().is_none(), "a run ended by itself with {status}");
            kills += 1;
            let partial = partial_files(&out)? + partial_files(&out.join("checkpoints"))?;
            amid += u64::from(partial > 0);
            before += u64::from(partial == 0 && steps_of(&out) == 0);
        }
        compare(&undisturbed, &out)?;
        println!("run {runs}: after {kills} kills the same to the last bit");
    }
    println!(
        "{kills} kills in {:.0} s: {before} before the first record, {amid} amid the writing of a file; {runs} runs, all equal",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Records in the folder's history.
fn steps_of(out: &Path) -> usize {
    read_history_csv(out.join("history.csv")).map_or(0, |history| history.len())
}

/// Files in a folder that are not yet whole.
fn partial_files(folder: &Path) -> Result<usize> {
    Ok(match folder.is_dir() {
        true => files(folder)?.keys().filter(|name| name.ends_with("partial")).count(),
        false => 0,
    })
}

fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && !path.ends_with(".lock") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, path);
        }
    }
    Ok(files)
}

/// Everything but the seconds must be the same.
fn compare(undisturbed: &Path, killed: &Path) -> Result<()> {
    let (expected, got) = (files(undisturbed)?, files(killed)?);
    let names = |files: &BTreeMap<String, PathBuf>| files.keys().cloned().collect::<Vec<_>>();
    ensure!(names(&expected) == names(&got), "{:?}, not {:?}", names(&got), names(&expected));
    let rows = |folder: &Path| -> Result<Vec<_>> {
        let history = read_history_csv(folder.join("history.csv"))?;
        Ok(history
            .iter()
            .map(|record| format!("{:?}", wgan::history::Record { seconds: 0.0, ..record.clone() }))
            .collect())
    };
    ensure!(rows(undisturbed)? == rows(killed)?, "history.csv differs");
    for (name, path) in &expected {
        if name != "history.csv" && std::fs::read(path)? != std::fs::read(&got[name])? {
            bail!("{name} differs");
        }
    }
    let checkpoints = |folder: &Path| -> Result<Vec<_>> {
        files(&folder.join("checkpoints"))?
            .values()
            .map(|path| {
                let checkpoint = Checkpoint::read(path)?;
                let tensors = checkpoint.tensors().iter();
                let tensors: BTreeMap<String, Vec<u8>> = tensors
                    .map(|(name, tensor)| {
                        (name.clone(), safetensors::View::data(tensor).into_owned())
                    })
                    .collect();
                Ok((checkpoint.step(), checkpoint.critic_steps(), tensors))
            })
            .collect()
    };
    ensure!(checkpoints(undisturbed)? == checkpoints(killed)?, "the checkpoints differ");
    Ok(())
}

fn points(steps: u64) -> Result<()> {
    let noise = Stream::new(0, "points", 0).normal((4096, 2), DType::F32, &Device::Cpu)?;
    let data = TensorDataset::new(noise.affine(0.5, 2.0)?)?;
    let build = ModelBuilder::new(0);
    let generator = MlpGeneratorConfig {
        latent_dim: 2,
        hidden: vec![64, 64],
        sample_shape: vec![2],
        output_activation: wgan::layers::Activation::Identity,
        ..Default::default()
    };
    let critic =
        MlpCriticConfig { sample_shape: vec![2], hidden: vec![64, 64], ..Default::default() };
    let config = TrainConfig { batch_size: 32, generator_steps: steps, ..TrainConfig::wgan_gp() };
    let generator = build.generator(|vb| MlpGenerator::new(generator, vb))?;
    let critic = build.critic(|vb| MlpCritic::new(critic, vb))?;
    long(WganTrainer::new(generator, critic, config)?, &data, steps)
}

fn mnist(steps: u64) -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist");
    let data = mnist::load(folder, mnist::Split::Train)?;
    let build = ModelBuilder::new(0);
    let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb))?;
    let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb))?;
    let config = TrainConfig { generator_steps: steps, ..TrainConfig::wgan() };
    long(WganTrainer::new(generator, critic, config)?, &data, steps)
}

/// With every file that a run writes.
fn long(
    trainer: WganTrainer<MlpGenerator, MlpCritic>,
    data: &TensorDataset,
    steps: u64,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    println!("\n{:>10}  {:>12}  {:>12}", "step", "ms a step", "resident MB");
    let every = (steps / 10).max(1);
    let mut since = Instant::now();
    let mut trainer = trainer
        .observe(Every::Steps(100), HistoryCsv::new(folder.path()))
        .observe(
            Every::Steps(every),
            callback(move |snapshot| {
                let milliseconds = 1e3 * since.elapsed().as_secs_f64() / every as f64;
                let resident =
                    resident().map_or("unknown".into(), |bytes| format!("{:.1}", bytes / 1e6));
                println!("{:>10}  {milliseconds:>12.3}  {resident:>12}", snapshot.record.step);
                since = Instant::now();
                Ok(())
            }),
        )
        .with_checkpoints(Checkpoints::new(folder.path()).every_steps(1000));
    trainer.fit(data)?;
    Ok(())
}

/// Bytes of memory that this process has, where the system says so in Linux' way.
fn resident() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(1024.0 * line.split_whitespace().nth(1)?.parse::<f64>().ok()?)
}
