//! Flags of long runs: schedules, the generator's average, what ends a run, and looks at the models.

use clap::{Args, ValueEnum};
use wgan::optimizers::UpdateConfig;
use wgan::schedules::{NCriticSchedule, RateSchedule};
use wgan::stop::StopConfig;
use wgan::{Ema, TrainConfig};

#[derive(Args)]
#[command(next_help_heading = "Long runs")]
pub struct LongRun {
    /// Draw samples from the generator's moving average, with this decay or 0.999
    #[arg(long, value_name = "DECAY", num_args = 0..=1, default_missing_value = "0.999")]
    ema: Option<f64>,

    /// How both learning rates fall towards the last generator step
    #[arg(long, value_enum, default_value = "constant")]
    lr_schedule: LrSchedule,

    /// Generator steps over which both learning rates rise at first
    #[arg(long, value_name = "N", default_value_t = 0)]
    warm_up: u64,

    /// Scale the gradients of each network down to this norm
    #[arg(long, value_name = "NORM")]
    clip_grad_norm: Option<f64>,

    /// Take 100 critic steps for the first 25 generator steps and for every 500th, as the WGAN authors' code does
    #[arg(long)]
    authors_n_critic: bool,

    /// End the run after this many minutes
    #[arg(long, value_name = "MINUTES")]
    stop_after: Option<f64>,

    /// End the run after this many generator steps without progress of the smoothed Wasserstein estimate
    #[arg(long, value_name = "N")]
    patience: Option<u64>,

    /// Write diagnostics.csv every so many generator steps: held-out loss, gradient norms, weights at the clip bound
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub diagnostics_every: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LrSchedule {
    Constant,
    Linear,
    Cosine,
}

impl LongRun {
    /// The settings with these on top.
    pub fn apply(&self, config: TrainConfig) -> TrainConfig {
        let steps = config.generator_steps;
        let schedule = match self.lr_schedule {
            LrSchedule::Constant => RateSchedule::Constant,
            LrSchedule::Linear => RateSchedule::linear(0, steps),
            LrSchedule::Cosine => RateSchedule::cosine(0, steps),
        };
        let updates = UpdateConfig {
            schedule,
            warm_up: self.warm_up,
            clip_norm: self.clip_grad_norm,
            ..Default::default()
        };
        let n_critic_schedule = match self.authors_n_critic {
            true => NCriticSchedule::authors_code(),
            false => NCriticSchedule::Constant,
        };
        TrainConfig {
            n_critic_schedule,
            critic_updates: updates.clone(),
            generator_updates: updates,
            ema: self.ema.map(Ema::new),
            stop: StopConfig {
                seconds: self.stop_after.map(|minutes| 60.0 * minutes),
                patience: self.patience,
                ..Default::default()
            },
            ..config
        }
    }
}
