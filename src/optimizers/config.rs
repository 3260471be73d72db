//! The choice of an optimiser.

use serde::{Deserialize, Serialize};

use super::{Adam, Optimizer, RmsProp, Sgd};
use crate::error::{Error, Result};

/// An optimiser and its settings.
///
/// | field | default | range |
/// |---|---|---|
/// | `learning_rate` | 5e-5 (RMSProp), 1e-4 (Adam, AdamW), 1e-3 (SGD) | above 0 |
/// | `alpha` | 0.99 | \[0, 1) |
/// | `beta1`, `beta2` | 0, 0.9 | \[0, 1) |
/// | `eps` | 1e-8 | above 0 |
/// | `momentum` | 0 | \[0, 1) |
/// | `dampening` | 0 | \[0, 1\] |
/// | `weight_decay` | 0 (RMSProp, SGD), 0.01 (AdamW) | at least 0 |
///
/// Weight decay is decoupled for every optimiser, as `torch.optim.AdamW` has it: before the step, `w *= 1 - learning_rate *
/// weight_decay`. (The `weight_decay` of PyTorch's RMSprop, SGD and Adam adds to the gradient instead, which an adaptive
/// optimiser divides away again.)
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum OptimizerConfig {
    /// `torch.optim.RMSprop`: the optimiser of the WGAN paper. A momentum optimiser makes a clipped critic
    /// unstable (WGAN, section 4).
    RmsProp {
        /// The step size.
        #[serde(default = "defaults::rms_prop_rate")]
        learning_rate: f64,
        /// The decay of the mean of squared gradients.
        #[serde(default = "defaults::alpha")]
        alpha: f64,
        /// Added to the root of that mean.
        #[serde(default = "defaults::eps")]
        eps: f64,
        /// The share of a step that the next one repeats.
        #[serde(default)]
        momentum: f64,
        /// Whether gradients are divided by their deviation from their mean instead of from 0.
        #[serde(default)]
        centered: bool,
        /// Decoupled weight decay.
        #[serde(default)]
        weight_decay: f64,
    },
    /// `torch.optim.Adam`: the optimiser of WGAN-GP.
    Adam {
        /// The step size.
        #[serde(default = "defaults::adam_rate")]
        learning_rate: f64,
        /// The decay of the mean of gradients.
        #[serde(default)]
        beta1: f64,
        /// The decay of the mean of squared gradients.
        #[serde(default = "defaults::beta2")]
        beta2: f64,
        /// Added to the root of that mean.
        #[serde(default = "defaults::eps")]
        eps: f64,
    },
    /// `torch.optim.AdamW`: Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW {
        /// The step size.
        #[serde(default = "defaults::adam_rate")]
        learning_rate: f64,
        /// The decay of the mean of gradients.
        #[serde(default)]
        beta1: f64,
        /// The decay of the mean of squared gradients.
        #[serde(default = "defaults::beta2")]
        beta2: f64,
        /// Added to the root of that mean.
        #[serde(default = "defaults::eps")]
        eps: f64,
        /// Decoupled weight decay.
        #[serde(default = "defaults::weight_decay")]
        weight_decay: f64,
    },
    /// `torch.optim.SGD`.
    Sgd {
        /// The step size.
        #[serde(default = "defaults::sgd_rate")]
        learning_rate: f64,
        /// The share of a step that the next one repeats.
        #[serde(default)]
        momentum: f64,
        /// What a gradient's share in the momentum is less than 1 by.
        #[serde(default)]
        dampening: f64,
        /// Whether the momentum is Nesterov's: needs `momentum` above 0 and `dampening` 0.
        #[serde(default)]
        nesterov: bool,
        /// Decoupled weight decay.
        #[serde(default)]
        weight_decay: f64,
    },
}

/// The papers' values, for settings that leave a field out.
mod defaults {
    pub(super) fn rms_prop_rate() -> f64 {
        5e-5
    }
    pub(super) fn alpha() -> f64 {
        0.99
    }
    pub(super) fn adam_rate() -> f64 {
        1e-4
    }
    pub(super) fn beta2() -> f64 {
        0.9
    }
    pub(super) fn eps() -> f64 {
        1e-8
    }
    pub(super) fn weight_decay() -> f64 {
        1e-2
    }
    pub(super) fn sgd_rate() -> f64 {
        1e-3
    }
}

impl OptimizerConfig {
    /// RMSProp with PyTorch's defaults: alpha 0.99, eps 1e-8, no momentum, not centred.
    #[must_use]
    pub const fn rms_prop(learning_rate: f64) -> Self {
        Self::RmsProp {
            learning_rate,
            alpha: 0.99,
            eps: 1e-8,
            momentum: 0.0,
            centered: false,
            weight_decay: 0.0,
        }
    }

    /// Adam with these decays and PyTorch's eps, 1e-8.
    #[must_use]
    pub const fn adam(learning_rate: f64, beta1: f64, beta2: f64) -> Self {
        Self::Adam { learning_rate, beta1, beta2, eps: 1e-8 }
    }

    /// AdamW with these decays and PyTorch's eps, 1e-8.
    #[must_use]
    pub const fn adam_w(learning_rate: f64, beta1: f64, beta2: f64, weight_decay: f64) -> Self {
        Self::AdamW { learning_rate, beta1, beta2, eps: 1e-8, weight_decay }
    }

    /// Gradient descent with this momentum, neither dampened nor Nesterov's.
    #[must_use]
    pub const fn sgd(learning_rate: f64, momentum: f64) -> Self {
        Self::Sgd { learning_rate, momentum, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }

    /// The learning rate, before any schedule.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        match *self {
            Self::RmsProp { learning_rate, .. }
            | Self::Adam { learning_rate, .. }
            | Self::AdamW { learning_rate, .. }
            | Self::Sgd { learning_rate, .. } => learning_rate,
        }
    }

    /// Checks the ranges; `owner` is the name of this setting in an error.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field, its value and the range.
    pub fn check(&self, owner: &str) -> Result<()> {
        let hold = |field: &str, value: f64, inside: bool, expected: &str| {
            if inside {
                Ok(())
            } else {
                Err(Error::config(format!("{owner}.{field}"), value, expected))
            }
        };
        let above_zero = |field, value: f64| {
            hold(field, value, value.is_finite() && value > 0.0, "a finite number above 0")
        };
        let fraction = |field, value: f64| {
            hold(field, value, (0.0..1.0).contains(&value), "a number in [0, 1)")
        };
        let decay = |value: f64| {
            let inside = value.is_finite() && value >= 0.0;
            hold("weight_decay", value, inside, "a finite number of at least 0")
        };
        match *self {
            Self::RmsProp { learning_rate, alpha, eps, momentum, weight_decay, .. } => {
                above_zero("learning_rate", learning_rate)?;
                fraction("alpha", alpha)?;
                above_zero("eps", eps)?;
                fraction("momentum", momentum)?;
                decay(weight_decay)
            }
            Self::Adam { learning_rate, beta1, beta2, eps } => {
                above_zero("learning_rate", learning_rate)?;
                fraction("beta1", beta1)?;
                fraction("beta2", beta2)?;
                above_zero("eps", eps)
            }
            Self::AdamW { learning_rate, beta1, beta2, eps, weight_decay } => {
                Self::Adam { learning_rate, beta1, beta2, eps }.check(owner)?;
                decay(weight_decay)
            }
            Self::Sgd { learning_rate, momentum, dampening, nesterov, weight_decay } => {
                above_zero("learning_rate", learning_rate)?;
                fraction("momentum", momentum)?;
                let inside = (0.0..=1.0).contains(&dampening);
                hold("dampening", dampening, inside, "a number in [0, 1]")?;
                decay(weight_decay)?;
                if nesterov && (momentum == 0.0 || dampening != 0.0) {
                    let value = format!("true with momentum {momentum} and dampening {dampening}");
                    let expected = "a momentum above 0 and no dampening beside it";
                    return Err(Error::config(format!("{owner}.nesterov"), value, expected));
                }
                Ok(())
            }
        }
    }

    /// The optimiser, at its first step.
    #[must_use]
    pub fn build(&self) -> Box<dyn Optimizer> {
        match *self {
            Self::RmsProp { learning_rate, alpha, eps, momentum, centered, weight_decay } => {
                let state = RmsProp::quantities(momentum, centered);
                Box::new(RmsProp {
                    learning_rate,
                    alpha,
                    eps,
                    momentum,
                    centered,
                    weight_decay,
                    state,
                })
            }
            Self::Adam { learning_rate, beta1, beta2, eps } => {
                Self::AdamW { learning_rate, beta1, beta2, eps, weight_decay: 0.0 }.build()
            }
            Self::AdamW { learning_rate, beta1, beta2, eps, weight_decay } => {
                let state = Adam::quantities();
                Box::new(Adam { learning_rate, beta1, beta2, eps, weight_decay, state })
            }
            Self::Sgd { learning_rate, momentum, dampening, nesterov, weight_decay } => {
                let state = Sgd::quantities(momentum);
                Box::new(Sgd { learning_rate, momentum, dampening, nesterov, weight_decay, state })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_old_files_still_read() {
        let read = |text: &str| serde_json::from_str::<OptimizerConfig>(text).unwrap();
        assert_eq!(read(r#"{"optimizer": "rms_prop"}"#), OptimizerConfig::rms_prop(5e-5));
        let old = r#"{"optimizer": "rms_prop", "learning_rate": 0.01, "alpha": 0.99, "eps": 1e-8}"#;
        assert_eq!(read(old), OptimizerConfig::rms_prop(0.01));
        let expected = OptimizerConfig::adam_w(1e-4, 0.0, 0.9, 0.01);
        assert_eq!(read(r#"{"optimizer": "adamw"}"#), expected);
    }

    #[test]
    fn nesterovs_momentum_needs_a_momentum() {
        let sgd = |momentum, dampening| OptimizerConfig::Sgd {
            learning_rate: 0.1,
            momentum,
            dampening,
            nesterov: true,
            weight_decay: 0.0,
        };
        assert!(sgd(0.9, 0.0).check("o").is_ok());
        for (wrong, field) in [
            (sgd(0.0, 0.0), "o.nesterov"),
            (sgd(0.9, 0.5), "o.nesterov"),
            (sgd(0.9, 1.5), "o.dampening"),
            (sgd(1.0, 0.0), "o.momentum"),
            (OptimizerConfig::adam_w(1e-4, 0.0, 0.9, -1.0), "o.weight_decay"),
            (OptimizerConfig::adam_w(1e-4, 0.0, 1.0, 0.0), "o.beta2"),
        ] {
            let error = wrong.check("o").unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
