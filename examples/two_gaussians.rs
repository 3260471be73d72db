//! Figure 2 of the WGAN paper: an optimal discriminator saturates, an optimal critic does not.
//!
//! **Claim** (Arjovsky et al. 2017, section 3 and figure 2). Between two Gaussians that hardly overlap, a discriminator that
//! is trained until optimality tells them apart perfectly, and its gradient vanishes where the generated samples lie. A critic
//! converges to a line, whose gradient is the same everywhere.
//!
//! **Settings.** The paper gives none. Ours: N(-4, 1) real, N(4, 1) generated; MLPs of 2 x 64 with leaky ReLU 0.2, batch
//! 256, Adam 1e-3 with betas (0.5, 0.9), which falls linearly to 0 over the second half. The critic is trained twice: with
//! clipping, as in the paper (c = 0.1, RMSProp 1e-3; its slope means nothing but its straightness does), and with the
//! gradient penalty (lambda 10), under which a critic between distributions at distance W has the slope 1 + W / (2 lambda),
//! the s that maximises s W - lambda (s - 1)^2: here 1.4.
//!
//! `cargo run --example two_gaussians` takes some 20 seconds on two cores, `--quick` less than 10.

#[path = "common/experiment.rs"]
mod experiment;

use std::process::ExitCode;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::Optimizer;
use clap::Parser;
use experiment::{Claim, Experiment, Flags};
use serde::Serialize;
use wgan::optimizers::{OptimizerConfig, UpdateConfig};
use wgan::random::Stream;
use wgan::report::{Figure, Panel};
use wgan::schedules::RateSchedule;
use wgan::zoo::{MlpCritic, MlpCriticConfig};
use wgan::{Critic, CriticTrainer, Lipschitz, ModelBuilder, Network, Traced, TrainConfig};

/// Trains a GAN discriminator and WGAN critics between two Gaussians and compares the gradients that a generator gets.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    experiment::main(|arguments: &Arguments| run(&arguments.flags))
}

#[derive(Serialize)]
struct Settings {
    real_mean: f64,
    fake_mean: f64,
    batch: usize,
    steps: u64,
    learning_rate: f64,
    critic: MlpCriticConfig,
    clip: TrainConfig,
    gradient_penalty: TrainConfig,
}

impl Settings {
    fn new(flags: &Flags) -> Self {
        let (seed, steps, learning_rate) = (flags.seed, flags.pick(4000, 1000), 1e-3);
        let updates =
            UpdateConfig { schedule: RateSchedule::linear(steps / 2, steps), ..Default::default() };
        Self {
            real_mean: -4.0,
            fake_mean: 4.0,
            batch: 256,
            steps,
            learning_rate,
            critic: MlpCriticConfig {
                sample_shape: vec![1],
                hidden: vec![64, 64],
                ..Default::default()
            },
            clip: TrainConfig {
                seed,
                lipschitz: Lipschitz::Clip { c: 0.1 },
                critic_optimizer: OptimizerConfig::rms_prop(learning_rate),
                critic_updates: updates.clone(),
                ..TrainConfig::wgan()
            },
            gradient_penalty: TrainConfig {
                seed,
                critic_optimizer: OptimizerConfig::adam(learning_rate, 0.5, 0.9),
                critic_updates: updates,
                ..TrainConfig::wgan_gp()
            },
        }
    }

    fn batch(&self, step: u64) -> wgan::Result<(Tensor, Tensor)> {
        let seed = self.clip.seed;
        let draw = |purpose, mean| {
            let noise = Stream::new(seed, purpose, step).normal(
                (self.batch, 1),
                DType::F32,
                &Device::Cpu,
            )?;
            Ok::<_, wgan::Error>((noise + mean)?)
        };
        Ok((draw("real", self.real_mean)?, draw("fake", self.fake_mean)?))
    }

    fn network(&self) -> wgan::Result<Network<MlpCritic>> {
        ModelBuilder::new(self.clip.seed).critic(|vb| MlpCritic::new(self.critic.clone(), vb))
    }

    /// A discriminator's logits, trained on the cross-entropy.
    fn train_discriminator(&self) -> Result<Network<MlpCritic>> {
        let network = self.network()?;
        let parameters = network.parameters().trained().map(|(_, var)| var.clone()).collect();
        let adam = candle_nn::ParamsAdamW {
            lr: self.learning_rate,
            beta1: 0.5,
            beta2: 0.9,
            weight_decay: 0.0,
            ..Default::default()
        };
        let mut adam = candle_nn::AdamW::new(parameters, adam)?;
        let schedule = &self.gradient_penalty.critic_updates.schedule;
        for step in 0..self.steps {
            let (real, fake) = self.batch(step)?;
            let logits = |x: &Tensor| network.model().forward(&Traced::untracked(x));
            let loss = logits(&real)?.neg()?.softplus()?.mean_all()?;
            let loss = loss.add(&logits(&fake)?.softplus()?.mean_all()?)?;
            adam.set_learning_rate(self.learning_rate * schedule.factor(step));
            adam.step(&loss.backward()?)?;
        }
        Ok(network)
    }

    fn train_critic(&self, config: &TrainConfig) -> Result<Network<MlpCritic>> {
        let mut trainer = CriticTrainer::new(self.network()?, config.clone())?;
        for step in 0..self.steps {
            let (real, fake) = self.batch(step)?;
            trainer.step(&real, &fake)?;
        }
        Ok(trainer.into_network())
    }
}

/// Scores and their derivatives at points of the line.
struct Curve {
    x: Vec<f64>,
    score: Vec<f64>,
    slope: Vec<f64>,
}

impl Curve {
    fn of(network: &Network<MlpCritic>, points: &Tensor) -> Result<Self> {
        let (scores, gradient) = network.model().scores_and_gradient(points)?;
        let numbers = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1();
        Ok(Self { x: numbers(points)?, score: numbers(&scores)?, slope: numbers(&gradient)? })
    }

    fn points<'a>(&'a self, y: &'a [f64]) -> impl Iterator<Item = (f64, f64)> + Clone + 'a {
        self.x.iter().copied().zip(y.iter().copied())
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// |d/dx log(1 - D(x))| = D(x) |logit'(x)|: what the generator of a GAN learns from.
fn saturating(curve: &Curve) -> Vec<f64> {
    let pairs = curve.score.iter().zip(&curve.slope);
    pairs.map(|(&logit, slope)| sigmoid(logit) * slope.abs()).collect()
}

fn steepness(curve: &Curve) -> Vec<f64> {
    curve.slope.iter().map(|slope| slope.abs()).collect()
}

#[derive(Serialize)]
struct Measured {
    /// Mean length of the gradient that reaches generated samples.
    discriminator_gradient: f64,
    /// The same of the discriminator that theory has, p_real / (p_real + p_fake).
    discriminator_gradient_in_theory: f64,
    clipped_critic_gradient: f64,
    penalised_critic_gradient: f64,
    /// 1 + W / (2 lambda).
    penalised_critic_gradient_in_theory: f64,
    /// Share of the samples at which the discriminator is right.
    discriminator_accuracy: f64,
    /// Least over greatest slope at the central 98 % of generated samples: 1 for a line.
    clipped_critic_straightness: f64,
    penalised_critic_straightness: f64,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The least over the greatest of all but the most extreme hundredths.
fn evenness(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let cut = values.len() / 100;
    values[cut] / values[values.len() - 1 - cut]
}

fn run(flags: &Flags) -> Result<ExitCode> {
    let experiment = Experiment::start("two_gaussians", flags)?;
    let settings = Settings::new(flags);

    let discriminator = settings.train_discriminator()?;
    let clipped = settings.train_critic(&settings.clip)?;
    let penalised = settings.train_critic(&settings.gradient_penalty)?;

    let Lipschitz::GradientPenalty { lambda, .. } = settings.gradient_penalty.lipschitz else {
        bail!("the theory is that of the gradient penalty");
    };
    // Fresh samples, from past the last step.
    let (real, fake) = settings.batch(settings.steps)?;
    let at = |network, points| Curve::of(network, points);
    let (on_real, on_fake) = (at(&discriminator, &real)?, at(&discriminator, &fake)?);
    let right = on_real.score.iter().filter(|&&logit| logit > 0.0).count()
        + on_fake.score.iter().filter(|&&logit| logit < 0.0).count();
    // The logit in theory is linear: (m_r - m_f) x + (m_f^2 - m_r^2) / 2.
    let slope = settings.real_mean - settings.fake_mean;
    let offset = (settings.fake_mean.powi(2) - settings.real_mean.powi(2)) / 2.0;
    let theory = |x: f64| slope * x + offset;
    let in_theory: Vec<f64> = on_fake.x.iter().map(|&x| sigmoid(theory(x)) * slope.abs()).collect();
    let of_clipped = steepness(&at(&clipped, &fake)?);
    let of_penalised = steepness(&at(&penalised, &fake)?);
    let measured = Measured {
        discriminator_gradient: mean(&saturating(&on_fake)),
        discriminator_gradient_in_theory: mean(&in_theory),
        clipped_critic_gradient: mean(&of_clipped),
        penalised_critic_gradient: mean(&of_penalised),
        penalised_critic_gradient_in_theory: 1.0 + slope.abs() / (2.0 * lambda),
        discriminator_accuracy: right as f64 / (2 * settings.batch) as f64,
        clipped_critic_straightness: evenness(of_clipped),
        penalised_critic_straightness: evenness(of_penalised),
    };

    experiment
        .figure("two_gaussians", &figure(&settings, [&discriminator, &clipped, &penalised])?)?;
    experiment.finish(&settings, &measured, &verdict(&measured))
}

fn verdict(measured: &Measured) -> [Claim; 3] {
    let (gan, wgan) = (measured.discriminator_gradient, measured.penalised_critic_gradient);
    let expected = measured.penalised_critic_gradient_in_theory;
    [
        Claim::new(
            "a discriminator near its optimum leaves the generator hardly a gradient",
            format!(
                "right on {:.1} % of samples, mean gradient {gan:.1e} (theory {:.1e})",
                100.0 * measured.discriminator_accuracy,
                measured.discriminator_gradient_in_theory
            ),
            measured.discriminator_accuracy > 0.99 && gan < 0.02,
        ),
        Claim::new(
            "the critic's gradient does not vanish",
            format!(
                "mean gradient {wgan:.3} with the penalty (theory {expected:.3}), {:.0} times the discriminator's",
                wgan / gan
            ),
            (wgan / expected - 1.0).abs() < 0.2 && wgan > 50.0 * gan,
        ),
        Claim::new(
            "the critic is a line where the generated samples lie",
            format!(
                "least over greatest slope {:.2} with clipping, {:.2} with the penalty",
                measured.clipped_critic_straightness, measured.penalised_critic_straightness
            ),
            measured.clipped_critic_straightness > 0.5
                && measured.penalised_critic_straightness > 0.8,
        ),
    ]
}

fn figure(settings: &Settings, networks: [&Network<MlpCritic>; 3]) -> Result<Figure> {
    let line: Vec<f32> = (-160..=160).map(|i| i as f32 / 20.0).collect();
    let line = Tensor::from_vec(line, (321, 1), &Device::Cpu)?;
    let [discriminator, clipped, penalised] = networks.map(|network| Curve::of(network, &line));
    let (discriminator, clipped, penalised) = (discriminator?, clipped?, penalised?);
    let density = |mean: f64| {
        discriminator.x.iter().map(move |&x| {
            (x, (-(x - mean).powi(2) / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
        })
    };
    // A critic is free up to a constant, a clipped one up to its scale: both are drawn through 0 and equally steep.
    let middle = settings.real_mean.midpoint(settings.fake_mean);
    let nearest = |curve: &Curve| {
        let far = |x: &f64| (x - middle).abs();
        (0..curve.x.len()).min_by(|&a, &b| far(&curve.x[a]).total_cmp(&far(&curve.x[b])))
    };
    let drawn = |curve: &Curve, scale: f64| -> Vec<(f64, f64)> {
        let centre = nearest(curve).map_or(0.0, |at| curve.score[at]);
        curve.points(&curve.score).map(|(x, y)| (x, scale * (y - centre))).collect()
    };
    let scale = mean(&steepness(&penalised)) / mean(&steepness(&clipped));
    let shown = 1.0 / 8.0;
    let probability: Vec<f64> = discriminator.score.iter().map(|&logit| sigmoid(logit)).collect();
    let (saturated, even, steep) =
        (saturating(&discriminator), steepness(&penalised), steepness(&clipped));

    let names = ["density, real", "density, generated", "GAN discriminator"];
    let scores = Panel::new("What they say of a sample")
        .x("x")
        .y("D(x), f(x) / 8")
        .line(names[0], density(settings.real_mean))
        .line(names[1], density(settings.fake_mean))
        .line(names[2], discriminator.points(&probability))
        .line("critic, penalty", drawn(&penalised, shown))
        .dashed_line("critic, clipping (scaled)", drawn(&clipped, scale * shown));
    let gradients = Panel::new("What a generator gets from them")
        .x("x")
        .y("length of the gradient")
        .log_y()
        .y_range(1e-8, 1e2)
        .line(names[2], discriminator.points(&saturated))
        .line("critic, penalty", penalised.points(&even))
        .dashed_line(
            "critic, clipping (scaled)",
            clipped.points(&steep).map(|(x, y)| (x, scale * y)),
        );
    Ok(Figure::new("Two Gaussians, an optimal discriminator and optimal critics")
        .columns(2)
        .panel_size(440, 320)
        .panel(scores)
        .panel(gradients))
}
