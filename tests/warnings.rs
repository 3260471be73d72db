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

/// A Fréchet distance from no more samples than dimensions says so, once for each distribution.
#[cfg(feature = "metrics")]
#[test]
fn a_distance_from_few_samples_is_told() -> Result<()> {
    use wgan::metrics::{Gaussian, Points};

    let of = |samples: usize| -> Result<Gaussian> {
        let drawn = Stream::new(1, "samples", 0).normal((samples, 4), DType::F64, &Device::Cpu)?;
        Gaussian::of(&Points::from_tensor(&drawn)?)
    };
    // Of this thread: the other test has the one of all threads.
    let collector = Collector::default();
    let warned = |a: &Gaussian, b: &Gaussian| -> Result<Vec<String>> {
        tracing::subscriber::with_default(collector.clone(), || a.frechet_distance(b))?;
        let lines = std::mem::take(&mut *collector.0.lock().unwrap());
        Ok(lines.into_iter().filter(|line| line.starts_with("WARN")).collect())
    };
    let (few, enough) = (of(4)?, of(5)?);
    let singular = "a covariance of 4 dimensions from 4 samples is singular";
    for (a, b) in [(&few, &enough), (&enough, &few)] {
        let lines = warned(a, b)?;
        assert!(lines.len() == 1 && lines[0].contains(singular), "{lines:#?}");
        assert!(lines[0].contains("samples=4 dims=4"), "{lines:#?}");
        assert!(lines[0].contains("take at least 5 samples"), "{lines:#?}");
    }
    assert_eq!(warned(&few, &few)?.len(), 2);
    assert_eq!(warned(&enough, &enough)?, [""; 0]);
    // Nobody knows how many samples a matrix is of.
    let given = Gaussian::new(few.mean().to_vec(), few.covariance().to_vec())?;
    assert_eq!(warned(&given, &enough)?, [""; 0]);
    Ok(())
}
