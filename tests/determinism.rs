//! One seed gives one run, byte for byte: repeated, on any number of threads, in one piece or two.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use wgan::data::{Dataset, Loader, TensorDataset};
use wgan::history::{History, Record};
use wgan::optimizers::{OptimizerConfig, ParameterGroup, UpdateConfig};
use wgan::random::Stream;
use wgan::schedules::RateSchedule;
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{CriticDraws, Ema, Generator, ModelBuilder, Result, Traced, TrainConfig, WganTrainer};

type Trainer = WganTrainer<MlpGenerator, MlpCritic>;

/// Wide enough for every kernel to share its work between threads; the generator as the function wraps it.
fn trainer_of<G: Generator>(
    config: &TrainConfig,
    wrap: impl FnOnce(MlpGenerator) -> G,
) -> WganTrainer<G, MlpCritic> {
    let build = ModelBuilder::new(config.seed);
    let generator = build.generator(|vb| {
        let config =
            MlpGeneratorConfig { latent_dim: 20, hidden: vec![300, 640], ..Default::default() };
        MlpGenerator::new(config, vb).map(wrap)
    });
    let critic = build.critic(|vb| {
        let config = MlpCriticConfig { hidden: vec![520, 260], ..Default::default() };
        MlpCritic::new(config, vb)
    });
    WganTrainer::new(generator.unwrap(), critic.unwrap(), config.clone()).unwrap()
}

fn trainer(config: &TrainConfig) -> Trainer {
    trainer_of(config, |generator| generator)
}

fn data() -> TensorDataset {
    let noise = Stream::new(5, "data", 0).normal((300, 1, 28, 28), DType::F32, &Device::Cpu);
    TensorDataset::new(noise.unwrap().tanh().unwrap()).unwrap()
}

/// All that long runs add, in one.
fn long_run() -> TrainConfig {
    let updates = UpdateConfig {
        schedule: RateSchedule::cosine(0, 9),
        warm_up: 2,
        groups: vec![ParameterGroup::new("*.bias").learning_rate(1e-3)],
        clip_value: Some(0.1),
        clip_norm: Some(0.5),
    };
    TrainConfig {
        critic_optimizer: OptimizerConfig::RmsProp {
            learning_rate: 1e-4,
            alpha: 0.9,
            eps: 1e-8,
            momentum: 0.5,
            centered: true,
            weight_decay: 0.01,
        },
        generator_optimizer: OptimizerConfig::Sgd {
            learning_rate: 1e-2,
            momentum: 0.9,
            dampening: 0.0,
            nesterov: true,
            weight_decay: 0.01,
        },
        critic_updates: updates.clone(),
        generator_updates: updates,
        ema: Some(Ema::new(0.9)),
        ..TrainConfig::wgan_gp()
    }
}

fn configs(seed: u64, generator_steps: u64) -> [TrainConfig; 5] {
    [
        long_run(),
        TrainConfig::wgan(),
        TrainConfig::wgan_gp(),
        TrainConfig::wgan_div(),
        TrainConfig::wgan_div_tutorials(),
    ]
    .map(|config| TrainConfig {
        seed,
        generator_steps,
        batch_size: 128,
        n_critic: 2,
        ..config
    })
}

/// Everything a run leaves behind, as bits.
#[derive(Debug, PartialEq)]
struct Outcome {
    parameters: Vec<Vec<u32>>,
    records: Vec<[u64; 6]>,
    samples: Vec<u32>,
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn outcome<G: Generator>(trainer: &WganTrainer<G, MlpCritic>, history: &History) -> Outcome {
    let mut parameters = Vec::new();
    for network in
        [trainer.generator().parameters().tensors(), trainer.critic().parameters().tensors()]
    {
        parameters.extend(network.values().map(bits));
    }
    let record = |r: &Record| {
        [
            r.step,
            r.wasserstein_estimate.to_bits(),
            r.critic_loss.to_bits(),
            r.penalty.to_bits(),
            r.generator_loss.to_bits(),
            r.gradient_norm.to_bits(),
        ]
    };
    let samples = bits(&trainer.sample(600).unwrap());
    Outcome { parameters, records: history.iter().map(record).collect(), samples }
}

fn run(config: &TrainConfig) -> Outcome {
    let mut trainer = trainer(config);
    let history = trainer.fit(&data()).unwrap();
    outcome(&trainer, &history)
}

/// Not one of the trainer's parts may be sent between threads, so each run is made inside its pool.
fn run_on(threads: usize, config: &TrainConfig) -> Outcome {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| run(config))
}

#[test]
fn a_run_is_the_same_on_any_number_of_threads() {
    for config in configs(11, 2) {
        let one = run_on(1, &config);
        assert_eq!(one, run(&config), "repeated: {config:?}");
        for threads in [2, 5] {
            assert_eq!(one, run_on(threads, &config), "{threads} threads: {config:?}");
        }
    }
}

/// A generator that another thread may use where `SYNC`, one of whose passes may fail.
struct Wrapped<const SYNC: bool> {
    generator: MlpGenerator,
    /// Passes that succeed before one fails.
    good: Option<usize>,
    passes: AtomicUsize,
}

impl<const SYNC: bool> Wrapped<SYNC> {
    fn new(generator: MlpGenerator, good: Option<usize>) -> Self {
        Self { generator, good, passes: AtomicUsize::new(0) }
    }
}

impl<const SYNC: bool> Generator for Wrapped<SYNC> {
    fn latent_dim(&self) -> usize {
        self.generator.latent_dim()
    }

    fn forward(&self, latent: &Tensor, train: bool) -> Result<Tensor> {
        self.generator.forward(latent, train)
    }

    fn forward_traced(
        &self,
        latent: &Traced,
        labels: Option<&Tensor>,
        train: bool,
    ) -> Result<Traced> {
        if Some(self.passes.fetch_add(1, Ordering::SeqCst)) == self.good {
            return Err(candle_core::Error::Msg("this pass fails".into()).into());
        }
        self.generator.forward_traced(latent, labels, train)
    }

    fn as_sync(&self) -> Option<&(dyn Generator + Sync)> {
        SYNC.then_some(self as _)
    }
}

/// What is made beside each other is the same made one after the other: with batch normalisation in
/// the generator, whose statistics each pass moves.
#[test]
fn a_run_is_the_same_where_the_generator_stays_on_its_thread() {
    for config in configs(13, 2) {
        let mut alone = alone(&config);
        let history = alone.fit(&data()).unwrap();
        let mut beside = trainer(&config);
        let expected = beside.fit(&data()).unwrap();
        assert_eq!(outcome(&alone, &history), outcome(&beside, &expected), "{config:?}");
    }
}

/// A step that fails while the next samples are made leaves the same behind, and looks for the reason when they are done.
#[test]
fn a_failure_is_the_same_where_the_generator_stays_on_its_thread() {
    // What is clipped does not overflow.
    for config in configs(15, 2).into_iter().filter(|config| config.lipschitz.penalises()) {
        let critic_optimizer = OptimizerConfig::sgd(1e25, 0.0);
        let updates = UpdateConfig::default();
        let config =
            TrainConfig { n_critic: 3, critic_optimizer, critic_updates: updates, ..config };
        let data = data();
        let (mut alone, mut beside) = (alone(&config), trainer(&config));
        let errors = [alone.fit(&data).unwrap_err(), beside.fit(&data).unwrap_err()];
        let [one, other] = errors.map(|error| error.to_string());
        assert!(
            one.contains("is inf") || one.contains("is NaN") || one.contains("is -inf"),
            "{one}"
        );
        assert_eq!(one, other);
        let none = History::new();
        assert_eq!(outcome(&alone, &none), outcome(&beside, &none), "{config:?}");
    }
}

fn alone(config: &TrainConfig) -> WganTrainer<Wrapped<false>, MlpCritic> {
    trainer_of(config, |generator| Wrapped::new(generator, None))
}

fn latent(config: &TrainConfig, purpose: &str, index: u64) -> Tensor {
    let mut stream = Stream::new(config.seed, purpose, index);
    stream.normal((config.batch_size, 20), DType::F32, &Device::Cpu).unwrap()
}

fn critic_draws(
    config: &TrainConfig,
    batches: &mut Loader<impl Dataset>,
    index: u64,
) -> CriticDraws {
    let mut epsilon = Stream::new(config.seed, "epsilon", index);
    let epsilon = epsilon.uniform(0.0, 1.0, config.batch_size, DType::F32, &Device::Cpu);
    let real = batches.next_batch().unwrap();
    CriticDraws::new(real, latent(config, "latent/critic", index), Some(epsilon.unwrap()))
}

/// Samples that cannot be made take nothing from the critic step beside which they are made, be they for the next one or for the
/// generator's own.
#[test]
fn a_critic_step_is_done_whatever_fails_in_the_samples_after_it() {
    fn check<const SYNC: bool>(config: &TrainConfig) {
        for steps_done in 0..=3 {
            // One pass checks the models, and the one that fails comes after those of the steps.
            let good = Some(1 + steps_done);
            let wrap = |generator| Wrapped::<SYNC>::new(generator, good);
            let mut failing = trainer_of(config, wrap);
            let error = failing.fit(&data()).unwrap_err();
            assert!(error.to_string().contains("this pass fails"), "{error}");

            let mut by_hand = trainer(config);
            let mut batches = Loader::new(data(), config.batch_size, config.seed).unwrap();
            for index in 0..steps_done as u64 {
                by_hand.critic_step(&critic_draws(config, &mut batches, index)).unwrap();
            }
            let none = History::new();
            assert_eq!(
                outcome(&failing, &none),
                outcome(&by_hand, &none),
                "{steps_done}: {config:?}"
            );
        }
    }
    for config in [TrainConfig::wgan(), TrainConfig::wgan_gp()] {
        let config =
            TrainConfig { seed: 17, batch_size: 64, n_critic: 3, generator_steps: 1, ..config };
        check::<true>(&config);
        check::<false>(&config);
    }
}

/// What is made ahead of a step, on another thread, is what the step would have made: by hand, each step's draws by its number.
#[test]
fn fit_is_its_steps_one_by_one() {
    for config in configs(14, 3) {
        let config = TrainConfig { n_critic: 3, ..config };
        let mut whole = trainer(&config);
        let history = whole.fit(&data()).unwrap();

        let mut by_hand = trainer(&config);
        let data = data();
        let mut batches = Loader::new(&data, config.batch_size, config.seed).unwrap();
        for step in 0..config.generator_steps {
            let mut critic = None;
            for index in 3 * step..3 * (step + 1) {
                let draws = critic_draws(&config, &mut batches, index);
                critic = Some(by_hand.critic_step(&draws).unwrap());
            }
            let draws = latent(&config, "latent/generator", step);
            let generator = by_hand.generator_step(draws).unwrap();
            let (critic, record) = (critic.unwrap(), &history[step as usize]);
            assert_eq!(critic.loss, record.critic_loss, "{config:?}");
            assert_eq!(generator.loss, record.generator_loss, "{config:?}");
        }
        assert_eq!(outcome(&by_hand, &history), outcome(&whole, &history), "{config:?}");
    }
}

/// A step draws by its number, not from a generator that goes along; 300 samples end an epoch every second batch.
#[test]
fn two_short_runs_are_one_long_run() {
    for (long, short) in configs(12, 4).into_iter().zip(configs(12, 2)) {
        let mut trainer = trainer(&short);
        let data = data();
        let mut history = trainer.fit(&data).unwrap();
        history.extend(trainer.fit(&data).unwrap());
        assert_eq!(outcome(&trainer, &history), run(&long), "{long:?}");
    }
}

#[test]
fn another_seed_is_another_run() {
    for (one, other) in configs(13, 1).into_iter().zip(configs(14, 1)) {
        let (one, other) = (run(&one), run(&other));
        assert_ne!(one.parameters, other.parameters);
        assert_ne!(one.samples, other.samples);
        assert_ne!(one.records, other.records);
    }
}
