//! Multi-scale structural similarity.

use candle_core::{DType, Device, Tensor};

use super::finite::finite;
use crate::error::{Error, Result};
use crate::layers::AvgPool2d;

/// The multi-scale structural similarity of pairs of images (Wang, Simoncelli and Bovik 2003), 0 to 1, and 1 for equal ones.
///
/// As a measure of diversity it is the mean over pairs of generated images of one class (Odena et al. 2017, section 4.2):
/// near that of real images for a diverse generator, near 1 for a collapsed one.
///
/// | setting | default | meaning |
/// |---|---|---|
/// | `weights` | 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 | the exponent of each scale, finest first; the paper's |
/// | `window` | 11 | the side of the Gaussian window, odd |
/// | `sigma` | 1.5 | its standard deviation in pixels |
/// | `black`, `white` | -1, 1 | the smallest and the largest value that a pixel can have |
///
/// Each scale halves the image, and the coarsest must hold a window: five scales take sides above 160. For smaller images
/// take fewer scales with [`scales`](Self::scales); a figure compares only with one of the same settings. As the paper's are
/// 0 for black, pixels count from there. The stabilising constants are (0.01 L)² and (0.03 L)² with L = white - black; a
/// negative similarity of a scale counts as 0.
///
/// ```
/// use candle_core::{DType, Device};
/// use wgan::metrics::MsSsim;
/// use wgan::random::Stream;
/// # fn main() -> wgan::Result<()> {
/// let images = Stream::new(0, "images", 0).uniform(-1.0, 1.0, (2, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let settings = MsSsim::scales(2)?; // 28 and 14 pixels
/// let same = settings.between(&images, &images)?;
/// assert!(same.iter().all(|similarity| (similarity - 1.0).abs() < 1e-12));
/// assert!(MsSsim::default().between(&images, &images).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MsSsim {
    /// The exponent of each scale, finest first, above 0.
    pub weights: Vec<f64>,
    /// The side of the window in pixels, odd.
    pub window: usize,
    /// The standard deviation of the window in pixels, above 0.
    pub sigma: f64,
    /// The smallest value that a pixel can have.
    pub black: f64,
    /// The largest value that a pixel can have, above `black`.
    pub white: f64,
}

impl Default for MsSsim {
    fn default() -> Self {
        let weights = vec![0.0448, 0.2856, 0.3001, 0.2363, 0.1333];
        Self { weights, window: 11, sigma: 1.5, black: -1.0, white: 1.0 }
    }
}

impl MsSsim {
    /// The first so many scales of the paper's five, their weights scaled to sum to 1.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] unless there are 1 to 5.
    pub fn scales(scales: usize) -> Result<Self> {
        let all = Self::default();
        if !(1..=all.weights.len()).contains(&scales) {
            return Err(Error::config("the number of scales of MS-SSIM", scales, "1 to 5"));
        }
        let sum: f64 = all.weights[..scales].iter().sum();
        let weights = all.weights[..scales].iter().map(|weight| weight / sum).collect();
        Ok(Self { weights, ..all })
    }

    /// The similarity of each image `(batch, channels, height, width)` with its counterpart, the mean over channels.
    ///
    /// # Errors
    /// [`Error::Shape`] for two batches of different shapes or images too small for the scales; [`Error::NonFiniteData`];
    /// [`Error::InvalidConfig`] for a setting outside its range.
    pub fn between(&self, images: &Tensor, others: &Tensor) -> Result<Vec<f64>> {
        self.check(images, others)?;
        let [mut x, mut y] = [self.planes(images)?, self.planes(others)?];
        finite("the batch of images", &x)?;
        finite("the other batch of images", &y)?;
        let last = self.weights.len() - 1;
        let mut similarity: Option<Tensor> = None;
        for (scale, &weight) in self.weights.iter().enumerate() {
            let factor = self.at_scale(&x, &y, scale == last)?;
            finite("the structural similarity at a scale", &factor)?;
            let factor = factor.relu()?.powf(weight)?;
            similarity = Some(match similarity {
                Some(product) => (product * factor)?,
                None => factor,
            });
            if scale < last {
                let (_, _, height, width) = x.dims4()?;
                let halve = AvgPool2d::new(2).strided(2, (height % 2, width % 2));
                [x, y] = [x.apply(&halve)?, y.apply(&halve)?];
            }
        }
        let channels = images.dims()[1];
        let similarity = similarity.map(|product| product.reshape(((), channels))?.mean(1));
        let similarity: Vec<f64> = similarity.transpose()?.map_or(Ok(vec![]), |t| t.to_vec1())?;
        finite("the structural similarities", &Tensor::new(similarity.as_slice(), &Device::Cpu)?)?;
        Ok(similarity)
    }

    /// The mean over consecutive pairs, images 0 and 1, 2 and 3, ...: the diversity of a class where all images are of it.
    ///
    /// # Errors
    /// [`Error::DatasetTooSmall`] for fewer than two images; those of [`between`](Self::between).
    pub fn of_pairs(&self, images: &Tensor) -> Result<f64> {
        let count = images.dims().first().copied().unwrap_or(0);
        let pairs = count / 2;
        if pairs == 0 {
            let purpose = "a pair to compare".into();
            return Err(Error::DatasetTooSmall { len: count, needed: 2, purpose });
        }
        let side = |first: usize| -> Result<Tensor> {
            let places = Tensor::arange_step(first as u32, 2 * pairs as u32, 2, images.device())?;
            Ok(images.index_select(&places, 0)?)
        };
        let similarities = self.between(&side(0)?, &side(1)?)?;
        Ok(similarities.iter().sum::<f64>() / pairs as f64)
    }

    /// For each plane the mean of the contrast and structure term, with the luminance term at the coarsest scale: `(planes)`.
    fn at_scale(&self, x: &Tensor, y: &Tensor, with_luminance: bool) -> Result<Tensor> {
        let range = self.white - self.black;
        let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
        let (mean_x, mean_y) = (self.blur(x)?, self.blur(y)?);
        let (square_x, square_y, cross) = (mean_x.sqr()?, mean_y.sqr()?, (&mean_x * &mean_y)?);
        let variance_x = (self.blur(&x.sqr()?)? - &square_x)?;
        let variance_y = (self.blur(&y.sqr()?)? - &square_y)?;
        let covariance = (self.blur(&(x * y)?)? - &cross)?;
        let structure =
            (covariance.affine(2.0, c2)? / (variance_x + variance_y)?.affine(1.0, c2)?)?;
        let map = if with_luminance {
            let luminance = (cross.affine(2.0, c1)? / (square_x + square_y)?.affine(1.0, c1)?)?;
            (luminance * structure)?
        } else {
            structure
        };
        Ok(map.flatten_from(1)?.mean(1)?)
    }

    /// Each channel of each image as a plane of its own, `(planes, 1, height, width)`, with black at 0, on the CPU in `f64`.
    fn planes(&self, images: &Tensor) -> Result<Tensor> {
        let planes = images.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        Ok((planes.flatten(0, 1)?.unsqueeze(1)?.contiguous()? - self.black)?)
    }

    /// The weighted mean of each window that lies within the plane.
    fn blur(&self, x: &Tensor) -> Result<Tensor> {
        let middle = (self.window / 2) as f64;
        let weights: Vec<f64> = (0..self.window)
            .map(|i| (-0.5 * ((i as f64 - middle) / self.sigma).powi(2)).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        let along = |x: &Tensor, dim: usize| -> Result<Tensor> {
            let len = x.dims()[dim] + 1 - self.window;
            let part = |i: usize| x.narrow(dim, i, len)? * (weights[i] / sum);
            (1..self.window).try_fold(part(0)?, |blurred, i| Ok((blurred + part(i)?)?))
        };
        along(&along(x, 2)?, 3)
    }

    fn check(&self, images: &Tensor, others: &Tensor) -> Result<()> {
        let positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::config(format!("{name} of MS-SSIM"), value, "above 0")),
        };
        positive("sigma", self.sigma)?;
        positive("white - black", self.white - self.black)?;
        self.weights.iter().try_for_each(|&weight| positive("a weight", weight))?;
        if self.weights.is_empty() || self.weights.len() > 16 {
            let scales = self.weights.len();
            return Err(Error::config("the number of scales of MS-SSIM", scales, "1 to 16"));
        }
        if self.window.is_multiple_of(2) {
            return Err(Error::config("the window of MS-SSIM", self.window, "an odd number"));
        }
        if images.dims() != others.dims() {
            return Err(Error::Shape {
                what: "the other batch of images".into(),
                got: others.dims().to_vec(),
                expected: format!("{:?}, as the first", images.dims()),
            });
        }
        // Halved at each scale, and rounded up.
        let halvings = self.weights.len() - 1;
        let least = (self.window - 1).saturating_mul(1 << halvings).saturating_add(1);
        match images.dims() {
            &[(1..), (1..), height, width] if height.min(width) >= least => Ok(()),
            got => Err(Error::Shape {
                what: "the batch of images for MS-SSIM".into(),
                got: got.to_vec(),
                expected: format!(
                    "(batch, channels, height, width) with sides of at least {least}, for {} scales and a window of {}",
                    self.weights.len(),
                    self.window
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn images(seed: u64, side: usize) -> Tensor {
        let shape = (4, 3, side, side);
        Stream::new(seed, "images", 0).uniform(-1.0, 1.0, shape, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn it_is_symmetric_and_falls_with_noise() -> Result<()> {
        let settings = MsSsim::scales(3)?;
        let (x, noise) = (images(1, 44), images(2, 44));
        let with = |share: f64| (&x * (1.0 - share)).and_then(|a| a + (&noise * share)?);
        let of = |share: f64| -> Result<f64> {
            let y = with(share)?;
            let (there, back) = (settings.between(&x, &y)?, settings.between(&y, &x)?);
            assert!(there.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-12));
            Ok(there[0])
        };
        let (near, further, far) = (of(0.05)?, of(0.3)?, of(1.0)?);
        assert!(
            1.0 > near && near > further && further > far && far >= 0.0,
            "{near} {further} {far}"
        );
        Ok(())
    }

    #[test]
    fn pairs_are_neighbours_in_the_batch() -> Result<()> {
        let settings = MsSsim::scales(1)?;
        let x = images(3, 12);
        let twice = x
            .repeat((2, 1, 1, 1))?
            .index_select(&Tensor::new(&[0u32, 4, 1, 5, 2, 6, 3, 7, 0], &Device::Cpu)?, 0)?;
        assert!((settings.of_pairs(&twice)? - 1.0).abs() < 1e-12);
        let between = settings.between(&x.narrow(0, 0, 1)?, &x.narrow(0, 1, 1)?)?[0];
        assert_eq!(settings.of_pairs(&x.narrow(0, 0, 2)?)?, between);
        Ok(())
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let x = images(1, 21);
        let two = MsSsim::scales(2).unwrap();
        assert!(two.between(&x, &x).is_ok());
        let small = images(1, 20);
        let error = two.between(&small, &small).unwrap_err().to_string();
        assert!(error.contains("sides of at least 21"), "{error}");
        assert!(matches!(two.between(&x, &images(1, 22)), Err(Error::Shape { .. })));
        assert!(matches!(
            two.of_pairs(&x.narrow(0, 0, 1).unwrap()),
            Err(Error::DatasetTooSmall { .. })
        ));
        let nan = (&x * f64::NAN).unwrap();
        assert!(matches!(two.between(&x, &nan), Err(Error::NonFiniteData { .. })));
        for settings in [
            MsSsim { weights: vec![], ..two.clone() },
            MsSsim { weights: vec![0.5, -1.0], ..two.clone() },
            MsSsim { window: 10, ..two.clone() },
            MsSsim { window: 0, ..two.clone() },
            MsSsim { sigma: 0.0, ..two.clone() },
            MsSsim { white: f64::NAN, ..two.clone() },
            MsSsim { white: -1.0, ..two.clone() },
            MsSsim { black: -f64::MAX, white: f64::MAX, ..two.clone() },
        ] {
            assert!(matches!(settings.between(&x, &x), Err(Error::InvalidConfig { .. })));
        }
        assert!(MsSsim::scales(0).is_err() && MsSsim::scales(6).is_err());
        // A shift of it would have wrapped.
        let window = MsSsim { window: usize::MAX / 2 + 2, ..two.clone() };
        assert!(matches!(window.between(&x, &x), Err(Error::Shape { .. })));
    }

    #[test]
    fn numbers_far_too_small_or_large_hide_nothing() -> Result<()> {
        let (x, y) = (images(1, 21), images(2, 21));
        // Either window is a single pixel.
        let [narrow, narrowest] =
            [1e-2, 1e-200].map(|sigma| MsSsim { sigma, ..MsSsim::scales(2).unwrap() });
        assert_eq!(narrowest.between(&x, &y)?, narrow.between(&x, &y)?);
        let huge = ((x.to_dtype(DType::F64)? * 1e200)?, (y.to_dtype(DType::F64)? * 1e200)?);
        assert!(matches!(narrow.between(&huge.0, &huge.1), Err(Error::NonFiniteData { .. })));
        Ok(())
    }
}
