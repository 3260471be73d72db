//! Weights go to PyTorch and come from it, without renaming.

mod support;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use support::{Reference, assert_close};
use wgan::zoo::{MlpGenerator, MlpGeneratorConfig};
use wgan::{Generator, ModelBuilder, Network};

fn generator(dtype: DType, seed: u64) -> Network<MlpGenerator> {
    let config = MlpGeneratorConfig {
        latent_dim: 6,
        hidden: vec![8, 10, 12, 16],
        sample_shape: vec![1, 4, 4],
        ..Default::default()
    };
    ModelBuilder::new(seed).dtype(dtype).generator(|vb| MlpGenerator::new(config, vb)).unwrap()
}

fn state_dict() -> String {
    format!("{}/tests/pytorch/generator_state_dict.safetensors", env!("CARGO_MANIFEST_DIR"))
}

/// A `state_dict` of a trained PyTorch generator, its `num_batches_tracked` counters included, gives PyTorch's own
/// samples in evaluation mode, which the running statistics decide.
#[test]
fn a_state_dict_from_pytorch_gives_its_samples() {
    let reference = Reference::read("generator_output.safetensors");
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        let generator = generator(dtype, 0);
        generator.parameters().load(state_dict()).unwrap();
        let latent = reference.as_type("latent", dtype);
        let samples = generator.model().forward(&latent, false).unwrap();
        assert_close(&samples, reference.get("output"), tolerance, &format!("{dtype:?} samples"));
    }
}

/// What is saved has the names and shapes of PyTorch's file, but for the counters, and loads back to the last bit.
#[test]
fn what_is_saved_is_a_state_dict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("generator.safetensors");
    let saved = generator(DType::F64, 1);
    saved.parameters().save(&path).unwrap();

    let shapes = |path: &str| -> BTreeMap<String, Vec<usize>> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let named = tensors.into_iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
        named.map(|(name, tensor)| (name, tensor.dims().to_vec())).collect()
    };
    assert_eq!(shapes(path.to_str().unwrap()), shapes(&state_dict()));

    let values = |network: &Network<MlpGenerator>| -> Vec<Vec<f64>> {
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
        network.parameters().tensors().values().map(flat).collect()
    };
    let loaded = generator(DType::F64, 2);
    assert_ne!(values(&loaded), values(&saved));
    loaded.parameters().load(&path).unwrap();
    assert_eq!(values(&loaded), values(&saved));
}

/// The same model saves the same bytes, whatever order a hash map would have chosen.
#[test]
fn saved_bytes_are_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str| {
        let path = folder.path().join(name);
        generator(DType::F32, 3).parameters().save(&path).unwrap();
        std::fs::read(path).unwrap()
    };
    assert_eq!(save("one"), save("other"));
}
