//! A table of scores on MNIST: three strategies, two pairs of networks, the papers' settings and tuned ones, three seeds.
//!
//! **Claims.** The papers' learning rates are for runs of 100,000 steps and more; in a run of minutes on two cores tuned ones come
//! further, by each strategy. No generator comes nearer to the test digits than the training digits are.
//!
//! **Measured** on 10,000 generated samples against the 10,000 test digits, by the classifier of digits that the crate ships: the
//! Frechet distance of its features, the classifier score (the inception score's formula on its classes, 10 at most) and the
//! coverage (k = 5). They compare with each other, not with figures by Inception's features.
//!
//! **Settings.** The papers': `TrainConfig::wgan`, `wgan_gp` and `wgan_div` as they are. Tuned, on seed 7, which is none of the
//! table's, by the Frechet distance of short runs (250 steps of MLPs, 100 of DCGANs, 200 under clipping): learning rates of 2e-3
//! with betas (0.5, 0.9) for the penalties, better than 1e-3 in all four cases; RMSProp 1e-3 and c = 0.03 under clipping, better
//! with both networks than 1e-3 and 0.1 or 5e-4 and 0.01. With them go rates that fall linearly to 0 over the last three
//! quarters, as in `toy_2d`, and samples from the generator's moving average (0.99). Both have 600 steps (MLPs) or 300 (DCGANs of
//! width 16): few, and the figures are those of unfinished generators.
//!
//! Each finished run leaves its figures in `runs/` in the folder, and an interrupted run of the example goes on from there when it is
//! started again with the same flags. What a run of other settings has left there is refused, and so is a damaged file.
//!
//! `cargo run --example mnist_table` takes some 50 minutes of two cores; `--quick`, the MLP with the penalty, one seed and 250
//! steps, some two. `--model`, `--lipschitz` and `--settings` choose rows, `--generator-steps` makes runs longer.

#[path = "common/experiment.rs"]
mod experiment;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use clap::{Parser, ValueEnum};
use experiment::{Claim, Experiment, Flags};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wgan::data::TensorDataset;
use wgan::data::mnist::{self, Split};
use wgan::metrics::{
    Features, Gaussian, InceptionScore, MnistClassifier, Neighbourhoods, Points, batches_of,
};
use wgan::optimizers::{OptimizerConfig, UpdateConfig};
use wgan::report::{Figure, Panel, Picture, image_grid};
use wgan::schedules::RateSchedule;
use wgan::zoo::{
    CriticNorm, DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig, MlpCritic,
    MlpCriticConfig, MlpGenerator, MlpGeneratorConfig,
};
use wgan::{
    Critic, Ema, Generator, Lipschitz, ModelBuilder, Network, TrainConfig, WganTrainer, files,
};

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

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Model {
    /// The fully connected pair of the crate's defaults
    Mlp,
    /// A DCGAN of width 16
    Dcgan,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Strategy {
    Clip,
    Gp,
    Div,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tuning {
    /// The paper's own
    Paper,
    /// Those of this example's head
    Tuned,
}

/// Generated samples that are measured, and the most real ones.
const SAMPLES: usize = 10_000;
/// Samples of each row in the picture.
const SHOWN: usize = 20;
/// Splits of the classifier score.
const SPLITS: usize = 10;
/// The neighbour whose distance is the radius of coverage's balls.
const NEIGHBOUR: usize = 5;
/// The columns of the table: the figure's name, its title, digits after the point.
const COLUMNS: [(&str, &str, usize); 3] = [
    ("frechet_distance", "Frechet distance", 1),
    ("classifier_score", "classifier score", 2),
    ("coverage", "coverage", 3),
];

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Row {
    model: Model,
    lipschitz: Strategy,
    settings: Tuning,
}

impl Row {
    fn words(self) -> [&'static str; 3] {
        [
            match self.model {
                Model::Mlp => "MLP",
                Model::Dcgan => "DCGAN",
            },
            match self.lipschitz {
                Strategy::Clip => "clip",
                Strategy::Gp => "gp",
                Strategy::Div => "div",
            },
            match self.settings {
                Tuning::Paper => "paper",
                Tuning::Tuned => "tuned",
            },
        ]
    }

    fn config(self, seed: u64, generator_steps: u64) -> TrainConfig {
        let paper = match self.lipschitz {
            Strategy::Clip => TrainConfig::wgan(),
            Strategy::Gp => TrainConfig::wgan_gp(),
            Strategy::Div => TrainConfig::wgan_div(),
        };
        let paper = TrainConfig { seed, generator_steps, ..paper };
        match self.settings {
            Tuning::Paper => paper,
            Tuning::Tuned => self.tuned(paper),
        }
    }

    fn tuned(self, paper: TrainConfig) -> TrainConfig {
        let (lipschitz, optimizer) = match self.lipschitz {
            Strategy::Clip => (Lipschitz::Clip { c: 0.03 }, OptimizerConfig::rms_prop(1e-3)),
            Strategy::Gp | Strategy::Div => {
                (paper.lipschitz, OptimizerConfig::adam(2e-3, 0.5, 0.9))
            }
        };
        let steps = paper.generator_steps;
        let schedule = RateSchedule::linear(steps / 4, steps);
        let updates = UpdateConfig { schedule, ..Default::default() };
        TrainConfig {
            lipschitz,
            critic_optimizer: optimizer,
            generator_optimizer: optimizer,
            critic_updates: updates.clone(),
            generator_updates: updates,
            ema: Some(Ema::new(0.99)),
            ..paper
        }
    }
}

/// The two networks of a row.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(untagged)]
enum Networks {
    Mlp { generator: MlpGeneratorConfig, critic: MlpCriticConfig },
    Dcgan { generator: DcganGeneratorConfig, critic: DcganCriticConfig },
}

impl Model {
    fn networks(self) -> Networks {
        const WIDTH: usize = 16;
        match self {
            Self::Mlp => {
                Networks::Mlp { generator: Default::default(), critic: Default::default() }
            }
            Self::Dcgan => Networks::Dcgan {
                generator: DcganGeneratorConfig {
                    image_size: 28,
                    channels: 1,
                    width: WIDTH,
                    ..Default::default()
                },
                // One critic for all three strategies: penalties do not allow batch normalisation.
                critic: DcganCriticConfig {
                    image_size: 28,
                    channels: 1,
                    width: WIDTH,
                    norm: CriticNorm::None,
                    ..Default::default()
                },
            },
        }
    }

    fn steps(self, flags: &Flags) -> u64 {
        match self {
            Self::Mlp => flags.pick(600, 250),
            Self::Dcgan => 300,
        }
    }
}

/// Enough to tell one folder of digits from another.
#[derive(Serialize, Clone, Copy)]
struct Digits {
    count: usize,
    /// Of the pixels of the first 1,000.
    mean: f64,
}

impl Digits {
    fn of(set: &TensorDataset) -> Result<Self> {
        let samples = set.samples();
        let count = samples.dim(0)?;
        let first = samples.narrow(0, 0, count.min(1000))?.to_dtype(DType::F64)?;
        Ok(Self { count, mean: first.mean_all()?.to_scalar()? })
    }
}

/// All that a run's figures depend on.
#[derive(Serialize)]
struct RunSettings {
    version: &'static str,
    #[serde(flatten)]
    row: Row,
    training: TrainConfig,
    networks: Networks,
    training_digits: Digits,
    test_digits: Digits,
    samples: usize,
}

type Figures = BTreeMap<String, f64>;

/// What a finished run leaves in its file.
#[derive(Serialize, Deserialize)]
struct Finished {
    settings: Value,
    figures: Figures,
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let flags = &arguments.flags;
    let last = arguments.seeds.unwrap_or(flags.pick(3, 1)) - 1;
    let last = flags.seed.checked_add(last).context("--seed: the last seed is above 2^64 - 1")?;
    let rows = arguments.rows();
    let steps = |row: Row| arguments.generator_steps.unwrap_or_else(|| row.model.steps(flags));
    for &row in &rows {
        row.config(flags.seed, steps(row)).check()?;
    }
    let experiment = Experiment::start("mnist_table", flags)?;
    let folder = experiment.folder.folder().join("runs");
    files::ensure_writable_folder(&folder)?;
    let training = mnist::load(&arguments.mnist, Split::Train)?;
    let test = mnist::load(&arguments.mnist, Split::Test)?.take(SAMPLES)?;
    let (training_digits, test_digits) = (Digits::of(&training)?, Digits::of(&test)?);
    let runs: Vec<Run> = (rows.iter())
        .flat_map(|&row| (flags.seed..=last).map(move |seed| (row, seed)))
        .map(|(row, seed)| {
            let settings = RunSettings {
                version: env!("CARGO_PKG_VERSION"),
                row,
                training: row.config(seed, steps(row)),
                networks: row.model.networks(),
                training_digits,
                test_digits,
                samples: SAMPLES,
            };
            Run::new(&folder, settings)
        })
        .collect();

    refuse_others(&runs)?;
    let network = MnistClassifier::shipped()?;
    let (real, _) = look(&network, test.samples())?;
    let judge = Judge::new(network, &real)?;
    let training_figures = judge.figures(training.clone().take(SAMPLES)?.samples())?;
    train_all(&runs, &training, &judge)?;

    let runs = runs.iter().map(|run| Ok((run, run.read()?))).collect::<Result<Vec<_>>>()?;
    let measured = Measured {
        training_digits: training_figures,
        rows: rows.iter().map(|&row| Scores::of(row, &runs)).collect(),
    };
    let table = measured.table()?;
    let folder = experiment.folder.folder();
    files::write_atomically(&folder.join("table.md"), table.as_bytes())?;
    // Nobody may be reading: the file holds the same.
    let _ = write!(std::io::stdout(), "{table}");
    picture(&runs, flags.seed)?.save_png(folder.join("samples.png"))?;
    experiment.figure("table", &figure(&measured))?;
    let settings: Vec<_> = runs.iter().map(|(run, _)| &run.settings).collect();
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

/// One run of one row.
struct Run {
    settings: RunSettings,
    /// Its files, without their ending.
    stem: PathBuf,
}

impl Run {
    fn new(folder: &Path, settings: RunSettings) -> Self {
        let [model, strategy, tuning] = settings.row.words().map(str::to_lowercase);
        let TrainConfig { seed, generator_steps, .. } = settings.training;
        let stem = format!("{model}_{strategy}_{tuning}_{generator_steps}_steps_seed_{seed}");
        Self { settings, stem: folder.join(stem) }
    }

    /// The file with the figures, which is there when the run is finished.
    fn path(&self) -> PathBuf {
        self.stem.with_extension("json")
    }

    fn is_finished(&self) -> bool {
        !matches!(self.path().try_exists(), Ok(false))
    }

    /// The file with the samples that the picture shows.
    fn samples_path(&self) -> PathBuf {
        self.stem.with_extension("safetensors")
    }

    /// The figures that the run has left, all of them, of these very settings.
    fn read(&self) -> Result<Figures> {
        let path = self.path();
        let named = || path.display();
        let bytes = std::fs::read(&path).with_context(|| format!("{}: reading", named()))?;
        let again = "remove it, and the run is done again";
        let Finished { settings, figures } = serde_json::from_slice(&bytes)
            .with_context(|| format!("{}: not what a run leaves behind; {again}", named()))?;
        // Through text, as the other side has come.
        let expected: Value = serde_json::from_str(&serde_json::to_string(&self.settings)?)?;
        if let Some(difference) = difference(&expected, &settings) {
            bail!("{}: of other settings: {difference}; {again}, or take another --out", named());
        }
        for (name, ..) in COLUMNS {
            ensure!(figures.contains_key(name), "{}: no figure {name}; {again}", named());
        }
        Ok(figures)
    }

    fn train(&self, digits: &TensorDataset, judge: &Judge<'_>) -> Result<Figures> {
        let build = ModelBuilder::new(self.settings.training.seed);
        match &self.settings.networks {
            Networks::Mlp { generator, critic } => self.fit(
                build.generator(|vb| MlpGenerator::new(generator.clone(), vb))?,
                build.critic(|vb| MlpCritic::new(critic.clone(), vb))?,
                digits,
                judge,
            ),
            Networks::Dcgan { generator, critic } => self.fit(
                build.generator(|vb| DcganGenerator::new(generator.clone(), vb))?,
                build.critic(|vb| DcganCritic::new(critic.clone(), vb))?,
                digits,
                judge,
            ),
        }
    }

    /// Trains, measures and writes what [`read`](Self::read) reads.
    fn fit<G: Generator, C: Critic>(
        &self,
        generator: Network<G>,
        critic: Network<C>,
        digits: &TensorDataset,
        judge: &Judge<'_>,
    ) -> Result<Figures> {
        let mut trainer = WganTrainer::new(generator, critic, self.settings.training.clone())?;
        trainer.fit(digits)?;
        let samples = trainer.sample(SAMPLES)?;
        let figures = judge.figures(&samples)?;
        let shown = BTreeMap::from([("samples".to_owned(), samples.narrow(0, 0, SHOWN)?)]);
        files::write_safetensors(&self.samples_path(), &shown)?;
        let settings = serde_json::to_value(&self.settings)?;
        let finished = Finished { settings, figures: figures.clone() };
        files::write_atomically(&self.path(), &serde_json::to_vec_pretty(&finished)?)?;
        Ok(figures)
    }
}

/// The first place where two settings differ.
fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    if let (Value::Object(ours), Value::Object(theirs)) = (ours, theirs) {
        let names = ours.keys().chain(theirs.keys());
        return names.into_iter().find_map(|name| {
            let [ours, theirs] = [ours, theirs].map(|map| map.get(name).unwrap_or(&Value::Null));
            let within = difference(ours, theirs)?;
            Some(if ours.is_object() && theirs.is_object() {
                format!("{name}.{within}")
            } else {
                format!("{name} {within}")
            })
        });
    }
    (ours != theirs).then(|| format!("is {theirs} there, {ours} here"))
}

/// What measures samples against the test digits, whose features are computed once.
struct Judge<'a> {
    network: MnistClassifier,
    gaussian: Gaussian,
    neighbourhoods: Neighbourhoods<'a>,
}

impl<'a> Judge<'a> {
    fn new(network: MnistClassifier, real: &'a Points) -> Result<Self> {
        let gaussian = Gaussian::of(real)?;
        Ok(Self { network, gaussian, neighbourhoods: Neighbourhoods::new(real, NEIGHBOUR)? })
    }

    fn figures(&self, samples: &Tensor) -> Result<Figures> {
        let (features, classifier_score) = look(&self.network, samples)?;
        let frechet_distance = self.gaussian.frechet_distance(&Gaussian::of(&features)?)?;
        let coverage = self.neighbourhoods.coverage_by(&features)?;
        let values = [frechet_distance, classifier_score, coverage];
        Ok(COLUMNS.iter().map(|(name, ..)| name.to_string()).zip(values).collect())
    }
}

/// The features of samples and their classifier score, from one pass of the network.
fn look(network: &MnistClassifier, samples: &Tensor) -> Result<(Points, f64)> {
    let mut score = InceptionScore::new(samples.dim(0)?, SPLITS)?;
    let mut features = Vec::new();
    for batch in batches_of(samples, 500) {
        let outputs = network.outputs(&batch?)?;
        features.extend_from_slice(Points::from_tensor(&outputs.features)?.values());
        let probabilities = outputs.probabilities.context("the network has no classes")?;
        score.add(&Points::from_tensor(&probabilities)?)?;
    }
    Ok((Points::new(features, network.dims())?, score.finish()?.mean))
}

/// Whatever is there and cannot be gone on from, before anything is computed.
fn refuse_others(runs: &[Run]) -> Result<()> {
    runs.iter().filter(|run| run.is_finished()).try_for_each(|run| run.read().map(drop))
}

/// Small products leave a core idle: two runs go side by side, the longest first, but for those that are finished.
fn train_all(runs: &[Run], digits: &TensorDataset, judge: &Judge<'_>) -> Result<()> {
    let mut to_do: Vec<_> = runs.iter().filter(|run| !run.is_finished()).collect();
    to_do.sort_by_key(|run| run.settings.row.model == Model::Dcgan);
    let (all, finished) = (runs.len(), Mutex::new(runs.len() - to_do.len()));
    let queue = Mutex::new(to_do);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<()> {
        while let Some(run) = next() {
            let figures = run.train(digits, judge).inspect_err(|_| while next().is_some() {})?;
            let mut finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
            *finished += 1;
            let [model, strategy, tuning] = run.settings.row.words();
            eprintln!(
                "{finished} of {all}: {model} {strategy} {tuning} seed {}: Frechet distance {:.2}, coverage {:.3}",
                run.settings.training.seed, figures["frechet_distance"], figures["coverage"]
            );
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().try_for_each(|worker| worker.join().ok().context("a run panicked")?)
    })
}

/// The figures of a row.
#[derive(Serialize)]
struct Scores {
    #[serde(flatten)]
    row: Row,
    generator_steps: u64,
    runs: Vec<SeedScores>,
    mean: Figures,
    /// The sample deviation over the seeds, where there are two or more.
    deviation: Option<Figures>,
}

#[derive(Serialize)]
struct SeedScores {
    seed: u64,
    figures: Figures,
}

impl Scores {
    fn of(row: Row, runs: &[(&Run, Figures)]) -> Self {
        let of_row = runs.iter().filter(|(run, _)| run.settings.row == row);
        let (configs, figures): (Vec<_>, Vec<_>) =
            of_row.map(|(run, figures)| (&run.settings.training, figures.clone())).unzip();
        let over_seeds = |of: fn(&[f64]) -> f64| -> Figures {
            let values = |name| figures.iter().map(|run| run[name]).collect::<Vec<_>>();
            COLUMNS.iter().map(|&(name, ..)| (name.to_owned(), of(&values(name)))).collect()
        };
        Self {
            row,
            generator_steps: configs[0].generator_steps,
            mean: over_seeds(mean),
            deviation: (figures.len() > 1).then(|| over_seeds(deviation)),
            runs: (configs.iter().zip(figures))
                .map(|(config, figures)| SeedScores { seed: config.seed, figures })
                .collect(),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// With n - 1.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

#[derive(Serialize)]
struct Measured {
    /// The figures of 10,000 training digits.
    training_digits: Figures,
    rows: Vec<Scores>,
}

impl Measured {
    /// As Markdown.
    fn table(&self) -> Result<String> {
        let mut table = String::from("| networks | strategy | settings | steps |");
        for (_, title, _) in COLUMNS {
            write!(table, " {title} |")?;
        }
        table += "\n|---|---|---|--:|";
        table += &"--:|".repeat(COLUMNS.len());
        for Scores { row, generator_steps, mean, deviation, .. } in &self.rows {
            let [model, strategy, tuning] = row.words();
            write!(table, "\n| {model} | {strategy} | {tuning} | {generator_steps} |")?;
            for (name, _, digits) in COLUMNS {
                write!(table, " {:.digits$}", mean[name])?;
                if let Some(deviation) = deviation {
                    write!(table, " +- {:.digits$}", deviation[name])?;
                }
                table += " |";
            }
        }
        table += "\n| *training digits* | | | |";
        for (name, _, digits) in COLUMNS {
            write!(table, " {:.digits$} |", self.training_digits[name])?;
        }
        table += "\n";
        Ok(table)
    }
}

/// Samples of the first seed, a row for each row of the table.
fn picture(runs: &[(&Run, Figures)], seed: u64) -> Result<Picture> {
    let first = runs.iter().filter(|(run, _)| run.settings.training.seed == seed);
    let rows = first.map(|(run, _)| -> Result<Tensor> {
        let path = run.samples_path();
        let again = format!("{}: no samples; remove the file beside it too", path.display());
        let mut tensors =
            candle_core::safetensors::load(&path, &Device::Cpu).with_context(|| again.clone())?;
        let samples = tensors.remove("samples").context(again.clone())?;
        ensure!(samples.dims() == [SHOWN, 1, 28, 28], again);
        Ok(samples)
    });
    Ok(image_grid(&Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?, SHOWN)?)
}

/// Every run, the better the further to the upper left.
fn figure(measured: &Measured) -> Figure {
    let mut figure =
        Figure::new("Coverage against Frechet distance").columns(2).panel_size(420, 320);
    for &model in Model::value_variants() {
        let rows: Vec<_> =
            measured.rows.iter().filter(|scores| scores.row.model == model).collect();
        let Some(first) = rows.first() else { continue };
        let mut panel = Panel::new(first.row.words()[0]).x("Frechet distance").y("coverage");
        for scores in rows {
            let [_, strategy, tuning] = scores.row.words();
            let point =
                |run: &SeedScores| (run.figures["frechet_distance"], run.figures["coverage"]);
            panel = panel.scatter(format!("{strategy}, {tuning}"), scores.runs.iter().map(point));
        }
        figure = figure.panel(panel);
    }
    figure
}

fn verdict(measured: &Measured) -> Vec<Claim> {
    let mut claims = Vec::new();
    let distance = |scores: &Scores| scores.mean["frechet_distance"];
    let name = |row: Row| row.words()[..2].join(" ");
    let tuned = || measured.rows.iter().filter(|scores| scores.row.settings == Tuning::Tuned);
    for scores in tuned() {
        let paper = Row { settings: Tuning::Paper, ..scores.row };
        let Some(paper) = measured.rows.iter().find(|scores| scores.row == paper) else { continue };
        claims.push(Claim::new(
            format!(
                "{}: tuned settings come nearer than the paper's in as many steps",
                name(scores.row)
            ),
            format!("Frechet distance {:.2} against {:.2}", distance(scores), distance(paper)),
            distance(scores) < distance(paper),
        ));
    }
    const LEAST: f64 = 0.05;
    for scores in tuned() {
        let coverage = scores.mean["coverage"];
        claims.push(Claim::new(
            format!("{}: tuned, it covers more than {LEAST} of the test digits", name(scores.row)),
            format!("coverage {coverage:.3}"),
            coverage > LEAST,
        ));
    }
    let floor = measured.training_digits["frechet_distance"];
    let nearest = measured.rows.iter().map(distance).fold(f64::INFINITY, f64::min);
    claims.push(Claim::new(
        "no generator comes nearer to the test digits than the training digits are",
        format!("Frechet distance {nearest:.2} against {floor:.2}"),
        nearest > floor,
    ));
    claims
}
