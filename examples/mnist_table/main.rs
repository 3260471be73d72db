//! A table of scores on MNIST: three strategies, two pairs of networks, the papers' settings and tuned ones, three seeds.
//!
//! **Claims.** The papers' learning rates are for runs of 100,000 steps and more; in a run of minutes on two cores tuned ones come
//! further, by each strategy. Either penalty comes further than clipping (WGAN-GP, section 5; WGAN-div, section 4). No generator comes
//! nearer to the test digits than the training digits are.
//!
//! **Measured** on 10,000 generated samples against the 10,000 test digits, by the classifier of digits that the crate ships: the
//! Frechet distance of its features, the classifier score (the inception score's formula on its classes, 10 at most) and the
//! coverage (k = 5). They compare with each other, not with figures by Inception's features or by another classifier's: the
//! table, the verdict and what the runs leave behind name it.
//!
//! **Settings.** The papers': `TrainConfig::wgan`, `wgan_gp` and `wgan_div` as they are. Tuned, on seed 7, which is none of the
//! table's, by the Frechet distance of short runs (250 steps of MLPs, 100 of DCGANs, 200 under clipping): learning rates of 2e-3
//! with betas (0.5, 0.9) for the penalties, better than 1e-3 in all four cases; RMSProp 1e-3 and c = 0.03 under clipping, better
//! with both networks than 1e-3 and 0.1 or 5e-4 and 0.01. With them go rates that fall linearly to 0 over the last three
//! quarters, as in `toy_2d`, and samples from the generator's moving average (0.99). Both have 600 steps (MLPs) or 300 (DCGANs of
//! width 16): few, and the figures are those of unfinished generators. To try other ones, each in a folder of its own, the bound
//! of clipping with `--clip`:
//!
//! ```text
//! cargo run --example mnist_table -- --seed 7 --seeds 1 --model mlp --lipschitz gp --settings tuned \
//!     --generator-steps 250 --learning-rate 1e-3 --out runs/tuning/mlp_gp_1e-3
//! ```
//!
//! Each finished run leaves its figures in `runs/` in the folder, and an interrupted run of the example goes on from there when it is
//! started again with the same flags. What a run of other settings has left there is refused, and so is a damaged file.
//!
//! `cargo run --example mnist_table` takes some ten minutes of two cores; `--quick`, the MLP with the penalty, one seed,
//! 250 steps and 4,000 samples, one or two. `--model`, `--lipschitz` and `--settings` choose rows, `--generator-steps` makes runs longer.

#[path = "../common/experiment.rs"]
mod experiment;
#[path = "../common/finished.rs"]
mod finished;
mod judge;
mod rows;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use experiment::{Experiment, Flags};
use finished::train_all;
use judge::{Figures, Judge, NEIGHBOUR, SPLITS, look, train};
use rows::{Digits, Model, Row, RunSettings, Strategy, Trial, Tuning};
use table::{Measured, Scores, figure, picture, verdict};
use wgan::data::mnist::{self, Split};
use wgan::files;
use wgan::metrics::{Features, MnistClassifier};

/// Trains MLPs and DCGANs on MNIST by each strategy and writes a table of their scores.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,

    /// How many seeds each row has, from that of --seed upwards [default: 3, with --quick 1]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,

    /// Only these networks [default: both, with --quick the MLP]
    #[arg(long, value_enum, value_delimiter = ',')]
    model: Vec<Model>,

    /// Only these strategies [default: all, with --quick gp]
    #[arg(long, value_enum, value_delimiter = ',')]
    lipschitz: Vec<Strategy>,

    /// Only these settings [default: both]
    #[arg(long, value_enum, value_delimiter = ',')]
    settings: Vec<Tuning>,

    #[command(flatten)]
    trial: Trial,

    /// Generator steps of each run [default: 600 for MLPs, with --quick 250, and 300 for DCGANs]
    #[arg(long, value_name = "N")]
    generator_steps: Option<u64>,

    /// Folder with the MNIST files, packed or not [default: data/mnist of the repository]
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"), hide_default_value = true)]
    mnist: PathBuf,
}

fn main() -> ExitCode {
    experiment::main(run)
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let flags = &arguments.flags;
    let last = arguments.seeds.unwrap_or(flags.pick(3, 1)) - 1;
    let last = flags.seed.checked_add(last).context("--seed: the last seed is above 2^64 - 1")?;
    let rows = arguments.rows();
    let steps = |row: Row| arguments.generator_steps.unwrap_or_else(|| row.model.steps(flags));
    for &row in &rows {
        row.config(flags.seed, steps(row), arguments.trial).check()?;
    }
    let experiment = Experiment::start("mnist_table", flags)?;
    let folder = experiment.folder.folder().join("runs");
    files::ensure_writable_folder(&folder)?;
    let training = mnist::load(&arguments.mnist, Split::Train)?;
    let samples = flags.pick(10_000, 4_000);
    let test = mnist::load(&arguments.mnist, Split::Test)?.take(samples)?;
    let (training_digits, test_digits) = (Digits::of(&training)?, Digits::of(&test)?);
    let network = MnistClassifier::shipped()?;
    let classifier = network.name().to_owned();
    let runs: Vec<_> = (rows.iter())
        .flat_map(|&row| (flags.seed..=last).map(move |seed| (row, seed)))
        .map(|(row, seed)| {
            let settings = RunSettings {
                row,
                training: row.config(seed, steps(row), arguments.trial),
                networks: row.model.networks(),
                classifier: classifier.clone(),
                neighbour: NEIGHBOUR,
                splits: SPLITS,
                training_digits,
                test_digits,
                samples,
            };
            settings.run(&folder)
        })
        .collect();

    // What cannot be gone on from is refused before anything is computed.
    let finished = runs.iter().map(|run| Ok(run.read::<Figures>()?.is_some()));
    let finished = finished.collect::<Result<Vec<_>>>()?.into_iter().filter(|&is| is).count();
    let (real, _) = look(&network, test.samples())?;
    let judge = Judge::new(network, &real)?;
    let training_figures = judge.figures(training.clone().take(samples)?.samples())?;
    let finished = AtomicUsize::new(finished);
    let figures = train_all(
        &runs,
        |settings| settings.row.model == Model::Dcgan,
        |run| {
            let figures = train(run, &training, &judge)?;
            let [model, strategy, tuning] = run.settings.row.words();
            eprintln!(
                "{} of {}: {model} {strategy} {tuning} seed {}: Frechet distance {:.2}, coverage {:.3} ({classifier})",
                finished.fetch_add(1, Ordering::Relaxed) + 1,
                runs.len(),
                run.settings.training.seed,
                figures.frechet_distance,
                figures.coverage
            );
            Ok(figures)
        },
    )?;

    let found: Vec<_> = runs.iter().zip(figures).collect();
    let measured = Measured {
        classifier,
        samples: [samples, test_digits.count],
        training_digits: training_figures,
        rows: rows.iter().map(|&row| Scores::of(row, &found)).collect(),
    };
    let table = measured.table()?;
    let folder = experiment.folder.folder();
    files::write_atomically(&folder.join("table.md"), table.as_bytes())?;
    // Nobody may be reading: the file holds the same.
    let _ = write!(std::io::stdout(), "{table}");
    picture(&found, flags.seed)?.save_png(folder.join("samples.png"))?;
    experiment.figure("table", &figure(&measured))?;
    let settings: Vec<_> = runs.iter().map(|run| &run.settings).collect();
    experiment.finish(&settings, &measured, &verdict(&measured))
}

impl Arguments {
    /// Those that the flags choose, in the table's order.
    fn rows(&self) -> Vec<Row> {
        fn chosen<T: ValueEnum + PartialEq + Copy>(wanted: &[T], default: &[T]) -> Vec<T> {
            let wanted = if wanted.is_empty() { default } else { wanted };
            T::value_variants().iter().copied().filter(|value| wanted.contains(value)).collect()
        }
        let flags = &self.flags;
        let models = chosen(&self.model, flags.pick(Model::value_variants(), &[Model::Mlp]));
        let strategies = flags.pick(Strategy::value_variants(), &[Strategy::Gp]);
        let strategies = chosen(&self.lipschitz, strategies);
        let settings = chosen(&self.settings, Tuning::value_variants());
        let mut rows = Vec::new();
        for model in models {
            for &lipschitz in &strategies {
                rows.extend(settings.iter().map(|&settings| Row { model, lipschitz, settings }));
            }
        }
        rows
    }
}
