//! The network of the standard Fréchet Inception distance.

mod network;
mod resize;
mod units;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::features::{Features, Outputs, images_at};
use super::finite::finite;
use crate::error::{Error, Result};
use crate::parameters::read_weights;
use network::Network;
use resize::resize;

/// The side of the images that the network sees.
const SIDE: usize = 299;
const DIMS: usize = 2048;
const CLASSES: usize = 1008;

/// Inception-v3 as TensorFlow published it on 5 December 2015, which the standard Fréchet Inception distance (Heusel et al.
/// 2017), the kernel Inception distance and the inception score are defined by: 2048 features, 1008 classes.
///
/// The weights, some 95 MB, are not part of this crate. They are in the public file
/// `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, which torch-fidelity has as
/// `weights-inception-2015-12-05-6726825d.pth`. `tools/convert_inception.py` turns it into the safetensors file that
/// [`load`](Self::load) reads. Other weights of the same architecture, such as torchvision's, give other figures; so the
/// network's name holds the first digits of the weights' SHA-256.
///
/// It differs from the architecture of the paper (Szegedy et al. 2016) as that file demands:
///
/// - images are brought to 299 x 299 pixels as TensorFlow 1 did it: bilinear, without half a pixel's offset, and without a
///   low-pass filter;
/// - the mean pools do not count the padding;
/// - the last block has a max pool where the others have a mean pool;
/// - class probabilities are made without the last layer's bias.
///
/// Images are `(batch, 1 or 3, height, width)` from -1 to 1, of any size; they are rounded to 256 levels, as they would be in
/// files. Channels are red, green and blue; a single one stands for three that are equal.
///
/// ```no_run
/// use wgan::metrics::{Features, Inception};
/// # fn main() -> wgan::Result<()> {
/// let network = Inception::load("inception-2015-12-05.safetensors")?;
/// println!("{}", network.name()); // inception-v3-2015-12-05 (weights 1a2b3c4d)
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Inception {
    network: Network,
    name: String,
    device: Device,
    dtype: DType,
}

impl Inception {
    /// Reads the weights, to work in `f32` on the CPU.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a file that is no safetensors file; those of [`from_tensors`](Self::from_tensors).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_on(path, &Device::Cpu)
    }

    /// The same on another device.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_on(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        Self::build(read_weights(path)?, &origin, device, DType::F32)
    }

    /// The network with these tensors, in `f32` or `f64`, under the names of the public file.
    ///
    /// # Errors
    /// [`Error::Weights`] with what is missing, unexpected or of another shape; [`Error::DType`] for another type;
    /// [`Error::NonFiniteData`] and [`Error::InvalidConfig`] for NaN, infinities and variances below 0.
    pub fn from_tensors(
        tensors: BTreeMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Self::build(tensors, "the tensors given", device, dtype)
    }

    fn build(
        tensors: BTreeMap<String, Tensor>,
        origin: &str,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(Error::DType {
                what: "the Inception network".into(),
                got: format!("{dtype:?}"),
                expected: "F32 or F64".into(),
            });
        }
        let name = format!("inception-v3-2015-12-05 (weights {})", digest(&tensors)?);
        let network = Network::new(tensors, origin, device, dtype)?;
        Ok(Self { network, name, device: device.clone(), dtype })
    }

    /// Images as the network takes them, `(batch, 3, 299, 299)` from -1 to 127/128.
    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let channels = match images.dims() {
            &[(1..), channels @ (1 | 3), (1..), (1..)] => channels,
            got => {
                let expected = "(batch, 1 or 3, height, width)";
                return Err(Error::input("the Inception network", got, expected));
            }
        };
        let images = images_at(images, &self.device, self.dtype)?;
        finite("the batch of images", &images)?;
        let levels = images.affine(127.5, 127.5)?.round()?.clamp(0.0, 255.0)?;
        let levels = if channels == 1 { levels.repeat((1, 3, 1, 1))? } else { levels };
        Ok(resize(&levels, SIDE)?.affine(1.0 / 128.0, -1.0)?)
    }
}

/// The first digits of a checksum over names and values, whatever file they came in and whatever else was counted there.
fn digest(tensors: &BTreeMap<String, Tensor>) -> Result<String> {
    let mut sum = Sha256::new();
    for (name, tensor) in tensors.iter().filter(|(name, _)| !network::is_counter(name)) {
        sum.update(name.as_bytes());
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        for values in values.chunks(4096) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            sum.update(&bytes);
        }
    }
    Ok(sum.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

impl Features for Inception {
    fn name(&self) -> &str {
        &self.name
    }

    fn dims(&self) -> usize {
        DIMS
    }

    fn classes(&self) -> Option<usize> {
        Some(CLASSES)
    }

    fn outputs(&self, images: &Tensor) -> Result<Outputs> {
        let features = self.network.features(&self.prepare(images)?)?;
        let probabilities = candle_nn::ops::softmax(&self.network.logits(&features)?, 1)?;
        Ok(Outputs { features, probabilities: Some(probabilities) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_another_network_are_refused_with_what_differs() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors = BTreeMap::from([
            ("Conv2d_1a_3x3.conv.weight".to_owned(), zeros(&[32, 3, 5, 5])),
            ("Conv2d_1a_3x3.bn.num_batches_tracked".to_owned(), zeros(&[1])),
            ("AuxLogits.fc.weight".to_owned(), zeros(&[1])),
        ]);
        let error = Inception::from_tensors(tensors, &Device::Cpu, DType::F32).unwrap_err();
        let Error::Weights { missing, unexpected, mismatched, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(unexpected, ["AuxLogits.fc.weight"]);
        assert!(
            mismatched[0].contains("[32, 3, 5, 5], in the model [32, 3, 3, 3]"),
            "{mismatched:?}"
        );
        // 94 convolutions with four tensors of their normalisation, and the last layer.
        assert_eq!(missing.len(), 94 * 5 + 2 - 1);
        let none = Inception::from_tensors(BTreeMap::new(), &Device::Cpu, DType::F16);
        assert!(matches!(none, Err(Error::DType { .. })));
        assert!(matches!(Inception::load("no such file"), Err(Error::Io { .. })));
    }
}
