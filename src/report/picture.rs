//! Pixels, and writing them as PNG.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// The factors that [`Picture::scaled`] takes.
const FACTORS: std::ops::RangeInclusive<usize> = 1..=64;

/// A picture with 8 bits a channel, grey or RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture all of whose bytes are `value`; `channels` must be 1 or 3.
    pub(super) fn filled(width: usize, height: usize, channels: usize, value: u8) -> Self {
        Self { width, height, channels, pixels: vec![value; width * height * channels] }
    }

    /// Sets one channel of one pixel.
    pub(super) fn set(&mut self, x: usize, y: usize, channel: usize, value: u8) {
        self.pixels[(y * self.width + x) * self.channels + channel] = value;
    }

    /// Pixels in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 for grey, 3 for RGB.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes as `(height, width, channels)`, row by row from the top left; 0 is black.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The picture with each pixel as a square of `factor` by `factor`, so that small images can be seen.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a factor outside 1 to 64.
    pub fn scaled(&self, factor: usize) -> Result<Self> {
        if !FACTORS.contains(&factor) {
            return Err(Error::config("scale factor", factor, "1 to 64"));
        }
        let row_len = self.width * self.channels;
        let mut pixels = Vec::with_capacity(self.pixels.len() * factor * factor);
        for row in self.pixels.chunks_exact(row_len) {
            let wide: Vec<u8> =
                row.chunks_exact(self.channels).flat_map(|pixel| pixel.repeat(factor)).collect();
            (0..factor).for_each(|_| pixels.extend_from_slice(&wide));
        }
        Ok(Self {
            width: self.width * factor,
            height: self.height * factor,
            channels: self.channels,
            pixels,
        })
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a picture too large for PNG (2^31 - 1 pixels a side).
    pub fn encode_png(&self) -> Result<Vec<u8>> {
        let too_large = || {
            let size = format!("{} x {}", self.width, self.height);
            Error::config("picture size", size, "at most 2147483647 pixels a side")
        };
        let width = u32::try_from(self.width).map_err(|_| too_large())?;
        let height = u32::try_from(self.height).map_err(|_| too_large())?;

        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_color(match self.channels {
            1 => png::ColorType::Grayscale,
            _ => png::ColorType::Rgb,
        });
        // A vector takes every byte and the pixels fit the header: only the size can be refused.
        let mut writer = encoder.write_header().map_err(|_| too_large())?;
        writer.write_image_data(&self.pixels).map_err(|_| too_large())?;
        writer.finish().map_err(|_| too_large())?;
        Ok(bytes)
    }

    /// Writes the picture as a PNG file, whole or not at all.
    ///
    /// # Errors
    /// Those of [`encode_png`](Self::encode_png), and [`Error::Io`] that names the file.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write_atomically(path.as_ref(), &self.encode_png()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, channels: usize) -> Picture {
        let pixels = (0..width * height * channels).map(|i| (i * 37 % 256) as u8).collect();
        Picture { width, height, channels, pixels }
    }

    fn decode(bytes: &[u8]) -> Picture {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(info.bit_depth, png::BitDepth::Eight);
        Picture {
            width: info.width as usize,
            height: info.height as usize,
            channels: info.color_type.samples(),
            pixels,
        }
    }

    #[test]
    fn png_keeps_every_pixel() -> Result<()> {
        for channels in [1, 3] {
            let picture = picture(7, 5, channels);
            assert_eq!(decode(&picture.encode_png()?), picture);
        }
        Ok(())
    }

    #[test]
    fn save_writes_what_encode_returns() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let picture = picture(3, 4, 3);
        picture.save_png(&path)?;
        assert_eq!(std::fs::read(&path).unwrap(), picture.encode_png()?);
        Ok(())
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let error = picture(1, 1, 1).save_png("/no/such/folder/a.png").unwrap_err();
        assert!(error.to_string().contains("/no/such/folder/a.png"), "{error}");
    }

    #[test]
    fn scaling_repeats_each_pixel_both_ways() -> Result<()> {
        let rgb = Picture { width: 2, height: 1, channels: 3, pixels: vec![1, 2, 3, 4, 5, 6] };
        let scaled = rgb.scaled(2)?;
        assert_eq!((scaled.width(), scaled.height(), scaled.channels()), (4, 2, 3));
        let row = [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6];
        assert_eq!(scaled.pixels(), [row, row].concat());
        assert_eq!(rgb.scaled(1)?, rgb);
        Ok(())
    }

    #[test]
    fn a_factor_out_of_range_is_an_error() {
        for factor in [0, 65, usize::MAX] {
            let error = picture(1, 1, 1).scaled(factor).unwrap_err();
            assert!(error.to_string().contains(&factor.to_string()), "{error}");
        }
    }
}
