//! Ready-made models.

mod mlp;

pub use mlp::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
