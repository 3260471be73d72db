//! What a long run needs beside the mathematics: schedules, an average of the generator, groups of parameters, optimisers
//! of one's own, reasons to end. All of it must be the same whether a run is made in one piece or in two.

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use support::{bits, normal, tensor_bits};
use wgan::data::{Dataset, TensorDataset};
use wgan::history::Record;
use wgan::observers::{Diagnostics, Every, Flow, Models, Observer, Snapshot, callback};
use wgan::optimizers::{
    Optimizer, OptimizerConfig, ParameterGroup, Rates, State, UpdateConfig, with_gradients,
};
use wgan::schedules::{NCriticSchedule, RateSchedule};
use wgan::stop::{Ended, StopConfig};
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{Ema, ModelBuilder, Parameters, Result, TrainConfig, WganTrainer};

type Trainer = WganTrainer<MlpGenerator, MlpCritic>;

const BATCH: usize = 4;

fn trainer(config: &TrainConfig) -> Trainer {
    let build = ModelBuilder::new(config.seed);
    let generator = build.generator(|vb| {
        let config = MlpGeneratorConfig {
            latent_dim: 3,
            hidden: vec![6, 5],
            sample_shape: vec![2, 2],
            ..Default::default()
        };
        MlpGenerator::new(config, vb)
    });
    let critic = build.critic(|vb| {
        let config =
            MlpCriticConfig { sample_shape: vec![2, 2], hidden: vec![5], ..Default::default() };
        MlpCritic::new(config, vb)
    });
    WganTrainer::new(generator.unwrap(), critic.unwrap(), config.clone()).unwrap()
}

fn data() -> TensorDataset {
    TensorDataset::new(normal("data", (13, 2, 2), DType::F32)).unwrap()
}

fn base() -> TrainConfig {
    TrainConfig {
        batch_size: BATCH,
        n_critic: 2,
        generator_steps: 6,
        critic_optimizer: OptimizerConfig::adam(1e-2, 0.5, 0.9),
        generator_optimizer: OptimizerConfig::adam(1e-2, 0.5, 0.9),
        ..TrainConfig::wgan_gp()
    }
}

/// Everything at once.
fn everything() -> TrainConfig {
    TrainConfig {
        n_critic_schedule: NCriticSchedule::AuthorsCode { many: 4, first: 2, every: 5 },
        critic_optimizer: OptimizerConfig::RmsProp {
            learning_rate: 1e-3,
            alpha: 0.9,
            eps: 1e-8,
            momentum: 0.5,
            centered: true,
            weight_decay: 0.01,
        },
        generator_optimizer: OptimizerConfig::adam_w(1e-2, 0.5, 0.9, 0.1),
        critic_updates: UpdateConfig {
            schedule: RateSchedule::cosine(2, 20),
            warm_up: 3,
            groups: vec![ParameterGroup::new("*.bias").learning_rate(2e-3).weight_decay(0.0)],
            clip_value: Some(0.5),
            clip_norm: Some(1.0),
        },
        generator_updates: UpdateConfig {
            schedule: RateSchedule::MultiStep { milestones: vec![3, 7], gamma: 0.5 },
            ..Default::default()
        },
        ema: Some(Ema::new(0.9)),
        stop: StopConfig { patience: Some(1_000), target: Some(-1e9), ..Default::default() },
        ..base()
    }
}

/// The parameters of both models, the average and samples, as bits.
fn state(trainer: &Trainer) -> Vec<BTreeMap<String, Vec<u64>>> {
    let samples = tensor_bits(&trainer.sample(20).unwrap());
    let mut state = vec![
        bits(trainer.generator().parameters()),
        bits(trainer.critic().parameters()),
        BTreeMap::from([("samples".to_owned(), samples)]),
    ];
    state.extend(trainer.average().map(bits));
    state
}

fn figures(records: &[Record]) -> Vec<[u64; 4]> {
    let figures = |r: &Record| {
        [r.wasserstein_estimate, r.critic_loss, r.generator_loss, r.gradient_norm].map(f64::to_bits)
    };
    records.iter().map(figures).collect()
}

#[test]
fn with_everything_on_two_short_runs_are_one_long_run() {
    let config = |generator_steps| TrainConfig { generator_steps, ..everything() };
    let mut whole = trainer(&config(12));
    let history = whole.fit(&data()).unwrap();
    assert_eq!(whole.ended(), Some(&Ended::Steps(12)));
    let mut halves = trainer(&config(6));
    let mut records = halves.fit(&data()).unwrap();
    assert_eq!(halves.ended(), Some(&Ended::Steps(6)));
    records.extend(halves.fit(&data()).unwrap());
    assert_eq!(figures(&records), figures(&history));
    assert_eq!(state(&halves), state(&whole));
    // And every one of the settings is felt.
    let base = everything();
    for other in [
        TrainConfig { n_critic_schedule: NCriticSchedule::Constant, ..base.clone() },
        TrainConfig { critic_updates: UpdateConfig::default(), ..base.clone() },
        TrainConfig { generator_updates: UpdateConfig::default(), ..base.clone() },
        TrainConfig { ema: Some(Ema::new(0.5)), ..base.clone() },
    ] {
        let mut other = trainer(&TrainConfig { generator_steps: 12, ..other });
        other.fit(&data()).unwrap();
        assert_ne!(state(&other), state(&whole));
    }
}

/// Counts the batches that are asked of it.
struct Counted(TensorDataset, Cell<usize>);

impl Dataset for Counted {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn sample_shape(&self) -> &[usize] {
        self.0.sample_shape()
    }
    fn dtype(&self) -> DType {
        self.0.dtype()
    }
    fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        self.1.set(self.1.get() + usize::from(indices.len() == BATCH));
        self.0.batch(indices)
    }
}

/// The critic steps before each generator step, counted by the batches taken, and what observers are told.
fn critic_steps(make: impl FnOnce() -> Trainer) -> Result<Vec<usize>> {
    let data = Rc::new(Counted(data(), Cell::new(0)));
    let told = Rc::new(RefCell::new(Vec::new()));
    let (seen, sink) = (Rc::clone(&data), Rc::clone(&told));
    let observer = callback(move |snapshot| {
        sink.borrow_mut().push((seen.1.take(), snapshot.samples_per_step));
        Ok(())
    });
    let mut trainer = make().observe(Every::Step, observer);
    data.1.set(0);
    trainer.fit(&*data)?;
    let told = told.borrow();
    assert!(told.iter().skip(1).all(|&(batches, samples)| batches * BATCH == samples));
    Ok(told.iter().map(|&(_, samples)| samples / BATCH).collect())
}

#[test]
fn critic_steps_follow_their_schedule() -> Result<()> {
    assert_eq!(critic_steps(|| trainer(&base()))?, [2; 6]);
    let schedule = NCriticSchedule::AuthorsCode { many: 7, first: 2, every: 4 };
    let config = TrainConfig { n_critic_schedule: schedule, ..base() };
    assert_eq!(critic_steps(|| trainer(&config))?, [7, 7, 2, 2, 7, 2]);
    let own = || trainer(&base()).with_n_critic(|step| step as usize + 1);
    assert_eq!(critic_steps(own)?, [1, 2, 3, 4, 5, 6]);
    let none = || trainer(&base()).with_n_critic(|step| 3 - step as usize);
    let error = critic_steps(none).unwrap_err().to_string();
    assert!(error.contains("n_critic at step 3 is 0; expected 1 or more"), "{error}");
    Ok(())
}

/// With a learning rate of 0 a parameter stays as it is, be it by schedule, by group or by a function.
#[test]
fn learning_rates_are_those_of_the_step_and_the_group() -> Result<()> {
    let run = |config: TrainConfig, own: bool| -> Result<[BTreeMap<String, Vec<u64>>; 2]> {
        let mut trainer = trainer(&config);
        if own {
            trainer = trainer.with_critic_schedule(|step| if step < 2 { 1.0 } else { 0.0 });
        }
        trainer.fit(&data())?;
        Ok([bits(trainer.generator().parameters()), bits(trainer.critic().parameters())])
    };
    let two = run(TrainConfig { generator_steps: 2, ..base() }, false)?;
    let still = UpdateConfig {
        schedule: RateSchedule::Linear { start: 1, until: 2, to: 0.0 },
        ..Default::default()
    };
    let six = run(TrainConfig { critic_updates: still, ..base() }, false)?;
    assert_eq!(six[1], two[1]);
    assert_ne!(six[0], two[0]);
    assert_eq!(run(base(), true)?[1], two[1]);

    let frozen = UpdateConfig {
        groups: vec![ParameterGroup::new("fc1.*").learning_rate(0.0)],
        ..Default::default()
    };
    let before = bits(trainer(&base()).critic().parameters());
    let [_, after] = run(TrainConfig { critic_updates: frozen, ..base() }, false)?;
    for (name, value) in after {
        // A bias of the last layer adds the same to all scores: its gradient is 0.
        let stays = name.starts_with("fc1.") || name == "fc2.bias";
        assert_eq!(value == before[&name], stays, "{name}");
    }
    Ok(())
}

#[test]
fn a_group_without_parameters_is_refused() {
    let updates = UpdateConfig { groups: vec![ParameterGroup::new("conv*")], ..Default::default() };
    let config = TrainConfig { generator_updates: updates, ..base() };
    let build = ModelBuilder::new(0);
    let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb)).unwrap();
    let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb)).unwrap();
    let error = WganTrainer::new(generator, critic, config).unwrap_err().to_string();
    assert!(error.starts_with("generator_updates.groups[0].names is \"conv*\""), "{error}");
    assert!(error.contains("fc1.weight"), "{error}");
}

/// Against the definition, from the parameters that an observer saw.
#[test]
fn samples_come_from_the_average_of_the_generator() -> Result<()> {
    let seen: Rc<RefCell<Vec<BTreeMap<String, Tensor>>>> = Rc::default();
    let shown: Rc<RefCell<Vec<Tensor>>> = Rc::default();
    let latent = normal("latent", (5, 3), DType::F32);
    let (parameters, samples, points) = (Rc::clone(&seen), Rc::clone(&shown), latent.clone());
    let observer = callback(move |snapshot: &Snapshot<'_>| {
        let copies = (snapshot.models.generator_tensors().into_iter())
            .map(|(name, tensor)| Ok((name, tensor.copy()?)))
            .collect::<Result<_>>()?;
        parameters.borrow_mut().push(copies);
        samples.borrow_mut().push(snapshot.models.generate(&points, 0)?);
        Ok(())
    });
    let ema = Ema { decay: 0.8, ramp_up: true };
    let mut averaged = trainer(&TrainConfig { ema: Some(ema), ..base() });
    assert!(averaged.average().is_none());
    averaged = averaged.observe(Every::Step, observer);
    averaged.fit(&data())?;

    let mut plain = trainer(&base());
    plain.fit(&data())?;
    assert_eq!(bits(averaged.generator().parameters()), bits(plain.generator().parameters()));
    assert!(plain.average().is_none());

    let average = averaged.average().expect("six steps").tensors();
    for (name, tensor) in &average {
        let values = |tensors: &BTreeMap<String, Tensor>| -> Vec<f32> {
            tensors[name].flatten_all().unwrap().to_vec1().unwrap()
        };
        let seen = seen.borrow();
        let mut expected: Vec<f32> = values(&seen[0]);
        for (step, tensors) in (2u64..).zip(seen.iter().skip(1)) {
            let decay = if name.contains("running") { 0.0 } else { ema.decay_at(step) };
            for (average, value) in expected.iter_mut().zip(values(tensors)) {
                *average = (decay * f64::from(*average) + (1.0 - decay) * f64::from(value)) as f32;
            }
        }
        let got: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{name}: {got} for {expected}");
        }
    }

    // Sampling leaves the generator as it is, and is what a generator with the average's values does.
    let samples = averaged.sample(5)?;
    assert_eq!(bits(averaged.generator().parameters()), bits(plain.generator().parameters()));
    assert_ne!(tensor_bits(&samples), tensor_bits(&plain.sample(5)?));
    plain.generator().parameters().assign(average)?;
    assert_eq!(tensor_bits(&samples), tensor_bits(&plain.sample(5)?));
    let last = shown.borrow().last().expect("six").clone();
    let expected = wgan::Generator::forward(plain.generator().model(), &latent, false)?;
    assert_eq!(tensor_bits(&last), tensor_bits(&expected));
    Ok(())
}

/// Steps along the sign of a mean of gradients.
struct SignMomentum {
    state: State,
    rates: Rc<RefCell<Vec<f64>>>,
}

impl Optimizer for SignMomentum {
    fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        rates: &Rates<'_>,
    ) -> Result<bool> {
        let updates = with_gradients(parameters, gradients)?;
        self.state.advance(parameters)?;
        for (name, parameter, gradient) in updates {
            let mean = self.state.get("exp_avg", name)?;
            mean.set(&((mean.as_tensor() * 0.9)? + (gradient * 0.1)?)?.detach())?;
            let rate = rates.learning_rate(name, 1e-3);
            self.rates.borrow_mut().push(rate);
            parameter.set(&parameter.sub(&(mean.sign()? * rate)?)?.detach())?;
        }
        Ok(false)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.state.tensors()
    }

    fn load_state(
        &mut self,
        parameters: &Parameters,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        self.state.load(parameters, state)
    }
}

#[test]
fn an_optimiser_of_ones_own_has_schedules_and_groups() -> Result<()> {
    let rates: Rc<RefCell<Vec<f64>>> = Rc::default();
    let own = SignMomentum { state: State::new(&["exp_avg"]), rates: Rc::clone(&rates) };
    let updates = UpdateConfig {
        warm_up: 4,
        groups: vec![ParameterGroup::new("*.bias").learning_rate(0.5)],
        ..Default::default()
    };
    let config = TrainConfig { critic_updates: updates, generator_steps: 2, ..base() };
    let mut trainer = trainer(&config).with_critic_optimizer(Box::new(own) as Box<dyn Optimizer>);
    let before = bits(trainer.critic().parameters());
    trainer.fit(&data())?;
    assert_ne!(bits(trainer.critic().parameters()), before);
    // fc1.bias, fc1.weight, fc2.bias, fc2.weight; two critic steps for each generator step.
    let step = |factor: f64| [0.5, 1e-3, 0.5, 1e-3].map(|rate| factor * rate).repeat(2);
    assert_eq!(*rates.borrow(), [step(0.25), step(0.5)].concat());
    Ok(())
}

/// Notes the calls it gets.
struct Noted {
    calls: Rc<RefCell<Vec<String>>>,
    stop_at: u64,
}

impl Observer for Noted {
    fn prepare(&mut self, models: &dyn Models) -> Result<()> {
        self.calls.borrow_mut().push(format!("prepare {}", models.steps()));
        Ok(())
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        let step = snapshot.record.step;
        self.calls.borrow_mut().push(format!("step {step}"));
        Ok(if step == self.stop_at { Flow::stop("it was asked to") } else { Flow::Continue })
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        self.calls.borrow_mut().push(format!("end {}", snapshot.record.step));
        Ok(())
    }
}

#[test]
fn an_observer_ends_a_run_that_can_go_on() -> Result<()> {
    let calls: Rc<RefCell<Vec<String>>> = Rc::default();
    let noted = |stop_at| Noted { calls: Rc::clone(&calls), stop_at };
    let mut stopped = trainer(&base())
        .observe(Every::Step, noted(2))
        .observe(Every::Steps(5), noted(0))
        .observe(Every::Step, noted(2));
    let mut records = stopped.fit(&data())?;
    assert_eq!((records.len(), stopped.steps()), (2, 2));
    assert_eq!(stopped.ended(), Some(&Ended::Observer("it was asked to".into())));
    assert_eq!(stopped.ended().unwrap().to_string(), "an observer ended it: it was asked to");
    let expected = [
        "prepare 0",
        "prepare 0",
        "prepare 0",
        "step 1",
        "step 1",
        "step 2",
        "step 2",
        "end 2",
        "end 2",
        "end 2",
    ];
    assert_eq!(*calls.borrow(), expected);
    calls.borrow_mut().clear();
    records.extend(stopped.fit(&data())?);
    assert_eq!((records.len(), calls.borrow()[0].as_str()), (8, "prepare 2"));
    let mut whole = trainer(&TrainConfig { generator_steps: 8, ..base() });
    assert_eq!(figures(&records), figures(&whole.fit(&data())?));
    assert_eq!(state(&stopped), state(&whole));
    Ok(())
}

#[test]
fn every_condition_ends_a_run_and_says_so() -> Result<()> {
    // Three batches an epoch, two critic steps a generator step.
    let stop = StopConfig { epochs: Some(2), ..Default::default() };
    let mut epochs = trainer(&TrainConfig { stop, ..base() });
    assert_eq!(epochs.fit(&data())?.len(), 3);
    assert_eq!(epochs.ended(), Some(&Ended::Epochs(2)));
    // It has ended: nothing is left to do, and nobody is called.
    let calls: Rc<RefCell<Vec<String>>> = Rc::default();
    let before = state(&epochs);
    let mut epochs = epochs.observe(Every::Step, Noted { calls: Rc::clone(&calls), stop_at: 0 });
    assert_eq!(epochs.fit(&data())?.len(), 0);
    assert_eq!(epochs.ended(), Some(&Ended::Epochs(2)));
    assert!(calls.borrow().is_empty());
    assert_eq!(state(&epochs), before);

    // Any time is longer than this; the next call has as much again.
    let stop = StopConfig { seconds: Some(f64::MIN_POSITIVE), ..Default::default() };
    let mut hurried = trainer(&TrainConfig { stop, ..base() });
    for steps in 1..=3 {
        assert_eq!(hurried.fit(&data())?.len(), 1);
        assert!(matches!(hurried.ended(), Some(Ended::Seconds(_))));
        assert_eq!(hurried.steps(), steps);
    }

    // Above any estimate: it has never been above it. Below the first: from there on it counts.
    let mut estimates = trainer(&TrainConfig { generator_steps: 40, ..base() });
    let history = estimates.fit(&data())?;
    let stop = StopConfig { window: 1, target: Some(1e9), ..Default::default() };
    let mut never = trainer(&TrainConfig { generator_steps: 40, stop, ..base() });
    assert_eq!(never.fit(&data())?.len(), 40);
    let falls = (1..40)
        .find(|&i| history[i].wasserstein_estimate < history[i - 1].wasserstein_estimate)
        .expect("noise enough");
    let target = history[falls].wasserstein_estimate;
    let stop = StopConfig { window: 1, target: Some(target), ..Default::default() };
    let mut reaches = trainer(&TrainConfig { generator_steps: 40, stop, ..base() });
    let records = reaches.fit(&data())?;
    assert_eq!(figures(&records), figures(&history[..records.len()]));
    assert!(records.len() <= falls + 1);
    assert!(matches!(reaches.ended(), Some(Ended::Target(estimate)) if *estimate <= target));

    // Nothing is progress where so much is asked.
    let stop = StopConfig { window: 2, patience: Some(7), min_delta: 1e9, ..Default::default() };
    let mut patient = trainer(&TrainConfig { generator_steps: 40, stop, ..base() });
    assert_eq!(patient.fit(&data())?.len(), 9);
    assert_eq!(patient.ended(), Some(&Ended::NoProgress(7)));
    Ok(())
}

/// Diagnoses neither change a run nor depend on where it was interrupted.
#[test]
fn a_diagnosis_leaves_the_run_as_it_is() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let held_out = TensorDataset::new(normal("held out", (7, 2, 2), DType::F32))?;
    let observed = |steps: u64, folder: &str, path: &std::path::Path| {
        let observer =
            Diagnostics::new(path.join(folder), data(), 3).held_out(held_out.clone()).batch_size(9);
        trainer(&TrainConfig { generator_steps: steps, ..everything() })
            .observe(Every::Steps(2), observer)
    };
    let mut plain = trainer(&TrainConfig { generator_steps: 12, ..everything() });
    plain.fit(&data())?;
    let mut whole = observed(12, "whole", folder.path());
    whole.fit(&data())?;
    assert_eq!(state(&whole), state(&plain));
    let mut halves = observed(6, "halves", folder.path());
    halves.fit(&data())?;
    halves.fit(&data())?;
    let read = |name: &str| {
        std::fs::read_to_string(folder.path().join(name).join("diagnostics.csv")).unwrap()
    };
    let text = read("whole");
    assert_eq!(text, read("halves"));
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 7);
    assert!(rows[0].contains(&"critic.fc1") && rows[0].contains(&"generator.bn2"), "{:?}", rows[0]);
    for row in &rows[1..] {
        assert_eq!(row.len(), rows[0].len());
        for (name, value) in rows[0].iter().zip(row) {
            // The gradient penalty has no bound for weights.
            let empty = *name == "share_at_bound";
            assert_eq!(value.is_empty(), empty, "{name}: {value:?}");
            assert!(empty || value.parse::<f64>().unwrap().is_finite(), "{name}: {value:?}");
        }
    }
    Ok(())
}
