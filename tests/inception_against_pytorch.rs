//! The Inception network with drawn weights against torch-fidelity's: `tests/pytorch/metrics.py`. The public weights are not
//! in this repository.

mod support;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use support::{Reference, assert_close, draw};
use wgan::metrics::{Features, Inception};
use wgan::{Error, Result};

/// The script's weights: the names and shapes come from the network's own complaint.
fn weights() -> BTreeMap<String, Tensor> {
    let Err(Error::Weights { missing, .. }) =
        Inception::from_tensors(BTreeMap::new(), &Device::Cpu, DType::F64)
    else {
        panic!("a network without weights");
    };
    let mut tensors: BTreeMap<String, Tensor> = missing
        .into_iter()
        .map(|name| (name, Tensor::zeros(1, DType::F64, &Device::Cpu).unwrap()))
        .collect();
    let Err(Error::Weights { mismatched, .. }) =
        Inception::from_tensors(tensors.clone(), &Device::Cpu, DType::F64)
    else {
        panic!("weights of one number each");
    };
    for complaint in mismatched {
        let (name, shapes) = complaint.split_once(": ").unwrap();
        let (_, shape) = shapes.split_once("in the model ").unwrap();
        let shape: Vec<usize> = serde_json::from_str(shape).unwrap();
        tensors.insert(name.into(), drawn(name, &shape).unwrap());
    }
    tensors
}

fn drawn(name: &str, shape: &[usize]) -> Result<Tensor> {
    let drawn = draw(&format!("inception/{name}"), shape, DType::F64);
    Ok(if shape.len() > 1 {
        let fan_in: usize = shape[1..].iter().product();
        (drawn * (6.0 / fan_in as f64).sqrt())?
    } else if name.ends_with("running_var") || name.ends_with("bn.weight") {
        drawn.affine(0.5, 1.0)?
    } else {
        (drawn * 0.25)?
    })
}

#[test]
fn features_and_probabilities_are_those_of_torch_fidelity() -> Result<()> {
    let reference = Reference::read("inception.safetensors");
    let weights = weights();
    // Between the levels that they are rounded to.
    let images = draw("inception/images", (2, 3, 40, 31), DType::F64);
    for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-3)] {
        let network = Inception::from_tensors(weights.clone(), &Device::Cpu, dtype)?;
        let outputs = network.outputs(&images)?;
        let what = format!("{dtype:?}");
        assert_close(&outputs.features, reference.get("features"), tolerance, &what);
        let probabilities = outputs.probabilities.expect("a classifier");
        assert_close(&probabilities, reference.get("probabilities"), tolerance, &what);
        assert!(
            network.name().starts_with("inception-v3-2015-12-05 (weights "),
            "{}",
            network.name()
        );
    }

    let grey = images.narrow(1, 0, 1)?;
    let network = Inception::from_tensors(weights, &Device::Cpu, DType::F64)?;
    let repeated = network.outputs(&grey.repeat((1, 3, 1, 1))?)?.features;
    assert_close(&network.outputs(&grey)?.features, &repeated, 0.0, "one channel");
    assert!(matches!(network.outputs(&images.narrow(1, 0, 2)?), Err(Error::Shape { .. })));
    Ok(())
}
