//! Fully connected generator and critic: the MNIST recipe of most tutorials, as a configuration.

use candle_core::Tensor;
use candle_nn::{BatchNormConfig, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layers::{Activation, BatchNorm, Linear};
use crate::second_order::Traced;
use crate::zoo::condition::{Condition, impl_critic, impl_generator};
use crate::zoo::{check_samples, latent_batch};

/// The settings of an [`MlpGenerator`].
///
/// | field | default | meaning |
/// |---|---|---|
/// | `latent_dim` | 100 | size of a latent point, 1 or more |
/// | `hidden` | 128, 256, 512, 1024 | sizes of the hidden layers, each 1 or more |
/// | `sample_shape` | 1, 28, 28 | dimensions of one sample, such as `(channels, height, width)` |
/// | `batch_norm` | true | batch normalisation on every hidden layer but the first |
/// | `batch_norm_eps` | 1e-5 | its epsilon. Many copies of the recipe have 0.8, a momentum by mistake |
/// | `activation` | leaky ReLU 0.2 | after each hidden layer |
/// | `output_activation` | tanh | after the last layer |
/// | `classes` | none | a number, 1 or more, makes the generator class-conditional |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpGeneratorConfig {
    /// Size of a latent point.
    pub latent_dim: usize,
    /// Sizes of the hidden layers.
    pub hidden: Vec<usize>,
    /// Dimensions of one sample.
    pub sample_shape: Vec<usize>,
    /// Batch normalisation on every hidden layer but the first.
    pub batch_norm: bool,
    /// Its epsilon.
    pub batch_norm_eps: f64,
    /// After each hidden layer.
    pub activation: Activation,
    /// After the last layer.
    pub output_activation: Activation,
    /// The number of classes, for a class-conditional generator.
    pub classes: Option<usize>,
}

impl Default for MlpGeneratorConfig {
    fn default() -> Self {
        Self {
            latent_dim: 100,
            hidden: vec![128, 256, 512, 1024],
            sample_shape: vec![1, 28, 28],
            batch_norm: true,
            batch_norm_eps: 1e-5,
            activation: Activation::LeakyRelu(0.2),
            output_activation: Activation::Tanh,
            classes: None,
        }
    }
}

/// A fully connected generator.
///
/// Parameters: `fc1.weight`, `fc1.bias`, `fc2.*` and so on; the batch normalisation behind `fcN` is `bnN` with
/// `weight`, `bias`, `running_mean`, `running_var`. With the default settings (1,510,032 trained parameters):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `fc1`, leaky ReLU | (batch, 128) | 12,928 |
/// | `fc2`, `bn2`, leaky ReLU | (batch, 256) | 33,024 + 512 |
/// | `fc3`, `bn3`, leaky ReLU | (batch, 512) | 131,584 + 1,024 |
/// | `fc4`, `bn4`, leaky ReLU | (batch, 1024) | 525,312 + 2,048 |
/// | `fc5`, tanh, reshape | (batch, 1, 28, 28) | 803,600 |
#[derive(Debug)]
pub struct MlpGenerator {
    hidden: Vec<(Linear, Option<BatchNorm>)>,
    output: Linear,
    config: MlpGeneratorConfig,
    condition: Condition,
}

impl MlpGenerator {
    /// A generator whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a size of 0 or an epsilon that is not above 0; candle's.
    pub fn new(config: MlpGeneratorConfig, vb: VarBuilder) -> Result<Self> {
        let eps = config.batch_norm_eps;
        if !(eps.is_finite() && eps > 0.0) {
            return Err(Error::config("batch_norm_eps", eps, "a finite number above 0"));
        }
        config.activation.check()?;
        config.output_activation.check()?;
        let features = features(&config.sample_shape, "sample_shape")?;
        let condition = Condition::new(config.classes)?;
        if config.latent_dim == 0 {
            return Err(Error::config("latent_dim", 0, "1 or more"));
        }
        let inputs = config.latent_dim.saturating_add(condition.width());
        let sizes = sizes(inputs, "latent_dim", &config.hidden)?;
        let hidden = (1..sizes.len())
            .map(|i| {
                let fc = Linear::new(sizes[i - 1], sizes[i], vb.pp(format!("fc{i}")))?;
                let norm = (config.batch_norm && i > 1)
                    .then(|| {
                        BatchNorm::new(
                            sizes[i],
                            BatchNormConfig::from(eps),
                            vb.pp(format!("bn{i}")),
                        )
                    })
                    .transpose()?;
                Ok((fc, norm))
            })
            .collect::<Result<Vec<_>>>()?;
        let last = sizes.len();
        let output = Linear::new(sizes[last - 1], features, vb.pp(format!("fc{last}")))?;
        Ok(Self { hidden, output, config, condition })
    }

    fn run(&self, latent: &Traced, labels: Option<&Tensor>, train: bool) -> Result<Traced> {
        let batch = latent_batch(latent, self.config.latent_dim)?;
        let mut x = self.condition.append(latent, labels)?;
        for (fc, norm) in &self.hidden {
            x = x.apply(fc)?;
            if let Some(norm) = norm {
                x = norm.forward_traced(&x, train)?;
            }
            x = x.apply(&self.config.activation)?;
        }
        let x = x.apply(&self.output)?;
        let shape: Vec<usize> = [&[batch], self.config.sample_shape.as_slice()].concat();
        x.apply(&self.config.output_activation)?.reshape(shape)
    }
}

impl_generator!(MlpGenerator, |model| (model.config.latent_dim, model.condition));

/// The settings of an [`MlpCritic`].
///
/// | field | default | meaning |
/// |---|---|---|
/// | `sample_shape` | 1, 28, 28 | dimensions of one sample |
/// | `hidden` | 512, 256 | sizes of the hidden layers, each 1 or more |
/// | `activation` | leaky ReLU 0.2 | after each hidden layer |
/// | `classes` | none | a number, 1 or more, makes the critic class-conditional |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpCriticConfig {
    /// Dimensions of one sample.
    pub sample_shape: Vec<usize>,
    /// Sizes of the hidden layers.
    pub hidden: Vec<usize>,
    /// After each hidden layer.
    pub activation: Activation,
    /// The number of classes, for a class-conditional critic.
    pub classes: Option<usize>,
}

impl Default for MlpCriticConfig {
    fn default() -> Self {
        Self {
            sample_shape: vec![1, 28, 28],
            hidden: vec![512, 256],
            activation: Activation::LeakyRelu(0.2),
            classes: None,
        }
    }
}

/// A fully connected critic.
///
/// Parameters: `fc1.weight`, `fc1.bias`, `fc2.*` and so on. With the default settings (533,505 in all):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | flatten | (batch, 784) | 0 |
/// | `fc1`, leaky ReLU | (batch, 512) | 401,920 |
/// | `fc2`, leaky ReLU | (batch, 256) | 131,328 |
/// | `fc3` | (batch, 1) | 257 |
#[derive(Debug)]
pub struct MlpCritic {
    hidden: Vec<Linear>,
    output: Linear,
    config: MlpCriticConfig,
    condition: Condition,
}

impl MlpCritic {
    /// A critic whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a size of 0; candle's.
    pub fn new(config: MlpCriticConfig, vb: VarBuilder) -> Result<Self> {
        config.activation.check()?;
        let features = features(&config.sample_shape, "sample_shape")?;
        let condition = Condition::new(config.classes)?;
        let inputs = features.saturating_add(condition.width());
        let sizes = sizes(inputs, "sample_shape", &config.hidden)?;
        let hidden = (1..sizes.len())
            .map(|i| Linear::new(sizes[i - 1], sizes[i], vb.pp(format!("fc{i}"))))
            .collect::<Result<_>>()?;
        let last = sizes.len();
        let output = Linear::new(sizes[last - 1], 1, vb.pp(format!("fc{last}")))?;
        Ok(Self { hidden, output, config, condition })
    }

    fn run(&self, samples: &Traced, labels: Option<&Tensor>) -> Result<Traced> {
        check_samples(samples, &self.config.sample_shape)?;
        let mut x = self.condition.append(&samples.flatten_from(1)?, labels)?;
        for fc in &self.hidden {
            x = x.apply(fc)?.apply(&self.config.activation)?;
        }
        x.apply(&self.output)
    }
}

impl_critic!(MlpCritic, |model| model.condition);

fn features(shape: &[usize], name: &str) -> Result<usize> {
    match shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)) {
        Some(count) if count > 0 && !shape.is_empty() => Ok(count),
        _ => {
            Err(Error::config(name, format!("{shape:?}"), "at least one dimension, each 1 or more"))
        }
    }
}

/// The size of the input followed by those of the hidden layers, none of them 0.
fn sizes(input: usize, name: &str, hidden: &[usize]) -> Result<Vec<usize>> {
    if input == 0 {
        return Err(Error::config(name, input, "1 or more"));
    }
    if hidden.contains(&0) {
        return Err(Error::config("hidden", format!("{hidden:?}"), "sizes of 1 or more"));
    }
    Ok([&[input], hidden].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::ModelBuilder;

    /// The tables in the docs, and PyTorch's own counts for the same layers.
    #[test]
    fn parameter_counts_are_those_of_the_tables() -> Result<()> {
        let build = ModelBuilder::new(0);
        let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb))?;
        assert_eq!(generator.parameters().count(), 1_510_032);
        let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb))?;
        assert_eq!(critic.parameters().count(), 533_505);
        Ok(())
    }
}
