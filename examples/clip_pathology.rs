//! Figure 1 of the WGAN-GP paper: what weight clipping does to a deep critic, and the gradient penalty does not.
//!
//! **Claim** (Gulrajani et al. 2017, section 3 and figure 1). In a 12-layer ReLU critic with weight clipping the gradient of
//! the critic's loss explodes or vanishes on its way back through the layers, according to c, and the weights are pushed to
//! the two bounds. With the gradient penalty neither happens.
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
    /// The share of weights within 1 % of the greatest absolute value of their layer.
    share_at_bound: f64,
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
        let mut trainer = CriticTrainer::new(critic, training.clone())?;
        for step in 0..settings.steps {
            let (real, fake) = settings.batch(flags.seed, step)?;
            trainer.step(&real, &fake)?;
        }
        let fresh = settings.batch(flags.seed, settings.steps)?;
        measured.push(look(name, trainer.critic(), fresh)?);
    }
    experiment.figure("clip_pathology", &figure(&measured))?;
    let four = measured[..].try_into().context("the verdict is of four critics")?;
    experiment.finish(&settings, &measured, &verdict(four))
}

fn look(
    name: &str,
    critic: &Network<DeepCritic>,
    (real, fake): (Tensor, Tensor),
) -> Result<Measured> {
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
    let gradient_norms: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();

    let (mut weights, mut at_bound) = (Vec::new(), 0);
    for (_, weight) in critic.parameters().trained().filter(|(name, _)| name.ends_with("weight")) {
        let values: Vec<f64> = weight.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let bound = values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        at_bound += values.iter().filter(|value| value.abs() > 0.99 * bound).count();
        weights.extend(values);
    }
    Ok(Measured {
        strategy: name.into(),
        growth: (gradient_norms[0] / gradient_norms[gradient_norms.len() - 1]).log10(),
        gradient_norms,
        share_at_bound: at_bound as f64 / weights.len() as f64,
        weights,
    })
}

fn verdict([large, middle, small, penalty]: &[Measured; 4]) -> Vec<Claim> {
    let factor = |of: &Measured| format!("a factor of 1e{:.1} over the layers", of.growth);
    let share = |of: &Measured| format!("{:.1} %", 100.0 * of.share_at_bound);
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
            "clipped weights pile up at the bounds, others do not",
            format!(
                "{} at the bounds with c = 0.01, {} with the penalty",
                share(middle),
                share(penalty)
            ),
            middle.share_at_bound > 0.5 && penalty.share_at_bound < 0.05,
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
    let histogram = |measured: &Measured, bound: f64| {
        Panel::new(format!("Weights, {}", measured.strategy))
            .x("weight")
            .y("share of the weights")
            .histogram(&measured.strategy, measured.weights.clone(), (-bound, bound), 50)
    };
    let figure = Figure::new("12-layer critics on the Swiss roll").panel(gradients);
    match measured {
        [_, middle, _, penalty] => {
            figure.panel(histogram(middle, 0.011)).panel(histogram(penalty, 0.25))
        }
        _ => figure,
    }
}
