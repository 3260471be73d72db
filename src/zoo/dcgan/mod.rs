//! DCGAN (Radford et al. 2016) for images of 28, 32 and 64 pixels.

mod critic;
mod generator;

pub use critic::{DcganCritic, DcganCriticConfig};
pub use generator::{DcganGenerator, DcganGeneratorConfig};

use super::check_sizes;
use crate::error::{Error, Result};

/// The side of the smallest map, and the channels of each map from that one to the largest below the image.
#[derive(Debug)]
struct Pyramid {
    smallest: usize,
    channels: Vec<usize>,
}

impl Pyramid {
    fn new(image_size: usize, image_channels: usize, width: usize, constant: bool) -> Result<Self> {
        check_sizes(&[("channels", image_channels), ("width", width)])?;
        let (smallest, maps) = match image_size {
            28 => (7, 2),
            32 => (4, 3),
            64 => (4, 4),
            _ => return Err(Error::config("image_size", image_size, "28, 32 or 64")),
        };
        let channels = (0..maps).rev().map(|i| if constant { width } else { width << i }).collect();
        Ok(Self { smallest, channels })
    }
}

#[cfg(test)]
mod tests {
    use super::super::CriticNorm;
    use super::*;
    use crate::network::ModelBuilder;

    /// The tables in the docs. The counts of 64 pixels are those that PyTorch's DCGAN example is known by.
    #[test]
    fn parameter_counts_are_the_published_ones() -> Result<()> {
        let build = ModelBuilder::new(0);
        let generator = |config| -> Result<usize> {
            Ok(build.generator(|vb| DcganGenerator::new(config, vb))?.parameters().count())
        };
        let critic = |config| -> Result<usize> {
            Ok(build.critic(|vb| DcganCritic::new(config, vb))?.parameters().count())
        };
        assert_eq!(generator(DcganGeneratorConfig::default())?, 3_576_704);
        assert_eq!(critic(DcganCriticConfig::default())?, 2_765_568);
        let wide = DcganGeneratorConfig { width: 128, ..Default::default() };
        assert_eq!(generator(wide)?, 12_658_432);
        for (image_size, of_generator, of_critic) in
            [(28, 759_680, 138_624), (32, 1_066_880, 661_248)]
        {
            let config = DcganGeneratorConfig { image_size, channels: 1, ..Default::default() };
            assert_eq!(generator(config)?, of_generator);
            let config = DcganCriticConfig { image_size, channels: 1, ..Default::default() };
            assert_eq!(critic(config)?, of_critic);
        }
        let plain = DcganCriticConfig { norm: CriticNorm::None, ..Default::default() };
        assert_eq!(critic(plain)?, 2_765_568 - 2 * (128 + 256 + 512));
        Ok(())
    }

    #[test]
    fn other_sizes_are_refused() {
        let config = DcganGeneratorConfig { image_size: 48, ..Default::default() };
        let error = ModelBuilder::new(0).generator(|vb| DcganGenerator::new(config, vb));
        assert_eq!(error.unwrap_err().to_string(), "image_size is 48; expected 28, 32 or 64");
        let config = DcganCriticConfig { width: 0, ..Default::default() };
        assert!(ModelBuilder::new(0).critic(|vb| DcganCritic::new(config, vb)).is_err());
    }
}
