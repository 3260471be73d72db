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
    use std::ffi::OsString;
    use std::process::Command;

    use candle_core::{DType, Device};
    use wgan::data::TensorDataset;
    use wgan::random::Stream;
    use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
    use wgan::{ModelBuilder, TrainConfig, WganTrainer};

    /// Bytes that the system has handed out so far, and those that the process holds.
    fn memory() -> (u64, u64) {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let field = |i: usize| fields.split(' ').nth(i).unwrap().parse::<u64>().unwrap();
        let page =
            String::from_utf8(Command::new("getconf").arg("PAGESIZE").output().unwrap().stdout);
        let page: u64 = page.unwrap().trim().parse().unwrap();
        (field(7) * page, field(21) * page)
    }

    pub(super) fn a_trainer_keeps_memory_while_it_lives() {
        let chosen = |(name, _): (OsString, OsString)| {
            name.as_encoded_bytes().starts_with(b"MALLOC_") || name == "GLIBC_TUNABLES"
        };
        if std::env::vars_os().any(chosen) {
            return println!("not tested: the environment has settings for the allocator");
        }
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

        let (before, _) = memory();
        trainer.fit(&data).unwrap();
        let (after, held) = memory();
        // Each of the four critic steps makes some activations of 39 MiB.
        assert!(after - before < 80 << 20, "{} bytes in steps like those before", after - before);
        drop(trainer);
        let (_, left) = memory();
        assert!(left + (80 << 20) < held, "{left} of {held} bytes are still held");
    }
}
