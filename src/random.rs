//! Every random draw of the crate: one seed, a named stream for each purpose.
//!
//! A draw is a pure function of `(seed, purpose, index)`. Nothing carries a hidden generator state from one
//! step to the next, so a run continues from its step counter alone, parameters do not depend on the order in
//! which layers are built, and the bytes are the same for any number of threads and on any device: numbers
//! are drawn on the host and handed to the device.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use crate::error::{Error, Result};

/// A reproducible stream of random numbers.
///
/// ```
/// use wgan::random::Stream;
/// # use candle_core::{DType, Device};
/// # fn main() -> wgan::Result<()> {
/// let first = Stream::new(7, "latent", 0).normal((2, 3), DType::F32, &Device::Cpu)?;
/// let again = Stream::new(7, "latent", 0).normal((2, 3), DType::F32, &Device::Cpu)?;
/// let other = Stream::new(7, "latent", 1).normal((2, 3), DType::F32, &Device::Cpu)?;
/// assert_eq!(first.to_vec2::<f32>()?, again.to_vec2::<f32>()?);
/// assert_ne!(first.to_vec2::<f32>()?, other.to_vec2::<f32>()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of draw number `index` made for `purpose` in a run with this seed.
    ///
    /// Two purposes never share numbers, nor do two indices of one purpose.
    #[must_use]
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..24].copy_from_slice(&fnv1a_128(purpose.as_bytes()).to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        Self(rng)
    }

    /// Draws from N(0, 1).
    ///
    /// # Errors
    /// [`Error::DType`] for a type other than `f32` and `f64`; candle's if the tensor cannot be made.
    pub fn normal(
        &mut self,
        shape: impl Into<candle_core::Shape>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.fill(shape.into(), dtype, device, |rng| StandardNormal.sample(rng))
    }

    /// Draws from the uniform distribution on `[low, high)`; rounded to `f32`, a draw can be `high` itself.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] unless `low < high` and both are finite; [`Error::DType`] for a type other than
    /// `f32` and `f64`; candle's if the tensor cannot be made.
    pub fn uniform(
        &mut self,
        low: f64,
        high: f64,
        shape: impl Into<candle_core::Shape>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let uniform = Uniform::new(low, high).map_err(|_| {
            Error::config("uniform range", format!("[{low}, {high})"), "finite bounds, low < high")
        })?;
        self.fill(shape.into(), dtype, device, |rng| uniform.sample(rng))
    }

    /// A uniformly random order of `0..len`.
    #[must_use]
    pub fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        order.shuffle(&mut self.0);
        order
    }

    /// One number from the uniform distribution on `0..bound`, or 0 where `bound` is 0.
    #[must_use]
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// `count` class labels below `classes`, each class as likely as the others; all 0 where there are no classes.
    #[must_use]
    pub fn labels(&mut self, classes: usize, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(classes as u64) as u32).collect()
    }

    fn fill(
        &mut self,
        shape: candle_core::Shape,
        dtype: DType,
        device: &Device,
        mut draw: impl FnMut(&mut ChaCha8Rng) -> f64,
    ) -> Result<Tensor> {
        let count = shape.elem_count();
        let tensor = match dtype {
            // Drawn in f64 and rounded, so that both types see the same numbers.
            DType::F32 => {
                let values: Vec<f32> = (0..count).map(|_| draw(&mut self.0) as f32).collect();
                Tensor::from_vec(values, shape, device)?
            }
            DType::F64 => {
                let values: Vec<f64> = (0..count).map(|_| draw(&mut self.0)).collect();
                Tensor::from_vec(values, shape, device)?
            }
            other => {
                return Err(Error::DType {
                    what: "a random tensor".into(),
                    got: format!("{other:?}"),
                    expected: "F32 or F64".into(),
                });
            }
        };
        Ok(tensor)
    }
}

/// FNV-1a with 128 bits: turns a purpose into key material. It need not be secure, only the same for ever.
fn fnv1a_128(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published FNV-1a test vectors for 128 bits.
    #[test]
    fn hash_matches_the_published_vectors() {
        assert_eq!(fnv1a_128(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv1a_128(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
        assert_eq!(fnv1a_128(b"foobar"), 0x343e1662793c64bf6f0d3597ba446f18);
    }

    #[test]
    fn normal_has_the_moments_of_the_standard_normal() -> Result<()> {
        let x = Stream::new(3, "moments", 0).normal(200_000, DType::F64, &Device::Cpu)?;
        let x = x.to_vec1::<f64>()?;
        let n = x.len() as f64;
        let moment = |k: i32| x.iter().map(|v| v.powi(k)).sum::<f64>() / n;
        // Five standard errors of each: sqrt(1/n), sqrt(2/n), sqrt(15/n), sqrt(96/n).
        assert!(moment(1).abs() < 5.0 * (1.0 / n).sqrt());
        assert!((moment(2) - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        assert!(moment(3).abs() < 5.0 * (15.0 / n).sqrt());
        assert!((moment(4) - 3.0).abs() < 5.0 * (96.0 / n).sqrt());
        Ok(())
    }

    #[test]
    fn purposes_and_indices_are_independent_streams() {
        let draw = |purpose, index| Stream::new(0, purpose, index).below(u64::MAX);
        assert_ne!(draw("a", 0), draw("b", 0));
        assert_ne!(draw("a", 0), draw("a", 1));
        assert_eq!(draw("a", 1), draw("a", 1));
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Stream::new(1, "shuffle", 0).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_range_that_is_empty_is_an_error() {
        let draw = Stream::new(1, "u", 0).uniform(1.0, 1.0, 3, DType::F32, &Device::Cpu);
        assert!(matches!(draw, Err(Error::InvalidConfig { .. })));
    }
}
