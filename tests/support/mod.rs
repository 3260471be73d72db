//! Reference files made by PyTorch, and how near the crate comes to them.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod refusal;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Shape, Tensor};
use wgan::Parameters;
use wgan::random::Stream;

/// The tensors of one file that a script in `tests/pytorch/` wrote.
pub struct Reference(BTreeMap<String, Tensor>);

impl Reference {
    pub fn read(file: &str) -> Self {
        let path = format!("{}/tests/pytorch/{file}", env!("CARGO_MANIFEST_DIR"));
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        Self(tensors.into_iter().collect())
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor {name} in the reference file"))
    }

    pub fn as_type(&self, name: &str, dtype: DType) -> Tensor {
        self.get(name).to_dtype(dtype).unwrap()
    }

    pub fn number(&self, name: &str) -> f64 {
        self.get(name).flatten_all().unwrap().get(0).unwrap().to_scalar().unwrap()
    }

    pub fn numbers(&self, name: &str) -> Vec<f64> {
        self.get(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The tensors below a prefix, by the rest of their names.
    pub fn below(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let prefix = format!("{prefix}.");
        (self.0.iter())
            .filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?.to_owned(), t.clone())))
            .collect()
    }
}

/// The largest difference of two tensors, relative to the largest element where that exceeds 1.
pub fn distance(got: &Tensor, expected: &Tensor) -> f64 {
    distance_beside(1.0, got, expected)
}

/// The largest difference of two tensors relative to the largest element expected, or to 1e-3 where that is less.
pub fn relative_distance(got: &Tensor, expected: &Tensor) -> f64 {
    distance_beside(1e-3, got, expected)
}

fn distance_beside(floor: f64, got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let [got, expected] = [got, expected].map(|tensor| tensor.to_dtype(DType::F64).unwrap());
    let max = |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let difference: f64 = max(&got.sub(&expected).unwrap()).to_scalar().unwrap();
    let size: f64 = max(&expected).to_scalar().unwrap();
    assert!(!difference.is_nan());
    difference / size.max(floor)
}

#[track_caller]
pub fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let distance = distance(got, expected);
    assert!(distance <= tolerance, "{what}: off by {distance:e}, at most {tolerance:e} expected");
}

#[track_caller]
pub fn assert_number(got: f64, expected: f64, tolerance: f64, what: &str) {
    let distance = (got - expected).abs() / expected.abs().max(1.0);
    assert!(
        distance <= tolerance,
        "{what}: {got} for {expected}, at most {tolerance:e} off expected"
    );
}

/// The bits of every tensor of a model, buffers included: equal only where not a byte has changed.
pub fn bits(parameters: &Parameters) -> BTreeMap<String, Vec<u64>> {
    parameters.tensors().iter().map(|(name, tensor)| (name.clone(), tensor_bits(tensor))).collect()
}

pub fn tensor_bits(tensor: &Tensor) -> Vec<u64> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F32 => {
            flat.to_vec1::<f32>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect()
        }
        _ => flat.to_vec1::<f64>().unwrap().iter().map(|x| x.to_bits()).collect(),
    }
}

/// Draws from N(0, 1) that are the same in every run.
pub fn normal(name: &str, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    Stream::new(1, name, 0).normal(shape, dtype, &Device::Cpu).unwrap()
}

/// The draws of `tests/pytorch/draws.py`, bit for bit: uniform in [-1, 1), by name.
pub fn draw(name: &str, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    let shape = shape.into();
    let values: Vec<f64> = (1..=shape.elem_count() as u64).map(|i| element(name, i)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// The class labels of the same script.
pub fn draw_classes(name: &str, count: usize, classes: usize) -> Tensor {
    let label = |i| ((element(name, i) + 1.0) / 2.0 * classes as f64).floor() as u32;
    Tensor::from_vec((1..=count as u64).map(label).collect::<Vec<_>>(), count, &Device::Cpu)
        .unwrap()
}

fn element(name: &str, i: u64) -> f64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut z = hash.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 * (-52f64).exp2() - 1.0
}
