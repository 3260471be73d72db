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

#[test]
fn what_is_not_a_number_is_refused_and_never_hidden() -> Result<()> {
    let good = weights();
    let with = |name: &str, value: f64| {
        let mut weights = good.clone();
        let some = &weights[name];
        let mut values = vec![0.0; some.elem_count()];
        values[0] = value;
        let added = Tensor::from_vec(values, some.shape(), &Device::Cpu)?;
        weights.insert(name.into(), (some + added)?);
        Inception::from_tensors(weights, &Device::Cpu, DType::F32)
    };
    for name in ["Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.running_mean", "fc.weight"] {
        let error = with(name, f64::NAN).unwrap_err();
        assert!(matches!(error, Error::NonFiniteData { .. }), "{name}: {error}");
    }
    let error = with("Conv2d_1a_3x3.bn.running_var", -9.0).unwrap_err().to_string();
    assert!(error.contains("the least of Conv2d_1a_3x3.bn.running_var is -"), "{error}");

    let network = Inception::from_tensors(good.clone(), &Device::Cpu, DType::F32)?;
    for bad in [f64::NAN, f64::INFINITY] {
        let images = (Tensor::ones((1, 1, 5, 5), DType::F64, &Device::Cpu)? * bad)?;
        let error = network.outputs(&images).unwrap_err();
        assert!(matches!(error, Error::NonFiniteData { .. }), "{error}");
    }

    // Counters of batches have no effect, and none on the name.
    let mut counted = good;
    let one = Tensor::ones((), DType::I64, &Device::Cpu)?;
    counted.insert("Conv2d_1a_3x3.bn.num_batches_tracked".into(), one);
    let counted = Inception::from_tensors(counted, &Device::Cpu, DType::F32)?;
    assert_eq!(counted.name(), network.name());
    Ok(())
}
