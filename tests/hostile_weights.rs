//! Weight files that were damaged, cut short or made for another model.
//!
//! A wrong program would panic, take memory that a header promises, or fill half of the model before it finds out.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::{bits, tensor_bits};
use wgan::zoo::{MlpGenerator, MlpGeneratorConfig};
use wgan::{Error, ModelBuilder, Network};

fn model(dtype: DType, seed: u64) -> Network<MlpGenerator> {
    let config = MlpGeneratorConfig {
        latent_dim: 2,
        hidden: vec![3, 4],
        sample_shape: vec![2],
        ..Default::default()
    };
    ModelBuilder::new(seed).dtype(dtype).generator(|vb| MlpGenerator::new(config, vb)).unwrap()
}

/// The weights of a model as a file's bytes.
fn file() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    model(DType::F32, 1).parameters().save(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("damaged.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Loads into a model that must refuse it and stay as it was.
fn refused(path: &Path) -> Error {
    let model = model(DType::F32, 2);
    let before = bits(model.parameters());
    let error = model.parameters().load(path).unwrap_err();
    assert_eq!(bits(model.parameters()), before, "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    error
}

#[derive(Debug, Clone)]
enum Damage {
    FlipBit(Index, u8),
    SetByte(Index, u8),
    /// The header's own statement of its length.
    SetLength(u64),
    Cut(Index),
    Append(Vec<u8>),
    Insert(Index, Vec<u8>),
    /// The same number of bytes, so that the header stays well-formed.
    Rename(&'static str, &'static str),
    Garbage(Vec<u8>),
}

impl Damage {
    fn apply(self, mut file: Vec<u8>) -> Vec<u8> {
        let len = file.len();
        match self {
            Self::FlipBit(at, bit) if len > 0 => file[at.index(len)] ^= 1 << bit,
            Self::SetByte(at, byte) if len > 0 => file[at.index(len)] = byte,
            Self::SetLength(length) if len >= 8 => file[..8].copy_from_slice(&length.to_le_bytes()),
            Self::Cut(at) => file.truncate(at.index(len + 1)),
            Self::Append(bytes) => file.extend(bytes),
            Self::Insert(at, bytes) => {
                let at = at.index(len + 1);
                file.splice(at..at, bytes);
            }
            Self::Rename(from, to) => {
                assert_eq!(from.len(), to.len());
                let found = file.windows(from.len()).position(|window| window == from.as_bytes());
                if let Some(at) = found {
                    file[at..at + to.len()].copy_from_slice(to.as_bytes());
                }
            }
            Self::Garbage(bytes) => file = bytes,
            Self::FlipBit(..) | Self::SetByte(..) | Self::SetLength(_) => {}
        }
        file
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    let length = prop_oneof![any::<u64>(), 0u64..2000, select(vec![1 << 40, 1 << 63, u64::MAX])];
    let rename = select(vec![
        ("fc1.weight", "fc9.weight"),
        ("fc1.weight", "fc2.weight"),
        ("bn2.bias", "bn2.mean"),
        ("\"F32\"", "\"I32\""),
        ("\"F32\"", "\"U32\""),
        ("\"F32\"", "\"F64\""),
        ("\"F32\"", "\"F16\""),
        ("[3,2]", "[2,3]"),
        ("[3,2]", "[6,1]"),
        ("[3,2]", "[0,2]"),
        ("dtype", "dtypo"),
        ("shape", "dtype"),
        ("data_offsets", "data_offsetz"),
    ]);
    prop_oneof![
        4 => (index(), 0u8..8).prop_map(|(at, bit)| Damage::FlipBit(at, bit)),
        4 => (index(), any::<u8>()).prop_map(|(at, byte)| Damage::SetByte(at, byte)),
        2 => length.prop_map(Damage::SetLength),
        2 => index().prop_map(Damage::Cut),
        1 => vec(any::<u8>(), 0..20).prop_map(Damage::Append),
        2 => (index(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        4 => rename.prop_map(|(from, to)| Damage::Rename(from, to)),
        1 => vec(any::<u8>(), 0..200).prop_map(Damage::Garbage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever was done to a file: either it is refused and the model stays as it was, or it is still a file with
    /// exactly this model's tensors, and then the model holds every bit of it.
    #[test]
    fn a_damaged_file_is_refused_or_read_whole(damages in vec(damage(), 1..4)) {
        let folder = tempfile::tempdir().unwrap();
        let bytes = damages.into_iter().fold(file(), |file, damage| damage.apply(file));
        let path = write(folder.path(), &bytes);
        let model = model(DType::F32, 2);
        let before = bits(model.parameters());
        match model.parameters().load(&path) {
            Ok(()) => {
                let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
                let held: BTreeMap<_, _> = (tensors.iter())
                    .map(|(name, t)| (name.clone(), tensor_bits(&t.to_dtype(DType::F32).unwrap())))
                    .collect();
                prop_assert_eq!(bits(model.parameters()), held);
            }
            Err(error) => {
                prop_assert!(matches!(error, Error::Format { .. } | Error::Weights { .. }), "{}", error);
                prop_assert!(error.to_string().contains(path.to_str().unwrap()), "{}", error);
                prop_assert_eq!(bits(model.parameters()), before);
            }
        }
    }
}

/// The reader and the damage: an undamaged file is read, and every single cut is refused.
#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = file();
    let loaded = model(DType::F32, 2);
    loaded.parameters().load(write(folder.path(), &whole)).unwrap();
    assert_eq!(bits(loaded.parameters()), bits(model(DType::F32, 1).parameters()));
    for length in 0..whole.len() {
        let error = refused(&write(folder.path(), &whole[..length]));
        assert!(matches!(&error, Error::Format { .. }), "{length}: {error}");
        assert!(error.to_string().contains("expected weights saved as safetensors"), "{error}");
    }
}

#[test]
fn a_path_without_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("absent.safetensors"), folder.path().to_path_buf()] {
        assert!(matches!(refused(&path), Error::Io { .. }));
    }
}

/// Everything that does not fit is listed at once, by name and with both shapes.
#[test]
fn all_that_does_not_fit_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors: HashMap<String, Tensor> =
        model(DType::F32, 1).parameters().tensors().into_iter().collect();
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
    tensors.remove("fc1.bias");
    tensors.remove("bn2.running_var");
    tensors.insert("fc2.weight".into(), zeros(&[3, 4], DType::F32));
    tensors.insert("fc3.bias".into(), zeros(&[2], DType::I64));
    tensors.insert("fc4.weight".into(), zeros(&[1], DType::F32));
    tensors.insert("bn2.num_batches_tracked".into(), zeros(&[], DType::I64));
    let path = folder.path().join("other.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let Error::Weights { missing, unexpected, mismatched, .. } = refused(&path) else {
        panic!("these are weights, but not of this model");
    };
    // Trained tensors come first, then buffers.
    assert_eq!(missing, ["fc1.bias", "bn2.running_var"]);
    assert_eq!(unexpected, ["fc4.weight"]);
    assert_eq!(mismatched.len(), 2);
    assert_eq!(mismatched[0], "fc2.weight: [3, 4] F32, in the model [4, 3] F32");
    assert_eq!(mismatched[1], "fc3.bias: [2] I64, in the model [2] F32");
}

/// Not a bit is lost on the way to disk and back: signed zeros, numbers near the limits of the type, NaN with its
/// payload.
#[test]
fn every_bit_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let check = |dtype, bias: Tensor| {
        let saved = model(dtype, 1);
        let mut tensors = saved.parameters().tensors();
        tensors.insert("bn2.weight".into(), bias.clone());
        saved.parameters().assign(tensors).unwrap();
        saved.parameters().save(&path).unwrap();
        let loaded = model(dtype, 2);
        loaded.parameters().load(&path).unwrap();
        assert_eq!(bits(loaded.parameters()), bits(saved.parameters()));
        assert_eq!(tensor_bits(&loaded.parameters().tensors()["bn2.weight"]), tensor_bits(&bias));
    };
    let single = [-0.0, f32::MIN_POSITIVE / 8.0, f32::from_bits(0x7fc0_1234), -f32::MAX];
    check(DType::F32, Tensor::new(&single, &Device::Cpu).unwrap());
    let double = [-0.0, f64::MIN_POSITIVE / 8.0, f64::from_bits(0x7ff8_0000_0000_1234), 1.0 / 3.0];
    check(DType::F64, Tensor::new(&double, &Device::Cpu).unwrap());
}

/// Half-precision files, as checkpoints for sampling often are, load into a model of either type.
#[test]
fn half_precision_is_widened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    for half in [DType::F16, DType::BF16] {
        let tensors: HashMap<String, Tensor> = (model(DType::F32, 1).parameters().tensors())
            .into_iter()
            .map(|(name, tensor)| (name, tensor.to_dtype(half).unwrap()))
            .collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        for dtype in [DType::F32, DType::F64] {
            let model = model(dtype, 2);
            model.parameters().load(&path).unwrap();
            for (name, tensor) in model.parameters().tensors() {
                assert_eq!(tensor.dtype(), dtype);
                let expected = tensors[&name].to_dtype(dtype).unwrap();
                assert_eq!(tensor_bits(&tensor), tensor_bits(&expected), "{name}");
            }
        }
    }
}
