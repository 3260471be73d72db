//! Wasserstein GANs on the candle tensor framework.
#![deny(missing_docs)]

mod config;
mod critic;
pub mod data;
mod error;
pub mod files;
mod generator;
pub mod history;
mod kernels;
pub mod layers;
mod lipschitz;
pub mod losses;
mod network;
pub mod observers;
pub mod optimizers;
mod parameters;
pub mod random;
#[cfg(feature = "report")]
pub mod report;
pub mod second_order;
mod trainer;
pub mod zoo;

pub use config::TrainConfig;
pub use critic::{Critic, ModuleCritic};
pub use error::{Error, Result};
pub use generator::Generator;
pub use lipschitz::{Lipschitz, PenaltyPoints, Sides};
pub use network::{ModelBuilder, Network};
pub use parameters::{InitScheme, Parameters};
pub use second_order::Traced;
pub use trainer::{CriticDraws, CriticReport, GeneratorReport, WganTrainer};
