//! MNIST and the data sets that come in its files: Fashion-MNIST and KMNIST by the same names, EMNIST by [`load_files`].
//!
//! A folder holds up to four files, each plain or packed with gzip:
//!
//! | | training | test |
//! |---|---|---|
//! | images | `train-images-idx3-ubyte` | `t10k-images-idx3-ubyte` |
//! | labels, optional | `train-labels-idx1-ubyte` | `t10k-labels-idx1-ubyte` |
//!
//! `.gz` may follow each name, and a dot may stand before `idx`, as some tools unpack them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::TensorDataset;
use super::idx::read_idx;
use crate::error::{Error, Result};

/// One of the two parts that the data set comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The part to learn from: 60 000 images in MNIST.
    Train,
    /// The part to test on: 10 000 images in MNIST.
    Test,
}

impl Split {
    fn images(self) -> [String; 4] {
        self.names("images-idx3")
    }

    fn labels(self) -> [String; 4] {
        self.names("labels-idx1")
    }

    /// Every spelling of the name of a file with this content.
    fn names(self, content: &str) -> [String; 4] {
        let prefix = match self {
            Self::Train => "train",
            Self::Test => "t10k",
        };
        let name = format!("{prefix}-{content}-ubyte");
        let dotted = name.replace("-idx", ".idx");
        [format!("{name}.gz"), format!("{dotted}.gz"), name, dotted]
    }
}

/// Loads one part of the data set, with its labels where their file is there.
///
/// Samples are of shape `(1, height, width)`, type `f32` and range [-1, 1]: a byte `x` becomes
/// `x / 127.5 - 1`. Height and width are those that the file states, 28 by 28 in MNIST.
///
/// ```no_run
/// use wgan::data::{Dataset, mnist};
/// # fn main() -> wgan::Result<()> {
/// let digits = mnist::load("data/mnist", mnist::Split::Train)?;
/// assert_eq!(digits.sample_shape(), [1, 28, 28]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`] of kind [`ErrorKind::NotFound`] with the names looked for where there are no
/// images; those of [`load_files`].
pub fn load(folder: impl AsRef<Path>, split: Split) -> Result<TensorDataset> {
    let folder = folder.as_ref();
    let images = find(folder, &split.images()).ok_or_else(|| {
        let names = split.images().join(", ");
        let absent = std::io::Error::new(ErrorKind::NotFound, format!("expected one of {names}"));
        Error::io(folder, "looking for the images", absent)
    })?;
    load_files(images, find(folder, &split.labels()))
}

/// Loads images, and labels where their file is given, from files of any name, on the terms of [`load`].
///
/// EMNIST's files have names of their own, such as `emnist-digits-train-images-idx3-ubyte.gz`, and hold each picture
/// transposed: turn the samples with `transpose(2, 3)` to see them upright.
///
/// # Errors
/// [`Error::Format`] for images that do not have three dimensions, labels that do not have one, or not one label for
/// each image; those of [`read_idx`].
pub fn load_files(images: impl AsRef<Path>, labels: Option<PathBuf>) -> Result<TensorDataset> {
    let path = images.as_ref().to_path_buf();
    let images = read_idx(&path)?;
    let &[count, height, width] = images.dims.as_slice() else {
        let problem = format!("has dimensions {:?}; expected [images, height, width]", images.dims);
        return Err(Error::Format { path, problem });
    };
    let pixels: Vec<f32> = images.data.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
    let samples = Tensor::from_vec(pixels, (count, 1, height, width), &Device::Cpu)?;
    let dataset = TensorDataset::new(samples)?;
    match labels {
        Some(path) => dataset.with_labels(load_labels(path, count)?),
        None => Ok(dataset),
    }
}

/// Whether the folder holds the images of this part, under any of the names that [`load`] looks for.
pub fn is_present(folder: impl AsRef<Path>, split: Split) -> bool {
    find(folder.as_ref(), &split.images()).is_some()
}

fn load_labels(path: PathBuf, count: usize) -> Result<Vec<u32>> {
    let labels = read_idx(&path)?;
    if labels.dims != [count] {
        let problem = format!(
            "has dimensions {:?}; expected [{count}], one label for each image",
            labels.dims
        );
        return Err(Error::Format { path, problem });
    }
    Ok(labels.data.into_iter().map(u32::from).collect())
}

fn find(folder: &Path, names: &[String]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::Dataset;
    use super::*;

    fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    /// A folder that holds these files.
    fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).expect("writing a file");
        }
        folder
    }

    #[test]
    fn bytes_become_numbers_from_minus_one_to_one() -> Result<()> {
        let images = idx(&[2, 1, 3], &[0, 51, 255, 204, 0, 102]);
        let folder = folder(&[
            ("train-images-idx3-ubyte", images),
            ("train-labels-idx1-ubyte", idx(&[2], &[9, 26])),
        ]);
        let dataset = load(&folder, Split::Train)?;
        assert_eq!((dataset.len(), dataset.dtype()), (2, DType::F32));
        assert_eq!(dataset.sample_shape(), [1, 1, 3]);
        assert_eq!(dataset.labels(), Some(&[9, 26][..]));
        let pixels = dataset.samples().flatten_all()?.to_vec1::<f32>()?;
        for (pixel, expected) in pixels.iter().zip([-1.0, -0.6, 1.0, 0.6, -1.0, -0.2]) {
            assert!((pixel - expected).abs() < 1e-6, "{pixels:?}");
        }
        assert_eq!([pixels[0], pixels[2]], [-1.0, 1.0], "both ends are exact");
        Ok(())
    }

    #[test]
    fn every_spelling_of_the_names_is_found() -> Result<()> {
        for suffix in ["-idx3-ubyte", ".idx3-ubyte", "-idx3-ubyte.gz", ".idx3-ubyte.gz"] {
            let image = idx(&[1, 1, 1], &[0]);
            let (train, test) = (format!("train-images{suffix}"), format!("t10k-images{suffix}"));
            let one = folder(&[(&train, image.clone())]);
            assert!(is_present(&one, Split::Train) && !is_present(&one, Split::Test));
            let both = folder(&[(&train, image.clone()), (&test, image)]);
            assert!(is_present(&both, Split::Train) && is_present(&both, Split::Test));
            assert_eq!(load(&both, Split::Train)?.labels(), None);
            assert_eq!(load(&both, Split::Test)?.len(), 1);
        }
        Ok(())
    }

    #[test]
    fn missing_images_are_named_with_their_folder() {
        let empty = folder(&[]);
        let error = load(&empty, Split::Test).expect_err("there is no file");
        assert!(matches!(&error, Error::Io { path, error, .. }
                if path == empty.path() && error.kind() == ErrorKind::NotFound));
        let message = error.to_string();
        for name in ["t10k-images-idx3-ubyte.gz,", "t10k-images.idx3-ubyte"] {
            assert!(message.contains(name), "{message}");
        }
        assert!(load("no/such/folder", Split::Train).is_err());
        assert!(!is_present("no/such/folder", Split::Train));
    }

    #[test]
    fn labels_and_images_must_be_what_their_names_say() {
        let name = "train-images-idx3-ubyte";
        let problem = |files: &[(&str, Vec<u8>)]| match load(folder(files), Split::Train) {
            Err(Error::Format { problem, .. }) => problem,
            other => panic!("expected a format error, got {other:?}"),
        };
        let labels_as_images = problem(&[(name, idx(&[2], &[1, 2]))]);
        assert_eq!(labels_as_images, "has dimensions [2]; expected [images, height, width]");
        let images = || (name, idx(&[2, 1, 1], &[1, 2]));
        let labels = |bytes| ("train-labels-idx1-ubyte", bytes);
        let expected = "expected [2], one label for each image";
        assert_eq!(
            problem(&[images(), labels(idx(&[3], &[1, 2, 3]))]),
            format!("has dimensions [3]; {expected}")
        );
        assert_eq!(
            problem(&[images(), labels(idx(&[2, 1, 1], &[1, 2]))]),
            format!("has dimensions [2, 1, 1]; {expected}")
        );
    }

    /// Facts about the real files, found without this crate, by Python:
    /// `sum(gzip.open(images).read()[16:])` and `Counter(gzip.open(labels).read()[8:])`.
    #[test]
    fn mnist_itself_is_read_whole() -> Result<()> {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"));
        if !folder.exists() {
            // The published package leaves the data out.
            return Ok(());
        }
        let train_digits = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949];
        let test_digits = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009];
        for (split, count, sum, digits, first) in [
            (Split::Train, 60_000, 1_567_298_545, train_digits, [5, 0, 4]),
            (Split::Test, 10_000, 264_923_200, test_digits, [7, 2, 1]),
        ] {
            let dataset = load(folder, split)?;
            assert_eq!(dataset.samples().dims(), [count, 1, 28, 28]);
            let pixels = dataset.samples().flatten_all()?.to_vec1::<f32>()?;
            let bytes = pixels.iter().map(|pixel| ((pixel + 1.0) * 127.5).round() as u64);
            assert_eq!(bytes.sum::<u64>(), sum);
            let labels = dataset.labels().unwrap_or_default();
            assert_eq!(labels[..3], first);
            for (digit, expected) in digits.into_iter().enumerate() {
                let found = labels.iter().filter(|&&label| label as usize == digit).count();
                assert_eq!(found, expected, "digit {digit}");
            }
        }
        Ok(())
    }
}
