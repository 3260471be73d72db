//! A trainer keeps the memory of a step for the next one, and gives it back when it is dropped.
//!
//! In a process of its own, since the allocator's settings are those of the whole process, and without a test harness, whose
//! threads have small heaps of their own.

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() {
    linux::a_trainer_keeps_memory_while_it_lives();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {

    use candle_core::{DType, Device};
    use wgan::data::TensorDataset;
    use wgan::random::Stream;
    use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
    use wgan::{ModelBuilder, TrainConfig, WganTrainer};

    /// Pages that the system has handed out, and those that the process holds.
    fn pages() -> (u64, u64) {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let field = |i: usize| fields.split(' ').nth(i).unwrap().parse().unwrap();
        (field(7), field(21))
    }

    pub(super) fn a_trainer_keeps_memory_while_it_lives() {
        let samples = Stream::new(0, "data", 0).normal((128, 2), DType::F32, &Device::Cpu).unwrap();
        let data = TensorDataset::new(samples).unwrap();
        let build = ModelBuilder::new(0);
        // 256 rows of 40,000 numbers are 39 MiB: more than the library keeps of its own accord.
        let critic =
            MlpCriticConfig { sample_shape: vec![2], hidden: vec![40_000], ..Default::default() };
        let critic = build.critic(|vb| MlpCritic::new(critic, vb)).unwrap();
        let generator = MlpGeneratorConfig {
            latent_dim: 2,
            hidden: vec![8],
            sample_shape: vec![2],
            ..Default::default()
        };
        let generator = build.generator(|vb| MlpGenerator::new(generator, vb)).unwrap();
        let config = TrainConfig {
            generator_steps: 2,
            n_critic: 2,
            batch_size: 128,
            ..TrainConfig::wgan_gp()
        };
        let mut trainer = WganTrainer::new(generator, critic, config).unwrap();
        trainer.fit(&data).unwrap();

        let (before, _) = pages();
        trainer.fit(&data).unwrap();
        let (after, held) = pages();
        // One activation has 10,000 pages, and there are some of them in each of the six steps.
        assert!(after - before < 5_000, "{} pages in steps like those before", after - before);
        drop(trainer);
        let (_, left) = pages();
        assert!(left + 20_000 < held, "{left} of {held} pages are still held");
    }
}
