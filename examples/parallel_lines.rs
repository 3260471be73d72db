//! Example 1 of the WGAN paper: two parallel lines.
//!
//! **Claim** (Arjovsky et al. 2017, section 2, example 1). With Z uniform on [0, 1] let P0 be the distribution of (0, Z) and
//! P the one of (theta, Z). Then W = |theta|, while for theta other than 0 JS = log 2, KL is infinite and TV = 1, and all of
//! them are 0 where theta is: only W tells how far theta is from 0, and only along W can theta be learned by descent.
//!
//! **Settings.** The paper computes by hand. Here W is the exact distance of 256 samples from each side, and JS, KL and TV
//! are those of 20,000 samples counted in cells of 0.05 by 0.1. Then theta is a generator's only parameter, begins at 1 and is
//! learned through a critic: an MLP of 2 x 32 with the gradient penalty, Adam 5e-3 with betas (0.5, 0.9); Adam 5e-3 with betas
//! (0, 0.9) for theta; n_critic 5, batch 64, 3,000 steps. The gradient has length 1 however near theta is, so theta swings
//! around 0 until the rates, which fall linearly to 0 over the last three quarters, bring it to rest.
//!
//! `cargo run --example parallel_lines` takes some ten seconds on two cores, `--quick` (1,000 steps) three.

#[path = "common/experiment.rs"]
mod experiment;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use clap::Parser;
use experiment::{Claim, Experiment, Flags};
use serde::Serialize;
use wgan::data::TensorDataset;
use wgan::metrics::{Points, divergence, transport};
use wgan::observers::{Every, Flow, callback};
use wgan::optimizers::{OptimizerConfig, UpdateConfig};
use wgan::random::Stream;
use wgan::report::{Figure, Panel};
use wgan::schedules::RateSchedule;
use wgan::zoo::{MlpCritic, MlpCriticConfig};
use wgan::{Generator, ModelBuilder, TrainConfig, WganTrainer};

/// Computes distances between two parallel lines and moves one onto the other through a critic.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    experiment::main(|arguments: &Arguments| run(&arguments.flags))
}

/// (theta, Z): theta is all there is to learn.
struct Line {
    theta: Tensor,
}

impl Line {
    const BEGIN: f64 = 1.0;

    fn new(vb: &VarBuilder) -> wgan::Result<Self> {
        Ok(Self { theta: vb.get_with_hints((1, 1), "theta", Init::Const(Self::BEGIN))? })
    }
}

impl Generator for Line {
    fn latent_dim(&self) -> usize {
        1
    }

    fn forward(&self, latent: &Tensor, _train: bool) -> wgan::Result<Tensor> {
        // The normal distribution's own distribution function makes its draws uniform.
        let z = (latent / 2f64.sqrt())?.erf()?.affine(0.5, 0.5)?;
        let theta = self.theta.broadcast_as(z.shape())?;
        Ok(Tensor::cat(&[&theta, &z], 1)?)
    }
}

#[derive(Serialize)]
struct Settings {
    transported: usize,
    counted: usize,
    critic: MlpCriticConfig,
    training: TrainConfig,
}

impl Settings {
    fn new(flags: &Flags) -> Self {
        let generator_steps = flags.pick(3000, 1000);
        let updates = UpdateConfig {
            schedule: RateSchedule::linear(generator_steps / 4, generator_steps),
            ..Default::default()
        };
        Self {
            transported: 256,
            counted: 20_000,
            critic: MlpCriticConfig {
                sample_shape: vec![2],
                hidden: vec![32, 32],
                ..Default::default()
            },
            training: TrainConfig {
                seed: flags.seed,
                generator_steps,
                critic_optimizer: OptimizerConfig::adam(5e-3, 0.5, 0.9),
                generator_optimizer: OptimizerConfig::adam(5e-3, 0.0, 0.9),
                critic_updates: updates.clone(),
                generator_updates: updates,
                ..TrainConfig::wgan_gp()
            },
        }
    }
}

/// The distances between the lines at 0 and at theta.
#[derive(Serialize)]
struct Distances {
    theta: f64,
    wasserstein: f64,
    jensen_shannon: f64,
    /// None where it is infinite.
    kullback_leibler: Option<f64>,
    total_variation: f64,
}

/// How theta was learned.
#[derive(Serialize)]
struct Learned {
    theta: Vec<f64>,
    wasserstein_estimate: Vec<f64>,
}

#[derive(Serialize)]
struct Measured {
    distances: Vec<Distances>,
    learned: Learned,
}

fn run(flags: &Flags) -> Result<ExitCode> {
    let experiment = Experiment::start("parallel_lines", flags)?;
    let settings = Settings::new(flags);
    let thetas = (-10..=10).map(|tenths| f64::from(tenths) / 10.0);
    let distances: Vec<Distances> = thetas
        .enumerate()
        .map(|(index, theta)| distances(theta, index as u64, &settings))
        .collect::<Result<_>>()?;
    let measured = Measured { distances, learned: learn(&settings)? };
    experiment.figure("parallel_lines", &figure(&measured))?;
    experiment.finish(&settings, &measured, &verdict(&measured))
}

/// Samples of (theta, Z), one after the other.
fn line(theta: f64, purpose: &str, index: u64, count: usize, seed: u64) -> wgan::Result<Points> {
    let mut stream = Stream::new(seed, purpose, index);
    let z: Vec<f64> = stream.uniform(0.0, 1.0, count, DType::F64, &Device::Cpu)?.to_vec1()?;
    Points::new(z.into_iter().flat_map(|z| [theta, z]).collect(), 2)
}

fn distances(theta: f64, index: u64, settings: &Settings) -> Result<Distances> {
    let seed = settings.training.seed;
    let pair = |count| -> wgan::Result<[Points; 2]> {
        Ok([line(0.0, "zero", index, count, seed)?, line(theta, "theta", index, count, seed)?])
    };
    let [zero, moved] = pair(settings.transported)?;
    let wasserstein = transport::wasserstein(&zero, &moved, 1.0)?;
    let [zero, moved] = pair(settings.counted)?;
    let (p, q) = (counts(&zero), counts(&moved));
    let kullback_leibler = divergence::kl(&p, &q)?;
    Ok(Distances {
        theta,
        wasserstein,
        jensen_shannon: divergence::jensen_shannon(&p, &q)?,
        kullback_leibler: Some(kullback_leibler).filter(|kl| kl.is_finite()),
        total_variation: divergence::total_variation(&p, &q)?,
    })
}

/// How many points lie in each cell of 0.05 by 0.1 from (-1, 0) on.
fn counts(points: &Points) -> Vec<f64> {
    let mut counts = vec![0.0; 41 * 10];
    for point in points {
        let column = ((point[0] + 1.0) / 0.05).round() as usize;
        let row = (point[1] / 0.1) as usize;
        counts[column.min(40) * 10 + row.min(9)] += 1.0;
    }
    counts
}

fn learn(settings: &Settings) -> Result<Learned> {
    let seed = settings.training.seed;
    let z =
        Stream::new(seed, "data", 0).uniform(0.0, 1.0, (10_000, 1), DType::F32, &Device::Cpu)?;
    let data = TensorDataset::new(z.pad_with_zeros(1, 1, 0)?)?;
    let build = ModelBuilder::new(seed);
    let generator = build.generator(|vb| Line::new(&vb))?;
    let critic = build.critic(|vb| MlpCritic::new(settings.critic.clone(), vb))?;

    let path = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&path);
    let watch = callback(move |snapshot| {
        let theta = &snapshot.models.generator_tensors()["theta"];
        seen.borrow_mut().push(f64::from(theta.flatten_all()?.to_vec1::<f32>()?[0]));
        Ok(Flow::Continue)
    });
    let mut trainer =
        WganTrainer::new(generator, critic, settings.training.clone())?.observe(Every::Step, watch);
    let history = trainer.fit(&data)?;
    let wasserstein_estimate = history.iter().map(|record| record.wasserstein_estimate).collect();
    Ok(Learned { theta: path.take(), wasserstein_estimate })
}

fn verdict(measured: &Measured) -> [Claim; 5] {
    let apart = || measured.distances.iter().filter(|found| found.theta != 0.0);
    let furthest = |of: &dyn Fn(&Distances) -> f64| apart().map(of).fold(0.0, f64::max);
    let wasserstein = furthest(&|found| (found.wasserstein - found.theta.abs()).abs());
    let jensen_shannon = furthest(&|found| (found.jensen_shannon - 2f64.ln()).abs());
    let total_variation = furthest(&|found| (found.total_variation - 1.0).abs());
    let infinite = apart().filter(|found| found.kullback_leibler.is_none()).count();
    // Two sets of samples of one line are not the same: with 256 points W is some 0.03, with 20,000 in ten cells TV is
    // some 0.01, JS and KL are far less.
    let together = measured.distances.iter().find(|found| found.theta == 0.0);
    let at_zero = together.map_or([f64::NAN; 4], |found| {
        let kl = found.kullback_leibler.unwrap_or(f64::INFINITY);
        [found.wasserstein, found.total_variation, found.jensen_shannon, kl]
    });
    let [w, tv, js, kl] = at_zero;
    let last = measured.learned.theta.last().copied().unwrap_or(f64::NAN);
    [
        Claim::new(
            "W is |theta|",
            format!("off by {wasserstein:.3} at most, on samples"),
            wasserstein < 0.03,
        ),
        Claim::new(
            "JS is log 2 and TV is 1 wherever theta is not 0",
            format!("off by {jensen_shannon:.1e} and {total_variation:.1e}"),
            jensen_shannon.max(total_variation) < 1e-9,
        ),
        Claim::new(
            "KL is infinite wherever theta is not 0",
            format!("at {infinite} of {}", apart().count()),
            infinite == apart().count(),
        ),
        Claim::new(
            "all of them are 0 where theta is 0: W below 0.1, TV below 0.05, JS and KL below 0.005 on samples",
            format!("W {w:.4}, TV {tv:.4}, JS {js:.1e}, KL {kl:.1e}"),
            at_zero.iter().zip([0.1, 0.05, 0.005, 0.005]).all(|(found, most)| *found < most),
        ),
        Claim::new(
            "theta is learned through a critic",
            format!("from {} to {last:.4}", Line::BEGIN),
            last.abs() < 0.03,
        ),
    ]
}

fn figure(measured: &Measured) -> Figure {
    let curve = |of: fn(&Distances) -> f64| {
        measured.distances.iter().map(move |found| (found.theta, of(found)))
    };
    let theory = |of: fn(f64) -> f64| {
        (-100..=100).map(move |i| f64::from(i) / 100.0).map(move |theta| (theta, of(theta)))
    };
    let of_step = |values: &[f64]| -> Vec<(f64, f64)> {
        let steps = values.iter().enumerate().take(1000);
        steps.map(|(step, &value)| ((step + 1) as f64, value)).collect()
    };
    // An infinite divergence lies above all that is finite.
    const INFINITE: f64 = 1.2;
    let kullback_leibler = |found: &Distances| found.kullback_leibler.unwrap_or(INFINITE);
    let distances = Panel::new(format!("Distances of the lines (at {INFINITE}: infinite)"))
        .x("theta")
        .y("distance")
        .dashed_line("", theory(f64::abs))
        .dashed_line("", theory(|_| 2f64.ln()))
        .dashed_line("", theory(|_| 1.0))
        .scatter("Wasserstein-1", curve(|found| found.wasserstein))
        .scatter("Jensen-Shannon", curve(|found| found.jensen_shannon))
        .scatter("total variation", curve(|found| found.total_variation))
        .scatter("Kullback-Leibler", curve(kullback_leibler));
    let learned = Panel::new("Theta, learned through a critic")
        .x("generator step")
        .y("theta")
        .line("the critic's estimate", of_step(&measured.learned.wasserstein_estimate))
        .line("theta", of_step(&measured.learned.theta));
    Figure::new("Two parallel lines")
        .columns(2)
        .panel_size(440, 320)
        .panel(distances)
        .panel(learned)
}
