//! The settings of a run.

use serde::{Deserialize, Serialize};

use crate::average::Ema;
use crate::error::{Error, Result};
use crate::lipschitz::Lipschitz;
use crate::optimizers::{OptimizerConfig, UpdateConfig};
use crate::schedules::NCriticSchedule;
use crate::stop::StopConfig;

/// The settings of a run, with the WGAN paper's values as defaults. Checked before the first step.
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `seed` | 0 | any | decides every random draw of the run |
/// | `batch_size` | 64 | 1 or more | m: samples in each batch, real and generated |
/// | `n_critic` | 5 | 1 or more | critic steps before each generator step |
/// | `n_critic_schedule` | constant | see [`NCriticSchedule`] | how `n_critic` changes in the course of a run |
/// | `generator_steps` | 10,000 | 1 or more | generator steps that one `fit` does |
/// | `lipschitz` | `Clip { c: 0.01 }` | see [`Lipschitz`] | how the critic is kept Lipschitz |
/// | `critic_optimizer` | RMSProp, 5e-5 | see [`OptimizerConfig`] | |
/// | `generator_optimizer` | RMSProp, 5e-5 | see [`OptimizerConfig`] | |
/// | `critic_updates` | nothing | see [`UpdateConfig`] | schedule, parameter groups, clipping of gradients |
/// | `generator_updates` | nothing | see [`UpdateConfig`] | |
/// | `ema` | none | see [`Ema`] | the generator's moving average, which samples are then drawn from |
/// | `stop` | nothing | see [`StopConfig`] | what ends a run before its steps are done |
///
/// It reads from and writes to any self-describing serde format, such as JSON. A field left out has its default, those
/// of a strategy or an optimiser too; an unknown one is refused.
///
/// ```
/// use wgan::{Lipschitz, TrainConfig};
/// let config = TrainConfig { lipschitz: Lipschitz::Clip { c: 0.05 }, ..TrainConfig::wgan() };
/// assert!(config.check().is_ok());
/// let wrong = TrainConfig { n_critic: 0, ..config };
/// assert_eq!(wrong.check().unwrap_err().to_string(), "n_critic is 0; expected 1 or more");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Decides every random draw of the run.
    pub seed: u64,
    /// Samples in each batch, real and generated.
    pub batch_size: usize,
    /// Critic steps before each generator step.
    pub n_critic: usize,
    /// How `n_critic` changes in the course of a run.
    pub n_critic_schedule: NCriticSchedule,
    /// Generator steps that one `fit` does.
    pub generator_steps: u64,
    /// How the critic is kept Lipschitz.
    pub lipschitz: Lipschitz,
    /// What moves the critic's parameters.
    pub critic_optimizer: OptimizerConfig,
    /// What moves the generator's parameters.
    pub generator_optimizer: OptimizerConfig,
    /// What is done around the critic's optimiser.
    pub critic_updates: UpdateConfig,
    /// What is done around the generator's optimiser.
    pub generator_updates: UpdateConfig,
    /// The generator's moving average.
    pub ema: Option<Ema>,
    /// What ends a run before its steps are done.
    pub stop: StopConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self::wgan()
    }
}

impl TrainConfig {
    /// WGAN (Arjovsky et al. 2017, Algorithm 1): clipping at 0.01, RMSProp 5e-5, n_critic 5, batch 64.
    #[must_use]
    pub fn wgan() -> Self {
        Self {
            seed: 0,
            batch_size: 64,
            n_critic: 5,
            n_critic_schedule: NCriticSchedule::Constant,
            generator_steps: 10_000,
            lipschitz: Lipschitz::Clip { c: 0.01 },
            critic_optimizer: OptimizerConfig::rms_prop(5e-5),
            generator_optimizer: OptimizerConfig::rms_prop(5e-5),
            critic_updates: UpdateConfig::default(),
            generator_updates: UpdateConfig::default(),
            ema: None,
            stop: StopConfig::default(),
        }
    }

    /// WGAN-GP (Gulrajani et al. 2017, Algorithm 1): lambda 10, n_critic 5, Adam 1e-4 (0, 0.9), batch 64.
    #[must_use]
    pub fn wgan_gp() -> Self {
        Self {
            lipschitz: Lipschitz::gradient_penalty(),
            critic_optimizer: OptimizerConfig::adam(1e-4, 0.0, 0.9),
            generator_optimizer: OptimizerConfig::adam(1e-4, 0.0, 0.9),
            ..Self::wgan()
        }
    }

    /// WGAN-div as its paper's penalty has it, with the optimiser of its authors' code: k 2, p 6, n_critic 4,
    /// Adam 2e-4 (0, 0.9).
    #[must_use]
    pub fn wgan_div() -> Self {
        Self {
            n_critic: 4,
            lipschitz: Lipschitz::divergence_paper(),
            critic_optimizer: OptimizerConfig::adam(2e-4, 0.0, 0.9),
            generator_optimizer: OptimizerConfig::adam(2e-4, 0.0, 0.9),
            ..Self::wgan()
        }
    }

    /// WGAN-div as its authors' code has it: weight 10, p 6, n_critic 4, Adam 2e-4 (0, 0.9).
    #[must_use]
    pub fn wgan_div_authors_code() -> Self {
        Self { lipschitz: Lipschitz::divergence_authors_code(), ..Self::wgan_div() }
    }

    /// WGAN-div as the tutorials have it: penalty at real and generated samples, n_critic 5, Adam 2e-4 (0.5, 0.999).
    #[must_use]
    pub fn wgan_div_tutorials() -> Self {
        Self {
            lipschitz: Lipschitz::divergence_tutorials(),
            critic_optimizer: OptimizerConfig::adam(2e-4, 0.5, 0.999),
            generator_optimizer: OptimizerConfig::adam(2e-4, 0.5, 0.999),
            ..Self::wgan()
        }
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the first field that is outside, its value and the range.
    pub fn check(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::config("batch_size", 0, "1 or more"));
        }
        if self.n_critic == 0 {
            return Err(Error::config("n_critic", 0, "1 or more"));
        }
        if self.generator_steps == 0 {
            return Err(Error::config("generator_steps", 0, "1 or more"));
        }
        self.lipschitz.check()?;
        self.critic_optimizer.check("critic_optimizer")?;
        self.generator_optimizer.check("generator_optimizer")?;
        self.n_critic_schedule.check()?;
        self.critic_updates.check("critic_updates")?;
        self.generator_updates.check("generator_updates")?;
        self.ema.as_ref().map_or(Ok(()), Ema::check)?;
        self.stop.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizers::ParameterGroup;
    use crate::schedules::RateSchedule;

    #[test]
    fn json_round_trip_with_defaults_and_unknown_fields() {
        for config in
            [TrainConfig::wgan(), TrainConfig::wgan_gp(), TrainConfig::wgan_div_tutorials()]
        {
            let text = serde_json::to_string_pretty(&config).unwrap();
            assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
        }
        assert_eq!(serde_json::from_str::<TrainConfig>("{}").unwrap(), TrainConfig::wgan());
        let short = r#"{"lipschitz": {"strategy": "gradient_penalty"},
            "critic_optimizer": {"optimizer": "adam"}, "generator_optimizer": {"optimizer": "adam"}}"#;
        assert_eq!(serde_json::from_str::<TrainConfig>(short).unwrap(), TrainConfig::wgan_gp());
        let short =
            r#"{"lipschitz": {"strategy": "clip"}, "critic_optimizer": {"optimizer": "rms_prop"}}"#;
        assert_eq!(serde_json::from_str::<TrainConfig>(short).unwrap(), TrainConfig::wgan());
        // What version 0.1 wrote, with a number for `n_critic` and without what has come since.
        let old = r#"{"seed": 0, "batch_size": 64, "n_critic": 5, "generator_steps": 10000,
            "lipschitz": {"strategy": "clip", "c": 0.01},
            "critic_optimizer": {"optimizer": "rms_prop", "learning_rate": 5e-5, "alpha": 0.99, "eps": 1e-8},
            "generator_optimizer": {"optimizer": "rms_prop", "learning_rate": 5e-5, "alpha": 0.99, "eps": 1e-8}}"#;
        assert_eq!(serde_json::from_str::<TrainConfig>(old).unwrap(), TrainConfig::wgan());
        let new = r#"{"n_critic_schedule": {"schedule": "authors_code"}, "ema": {"decay": 0.99},
            "generator_updates": {"schedule": {"schedule": "cosine", "until": 900}, "warm_up": 10,
                "groups": [{"names": "*.bias", "learning_rate": 0.1}], "clip_norm": 1.0},
            "stop": {"patience": 50}}"#;
        let expected = TrainConfig {
            n_critic_schedule: NCriticSchedule::authors_code(),
            ema: Some(Ema::new(0.99)),
            generator_updates: UpdateConfig {
                schedule: RateSchedule::cosine(0, 900),
                warm_up: 10,
                groups: vec![ParameterGroup::new("*.bias").learning_rate(0.1)],
                clip_norm: Some(1.0),
                ..Default::default()
            },
            stop: StopConfig { patience: Some(50), ..Default::default() },
            ..TrainConfig::wgan()
        };
        let read = serde_json::from_str::<TrainConfig>(new).unwrap();
        assert_eq!(read, expected);
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), expected);
        for typo in [
            r#"{"ema": {"decays": 0.9}}"#,
            r#"{"stop": {"epoch": 1}}"#,
            r#"{"critic_updates": {"clip": 1}}"#,
            r#"{"critic_updates": {"groups": [{"names": "a", "lr": 1}]}}"#,
        ] {
            assert!(serde_json::from_str::<TrainConfig>(typo).is_err(), "{typo}");
        }
        let typo = serde_json::from_str::<TrainConfig>(r#"{"n_critics": 3}"#).unwrap_err();
        assert!(typo.to_string().contains("n_critics"), "{typo}");
    }

    #[test]
    fn every_bad_value_is_named() {
        let base = TrainConfig::wgan();
        let gp = |lambda, target| Lipschitz::GradientPenalty {
            lambda,
            target,
            sides: Default::default(),
        };
        let div = |k, p| Lipschitz::Divergence { k, p, points: Default::default() };
        let lipschitz = |lipschitz| TrainConfig { lipschitz, ..base.clone() };
        let critic = |critic_optimizer| TrainConfig { critic_optimizer, ..base.clone() };
        for (config, field) in [
            (TrainConfig { batch_size: 0, ..base.clone() }, "batch_size is 0"),
            (TrainConfig { n_critic: 0, ..base.clone() }, "n_critic is 0"),
            (TrainConfig { generator_steps: 0, ..base.clone() }, "generator_steps is 0"),
            (lipschitz(Lipschitz::Clip { c: 0.0 }), "lipschitz.c is 0"),
            (lipschitz(Lipschitz::Clip { c: f64::NAN }), "lipschitz.c is NaN"),
            (lipschitz(gp(-1.0, 1.0)), "lipschitz.lambda is -1"),
            (lipschitz(gp(10.0, -1.0)), "lipschitz.target is -1"),
            (lipschitz(div(0.0, 6.0)), "lipschitz.k is 0"),
            (lipschitz(div(2.0, 0.5)), "lipschitz.p is 0.5"),
            (TrainConfig { ema: Some(Ema::new(1.0)), ..base.clone() }, "ema.decay is 1"),
            (
                TrainConfig {
                    stop: StopConfig { window: 0, ..Default::default() },
                    ..base.clone()
                },
                "stop.window is 0",
            ),
            (
                TrainConfig {
                    generator_updates: UpdateConfig { clip_norm: Some(-1.0), ..Default::default() },
                    ..base.clone()
                },
                "generator_updates.clip_norm is -1",
            ),
            (critic(OptimizerConfig::rms_prop(0.0)), "critic_optimizer.learning_rate is 0"),
            (critic(OptimizerConfig::adam(1e-4, 1.0, 0.9)), "critic_optimizer.beta1 is 1"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
