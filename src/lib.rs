//! Wasserstein GANs on the [candle](candle_core) tensor framework.
//!
//! Bring a [`Generator`], a [`Critic`] and a [`Dataset`](data::Dataset); [`WganTrainer::fit`] runs Algorithm 1 of
//! the WGAN paper (Arjovsky et al. 2017). [`Lipschitz`] chooses between weight clipping, gradient penalty and
//! WGAN-div. Penalties are exact: see [`second_order`].
//!
//! ```
//! use candle_core::{DType, Device};
//! use wgan::data::TensorDataset;
//! use wgan::layers::Activation;
//! use wgan::random::Stream;
//! use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
//! use wgan::{ModelBuilder, TrainConfig, WganTrainer};
//!
//! # fn main() -> wgan::Result<()> {
//! // Points of the plane, N((3, 3), 1).
//! let points = Stream::new(0, "points", 0).normal((1024, 2), DType::F32, &Device::Cpu)?;
//! let data = TensorDataset::new((points + 3.0)?)?;
//!
//! let build = ModelBuilder::new(0);
//! let generator = build.generator(|vb| {
//!     let config = MlpGeneratorConfig {
//!         latent_dim: 2,
//!         hidden: vec![32, 32],
//!         sample_shape: vec![2],
//!         output_activation: Activation::Identity,
//!         ..Default::default()
//!     };
//!     MlpGenerator::new(config, vb)
//! })?;
//! let critic = build.critic(|vb| {
//!     let config = MlpCriticConfig { sample_shape: vec![2], hidden: vec![32, 32], ..Default::default() };
//!     MlpCritic::new(config, vb)
//! })?;
//!
//! let config = TrainConfig { generator_steps: 20, ..TrainConfig::wgan_gp() };
//! let mut trainer = WganTrainer::new(generator, critic, config)?;
//! let history = trainer.fit(&data)?;
//! assert_eq!(history.len(), 20);
//! assert_eq!(trainer.sample(5)?.dims(), [5, 2]);
//! # Ok(())
//! # }
//! ```
//!
//! | to | see |
//! |---|---|
//! | write a critic or a generator | [`Critic`], [`Generator`], [`Traced`] |
//! | build one from layers | [`layers`] |
//! | take a ready-made one | [`zoo`] |
//! | build from a seed, save and load weights | [`ModelBuilder`], [`Network`], [`Parameters`] |
//! | choose settings | [`TrainConfig`], [`Lipschitz`], [`optimizers`], [`schedules`], [`Ema`], [`stop`] |
//! | run single steps with draws of your own | [`WganTrainer::critic_step`], [`CriticDraws`] |
//! | feed data | [`data`] |
//! | check the gradients of a model of your own | [`testing`] |
//! | save a run and go on with it after a kill | [`checkpoint`], [`WganTrainer::resume`] |
//! | measure samples and distances | [`metrics`] |
//! | watch a run | [`observers`], [`report`], [`diagnosis`] |
//!
//! Modules import only downwards: kernels, then operations on candle tensors, then second order, then layers, then models,
//! then losses and Lipschitz strategies, then the trainer; data and observers stand beside it.
#![deny(missing_docs, unsafe_code)]

mod average;
pub mod checkpoint;
mod config;
mod config_file;
mod critic;
pub mod data;
mod device;
pub mod diagnosis;
mod draws;
mod error;
pub mod files;
mod generator;
pub mod history;
#[allow(unsafe_code, reason = "gemm takes pointers; every block says why it is sound")]
mod kernels;
pub mod layers;
mod lipschitz;
pub mod losses;
pub mod metrics;
mod network;
pub mod observers;
mod ops;
pub mod optimizers;
mod parameters;
pub mod random;
#[cfg(feature = "report")]
pub mod report;
pub mod schedules;
pub mod second_order;
pub mod stop;
pub mod testing;
mod trainer;
pub mod zoo;

pub use average::Ema;
pub use config::TrainConfig;
pub use critic::{Critic, ModuleCritic};
pub use device::device;
pub use draws::{CriticDraws, GeneratorDraws};
pub use error::{Error, Result};
pub use generator::Generator;
pub use lipschitz::{Lipschitz, PenaltyPoints, Sides};
pub use network::{ModelBuilder, Network};
pub use parameters::{InitScheme, Parameters};
pub use second_order::Traced;
pub use trainer::{CriticReport, GeneratorReport, WganTrainer};

/// The README's code, compiled by `cargo test`.
#[cfg(all(doctest, feature = "report", feature = "idx", feature = "metrics"))]
#[doc = include_str!("../README.md")]
struct Readme;
