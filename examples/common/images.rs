//! Images from wherever they are, some at a time.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use wgan::data::mnist::{self, Split};
use wgan::metrics::batches_of;

use crate::generators::Trained;

const AT_ONCE: usize = 250;
/// Names of pictures end in one of these.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// How far beyond -1 and 1 a value may lie: what rounding leaves.
const ROUNDING: f32 = 1e-3;

/// Images `(1 or 3, height, width)` from -1 to 1.
pub struct Images {
    /// Where they are from: of a folder of checkpoints the newest.
    pub path: PathBuf,
    source: Source,
    count: usize,
}

enum Source {
    Tensor(Tensor),
    Pictures { paths: Vec<PathBuf>, grey: bool },
    Generator(Box<Trained>),
}

/// How a path is read.
pub struct Reading<'a> {
    /// The images are taken from the first on; a generator makes so many.
    pub most: usize,
    /// The part of a folder of MNIST's files.
    pub split: Split,
    /// Pictures are read as grey ones.
    pub grey: bool,
    /// The settings of a generator, where they are not found near its file.
    pub config: Option<&'a Path>,
    /// Decides what a generator makes.
    pub seed: u64,
}

impl Images {
    /// A folder of MNIST's files, of checkpoints or of pictures, a safetensors file with one tensor of images, a
    /// checkpoint, or the weights of a generator. What is not from -1 to 1 is refused.
    pub fn open(path: &Path, reading: &Reading) -> Result<Self> {
        let mut path = path.to_path_buf();
        let source = if !path.is_dir() {
            of_file(&path, reading)?
        } else if mnist::is_present(&path, reading.split) {
            Source::Tensor(mnist::load(&path, reading.split)?.samples().clone())
        } else if let Some(newest) = newest_checkpoint(&path)? {
            path = newest;
            of_file(&path, reading)?
        } else {
            Source::Pictures { paths: pictures(&path)?, grey: reading.grey }
        };
        let available = match &source {
            Source::Tensor(images) => images.dims()[0],
            Source::Pictures { paths, .. } => paths.len(),
            Source::Generator(_) => usize::MAX,
        };
        let images = Self { path, source, count: available.min(reading.most) };
        images.check_range()?;
        Ok(images)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Images from 0 to 1 or of bytes would be scored all the same, as nonsense.
    fn check_range(&self) -> Result<()> {
        let batches = match &self.source {
            // Of bytes, whose range is known.
            Source::Pictures { .. } => return Ok(()),
            Source::Tensor(_) => usize::MAX,
            // Its first samples tell of the others.
            Source::Generator(_) => 1,
        };
        let path = self.path.display();
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for batch in self.batches().take(batches) {
            for value in batch?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()? {
                ensure!(!value.is_nan(), "{path}: a value is NaN; expected -1 to 1");
                (low, high) = (low.min(value), high.max(value));
            }
        }
        ensure!(
            low >= -1.0 - ROUNDING && high <= 1.0 + ROUNDING,
            "{path}: values from {low} to {high}; expected -1 (black) to 1 (white)"
        );
        if low >= 0.0 {
            eprintln!(
                "warning: {path}: values from {low} to {high}; expected -1 (black) to 1 (white): \
                 images from 0 to 1 are taken for pale ones"
            );
        }
        Ok(())
    }

    /// All of them, in batches `(batch, channels, height, width)`.
    pub fn batches(&self) -> Box<dyn Iterator<Item = wgan::Result<Tensor>> + '_> {
        let starts = (0..self.count).step_by(AT_ONCE);
        let size = |first: usize| AT_ONCE.min(self.count - first);
        match &self.source {
            Source::Tensor(images) => {
                Box::new(batches_of(images, AT_ONCE).scan(self.count, |left, batch| {
                    (*left > 0).then(|| {
                        let batch = batch?;
                        let size = batch.dims()[0].min(*left);
                        *left -= size;
                        Ok(batch.narrow(0, 0, size)?)
                    })
                }))
            }
            Source::Pictures { paths, grey } => Box::new(
                starts.map(move |first| read_all(&paths[0], &paths[first..][..size(first)], *grey)),
            ),
            Source::Generator(generator) => {
                Box::new(starts.map(move |first| generator.samples(first, size(first))))
            }
        }
    }
}

fn of_file(path: &Path, reading: &Reading) -> Result<Source> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let fail = || format!("{}: expected a folder or a safetensors file", path.display());
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(fail)?;
    let &Reading { config, seed, .. } = reading;
    let is_checkpoint = header.metadata().as_ref().is_some_and(|m| m.contains_key("checkpoint"));
    if is_checkpoint {
        return Ok(Source::Generator(Box::new(Trained::of_checkpoint(path, config, seed)?)));
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).with_context(fail)?;
    if let (1, Some(images)) = (tensors.len(), tensors.values().find(|x| x.rank() == 4)) {
        ensure!(images.elem_count() > 0, "{}: holds no images", path.display());
        return Ok(Source::Tensor(images.clone()));
    }
    let weights = tensors.into_iter().collect();
    Ok(Source::Generator(Box::new(Trained::of_weights(path, &weights, config, seed)?)))
}

/// What is in a folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()
    });
    paths.with_context(|| folder.display().to_string())
}

/// The checkpoint of most steps in a folder, by the names that runs give them; `None` where there is none.
fn newest_checkpoint(folder: &Path) -> Result<Option<PathBuf>> {
    let step = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok()
    };
    let checkpoints = entries(folder)?.into_iter().filter(|path| step(path).is_some());
    Ok(checkpoints.max_by_key(step))
}

/// The pictures in a folder, in the order of their names.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_picture = |path: &PathBuf| {
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
    };
    let mut paths = entries(folder)?;
    paths.retain(is_picture);
    ensure!(
        !paths.is_empty(),
        "{}: expected MNIST's files, checkpoints, or pictures whose names end in {}",
        folder.display(),
        ENDINGS.join(", ")
    );
    paths.sort();
    Ok(paths)
}

/// Pictures as one batch, all of the kind and size of the folder's first.
fn read_all(first: &Path, paths: &[PathBuf], grey: bool) -> wgan::Result<Tensor> {
    let expected = read(first, grey)?;
    let images = paths.iter().map(|path| {
        let image = read(path, grey)?;
        if image.dims() == expected.dims() {
            return Ok(image);
        }
        let [got, expected] = [&image, &expected].map(|x| format!("{:?}", x.dims()));
        let first = first.display();
        let problem =
            format!("has (channels, height, width) {got}; expected {expected}, as {first}");
        Err(wgan::Error::Format { path: path.clone(), problem })
    });
    Ok(Tensor::stack(&images.collect::<wgan::Result<Vec<_>>>()?, 0)?)
}

/// A picture `(1 or 3, height, width)` from -1 to 1; transparency is left out.
fn read(path: &Path, grey: bool) -> wgan::Result<Tensor> {
    let fail = |error: image::ImageError| wgan::Error::Format {
        path: path.to_path_buf(),
        problem: format!("{error}; expected a picture"),
    };
    let picture = image::open(path).map_err(fail)?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (channels, bytes) = match grey || !picture.color().has_color() {
        true => (1, picture.into_luma8().into_raw()),
        false => (3, picture.into_rgb8().into_raw()),
    };
    let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
    let pixels = Tensor::from_vec(values, (height, width, channels), &Device::Cpu)?;
    Ok(pixels.permute((2, 0, 1))?.contiguous()?)
}
