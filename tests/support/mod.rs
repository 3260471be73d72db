//! Reference files made by PyTorch, and how near the crate comes to them.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use candle_core::{DType, Device, Shape, Tensor};
use wgan::Parameters;
use wgan::random::Stream;

/// The tensors of one file that `tests/pytorch/reference.py` wrote.
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
    assert_eq!(got.dims(), expected.dims());
    let got = got.to_dtype(DType::F64).unwrap();
    let max = |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let difference: f64 = max(&got.sub(expected).unwrap()).to_scalar().unwrap();
    let size: f64 = max(expected).to_scalar().unwrap();
    assert!(!difference.is_nan());
    difference / size.max(1.0)
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
