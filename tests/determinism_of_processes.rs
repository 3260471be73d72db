//! One seed gives one run in every process, whatever its environment says about threads.
//!
//! A wrong program would let the order of a hash map, which each process draws anew, or the number of threads of the
//! global pool, which only a process can set, decide the order of a sum.

mod support;

use std::process::Command;

use candle_core::DType;
use support::{normal, tensor_bits};
use wgan::data::TensorDataset;
use wgan::observers::{Every, callback};
use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
use wgan::{Lipschitz, ModelBuilder, TrainConfig, WganTrainer};

type Trainer = WganTrainer<MlpGenerator, MlpCritic>;

/// So wide that products, activations, batch normalisation and updates are shared between threads.
fn trainer(lipschitz: Lipschitz) -> Trainer {
    let build = ModelBuilder::new(3);
    let sample_shape = vec![1, 20, 20];
    let generator = MlpGeneratorConfig {
        latent_dim: 10,
        hidden: vec![300, 320],
        sample_shape: sample_shape.clone(),
        ..Default::default()
    };
    let critic = MlpCriticConfig { sample_shape, hidden: vec![320, 300], ..Default::default() };
    let settings = TrainConfig {
        seed: 3,
        batch_size: 256,
        n_critic: 2,
        generator_steps: 2,
        lipschitz,
        ..TrainConfig::wgan_gp()
    };
    WganTrainer::new(
        build.generator(|vb| MlpGenerator::new(generator, vb)).unwrap(),
        build.critic(|vb| MlpCritic::new(critic, vb)).unwrap(),
        settings,
    )
    .unwrap()
}

fn data() -> TensorDataset {
    TensorDataset::new(normal("data", (600, 1, 20, 20), DType::F32).tanh().unwrap()).unwrap()
}

const STRATEGIES: [Lipschitz; 3] = [
    Lipschitz::Clip { c: 0.01 },
    Lipschitz::GradientPenalty { lambda: 10.0, target: 1.0, sides: wgan::Sides::Two },
    Lipschitz::Divergence { k: 2.0, p: 6.0, points: wgan::PenaltyPoints::RealAndFake },
];

/// FNV-1a over every bit that a run leaves behind.
fn digest(trainer: &mut Trainer) -> u64 {
    let history = trainer.fit(&data()).unwrap();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bits: u64| {
        for byte in bits.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for parameters in [trainer.generator().parameters(), trainer.critic().parameters()] {
        for tensor in parameters.tensors().values() {
            tensor_bits(tensor).into_iter().for_each(&mut add);
        }
    }
    for record in history {
        add(record.step);
        for figure in [
            record.wasserstein_estimate,
            record.critic_loss,
            record.penalty,
            record.generator_loss,
            record.gradient_norm,
        ] {
            add(figure.to_bits());
        }
    }
    tensor_bits(&trainer.sample(10).unwrap()).into_iter().for_each(&mut add);
    hash
}

fn digests() -> Vec<String> {
    STRATEGIES.map(|lipschitz| format!("digest {:016x}", digest(&mut trainer(lipschitz)))).to_vec()
}

/// What a child process does; on its own it holds nothing.
#[test]
#[ignore = "run by a_run_is_the_same_in_any_process"]
fn a_process_of_its_own() {
    println!();
    digests().iter().for_each(|digest| println!("{digest}"));
}

#[test]
fn a_run_is_the_same_in_any_process() {
    let here = digests();
    for threads in ["1", "4"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "a_process_of_its_own", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .env("CANDLE_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let there: Vec<_> = text.lines().filter(|line| line.starts_with("digest ")).collect();
        assert_eq!(there, here, "{threads} threads");
    }
    assert!(here[0] != here[1] && here[1] != here[2], "a digest sees what the run did: {here:?}");
}

/// Looking at a run does not change it: an observer may generate as often as it likes.
#[test]
fn an_observer_does_not_change_a_run() {
    let lipschitz = Lipschitz::gradient_penalty();
    let plain = digest(&mut trainer(lipschitz));
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = seen.clone();
    let mut watched = trainer(lipschitz).observe(
        Every::Step,
        callback(move |snapshot| {
            let latent = normal("observer", (5, snapshot.models.latent_dim()), DType::F32);
            let samples = snapshot.models.generate(&latent, 0)?;
            assert_eq!(samples.dims(), [5, 1, 20, 20]);
            assert!(!snapshot.models.critic_tensors().is_empty());
            count.set(count.get() + 1);
            Ok(())
        }),
    );
    assert_eq!(digest(&mut watched), plain);
    assert_eq!(seen.get(), 2);
}
