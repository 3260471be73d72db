//! An endless stream of shuffled batches.

use candle_core::Tensor;

use super::Dataset;
use crate::error::{Error, Result};
use crate::random::Stream;

/// Hands out batches of a data set for ever, in an order that each epoch draws anew.
///
/// The batch with number `k`, counted from 0 since the start of training, is a pure function of the
/// seed and `k`. The whole state of a loader is thus that number, and a run goes on exactly where
/// it stopped with one [`seek`](Self::seek).
///
/// An epoch takes each sample at most once. Where the batch size does not divide the number of
/// samples, the samples left over at the end of an epoch are passed over: a batch is always full.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use wgan::data::{Loader, TensorDataset};
/// # fn main() -> wgan::Result<()> {
/// let dataset = TensorDataset::new(Tensor::zeros((10, 1, 4, 4), DType::F32, &Device::Cpu)?)?;
/// let mut loader = Loader::new(&dataset, 4, 7)?;
/// assert_eq!(loader.batches_per_epoch(), 2);
/// assert_eq!(loader.next_batch()?.dims(), [4, 1, 4, 4]);
/// loader.seek(5);
/// assert_eq!(loader.position(), (2, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Loader<D> {
    dataset: D,
    batch_size: usize,
    seed: u64,
    epoch: u64,
    batch: usize,
    /// The order of the current epoch.
    order: Vec<usize>,
}

impl<D: Dataset> Loader<D> {
    /// A loader that stands before batch 0. The data set must not change its length from now on.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a batch size of 0; [`Error::DatasetTooSmall`] where the data
    /// set does not fill one batch.
    pub fn new(dataset: D, batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::config("batch_size", batch_size, "at least 1"));
        }
        let len = dataset.len();
        if u32::try_from(len).is_err() {
            return Err(Error::config(
                "the data set's length",
                len,
                "less than 2^32: an epoch's order is held in memory",
            ));
        }
        if len < batch_size {
            let purpose = "one batch".into();
            return Err(Error::DatasetTooSmall { len, needed: batch_size, purpose });
        }
        let order = shuffled(len, seed, 0);
        Ok(Self { dataset, batch_size, seed, epoch: 0, batch: 0, order })
    }

    /// The next batch, as `(batch_size, ...sample_shape)` on the CPU.
    ///
    /// # Errors
    /// Those of [`Dataset::batch`]; the loader then stays where it was.
    pub fn next_batch(&mut self) -> Result<Tensor> {
        let batch = self.dataset.batch(self.next_indices())?;
        self.seek(self.batch_number().wrapping_add(1));
        Ok(batch)
    }

    /// The next batch with its labels `(batch_size,)`, where the data set has them.
    ///
    /// # Errors
    /// Those of [`Dataset::batch`]; the loader then stays where it was.
    pub fn next_labelled_batch(&mut self) -> Result<(Tensor, Option<Tensor>)> {
        let labels = self.dataset.label_batch(self.next_indices())?;
        Ok((self.next_batch()?, labels))
    }

    fn next_indices(&self) -> &[usize] {
        let first = self.batch * self.batch_size;
        &self.order[first..first + self.batch_size]
    }

    /// Moves to any batch: the next one handed out is that with this number.
    pub fn seek(&mut self, batch_number: u64) {
        let per_epoch = self.batches_per_epoch() as u64;
        let epoch = batch_number / per_epoch;
        if epoch != self.epoch {
            self.order = shuffled(self.order.len(), self.seed, epoch);
        }
        self.epoch = epoch;
        self.batch = (batch_number % per_epoch) as usize;
    }

    /// The number of the batch that comes next, counted from 0 through all epochs.
    #[must_use]
    pub fn batch_number(&self) -> u64 {
        self.epoch * self.batches_per_epoch() as u64 + self.batch as u64
    }

    /// The batch that comes next: its epoch and its number within that epoch, both counted from 0.
    #[must_use]
    pub fn position(&self) -> (u64, usize) {
        (self.epoch, self.batch)
    }

    /// How many full batches an epoch holds: at least 1.
    #[must_use]
    pub fn batches_per_epoch(&self) -> usize {
        self.order.len() / self.batch_size
    }

    /// How many samples a batch holds.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The data set.
    #[must_use]
    pub fn dataset(&self) -> &D {
        &self.dataset
    }
}

fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    Stream::new(seed, "shuffle", epoch).permutation(len)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::TensorDataset;
    use super::*;

    fn counting(len: usize) -> Result<TensorDataset> {
        let samples = Tensor::arange(0f32, len as f32, &Device::Cpu)?;
        TensorDataset::new(samples)
    }

    fn draw(loader: &mut Loader<impl Dataset>, batches: usize) -> Result<Vec<Vec<f32>>> {
        (0..batches).map(|_| Ok(loader.next_batch()?.to_vec1()?)).collect()
    }

    #[test]
    fn an_epoch_takes_each_sample_at_most_once_and_drops_the_rest() -> Result<()> {
        let mut loader = Loader::new(counting(11)?, 4, 3)?;
        assert_eq!(loader.batches_per_epoch(), 2);
        let mut left_over = std::collections::HashSet::new();
        for epoch in 0..50 {
            assert_eq!(loader.position(), (epoch, 0));
            let mut seen = draw(&mut loader, 2)?.concat();
            assert!(seen.iter().all(|&sample| (0.0..11.0).contains(&sample)));
            seen.sort_by(f32::total_cmp);
            seen.dedup();
            assert_eq!(seen.len(), 8);
            left_over.extend((0..11).filter(|&i| !seen.contains(&(i as f32))));
        }
        assert_eq!(left_over.len(), 11, "each sample is passed over in some epoch, none in all");
        Ok(())
    }

    #[test]
    fn the_order_is_the_documented_stream() -> Result<()> {
        let mut loader = Loader::new(counting(6)?, 3, 9)?;
        for epoch in 0..3 {
            let order = Stream::new(9, "shuffle", epoch).permutation(6);
            let expected: Vec<f32> = order.iter().map(|&i| i as f32).collect();
            assert_eq!(draw(&mut loader, 2)?.concat(), expected);
        }
        Ok(())
    }

    #[test]
    fn any_batch_can_be_had_without_those_before_it() -> Result<()> {
        let dataset = counting(23)?;
        let all = draw(&mut Loader::new(&dataset, 5, 1)?, 20)?;
        let mut loader = Loader::new(&dataset, 5, 1)?;
        for number in [0, 19, 3, 4, 5, 5, 12, 0] {
            loader.seek(number);
            assert_eq!(loader.batch_number(), number);
            assert_eq!(loader.position(), (number / 4, (number % 4) as usize));
            assert_eq!(loader.next_batch()?.to_vec1::<f32>()?, all[number as usize]);
            assert_eq!(loader.batch_number(), number + 1);
        }
        assert_ne!(
            all,
            draw(&mut Loader::new(&dataset, 5, 2)?, 20)?,
            "another seed, another order"
        );
        Ok(())
    }

    #[test]
    fn the_last_number_of_all_is_no_trap() -> Result<()> {
        let mut loader = Loader::new(counting(3)?, 3, 0)?;
        loader.seek(u64::MAX);
        loader.next_batch()?;
        assert_eq!(loader.batch_number(), 0);
        Ok(())
    }

    #[test]
    fn a_data_set_must_fill_one_batch() -> Result<()> {
        let refused = |len, batch_size| -> Result<Error> {
            Ok(Loader::new(counting(len)?, batch_size, 0).expect_err("no batch can be made"))
        };
        assert!(
            matches!(refused(3, 0)?, Error::InvalidConfig { name, .. } if name == "batch_size")
        );
        assert!(matches!(refused(3, 4)?, Error::DatasetTooSmall { len: 3, needed: 4, .. }));
        let none = TensorDataset::new(Tensor::zeros((0, 2), DType::F32, &Device::Cpu)?)?;
        let error = Loader::new(none, 1, 0).expect_err("there is no sample");
        assert!(matches!(error, Error::DatasetTooSmall { len: 0, needed: 1, .. }));
        assert!(Loader::new(counting(4)?, 4, 0).is_ok());
        Ok(())
    }

    #[test]
    fn a_batch_that_fails_is_handed_out_by_the_next_call() -> Result<()> {
        use std::cell::Cell;
        struct Flaky(TensorDataset, Cell<bool>);
        impl Dataset for Flaky {
            fn len(&self) -> usize {
                self.0.len()
            }
            fn sample_shape(&self) -> &[usize] {
                self.0.sample_shape()
            }
            fn dtype(&self) -> DType {
                self.0.dtype()
            }
            fn batch(&self, indices: &[usize]) -> Result<Tensor> {
                if self.1.take() { self.0.batch(&[usize::MAX]) } else { self.0.batch(indices) }
            }
        }
        let expected = Loader::new(counting(8)?, 2, 0)?.next_batch()?.to_vec1::<f32>()?;
        let mut loader = Loader::new(Flaky(counting(8)?, Cell::new(true)), 2, 0)?;
        assert!(loader.next_batch().is_err());
        assert_eq!(loader.next_batch()?.to_vec1::<f32>()?, expected);
        Ok(())
    }
}
