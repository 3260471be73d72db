//! What the library tells a program's subscriber, which it does not install itself. In a process of its own: a subscriber is
//! there for all threads.

use std::fmt;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device};
use wgan::checkpoint::{Best, Checkpoints};
use wgan::data::TensorDataset;
use wgan::metrics::Score;
use wgan::observers::{Every, Scores};
use wgan::optimizers::OptimizerConfig;
use wgan::random::Stream;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{Lipschitz, ModelBuilder, Result, TrainConfig, WganTrainer};

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Collector {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!(" {}={value:?}", field.name());
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

fn data() -> Result<TensorDataset> {
    TensorDataset::new(Stream::new(0, "data", 0).normal((16, 4), DType::F32, &Device::Cpu)?)
}

fn run(lipschitz: Lipschitz) -> Result<()> {
    trainer(lipschitz)?.fit(&data()?).map(drop)
}

fn trainer(lipschitz: Lipschitz) -> Result<WganTrainer<MlpGenerator, MlpCritic>> {
    let build = ModelBuilder::new(0);
    let generator = build.generator(|vb| {
        let config = MlpGeneratorConfig {
            latent_dim: 3,
            hidden: vec![6],
            sample_shape: vec![4],
            ..Default::default()
        };
        MlpGenerator::new(config, vb)
    })?;
    let critic = build.critic(|vb| {
        let config =
            MlpCriticConfig { sample_shape: vec![4], hidden: vec![5], ..Default::default() };
        MlpCritic::new(config, vb)
    })?;
    let config = TrainConfig {
        batch_size: 4,
        n_critic: 2,
        generator_steps: 120,
        critic_optimizer: OptimizerConfig::adam(1e-2, 0.5, 0.9),
        lipschitz,
        ..TrainConfig::wgan()
    };
    WganTrainer::new(generator, critic, config)
}

#[test]
fn warnings_reach_the_programs_subscriber() -> Result<()> {
    run(Lipschitz::Clip { c: 1e-7 })?;
    let collector = Collector::default();
    // A subscriber of the library's own would be there by now.
    assert!(tracing::subscriber::set_global_default(collector.clone()).is_ok());
    let told = || std::mem::take(&mut *collector.0.lock().unwrap());
    run(Lipschitz::Clip { c: 1e-7 })?;
    let lines = told();
    let has =
        |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["WARN", "gradient has vanished", "step=20", "larger c"]), "{lines:#?}");
    assert!(has(&["WARN", "lie at the clip bound", "step=100"]), "{lines:#?}");
    assert!(has(&["INFO", "the run ended: all 120 generator steps are done"]), "{lines:#?}");
    // A run in good order is told to have ended, and nothing else.
    run(Lipschitz::gradient_penalty())?;
    let lines = told();
    assert!(lines.iter().all(|line| !line.starts_with("WARN")), "{lines:#?}");

    // A score's name that is mistyped keeps no best checkpoint.
    let folder = tempfile::tempdir().unwrap();
    let score = Score {
        measure: "distance".into(),
        value: 1.0,
        deviation: None,
        features: None,
        samples: 1,
        real: None,
    };
    let scores = Scores::new(folder.path(), 1, 0, move |_| Ok(vec![score.clone()]));
    let best = Best::lowest_score("distanse");
    let checkpoints =
        Checkpoints::new(folder.path().join("checkpoints")).every_steps(10).keep_best(best);
    trainer(Lipschitz::gradient_penalty())?
        .observe(Every::Steps(10), scores)
        .with_checkpoints(checkpoints)
        .fit(&data()?)?;
    let warnings: Vec<String> = told().into_iter().filter(|l| l.starts_with("WARN")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains(r#"no score "distanse""#), "{warnings:#?}");
    assert!(warnings[0].contains(r#"measured are {"distance"}"#), "{warnings:#?}");
    Ok(())
}
