//! What the rows of the table stand for: networks, strategies and settings.

use std::path::Path;

use anyhow::Result;
use candle_core::DType;
use clap::{Args, ValueEnum};
use serde::Serialize;
use wgan::data::TensorDataset;
use wgan::optimizers::{OptimizerConfig, UpdateConfig};
use wgan::schedules::RateSchedule;
use wgan::zoo::{
    CriticNorm, DcganCriticConfig, DcganGeneratorConfig, MlpCriticConfig, MlpGeneratorConfig,
};
use wgan::{Ema, Lipschitz, TrainConfig};

use crate::experiment::Flags;
use crate::finished::Run;

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// The fully connected pair of the crate's defaults
    Mlp,
    /// A DCGAN of width 16
    Dcgan,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    Clip,
    Gp,
    Div,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tuning {
    /// The paper's own
    Paper,
    /// Those of this example's head
    Tuned,
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    pub model: Model,
    pub lipschitz: Strategy,
    pub settings: Tuning,
}

/// Settings to be tried in the place of the tuned ones.
#[derive(Args, Clone, Copy)]
pub struct Trial {
    /// The learning rate of the tuned rows [default: 1e-3 for clip, 2e-3 for gp and div]
    #[arg(long, value_name = "X")]
    learning_rate: Option<f64>,

    /// The bound of the tuned rows with clipping [default: 0.03]
    #[arg(long, value_name = "C")]
    clip: Option<f64>,
}

impl Row {
    pub fn words(self) -> [&'static str; 3] {
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

    pub fn config(self, seed: u64, generator_steps: u64, trial: Trial) -> TrainConfig {
        let paper = match self.lipschitz {
            Strategy::Clip => TrainConfig::wgan(),
            Strategy::Gp => TrainConfig::wgan_gp(),
            Strategy::Div => TrainConfig::wgan_div(),
        };
        let paper = TrainConfig { seed, generator_steps, ..paper };
        match self.settings {
            Tuning::Paper => paper,
            Tuning::Tuned => self.tuned(paper, trial),
        }
    }

    fn tuned(self, paper: TrainConfig, trial: Trial) -> TrainConfig {
        let rate = |default| trial.learning_rate.unwrap_or(default);
        let (lipschitz, optimizer) = match self.lipschitz {
            Strategy::Clip => (
                Lipschitz::Clip { c: trial.clip.unwrap_or(0.03) },
                OptimizerConfig::rms_prop(rate(1e-3)),
            ),
            Strategy::Gp | Strategy::Div => {
                (paper.lipschitz, OptimizerConfig::adam(rate(2e-3), 0.5, 0.9))
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
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub enum Networks {
    Mlp { generator: MlpGeneratorConfig, critic: MlpCriticConfig },
    Dcgan { generator: DcganGeneratorConfig, critic: DcganCriticConfig },
}

impl Model {
    pub fn networks(self) -> Networks {
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

    pub fn steps(self, flags: &Flags) -> u64 {
        match self {
            Self::Mlp => flags.pick(600, 250),
            Self::Dcgan => 300,
        }
    }
}

/// Enough to tell one folder of digits from another.
#[derive(Serialize, Clone, Copy)]
pub struct Digits {
    pub count: usize,
    /// Of the pixels of the first 1,000.
    mean: f64,
}

impl Digits {
    pub fn of(set: &TensorDataset) -> Result<Self> {
        let samples = set.samples();
        let count = samples.dim(0)?;
        let first = samples.narrow(0, 0, count.min(1000))?.to_dtype(DType::F64)?;
        Ok(Self { count, mean: first.mean_all()?.to_scalar()? })
    }
}

/// All that a run's figures depend on.
#[derive(Serialize)]
pub struct RunSettings {
    #[serde(flatten)]
    pub row: Row,
    pub training: TrainConfig,
    pub networks: Networks,
    /// Whose features and classes the figures are of.
    pub classifier: String,
    /// The neighbour whose distance is the radius of coverage's balls.
    pub neighbour: usize,
    /// Splits of the classifier score.
    pub splits: usize,
    pub training_digits: Digits,
    pub test_digits: Digits,
    /// Generated ones that are measured, and the most real ones.
    pub samples: usize,
}

impl RunSettings {
    /// A run of these, and where it leaves its figures.
    pub fn run(self, folder: &Path) -> Run<Self> {
        let [model, strategy, tuning] = self.row.words().map(str::to_lowercase);
        let TrainConfig { seed, generator_steps, .. } = self.training;
        let name = format!("{model}_{strategy}_{tuning}_{generator_steps}_steps_seed_{seed}.json");
        Run { settings: self, path: folder.join(name) }
    }
}
