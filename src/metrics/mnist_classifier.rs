//! A small classifier of handwritten digits, whose features stand for Inception's on data of MNIST's kind.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::features::{Features, Outputs, images_at};
use super::finite::finite;
use crate::error::{Error, Result};
use crate::layers::{Conv2d, Conv2dConfig, Linear};
use crate::second_order::Traced;

const SIDE: usize = 28;
const CLASSES: usize = 10;
const DIMS: usize = 128;
const NAME: &str = "mnist-cnn-1";

/// A convolutional classifier of images `(batch, 1, 28, 28)` from -1 to 1 with 128 features and 10 classes.
///
/// Its features are the activations before its last layer. [`shipped`](Self::shipped) has weights that
/// `cargo run --example mnist_classifier` left behind; they classify 99.1 % of MNIST's 10 000 test images.
///
/// | layer | parameters | output |
/// |---|---|---|
/// | `conv1`, 3 x 3, ReLU | 320 | `(batch, 32, 28, 28)` |
/// | `conv2`, 4 x 4, stride 2, ReLU | 16 416 | `(batch, 32, 14, 14)` |
/// | `conv3`, 3 x 3, ReLU | 18 496 | `(batch, 64, 14, 14)` |
/// | `conv4`, 4 x 4, stride 2, ReLU | 65 600 | `(batch, 64, 7, 7)` |
/// | `conv5`, 3 x 3, stride 2, ReLU | 73 856 | `(batch, 128, 4, 4)` |
/// | `fc1`, ReLU | 262 272 | `(batch, 128)`, the features |
/// | `fc2` | 1 290 | `(batch, 10)`, the logits |
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use wgan::metrics::{Features, MnistClassifier};
/// # fn main() -> wgan::Result<()> {
/// let network = MnistClassifier::shipped()?;
/// let images = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// assert_eq!(network.outputs(&images)?.features.dims(), [2, 128]);
/// assert_eq!(network.classify(&images)?.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MnistClassifier {
    convolutions: [Conv2d; 5],
    fc1: Linear,
    fc2: Linear,
    device: Device,
    dtype: DType,
}

impl MnistClassifier {
    /// One with the builder's parameters, to be trained, say.
    ///
    /// # Errors
    /// Those of the builder.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let same = Conv2dConfig { padding: 1.into(), ..Default::default() };
        let half = Conv2dConfig { stride: 2.into(), ..same };
        let conv = |number: usize, from: usize, to: usize, kernel: usize, config| {
            Conv2d::new(from, to, kernel, config, vb.pp(format!("conv{number}")))
        };
        Ok(Self {
            convolutions: [
                conv(1, 1, 32, 3, same)?,
                conv(2, 32, 32, 4, half)?,
                conv(3, 32, 64, 3, same)?,
                conv(4, 64, 64, 4, half)?,
                conv(5, 64, 128, 3, half)?,
            ],
            fc1: Linear::new(128 * 4 * 4, DIMS, vb.pp("fc1"))?,
            fc2: Linear::new(DIMS, CLASSES, vb.pp("fc2"))?,
            device: vb.device().clone(),
            dtype: vb.dtype(),
        })
    }

    /// The one that comes with this crate, in `f32` on the CPU.
    ///
    /// # Errors
    /// Candle's.
    pub fn shipped() -> Result<Self> {
        Self::shipped_on(&Device::Cpu)
    }

    /// The same on another device.
    ///
    /// # Errors
    /// Candle's.
    pub fn shipped_on(device: &Device) -> Result<Self> {
        const WEIGHTS: &[u8] = include_bytes!("../../data/mnist-features/mnist-cnn-1.safetensors");
        let tensors = candle_core::safetensors::load_buffer(WEIGHTS, device)?;
        Self::new(VarBuilder::from_tensors(tensors, DType::F32, device))
    }

    /// Features `(batch, 128)` and logits `(batch, 10)` of images `(batch, 1, 28, 28)` from -1 to 1, to be differentiated.
    ///
    /// # Errors
    /// [`Error::Shape`] for other images; candle's.
    pub fn forward(&self, images: &Traced) -> Result<(Traced, Traced)> {
        if !matches!(images.dims(), [(1..), 1, SIDE, SIDE]) {
            return Err(Error::input("the MNIST classifier", images.dims(), "(batch, 1, 28, 28)"));
        }
        let mut x = images.clone();
        for convolution in &self.convolutions {
            x = x.apply(convolution)?.relu()?;
        }
        let features = x.flatten_from(1)?.apply(&self.fc1)?.relu()?;
        let logits = features.apply(&self.fc2)?;
        Ok((features, logits))
    }

    /// The most likely digit of each image, `(batch, 1, 28, 28)` from -1 to 1.
    ///
    /// # Errors
    /// Those of [`outputs`](Features::outputs); [`Error::NonFiniteData`] for NaN and infinities in
    /// the images, and for pixels so large that the logits overflow.
    pub fn classify(&self, images: &Tensor) -> Result<Vec<u32>> {
        let images = images_at(images, &self.device, self.dtype)?;
        finite("an image for the classifier of digits", &images)?;
        let logits = self.forward(&Traced::frozen(&images))?.1.detach();
        // The largest of NaN would be some digit.
        finite("the logits of the classifier of digits", &logits)?;
        Ok(logits.argmax(1)?.to_vec1()?)
    }

    /// The class of each stacked image, `(batch, 3, 28, 28)` from -1 to 1: its three digits as a number below 1000 (Metz et
    /// al. 2017; PacGAN, section 4.2).
    ///
    /// # Errors
    /// [`Error::Shape`] for other images; candle's.
    pub fn classify_stacked(&self, images: &Tensor) -> Result<Vec<u32>> {
        if !matches!(images.dims(), [(1..), 3, SIDE, SIDE]) {
            let expected = "(batch, 3, 28, 28)";
            return Err(Error::input("the classifier of stacked digits", images.dims(), expected));
        }
        let digits = self.classify(&images.flatten(0, 1)?.unsqueeze(1)?)?;
        Ok(digits.chunks_exact(3).map(|d| 100 * d[0] + 10 * d[1] + d[2]).collect())
    }
}

impl Features for MnistClassifier {
    fn name(&self) -> &str {
        NAME
    }

    fn dims(&self) -> usize {
        DIMS
    }

    fn classes(&self) -> Option<usize> {
        Some(CLASSES)
    }

    fn outputs(&self, images: &Tensor) -> Result<Outputs> {
        let images = Traced::frozen(&images_at(images, &self.device, self.dtype)?);
        let (features, logits) = self.forward(&images)?;
        let probabilities = candle_nn::ops::softmax(&logits.detach(), 1)?;
        Ok(Outputs { features: features.detach(), probabilities: Some(probabilities) })
    }
}
