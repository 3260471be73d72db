//! Scores that are measured in the course of a run: they change nothing of it, survive its end, and pick its best checkpoint.

mod support;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use support::bits;
use wgan::checkpoint::{Best, Checkpoint, Checkpoints};
use wgan::data::TensorDataset;
use wgan::history::History;
use wgan::layers::{Activation, Linear};
use wgan::metrics::{KernelDistance, ModeCoverage, Points, Score};
use wgan::observers::{Every, Scores};
use wgan::random::Stream;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{Ema, Generator, ModelBuilder, Result, TrainConfig, WganTrainer};

const STEPS: u64 = 9;
const SAMPLES: usize = 300;

/// Two far modes on a line.
fn data() -> TensorDataset {
    let noise = Stream::new(5, "data", 0).normal((256, 1), DType::F32, &Device::Cpu).unwrap();
    let side = Tensor::arange(0f32, 256.0, &Device::Cpu).unwrap();
    let side = ((side / 128.0).unwrap().floor().unwrap() * 8.0).unwrap().reshape((256, 1)).unwrap();
    TensorDataset::new(((noise * 0.5).unwrap() + side).unwrap()).unwrap()
}

fn trainer() -> Result<WganTrainer<MlpGenerator, MlpCritic>> {
    let build = ModelBuilder::new(3);
    let generator = build.generator(|vb| {
        let config = MlpGeneratorConfig {
            latent_dim: 2,
            hidden: vec![16, 16],
            sample_shape: vec![1],
            output_activation: Activation::Identity,
            ..Default::default()
        };
        MlpGenerator::new(config, vb)
    })?;
    let critic = build.critic(|vb| {
        let config =
            MlpCriticConfig { sample_shape: vec![1], hidden: vec![16], ..Default::default() };
        MlpCritic::new(config, vb)
    })?;
    let config = TrainConfig {
        batch_size: 16,
        n_critic: 2,
        ema: Some(Ema::new(0.5)),
        seed: 3,
        ..TrainConfig::wgan_gp()
    };
    WganTrainer::new(generator, critic, config)
}

fn scores(folder: &Path) -> Scores {
    let real = Points::from_tensor(data().samples()).unwrap();
    let centres = Points::new(vec![0.0, 8.0], 1).unwrap();
    let kernel = KernelDistance { subsets: 3, subset_size: 50, ..Default::default() };
    Scores::new(folder, SAMPLES, 7, move |samples| {
        let batches = samples.collect::<Result<Vec<_>>>()?;
        let points = Points::from_tensor(&Tensor::cat(&batches, 0)?)?;
        let estimate = kernel.between(&real, &points)?;
        let mut scores =
            ModeCoverage::of_mixture(&points, &centres, 0.5)?.scores(points.len(), None);
        scores.push(Score {
            measure: "kernel_distance".into(),
            value: estimate.mean,
            deviation: Some(estimate.deviation),
            features: Some("the samples themselves".into()),
            samples: points.len(),
            real: Some(real.len()),
        });
        Ok(scores)
    })
}

/// How far the step is from [`BEST`], however the run goes, which goes on from a step `first`.
fn course(folder: &Path, first: u64) -> Scores {
    // A look before the first step, then one at each interval.
    let mut step = first;
    let scores = Scores::new(folder, 1, 0, move |_| {
        let value = step.abs_diff(BEST) as f64;
        step += EVERY;
        let measure = COURSE.into();
        Ok(vec![Score { measure, value, deviation: None, features: None, samples: 1, real: None }])
    });
    scores.file_name("course.csv")
}

const COURSE: &str = "course";
const BEST: u64 = 6;
const EVERY: u64 = 3;
const KERNEL: &str = "kernel_distance (the samples themselves)";

/// The history without the clock.
fn timeless(history: &History) -> String {
    let mut history = history.clone();
    history.iter_mut().for_each(|record| record.seconds = 0.0);
    format!("{history:?}")
}

#[test]
fn a_run_with_scores_is_the_run_without() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (mut plain, data) = (trainer()?, data());
    let mut scored = trainer()?.observe(Every::Steps(EVERY), scores(folder.path()));
    let without = plain.fit_until(&data, STEPS + 1)?;
    let with = scored.fit_until(&data, STEPS + 1)?;
    assert_eq!(bits(plain.generator().parameters()), bits(scored.generator().parameters()));
    assert_eq!(bits(plain.critic().parameters()), bits(scored.critic().parameters()));
    assert_eq!(bits(plain.average().unwrap()), bits(scored.average().unwrap()));
    let unscored: History = (with.iter())
        .map(|record| wgan::history::Record { scores: Default::default(), ..record.clone() })
        .collect();
    assert_eq!(timeless(&unscored), timeless(&without));
    // At the interval, and at the end.
    let measured = with.iter().filter(|record| !record.scores.is_empty());
    assert_eq!(measured.map(|record| record.step).collect::<Vec<_>>(), [3, 6, 9, 10]);
    let names: Vec<_> = with[2].scores.keys().map(String::as_str).collect();
    assert_eq!(names, ["high_quality_share", KERNEL, "modes", "reverse_kl"]);
    assert_ne!(with[2].scores[KERNEL], with[5].scores[KERNEL]);
    let text = std::fs::read_to_string(folder.path().join("scores.csv")).unwrap();
    assert_eq!(text.lines().count(), 1 + 4 * 4);
    Ok(())
}

#[test]
fn a_score_picks_the_best_checkpoint_and_survives_a_resume() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let data = data();
    let run = |name: &str, first: u64| -> Result<WganTrainer<_, _>> {
        let folder = folder.path().join(name);
        let checkpoints = Checkpoints::new(folder.join("checkpoints"))
            .every_steps(EVERY)
            .keep(1)
            .keep_best(Best::lowest_score(COURSE));
        Ok(trainer()?
            .observe(Every::Steps(EVERY), scores(&folder))
            .observe(Every::Steps(EVERY), course(&folder, first))
            .with_checkpoints(checkpoints))
    };
    let mut whole = run("whole", 0)?;
    let history = whole.fit_until(&data, STEPS)?;

    run("pieces", 0)?.fit_until(&data, 6)?;
    let mut resumed = run("pieces", 6)?;
    assert_eq!(resumed.resume()?.expect("a checkpoint").step, 6);
    resumed.fit_until(&data, STEPS)?;

    assert_eq!(bits(whole.generator().parameters()), bits(resumed.generator().parameters()));
    let path = |run: &str, step: u64| {
        folder.path().join(format!("{run}/checkpoints/checkpoint-{step:06}.safetensors"))
    };
    let read = |run: &str| Checkpoint::read(path(run, STEPS));
    assert_eq!(timeless(read("whole")?.history()), timeless(read("pieces")?.history()));
    assert_eq!(timeless(read("whole")?.history()), timeless(&history));
    let csv =
        |run: &str| std::fs::read_to_string(folder.path().join(run).join("scores.csv")).unwrap();
    assert_eq!(csv("whole"), csv("pieces"));

    // Not the newest, which would be kept anyway.
    let courses = history.iter().filter_map(|record| record.scores.get(COURSE).copied());
    assert_eq!(courses.collect::<Vec<_>>(), [3.0, 0.0, 3.0]);
    for (run, trainer) in [("whole", &whole), ("pieces", &resumed)] {
        let checkpoints = trainer.checkpoints().expect("checkpoints");
        assert_eq!(checkpoints.best(), Some(path(run, BEST)));
        assert!(path(run, BEST).is_file() && path(run, STEPS).is_file());
    }
    Ok(())
}

#[test]
fn a_run_that_is_restored_in_place_measures_again() -> Result<()> {
    for every in [EVERY, STEPS] {
        let folder = tempfile::tempdir().unwrap();
        let data = data();
        let checkpoints = Checkpoints::new(folder.path().join("checkpoints")).every_steps(EVERY);
        let mut trainer = trainer()?
            .observe(Every::Steps(every), scores(folder.path()))
            .with_checkpoints(checkpoints);
        let history = trainer.fit_until(&data, STEPS)?;
        let csv = || std::fs::read_to_string(folder.path().join("scores.csv")).unwrap();
        let (expected, lines) = (&history[STEPS as usize - 1].scores, csv());
        let checkpoint = |step| format!("checkpoints/checkpoint-{step:06}.safetensors");
        // What is newer than the state is in the way of a run that goes on from it.
        trainer.restore(folder.path().join(checkpoint(BEST)))?;
        std::fs::remove_file(folder.path().join(checkpoint(STEPS))).unwrap();
        let again = trainer.fit_until(&data, STEPS)?;
        assert_eq!(again.last().map(|record| &record.scores), Some(expected));
        assert_eq!(csv(), lines);
    }
    Ok(())
}

/// A generator whose samples are the numbers of their classes: more than are generated at a time.
#[derive(Debug)]
struct Labels(Linear);

const CLASSES: usize = 300;

impl Generator for Labels {
    fn latent_dim(&self) -> usize {
        1
    }

    fn forward(&self, latent: &Tensor, _train: bool) -> Result<Tensor> {
        Ok((latent.apply(&self.0)? * 1e-6)?)
    }

    fn classes(&self) -> Option<usize> {
        Some(CLASSES)
    }

    fn forward_conditional(&self, latent: &Tensor, labels: &Tensor, train: bool) -> Result<Tensor> {
        Ok((self.forward(latent, train)? + labels.to_dtype(DType::F32)?.unsqueeze(1)?)?)
    }
}

#[test]
fn every_class_of_a_conditional_generator_is_measured() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let build = ModelBuilder::new(0);
    let generator = build.generator(|vb| Ok(Labels(Linear::new(1, 1, vb)?)))?;
    let config = MlpCriticConfig {
        sample_shape: vec![1],
        hidden: vec![2],
        classes: Some(CLASSES),
        ..Default::default()
    };
    let critic = build.critic(|vb| MlpCritic::new(config, vb))?;
    let seen = Rc::new(RefCell::new(Vec::new()));
    let found = Rc::clone(&seen);
    let scores = Scores::new(folder.path(), 2 * CLASSES, 0, move |samples| {
        found.borrow_mut().clear();
        for batch in samples {
            let numbers = batch?.flatten_all()?.to_vec1::<f32>()?;
            found.borrow_mut().extend(numbers.iter().map(|number| number.round() as usize));
        }
        Ok(vec![])
    });
    let config = TrainConfig { batch_size: 4, ..TrainConfig::wgan_gp() };
    let data = data().take(8)?.with_labels(vec![0; 8])?;
    WganTrainer::new(generator, critic, config)?
        .observe(Every::Never, scores)
        .fit_until(&data, 1)?;
    assert!(seen.borrow().iter().copied().eq((0..CLASSES).chain(0..CLASSES)), "{seen:?}");
    Ok(())
}
