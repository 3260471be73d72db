//! The toy distributions of the WGAN-GP paper: 8 Gaussians, 25 Gaussians and the Swiss roll, by each strategy.
//!
//! **Claims.** A clipped critic has simple contour lines that pass over the modes, one with a gradient penalty follows them
//! (Gulrajani et al. 2017, figure 1a and appendix); with the penalty the generator finds every mode. Counted as in PacGAN
//! (Lin et al. 2018, section 4.1): modes with a sample within three standard deviations, the share of such samples, and the
//! reverse KL divergence of the modes' shares, on 10,000 samples; beside them the exact Wasserstein-1 distance of 1,000 samples,
//! which on the Swiss roll is to be within twice that of two sets of real samples.
//!
//! **Settings.** The paper's: the three distributions, latent points of two dimensions, both networks MLPs of three hidden
//! ReLU layers, batch 256, n_critic 5, no batch normalisation; from its code lambda 0.1 and betas (0.5, 0.9); WGAN-div's k
//! and p. Tuned, so that a run ends within minutes instead of the paper's 100,000 steps of 512 units a layer at 1e-4: width
//! 128; learning rates 2e-3 (penalty) and 1e-3 (the others, RMSProp under clipping), which fall linearly to 0 over the last
//! three quarters; samples from the generator's moving average (0.99); c = 0.1 under clipping, as with 0.01 a network of this
//! size passes hardly any gradient. Generator steps, the same for each strategy: 2,500 on the 8 Gaussians, 1,500 on the
//! Swiss roll, and 10,000 on the grid, where the penalty takes so many to find all modes with hardly a sample between them.
//!
//! The second figure is the paper's: critics alone, the generated samples held at data + N(0, 1).
//!
//! `cargo run --example toy_2d` takes some twenty minutes on two cores for all nine runs; `--data` and `--lipschitz`
//! choose some of them (`--data grid --lipschitz gp --seed 1`); `--quick`, 8 Gaussians for 600 steps, takes a minute.
//! Each run leaves what came out of it in `runs/` in the folder, and one that is interrupted goes on from there when it
//! is started again.

#[path = "common/experiment.rs"]
mod experiment;
#[path = "common/finished.rs"]
mod finished;
#[path = "common/swiss_roll.rs"]
mod swiss_roll;

use std::f64::consts::TAU;
use std::fmt::{Display, Formatter};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use clap::{Parser, ValueEnum};
use experiment::{Claim, Experiment, Flags};
use finished::{Run, train_all};
use serde::{Deserialize, Serialize};
use swiss_roll::swiss_roll;
use wgan::data::TensorDataset;
use wgan::layers::Activation;
use wgan::metrics::{ModeCoverage, Points, transport};
use wgan::optimizers::{OptimizerConfig, UpdateConfig};
use wgan::random::Stream;
use wgan::report::{Field, Figure, Panel};
use wgan::schedules::RateSchedule;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{
    Critic, CriticTrainer, Ema, Lipschitz, ModelBuilder, Network, Sides, TrainConfig, WganTrainer,
};

/// Trains generators of points of the plane and shows their samples over the critics' contour lines.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,

    /// Only these distributions [default: all, with --quick the 8 Gaussians, and no others]
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "quick")]
    data: Vec<Toy>,

    /// Only these strategies [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    lipschitz: Vec<Strategy>,
}

/// Those of a flag, each once and in their own order; all where the flag is absent.
fn chosen<T: ValueEnum + PartialEq + Copy>(wanted: &[T]) -> Vec<T> {
    let all = T::value_variants().iter().copied();
    all.filter(|value| wanted.is_empty() || wanted.contains(value)).collect()
}

fn main() -> ExitCode {
    experiment::main(run)
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Toy {
    /// 8 Gaussians on a circle of radius 2, of deviation 0.02, over 1.414
    Eight,
    /// 25 Gaussians on a square grid, 2 apart, of deviation 0.05, over 2.828
    Grid,
    /// The Swiss roll of noise 0.25, over 7.5
    Roll,
}

impl Toy {
    fn name(self) -> &'static str {
        match self {
            Self::Eight => "8 Gaussians",
            Self::Grid => "25 Gaussians",
            Self::Roll => "Swiss roll",
        }
    }

    /// The centres of the modes and their standard deviation.
    fn modes(self) -> Option<(Vec<[f64; 2]>, f64)> {
        match self {
            Self::Eight => {
                let angle = |i| TAU * f64::from(i) / 8.0;
                let centre = |i| [angle(i).cos(), angle(i).sin()].map(|x| 2.0 * x / 1.414);
                Some(((0..8).map(centre).collect(), 0.02 / 1.414))
            }
            Self::Grid => {
                let centre = |i| [i / 5, i % 5].map(|x| 2.0 * (f64::from(x) - 2.0) / 2.828);
                Some(((0..25).map(centre).collect(), 0.05 / 2.828))
            }
            Self::Roll => None,
        }
    }

    /// `count` points, `(count, 2)`.
    fn sample(self, stream: &mut Stream, count: usize) -> wgan::Result<Tensor> {
        let Some((centres, deviation)) = self.modes() else {
            return swiss_roll(stream, count);
        };
        let drawn = (0..count).map(|_| centres[stream.below(centres.len() as u64) as usize]);
        let drawn: Vec<f64> = drawn.flatten().collect();
        let noise = stream.normal((count, 2), DType::F64, &Device::Cpu)?;
        let points = (Tensor::from_vec(drawn, (count, 2), &Device::Cpu)? + (noise * deviation)?)?;
        Ok(points.to_dtype(DType::F32)?)
    }

    /// Generator steps of the full form, the same for each strategy. All modes of the grid with hardly a sample between them
    /// take the longest.
    fn steps(self) -> u64 {
        match self {
            Self::Eight => 2500,
            Self::Grid => 10_000,
            Self::Roll => 1500,
        }
    }

    /// Half the side of the square that the figures show.
    fn extent(self) -> f64 {
        2.0
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Strategy {
    Clip,
    Gp,
    Div,
}

impl Strategy {
    fn name(self) -> &'static str {
        match self {
            Self::Clip => "weight clipping",
            Self::Gp => "gradient penalty",
            Self::Div => "WGAN-div",
        }
    }

    fn config(self, seed: u64, generator_steps: u64) -> TrainConfig {
        let updates = UpdateConfig {
            schedule: RateSchedule::linear(generator_steps / 4, generator_steps),
            ..Default::default()
        };
        let (lipschitz, optimizer) = match self {
            Self::Clip => (Lipschitz::Clip { c: 0.1 }, OptimizerConfig::rms_prop(1e-3)),
            Self::Gp => (
                Lipschitz::GradientPenalty { lambda: 0.1, target: 1.0, sides: Sides::Two },
                OptimizerConfig::adam(2e-3, 0.5, 0.9),
            ),
            Self::Div => (Lipschitz::divergence_paper(), OptimizerConfig::adam(1e-3, 0.5, 0.9)),
        };
        TrainConfig {
            seed,
            batch_size: 256,
            n_critic: 5,
            generator_steps,
            lipschitz,
            critic_optimizer: optimizer,
            generator_optimizer: optimizer,
            critic_updates: updates.clone(),
            generator_updates: updates,
            ema: Some(Ema::new(0.99)),
            ..TrainConfig::wgan()
        }
    }
}

#[derive(Serialize)]
struct Settings {
    generator: MlpGeneratorConfig,
    critic: MlpCriticConfig,
    training: Vec<TrainConfig>,
    samples: usize,
}

/// Samples that are counted.
const SAMPLES: usize = 10_000;
/// Samples of each side that the exact distance is taken of.
const TRANSPORTED: usize = 1000;
/// Samples in a figure.
const SHOWN: usize = 400;
/// Points a side at which a critic's contour lines are drawn.
const SIDE: usize = 80;

fn networks() -> (MlpGeneratorConfig, MlpCriticConfig) {
    let (hidden, activation) = (vec![128; 3], Activation::Relu);
    let generator = MlpGeneratorConfig {
        latent_dim: 2,
        hidden: hidden.clone(),
        sample_shape: vec![2],
        batch_norm: false,
        activation,
        output_activation: Activation::Identity,
        ..Default::default()
    };
    let critic =
        MlpCriticConfig { sample_shape: vec![2], hidden, activation, ..Default::default() };
    (generator, critic)
}

/// What came out of one run.
#[derive(Serialize, Deserialize)]
struct Found {
    measured: Measured,
    samples: Vec<(f64, f64)>,
    /// The critic's scores at the points of the grid.
    scores: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Measured {
    data: Toy,
    strategy: Strategy,
    generator_steps: u64,
    coverage: Option<Coverage>,
    /// The exact Wasserstein-1 distance of as many generated as real samples.
    wasserstein: f64,
    /// The same of two sets of real samples: about what a perfect generator has.
    wasserstein_of_real_samples: f64,
}

#[derive(Serialize, Deserialize)]
struct Coverage {
    modes: usize,
    of: usize,
    /// The share of samples within three standard deviations of a mode.
    high_quality: f64,
    reverse_kl: f64,
}

impl Display for Coverage {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { modes, of, high_quality, reverse_kl } = self;
        let share = 100.0 * high_quality;
        write!(
            f,
            "{modes}/{of} modes, {share:.1} % within 3 deviations, reverse KL {reverse_kl:.4}"
        )
    }
}

impl From<ModeCoverage> for Coverage {
    fn from(found: ModeCoverage) -> Self {
        Self {
            modes: found.found,
            of: found.modes,
            high_quality: found.high_quality.unwrap_or(f64::NAN),
            reverse_kl: found.reverse_kl,
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let flags = &arguments.flags;
    let experiment = Experiment::start("toy_2d", flags)?;
    let toys = flags.pick(chosen(&arguments.data), vec![Toy::Eight]);
    let strategies = chosen(&arguments.lipschitz);
    let runs: Vec<_> = (toys.iter())
        .flat_map(|&toy| strategies.iter().map(move |&strategy| (toy, strategy)))
        .map(|(toy, strategy)| {
            let steps = flags.pick(toy.steps(), 600);
            let config = strategy.config(flags.seed, steps);
            RunSettings::run(experiment.folder.folder(), toy, strategy, config)
        })
        .collect();
    let found =
        train_all(&runs, |settings| settings.training.generator_steps, |run| train(&run.settings))?;

    experiment.figure("samples", &samples_figure(flags.seed, &found, strategies.len())?)?;
    if !flags.quick {
        experiment.figure("critics", &critics_figure(flags.seed, &toys, &strategies)?)?;
    }
    let (generator, critic) = networks();
    let training = runs.into_iter().map(|run| run.settings.training).collect();
    let settings = Settings { generator, critic, training, samples: SAMPLES };
    let measured: Vec<Measured> = found.into_iter().map(|found| found.measured).collect();
    experiment.finish(&settings, &measured, &verdict(&measured, flags))
}

/// All that a run's figures depend on.
#[derive(Serialize)]
struct RunSettings {
    data: Toy,
    strategy: Strategy,
    training: TrainConfig,
    networks: (MlpGeneratorConfig, MlpCriticConfig),
    samples: [usize; 4],
}

impl RunSettings {
    /// A run of these, and where it leaves what it finds.
    fn run(folder: &Path, data: Toy, strategy: Strategy, training: TrainConfig) -> Run<Self> {
        let words = [data.to_possible_value(), strategy.to_possible_value()];
        let [data_name, strategy_name] =
            words.map(|word| word.map_or_else(String::new, |w| w.get_name().into()));
        let (steps, seed) = (training.generator_steps, training.seed);
        let name = format!("{data_name}_{strategy_name}_{steps}_steps_seed_{seed}.json");
        let samples = [SAMPLES, TRANSPORTED, SHOWN, SIDE];
        let settings = Self { data, strategy, training, networks: networks(), samples };
        Run { settings, path: folder.join("runs").join(name) }
    }
}

fn train(settings: &RunSettings) -> Result<Found> {
    let RunSettings { data: toy, strategy, training: ref config, .. } = *settings;
    let data = toy.sample(&mut Stream::new(config.seed, "data", 0), 100_000)?;
    let (generator, critic) = networks();
    let build = ModelBuilder::new(config.seed);
    let generator = build.generator(|vb| MlpGenerator::new(generator, vb))?;
    let critic = build.critic(|vb| MlpCritic::new(critic, vb))?;
    let mut trainer = WganTrainer::new(generator, critic, config.clone())?;
    trainer.fit(&TensorDataset::new(data)?)?;

    let samples = trainer.sample(SAMPLES)?;
    let points = Points::from_tensor(&samples)?;
    let coverage = toy.modes().map(|(centres, deviation)| {
        let centres = Points::new(centres.concat(), 2)?;
        ModeCoverage::of_mixture(&points, &centres, deviation)
    });
    let unseen = |index| toy.sample(&mut Stream::new(config.seed, "unseen", index), TRANSPORTED);
    let [real, other] = [unseen(0)?, unseen(1)?].map(|points| Points::from_tensor(&points));
    let (real, other) = (real?, other?);
    let some = Points::from_tensor(&samples.narrow(0, 0, TRANSPORTED)?)?;
    let found = coverage.transpose()?.map(Coverage::from);
    let said = found.as_ref().map_or_else(|| "done".into(), Coverage::to_string);
    eprintln!("{}, {}: {said}", toy.name(), strategy.name());
    Ok(Found {
        measured: Measured {
            data: toy,
            strategy,
            generator_steps: config.generator_steps,
            coverage: found,
            wasserstein: transport::wasserstein(&real, &some, 1.0)?,
            wasserstein_of_real_samples: transport::wasserstein(&real, &other, 1.0)?,
        },
        scores: scores(toy, trainer.critic())?,
        samples: pairs(&samples.narrow(0, 0, SHOWN)?)?,
    })
}

fn pairs(points: &Tensor) -> Result<Vec<(f64, f64)>> {
    let points = points.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    Ok(points.into_iter().map(|point| (point[0], point[1])).collect())
}

/// The critic's scores over the plane.
fn scores(toy: Toy, critic: &Network<MlpCritic>) -> Result<Vec<f64>> {
    let range = (-toy.extent(), toy.extent());
    let grid = Field::grid(range, range, SIDE).into_iter();
    let grid: Vec<f32> = grid.flat_map(|(x, y)| [x as f32, y as f32]).collect();
    let grid = Tensor::from_vec(grid, (SIDE * SIDE, 2), &Device::Cpu)?;
    Ok(critic.model().scores_frozen(&grid)?.to_dtype(DType::F64)?.to_vec1()?)
}

fn field(toy: Toy, scores: Vec<f64>) -> Result<Field> {
    let range = (-toy.extent(), toy.extent());
    Ok(Field::new(range, range, SIDE, scores)?)
}

fn square(toy: Toy, strategy: Strategy) -> Panel {
    let (low, high) = (-toy.extent(), toy.extent());
    Panel::new(format!("{}, {}", toy.name(), strategy.name())).x_range(low, high).y_range(low, high)
}

fn samples_figure(seed: u64, found: &[Found], columns: usize) -> Result<Figure> {
    let figure = Figure::new("Samples over the critic's contour lines");
    let mut figure = figure.columns(columns).panel_size(300, 300);
    for Found { measured: Measured { data, strategy, .. }, samples, scores } in found {
        let real = pairs(&data.sample(&mut Stream::new(seed, "figure", 0), 200)?)?;
        let panel = square(*data, *strategy).contours(field(*data, scores.clone())?, 12);
        let panel = panel.scatter("generated", samples.iter().copied());
        figure = figure.panel(panel.scatter("real", real));
    }
    Ok(figure)
}

/// Figure 1a of the WGAN-GP paper: critics between data and data + N(0, 1).
fn critics_figure(seed: u64, toys: &[Toy], strategies: &[Strategy]) -> Result<Figure> {
    const STEPS: u64 = 2000;
    let figure = Figure::new("Contour lines of critics between data and data + N(0, 1)");
    let mut figure = figure.columns(toys.len()).panel_size(300, 300);
    let strategies = strategies.iter().filter(|strategy| **strategy != Strategy::Div);
    for (&strategy, &toy) in
        strategies.flat_map(|strategy| toys.iter().map(move |toy| (strategy, toy)))
    {
        let critic = ModelBuilder::new(seed).critic(|vb| MlpCritic::new(networks().1, vb))?;
        let mut trainer = CriticTrainer::new(critic, strategy.config(seed, STEPS))?;
        for step in 0..STEPS {
            let real = toy.sample(&mut Stream::new(seed, "real", step), 256)?;
            let mut fake = Stream::new(seed, "fake", step);
            let noise = fake.normal((256, 2), DType::F32, &Device::Cpu)?;
            trainer.step(&real, &(toy.sample(&mut fake, 256)? + noise)?)?;
        }
        let real = pairs(&toy.sample(&mut Stream::new(seed, "figure", 0), 200)?)?;
        let panel = square(toy, strategy).contours(field(toy, scores(toy, trainer.critic())?)?, 12);
        figure = figure.panel(panel.scatter("real", real));
    }
    Ok(figure)
}

fn verdict(measured: &[Measured], flags: &Flags) -> Vec<Claim> {
    let run = |toy: Toy, strategy: Strategy| {
        measured.iter().find(|run| run.data == toy && run.strategy == strategy)
    };
    let of = |toy, strategy| run(toy, strategy)?.coverage.as_ref();
    let mut claims = Vec::new();
    for toy in [Toy::Eight, Toy::Grid] {
        if let Some(div) = of(toy, Strategy::Div) {
            claims.push(Claim::new(
                format!("WGAN-div finds all of the {}, with a reverse KL below 0.05", toy.name()),
                div.to_string(),
                div.modes == div.of && div.reverse_kl < 0.05,
            ));
        }
        let Some(gp) = of(toy, Strategy::Gp) else { continue };
        let enough = flags.pick(0.95, 0.3);
        claims.push(Claim::new(
            format!(
                "the gradient penalty finds all of the {}, with {:.0} % of the samples or more \
                 within 3 deviations",
                toy.name(),
                100.0 * enough
            ),
            gp.to_string(),
            gp.modes == gp.of && gp.high_quality >= enough,
        ));
        if let Some(clip) = of(toy, Strategy::Clip) {
            claims.push(Claim::new(
                format!(
                    "weight clipping does worse on the {} in as many generator steps: a smaller \
                     share within 3 deviations than with the penalty",
                    toy.name()
                ),
                format!("{clip} against {:.1} %", 100.0 * gp.high_quality),
                clip.high_quality < gp.high_quality,
            ));
        }
    }
    for strategy in [Strategy::Gp, Strategy::Div] {
        if let Some(run) = run(Toy::Roll, strategy) {
            let [distance, least] = [run.wasserstein, run.wasserstein_of_real_samples];
            claims.push(Claim::new(
                format!(
                    "{}: samples of the Swiss roll are within twice the distance of two real sets",
                    strategy.name()
                ),
                format!("Wasserstein-1 distance {distance:.4} against {least:.4}"),
                distance < 2.0 * least,
            ));
        }
    }
    claims
}
