//! What turns images into the numbers that are compared.

use std::rc::Rc;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Points;
use crate::error::{Error, Result};

/// A network whose features, and class probabilities where it is a classifier, samples are judged by.
///
/// A figure holds for one network only: every Score names it. A network of your own:
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use wgan::Result;
/// use wgan::metrics::{Features, Outputs};
///
/// /// The mean of each quarter of an image.
/// struct Quarters;
///
/// impl Features for Quarters {
///     fn name(&self) -> &str {
///         "quarters"
///     }
///
///     fn dims(&self) -> usize {
///         4
///     }
///
///     fn outputs(&self, images: &Tensor) -> Result<Outputs> {
///         let (_, _, height, width) = images.dims4()?;
///         let features = images.avg_pool2d((height / 2, width / 2))?.mean(1)?.flatten_from(1)?;
///         Ok(Outputs { features, probabilities: None })
///     }
/// }
/// # fn main() -> Result<()> {
/// let images = Tensor::ones((3, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(Quarters.outputs(&images)?.features.dims(), [3, Quarters.dims()]);
/// # Ok(())
/// # }
/// ```
pub trait Features {
    /// A name that no other network and no other weights have, such as `mnist-cnn-1`.
    fn name(&self) -> &str;

    /// The number of features of an image.
    fn dims(&self) -> usize;

    /// The number of classes that it tells apart, where it is a classifier.
    fn classes(&self) -> Option<usize> {
        None
    }

    /// Features, and probabilities where there are classes, of images `(batch, channels, height, width)` from -1 to 1.
    /// An image's do not depend on the others of the batch.
    ///
    /// # Errors
    /// [`Error::Shape`] for images that the network does not take; candle's.
    fn outputs(&self, images: &Tensor) -> Result<Outputs>;
}

macro_rules! through_pointers {
    ($($pointer:ty),*) => {$(
        impl<F: Features + ?Sized> Features for $pointer {
            fn name(&self) -> &str {
                (**self).name()
            }

            fn dims(&self) -> usize {
                (**self).dims()
            }

            fn classes(&self) -> Option<usize> {
                (**self).classes()
            }

            fn outputs(&self, images: &Tensor) -> Result<Outputs> {
                (**self).outputs(images)
            }
        }
    )*};
}

through_pointers!(&F, Box<F>, Rc<F>, Arc<F>);

/// What a network makes of a batch of images.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// `(batch, dims)`.
    pub features: Tensor,
    /// `(batch, classes)`, each row a distribution; `None` from a network that is no classifier.
    pub probabilities: Option<Tensor>,
}

/// The features of a batch as points, with its probabilities, held to be what the network promises. `first` is the number of
/// the batch's first sample, for errors.
pub(super) fn read(
    network: &(impl Features + ?Sized),
    images: &Tensor,
    first: usize,
) -> Result<(Points, Option<Points>)> {
    let Outputs { features, probabilities } = network.outputs(images)?;
    let batch = images.dims().first().copied().unwrap_or(0);
    let points = |what: &str, tensor: &Tensor, columns: usize| -> Result<Points> {
        if tensor.dims() != [batch, columns] {
            return Err(Error::Shape {
                what: format!("the {what} of the network {}", network.name()),
                got: tensor.dims().to_vec(),
                expected: format!("({batch}, {columns})"),
            });
        }
        Points::from_tensor(tensor).map_err(|error| match error {
            Error::NonFiniteData { value, position, .. } => Error::NonFiniteData {
                what: format!("the {what} of the network {}, by sample and place,", network.name()),
                value,
                position: position.iter().zip([first, 0]).map(|(at, offset)| at + offset).collect(),
            },
            other => other,
        })
    };
    let features = points("features", &features, network.dims())?;
    let probabilities = match (network.classes(), probabilities) {
        (Some(classes), Some(tensor)) => Some(points("probabilities", &tensor, classes)?),
        (None, _) => None,
        (Some(classes), None) => {
            let name = format!("the probabilities of the network {}", network.name());
            return Err(Error::config(name, "absent", format!("({batch}, {classes})")));
        }
    };
    Ok((features, probabilities))
}

/// Images on the device and of the type of a network.
pub(super) fn images_at(images: &Tensor, device: &Device, dtype: DType) -> Result<Tensor> {
    Ok(images.detach().to_device(device)?.to_dtype(dtype)?)
}
