//! The forward pass.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::super::finite::finite;
use super::units::{Unit, units};
use super::{CLASSES, DIMS};
use crate::error::{Error, Result};
use crate::layers::AvgPool2d;
use crate::ops::{Function, Geometry, activate, conv2d, matmul_nt};

const RELU: Function = Function::LeakyRelu { slope: 0.0 };
/// TensorFlow's, in every normalisation of the file.
const EPS: f64 = 1e-3;

#[derive(Debug)]
pub(super) struct Network {
    units: BTreeMap<String, Folded>,
    last: Tensor,
}

/// A convolution with the normalisation after it in its weight and bias.
#[derive(Debug)]
struct Folded {
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
}

/// The pool of a block's last branch.
#[derive(Clone, Copy)]
enum Pool {
    Mean,
    Max,
}

impl Network {
    pub fn new(
        tensors: BTreeMap<String, Tensor>,
        origin: &str,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let units = units();
        check(&tensors, &units, origin)?;
        let folded = units
            .iter()
            .map(|unit| Ok((unit.name.clone(), Folded::new(unit, &tensors, device, dtype)?)));
        let units = folded.collect::<Result<_>>()?;
        let last = tensors["fc.weight"].to_device(device)?.to_dtype(dtype)?;
        finite("the weight fc.weight of the Inception network", &last)?;
        Ok(Self { units, last })
    }

    /// `(batch, 3, 299, 299)` to `(batch, 2048)`.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.chain(images, "Conv2d_", &["1a_3x3", "2a_3x3", "2b_3x3"])?;
        let x = self.chain(&halved(&x)?, "Conv2d_", &["3b_1x1", "4a_3x3"])?;
        let mut x = halved(&x)?;
        for block in ["5b", "5c", "5d"] {
            x = self.block_35(&x, &format!("Mixed_{block}.branch"))?;
        }
        x = self.down_to_17(&x, "Mixed_6a.branch")?;
        for block in ["6b", "6c", "6d", "6e"] {
            x = self.block_17(&x, &format!("Mixed_{block}.branch"))?;
        }
        x = self.down_to_8(&x, "Mixed_7a.branch")?;
        x = self.block_8(&x, "Mixed_7b.branch", Pool::Mean)?;
        // The slip of the published graph.
        x = self.block_8(&x, "Mixed_7c.branch", Pool::Max)?;
        Ok(x.flatten_from(2)?.mean(2)?)
    }

    /// `(batch, 2048)` to `(batch, 1008)`.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        Ok(matmul_nt(features, &self.last)?)
    }

    fn block_35(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        cat(&[
            self.chain(x, block, &["1x1"])?,
            self.chain(x, block, &["5x5_1", "5x5_2"])?,
            self.chain(x, block, &["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"])?,
            self.chain(&pooled(x, Pool::Mean)?, block, &["_pool"])?,
        ])
    }

    fn down_to_17(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        cat(&[
            self.chain(x, block, &["3x3"])?,
            self.chain(x, block, &["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"])?,
            halved(x)?,
        ])
    }

    fn block_17(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        let long = ["7x7dbl_1", "7x7dbl_2", "7x7dbl_3", "7x7dbl_4", "7x7dbl_5"];
        cat(&[
            self.chain(x, block, &["1x1"])?,
            self.chain(x, block, &["7x7_1", "7x7_2", "7x7_3"])?,
            self.chain(x, block, &long)?,
            self.chain(&pooled(x, Pool::Mean)?, block, &["_pool"])?,
        ])
    }

    fn down_to_8(&self, x: &Tensor, block: &str) -> Result<Tensor> {
        cat(&[
            self.chain(x, block, &["3x3_1", "3x3_2"])?,
            self.chain(x, block, &["7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4"])?,
            halved(x)?,
        ])
    }

    fn block_8(&self, x: &Tensor, block: &str, pool: Pool) -> Result<Tensor> {
        let middle = self.chain(x, block, &["3x3_1"])?;
        let double = self.chain(x, block, &["3x3dbl_1", "3x3dbl_2"])?;
        cat(&[
            self.chain(x, block, &["1x1"])?,
            self.chain(&middle, block, &["3x3_2a"])?,
            self.chain(&middle, block, &["3x3_2b"])?,
            self.chain(&double, block, &["3x3dbl_3a"])?,
            self.chain(&double, block, &["3x3dbl_3b"])?,
            self.chain(&pooled(x, pool)?, block, &["_pool"])?,
        ])
    }

    /// Units one after the other.
    fn chain(&self, x: &Tensor, prefix: &str, names: &[&str]) -> Result<Tensor> {
        names.iter().try_fold(x.clone(), |x, name| {
            let Folded { weight, bias, geometry } = &self.units[&format!("{prefix}{name}")];
            // Candle's own ReLU makes 0 of NaN.
            Ok(activate(RELU, &conv2d(&x, weight, Some(bias), *geometry)?)?)
        })
    }
}

impl Folded {
    fn new(
        unit: &Unit,
        tensors: &BTreeMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let get = |part: &str| tensors[&format!("{}.{part}", unit.name)].to_dtype(DType::F64);
        let variance = get("bn.running_var")?;
        let least = variance.min_all()?.to_scalar::<f64>()?;
        if least < 0.0 {
            let name = format!("the least of {}.bn.running_var", unit.name);
            return Err(Error::config(name, least, "0 or more, as a variance is"));
        }
        let scale = (get("bn.weight")? / (variance + EPS)?.sqrt()?)?;
        let bias = (get("bn.bias")? - (get("bn.running_mean")? * &scale)?)?;
        let weight = get("conv.weight")?.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
        let place = |x: Tensor| -> Result<Tensor> {
            let x = x.to_dtype(dtype)?.to_device(device)?;
            finite(&format!("the weights of the Inception network's unit {}", unit.name), &x)?;
            Ok(x)
        };
        let geometry = Geometry {
            stride: [unit.stride; 2],
            padding: unit.padding,
            dilation: [1, 1],
            groups: 1,
        };
        Ok(Self { weight: place(weight)?, bias: place(bias)?, geometry })
    }
}

/// Holds the tensors to be those of the units, by name and shape.
fn check(tensors: &BTreeMap<String, Tensor>, units: &[Unit], origin: &str) -> Result<()> {
    let mut expected = BTreeMap::from([
        ("fc.weight".to_owned(), vec![CLASSES, DIMS]),
        // Of no effect on features, and on probabilities none that is wanted.
        ("fc.bias".to_owned(), vec![CLASSES]),
    ]);
    for unit in units {
        let weight = vec![unit.outputs, unit.inputs, unit.kernel[0], unit.kernel[1]];
        expected.insert(format!("{}.conv.weight", unit.name), weight);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            expected.insert(format!("{}.bn.{part}", unit.name), vec![unit.outputs]);
        }
    }
    let missing: Vec<String> =
        expected.keys().filter(|name| !tensors.contains_key(*name)).cloned().collect();
    let (mut unexpected, mut mismatched) = (Vec::new(), Vec::new());
    for (name, tensor) in tensors {
        match expected.get(name) {
            Some(shape) if shape == tensor.dims() => {}
            Some(shape) => {
                mismatched.push(format!("{name}: {:?}, in the model {shape:?}", tensor.dims()));
            }
            None if is_counter(name) => {}
            None => unexpected.push(name.clone()),
        }
    }
    if missing.is_empty() && unexpected.is_empty() && mismatched.is_empty() {
        return Ok(());
    }
    Err(Error::Weights { origin: origin.into(), missing, unexpected, mismatched })
}

/// Whether a tensor only counts the batches that a normalisation was trained on.
pub(super) fn is_counter(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

fn cat(branches: &[Tensor]) -> Result<Tensor> {
    Ok(Tensor::cat(branches, 1)?)
}

/// The largest of each 3 x 3 window at a stride of 2.
fn halved(x: &Tensor) -> Result<Tensor> {
    largest_of_windows(x, 2)
}

/// Refuses what is not finite: a maximum may pass over NaN.
fn largest_of_windows(x: &Tensor, stride: usize) -> Result<Tensor> {
    finite("a layer of the Inception network", x)?;
    Ok(x.max_pool2d_with_stride(3, stride)?)
}

/// 3 x 3 windows around each pixel.
fn pooled(x: &Tensor, pool: Pool) -> Result<Tensor> {
    match pool {
        // After a ReLU nothing is below the zeros of the padding.
        Pool::Max => {
            let padded = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
            largest_of_windows(&padded, 1)
        }
        // The share of a window that lies in the image is what the padding took from the mean.
        Pool::Mean => {
            let mean = AvgPool2d::new(3).strided(1, 1);
            let (_, _, height, width) = x.dims4()?;
            let inside =
                Tensor::ones((1, 1, height, width), x.dtype(), x.device())?.apply(&mean)?;
            Ok(x.apply(&mean)?.broadcast_div(&inside)?)
        }
    }
}
