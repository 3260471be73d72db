//! The steps of this crate beside those of PyTorch, in turn, as a Markdown table:
//!
//! ```console
//! cargo bench --bench against_pytorch -- --python python3
//! ```
//!
//! Each measurement is a process of its own, so that its peak memory is its own. The matrix peak is that of a product of
//! 2048 x 1024 and 1024 x 1024 in f32, by PyTorch's library, which is made after each of its runs. Between cores is how long one of
//! two threads waits for what the other has written, the least and the most of what was found before each run: a virtual machine's
//! cores may share a cache at one time and none at another. `--filter dcgan` takes some rows, `--rounds N` the number of rounds,
//! `--threads N` the threads of both sides.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use clap::Parser;
use wgan::data::TensorDataset;
use wgan::random::Stream;
use wgan::zoo::{
    CriticNorm, DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig, MlpCritic,
    MlpGenerator, ResNet32Config, ResNet32Critic, ResNet32Generator, ResNet64Config,
    ResNet64Critic, ResNet64Generator,
};
use wgan::{Critic, Generator, ModelBuilder, Network, TrainConfig, WganTrainer};

/// Generator steps before the clock starts, and timed ones.
#[derive(Clone, Copy)]
struct Steps {
    warm_up: usize,
    timed: usize,
}

const fn steps(warm_up: usize, timed: usize) -> Steps {
    Steps { warm_up, timed }
}

/// Model with its width, strategy, batch, steps. Where PyTorch takes a minute or more a generator step there is less of a warm-up, and where
/// it takes ten none: such a row begins cold on both sides.
const ROWS: &[(&str, &str, usize, Steps)] = &[
    ("mlp", "clip", 64, steps(2, 150)),
    ("mlp", "gp", 64, steps(2, 100)),
    ("dcgan32-32", "clip", 64, steps(2, 10)),
    ("dcgan32-32", "gp", 64, steps(2, 6)),
    ("dcgan32-64", "clip", 64, steps(2, 4)),
    ("mlp", "clip", 256, steps(2, 50)),
    ("mlp", "gp", 256, steps(2, 30)),
    ("dcgan32-32", "clip", 256, steps(2, 3)),
    ("dcgan32-32", "gp", 256, steps(2, 2)),
    ("dcgan28-32", "clip", 64, steps(2, 8)),
    ("dcgan28-32", "gp", 64, steps(2, 5)),
    ("dcgan28-32", "gp", 256, steps(2, 2)),
    ("dcgan64-32", "clip", 64, steps(2, 2)),
    ("dcgan64-32", "gp", 64, steps(2, 2)),
    ("dcgan64-32", "gp", 256, steps(2, 1)),
    ("resnet32-32", "gp", 64, steps(2, 2)),
    ("resnet32-32", "gp", 256, steps(2, 1)),
    ("resnet32-128", "gp", 64, steps(2, 1)),
    ("resnet32-128", "gp", 256, steps(1, 1)),
    ("resnet64-16", "gp", 64, steps(2, 1)),
    ("resnet64-16", "gp", 256, steps(1, 1)),
    ("resnet64-64", "gp", 64, steps(1, 1)),
    ("resnet64-64", "gp", 256, steps(0, 1)),
];

const N_CRITIC: usize = 5;

#[derive(Parser)]
struct Arguments {
    /// A Python with PyTorch
    #[arg(long, default_value = "python3")]
    python: String,
    /// Rounds of both sides in turn; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads of both sides
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only rows whose beginning, such as `dcgan32-32 gp`, contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Measures one row in this process: MODEL STRATEGY BATCH WARM_UP TIMED
    #[arg(long, num_args = 5, hide = true)]
    one: Option<Vec<String>>,
    /// Cargo passes this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match arguments.one.as_deref() {
        Some([model, strategy, batch, warm_up, timed]) => {
            let steps = Steps { warm_up: warm_up.parse()?, timed: timed.parse()? };
            measure(model, strategy, batch.parse()?, steps)
        }
        _ => compare(arguments),
    }
}

/// What a process printed about itself.
struct Figures {
    seconds: f64,
    peak_mib: f64,
    /// What a step needs, and how many a second a large product makes; PyTorch's process counts and measures.
    flops: f64,
    matrix_peak: f64,
}

impl Figures {
    fn of(command: &mut Command) -> Result<Self> {
        let output = command.output().with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        let figures: serde_json::Value =
            serde_json::from_str(line).with_context(|| line.to_owned())?;
        let get = |name: &str| figures[name].as_f64().unwrap_or(f64::NAN);
        Ok(Self {
            seconds: get("seconds"),
            peak_mib: get("peak_mib"),
            flops: get("flops"),
            matrix_peak: get("matrix_peak"),
        })
    }
}

fn compare(arguments: &Arguments) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/pytorch/steps.py");
    println!(
        "| model | strategy | batch | PyTorch, ms | wgan, ms | ratio | PyTorch, MiB | wgan, MiB | between cores, ns | matrix peak, GFLOP/s | share of it |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (model, strategy, batch, Steps { warm_up, timed }) in ROWS {
        if !format!("{model} {strategy} {batch}").contains(&arguments.filter) {
            continue;
        }
        let [batch, warm_up, timed] = [batch, warm_up, timed].map(ToString::to_string);
        let row = [*model, *strategy, &batch, &warm_up, &timed];
        let threads = arguments.threads.to_string();
        let (mut theirs, mut ours, mut between) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.rounds.max(1) {
            between.push(nanoseconds_between_cores());
            theirs.push(Figures::of(
                Command::new(&arguments.python).arg(script).args(row).arg(&threads),
            )?);
            between.push(nanoseconds_between_cores());
            ours.push(Figures::of(
                Command::new(std::env::current_exe()?)
                    .arg("--one")
                    .args(row)
                    .env("RAYON_NUM_THREADS", &threads)
                    .env("CANDLE_NUM_THREADS", &threads),
            )?);
        }
        let median = |figures: &[Figures], of: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = figures.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        between.sort_by(f64::total_cmp);
        // The best that the machine did in any round.
        let peak = theirs.iter().map(|f| f.matrix_peak).fold(0.0, f64::max);
        let (torch, wgan) = (median(&theirs, |f| f.seconds), median(&ours, |f| f.seconds));
        println!(
            "| {model} | {strategy} | {batch} | {:.1} | {:.1} | {:.2} | {:.0} | {:.0} | {:.0} to {:.0} | {:.0} | {:.0} % |",
            torch * 1e3,
            wgan * 1e3,
            wgan / torch,
            median(&theirs, |f| f.peak_mib),
            median(&ours, |f| f.peak_mib),
            between[0],
            between[between.len() - 1],
            peak / 1e9,
            median(&theirs, |f| f.flops) / wgan / peak * 100.0,
        );
    }
    Ok(())
}

/// How long a thread waits for what another has just written: the mean of many times, of which the least, since threads begin on
/// one core and are moved.
fn nanoseconds_between_cores() -> f64 {
    const TURNS: u32 = 20_000;
    let turn = AtomicU32::new(0);
    let wait_for = |wanted: u32| {
        let mut looks = 0_u32;
        while turn.load(SeqCst) != wanted {
            looks += 1;
            // Both may be on one core.
            if looks.is_multiple_of(1 << 14) {
                std::thread::yield_now();
            }
        }
    };
    let of_many = |first: u32| {
        let start = Instant::now();
        for i in (first..first + 2 * TURNS).step_by(2) {
            turn.store(i, SeqCst);
            wait_for(i + 1);
        }
        start.elapsed().as_secs_f64() / f64::from(2 * TURNS) * 1e9
    };
    let firsts = || (0..10).map(|i| 2 * TURNS * i + 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in firsts().flat_map(|first| (first..first + 2 * TURNS).step_by(2)) {
                wait_for(i);
                turn.store(i + 1, SeqCst);
            }
        });
        firsts().map(of_many).fold(f64::INFINITY, f64::min)
    })
}

fn measure(model: &str, strategy: &str, batch: usize, steps: Steps) -> Result<()> {
    let (kind, width) = model.split_once('-').unwrap_or((model, "0"));
    let width = width.parse()?;
    let build = ModelBuilder::new(0);
    let dcgan = |image_size: usize| {
        let generator =
            DcganGeneratorConfig { image_size, channels: 1, width, ..Default::default() };
        let critic = DcganCriticConfig {
            image_size,
            channels: 1,
            width,
            norm: CriticNorm::None,
            ..Default::default()
        };
        (generator, critic)
    };
    match kind {
        "mlp" => time(
            build.generator(|vb| MlpGenerator::new(Default::default(), vb))?,
            build.critic(|vb| MlpCritic::new(Default::default(), vb))?,
            &[1, 28, 28],
            strategy,
            batch,
            steps,
        ),
        "dcgan28" | "dcgan32" | "dcgan64" => {
            let size = kind.trim_start_matches("dcgan").parse()?;
            let (generator, critic) = dcgan(size);
            time(
                build.generator(|vb| DcganGenerator::new(generator, vb))?,
                build.critic(|vb| DcganCritic::new(critic, vb))?,
                &[1, size, size],
                strategy,
                batch,
                steps,
            )
        }
        "resnet32" => {
            let config = ResNet32Config { width, ..Default::default() };
            time(
                build.generator(|vb| ResNet32Generator::new(config.clone(), vb))?,
                build.critic(|vb| ResNet32Critic::new(config.clone(), vb))?,
                &[3, 32, 32],
                strategy,
                batch,
                steps,
            )
        }
        "resnet64" => {
            let config = ResNet64Config { width, ..Default::default() };
            time(
                build.generator(|vb| ResNet64Generator::new(config.clone(), vb))?,
                build.critic(|vb| ResNet64Critic::new(config.clone(), vb))?,
                &[3, 64, 64],
                strategy,
                batch,
                steps,
            )
        }
        other => bail!("no model {other}"),
    }
}

/// Trains and prints the median seconds of a critic step with its share of a generator step.
fn time<G: Generator, C: Critic>(
    generator: Network<G>,
    critic: Network<C>,
    shape: &[usize],
    strategy: &str,
    batch: usize,
    Steps { warm_up, timed }: Steps,
) -> Result<()> {
    let shape = [&[4 * batch], shape].concat();
    let samples: Tensor =
        Stream::new(0, "data", 0).uniform(-1.0, 1.0, shape, DType::F32, &Device::Cpu)?;
    let data = TensorDataset::new(samples)?;
    let paper = if strategy == "clip" { TrainConfig::wgan() } else { TrainConfig::wgan_gp() };
    let config = TrainConfig {
        batch_size: batch,
        n_critic: N_CRITIC,
        generator_steps: (warm_up + timed) as u64,
        ..paper
    };
    let history = WganTrainer::new(generator, critic, config)?.fit(&data)?;
    let ends = history.iter().map(|record| record.seconds);
    let ends: Vec<f64> = std::iter::once(0.0).chain(ends).collect();
    let mut seconds: Vec<f64> =
        ends.windows(2).skip(warm_up).map(|pair| pair[1] - pair[0]).collect();
    seconds.sort_by(f64::total_cmp);
    let Some(median) = seconds.get(seconds.len() / 2) else { bail!("no timed steps") };
    let median = median / N_CRITIC as f64;
    println!("{{\"seconds\": {median}, \"peak_mib\": {}}}", peak_mib());
    Ok(())
}

/// The most memory that this process has held, where the system tells.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
