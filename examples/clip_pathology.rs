//! Figure 1 of the WGAN-GP paper: what weight clipping does to a deep critic, and the gradient penalty does not.
//!
//! **Claim** (Gulrajani et al. 2017, section 3 and figure 1). In a 12-layer ReLU critic with weight clipping the gradient of
//! the critic's loss explodes or vanishes on its way back through the layers, according to c, and the weights are pushed to
//! the two bounds. With the gradient penalty neither happens.
//!
//! The first clamp alone puts weights at the bounds, all that begin beyond them: with c = 0.01 and 0.001 most, as the initial
//! weights of a layer of 128 inputs reach up to 0.088. What training does is to be seen with c = 0.1, which only the first of the
//! 12 layers begins beyond, with its two inputs. The share at the bounds is given for both moments.
//!
//! **Settings.** The paper's: 12-layer ReLU MLPs on the Swiss roll, c in {0.1, 0.01, 0.001}, lambda 10, n_critic and batch
//! of its toys (256), the generated samples held at data + N(0, 1). It does not give the width; its toys have 512. Ours:
//! width 128 and 600 steps (70 with `--quick`) of RMSProp 1e-3 under clipping and Adam 1e-3 with betas (0.5, 0.9) under the
//! penalty, twenty and ten times the papers' rates, so that the effect is there within a minute.
//!
//! `cargo run --example clip_pathology` takes about a minute on two cores, `--quick` less than 20 seconds.

#[path = "common/experiment.rs"]
mod experiment;
#[path = "common/swiss_roll.rs"]
mod swiss_roll;

use std::process::ExitCode;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use experiment::{Claim, Experiment, Flags};
use serde::Serialize;
use swiss_roll::swiss_roll;
use wgan::layers::Linear;
use wgan::optimizers::OptimizerConfig;
use wgan::random::Stream;
use wgan::report::{Figure, Panel};
use wgan::{Critic, CriticTrainer, Lipschitz, ModelBuilder, Network, Traced, TrainConfig};

/// Trains deep critics on the Swiss roll with weight clipping and with the gradient penalty, and shows gradients by layer
/// and weights.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    experiment::main(|arguments: &Arguments| run(&arguments.flags))
}

/// An MLP that shows its activations.
struct DeepCritic {
    layers: Vec<Linear>,
}

impl DeepCritic {
    fn new(depth: usize, width: usize, vb: &VarBuilder) -> wgan::Result<Self> {
        let sizes = |i| (if i == 1 { 2 } else { width }, if i == depth { 1 } else { width });
        let layer = |i| Linear::new(sizes(i).0, sizes(i).1, vb.pp(format!("fc{i:02}")));
        Ok(Self { layers: (1..=depth).map(layer).collect::<wgan::Result<_>>()? })
    }

    /// What goes into each layer, and the scores.
    fn activations(&self, samples: &Traced) -> wgan::Result<Vec<Traced>> {
        let mut activations = vec![samples.clone()];
        for (i, layer) in self.layers.iter().enumerate() {
            let x = activations[i].apply(layer)?;
            activations.push(if i + 1 < self.layers.len() { x.relu()? } else { x });
        }
        Ok(activations)
    }
}

impl Critic for DeepCritic {
    fn forward(&self, samples: &Traced) -> wgan::Result<Traced> {
        let scores = self.activations(samples)?.pop();
        Ok(scores.unwrap_or_else(|| samples.clone()))
    }
}

#[derive(Serialize)]
struct Settings {
    depth: usize,
    width: usize,
    batch: usize,
    steps: u64,
    strategies: Vec<Strategy>,
}

#[derive(Serialize)]
struct Strategy {
    name: String,
    training: TrainConfig,
}

impl Settings {
    fn new(flags: &Flags) -> Self {
        let seed = flags.seed;
        let clip = |c| Strategy {
            name: format!("clipping, c = {c}"),
            training: TrainConfig {
                seed,
                lipschitz: Lipschitz::Clip { c },
                critic_optimizer: OptimizerConfig::rms_prop(1e-3),
                ..TrainConfig::wgan()
            },
        };
        let penalty = Strategy {
            name: "gradient penalty".into(),
            training: TrainConfig {
                seed,
                critic_optimizer: OptimizerConfig::adam(1e-3, 0.5, 0.9),
                ..TrainConfig::wgan_gp()
            },
        };
        Self {
            depth: 12,
            width: 128,
            batch: 256,
            steps: flags.pick(600, 70),
            strategies: vec![clip(0.1), clip(0.01), clip(0.001), penalty],
        }
    }

    /// Real samples, and generated ones at data + N(0, 1).
    fn batch(&self, seed: u64, step: u64) -> wgan::Result<(Tensor, Tensor)> {
        let real = swiss_roll(&mut Stream::new(seed, "real", step), self.batch)?;
        let mut fake = Stream::new(seed, "fake", step);
        let noise = fake.normal((self.batch, 2), DType::F32, &Device::Cpu)?;
        Ok((real, (swiss_roll(&mut fake, self.batch)? + noise)?))
    }
}

/// What is found in a critic after its training.
#[derive(Serialize)]
struct Measured {
    strategy: String,
    /// The norm of the gradient of mean f(real) - mean f(fake) with respect to what goes into each layer.
    gradient_norms: Vec<f64>,
    /// The first over the last of them, in powers of ten: above 0 where gradients explode on their way back.
    growth: f64,
    /// The share of weights within 1 % of c, or of the greatest absolute value of their layer where nothing is clipped.
    share_at_bound: f64,
    /// The share of weights that the first clamp alone leaves there.
    share_at_bound_by_first_clamp: Option<f64>,
    /// What the histogram spans.
    #[serde(skip)]
    shown: f64,
    #[serde(skip)]
    weights: Vec<f64>,
}

fn run(flags: &Flags) -> Result<ExitCode> {
    let experiment = Experiment::start("clip_pathology", flags)?;
    let settings = Settings::new(flags);
    let mut measured = Vec::new();
    for Strategy { name, training } in &settings.strategies {
        eprintln!("{name}");
        let build = ModelBuilder::new(flags.seed);
        let critic = build.critic(|vb| DeepCritic::new(settings.depth, settings.width, &vb))?;
        let bound = match training.lipschitz {
            Lipschitz::Clip { c } => Some(c),
            _ => None,
        };
        let initial = weights(&critic)?;
        let by_first_clamp = bound.map(|_| share_at_bound(&initial, bound));
        let mut trainer = CriticTrainer::new(critic, training.clone())?;
        for step in 0..settings.steps {
            let (real, fake) = settings.batch(flags.seed, step)?;
            trainer.step(&real, &fake)?;
        }
        let fresh = settings.batch(flags.seed, settings.steps)?;
        let gradient_norms = gradient_norms(trainer.critic(), fresh)?;
        let weights = weights(trainer.critic())?;
        measured.push(Measured {
            strategy: name.clone(),
            growth: (gradient_norms[0] / gradient_norms[gradient_norms.len() - 1]).log10(),
            gradient_norms,
            share_at_bound: share_at_bound(&weights, bound),
            share_at_bound_by_first_clamp: by_first_clamp,
            shown: bound.map_or(0.25, |c| 1.1 * c),
            weights: weights.concat(),
        });
    }
    experiment.figure("clip_pathology", &figure(&measured))?;
    let four = measured[..].try_into().context("the verdict is of four critics")?;
    experiment.finish(&settings, &measured, &verdict(four))
}

/// The norms of the gradient at what goes into each layer.
fn gradient_norms(
    critic: &Network<DeepCritic>,
    (real, fake): (Tensor, Tensor),
) -> Result<Vec<f64>> {
    let mut squares = vec![0.0; critic.model().layers.len()];
    for (samples, sign) in [(real, 1.0), (fake, -1.0)] {
        let activations = critic.model().activations(&Traced::input(&samples))?;
        let (inputs, scores) = activations.split_at(squares.len());
        let mean = scores[0].mean_all()?.affine(sign, 0.0)?;
        for (square, input) in squares.iter_mut().zip(inputs) {
            let gradient = mean.gradient(input)?.to_dtype(DType::F64)?;
            *square += gradient.sqr()?.sum_all()?.to_scalar::<f64>()?;
        }
    }
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

/// The weights of each layer, without biases.
fn weights(critic: &Network<DeepCritic>) -> Result<Vec<Vec<f64>>> {
    let weights = critic.parameters().trained().filter(|(name, _)| name.ends_with("weight"));
    weights.map(|(_, weight)| Ok(weight.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)).collect()
}

/// The share of weights within 1 % of the bound or beyond it, where a clamp puts them; without a bound, of the greatest
/// absolute value of their layer.
fn share_at_bound(layers: &[Vec<f64>], bound: Option<f64>) -> f64 {
    let (mut all, mut at_bound) = (0, 0);
    for weights in layers {
        let greatest = || weights.iter().fold(0.0, |most: f64, weight| most.max(weight.abs()));
        let bound = bound.unwrap_or_else(greatest);
        all += weights.len();
        at_bound += weights.iter().filter(|weight| weight.abs() > 0.99 * bound).count();
    }
    at_bound as f64 / all as f64
}

fn verdict([large, middle, small, penalty]: &[Measured; 4]) -> Vec<Claim> {
    let factor = |of: &Measured| format!("a factor of 1e{:.1} over the layers", of.growth);
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    let piled = |of: &Measured| {
        let begin = of.share_at_bound_by_first_clamp.unwrap_or(f64::NAN);
        format!(
            "{} at the bounds, {} by the first clamp alone",
            share(of.share_at_bound),
            share(begin)
        )
    };
    vec![
        Claim::new("gradients explode with c = 0.1", factor(large), large.growth > 1.0),
        Claim::new("gradients vanish with c = 0.01", factor(middle), middle.growth < -3.0),
        Claim::new("gradients vanish with c = 0.001", factor(small), small.growth < -6.0),
        Claim::new(
            "with the gradient penalty they do neither",
            factor(penalty),
            penalty.growth.abs() < 1.0,
        ),
        Claim::new(
            "clipped, weights pile up at the bounds: training takes more than 10 % there with c = 0.1, \
             where less than 1 % begin; with the penalty less than 5 % are near their greatest",
            format!(
                "with c = 0.1 {}; with the penalty {} within 1 % of their layer's greatest; by smaller \
                 bounds it is the first clamp that puts them there: with c = 0.01 {}, with c = 0.001 {}",
                piled(large),
                share(penalty.share_at_bound),
                piled(middle),
                piled(small)
            ),
            large.share_at_bound > 0.1
                && large.share_at_bound_by_first_clamp.is_some_and(|share| share < 0.01)
                && penalty.share_at_bound < 0.05,
        ),
    ]
}

fn figure(measured: &[Measured]) -> Figure {
    let mut gradients = Panel::new("Gradients on their way back")
        .x("layer")
        .y("norm of the gradient at its input")
        .log_y();
    for Measured { strategy, gradient_norms, .. } in measured {
        let norms = gradient_norms.iter().enumerate();
        let norms = norms.map(|(layer, &norm)| ((layer + 1) as f64, norm));
        gradients = gradients.dotted_line(strategy, norms);
    }
    let mut figure = Figure::new("12-layer critics on the Swiss roll").columns(3).panel(gradients);
    for Measured { strategy, weights, shown, .. } in measured {
        figure = figure.panel(
            Panel::new(format!("Weights, {strategy}"))
                .x("weight")
                .y("share of the weights")
                .histogram(strategy, weights.clone(), (-shown, *shown), 50),
        );
    }
    figure
}
