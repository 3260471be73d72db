//! A run without training, for the tests of observers.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{Models, Snapshot};
use crate::diagnosis::{Diagnosis, Norms};
use crate::draws::CriticDraws;
use crate::error::Result;
use crate::history::Record;

/// A generator that turns four latent numbers into a picture of 2 x 2 and keeps the latent points it is given.
pub(super) struct FakeModels {
    pub dtype: DType,
    pub seen: RefCell<Vec<Tensor>>,
    /// The number of the first sample of each.
    pub firsts: RefCell<Vec<usize>>,
    pub diagnosed: RefCell<Vec<CriticDraws>>,
    pub steps: u64,
    pub classes: Option<usize>,
    /// The critic's weights, in place of some numbers.
    pub weights: Option<Tensor>,
    pub average: Option<Tensor>,
}

impl FakeModels {
    pub fn new(dtype: DType) -> Self {
        Self {
            dtype,
            seen: RefCell::default(),
            firsts: RefCell::default(),
            diagnosed: RefCell::default(),
            steps: 0,
            classes: None,
            weights: None,
            average: None,
        }
    }
}

impl Models for FakeModels {
    fn generate(&self, latent: &Tensor, first: usize) -> Result<Tensor> {
        self.seen.borrow_mut().push(latent.clone());
        self.firsts.borrow_mut().push(first);
        Ok(latent.tanh()?.reshape(((), 1, 2, 2))?)
    }

    fn latent_dim(&self) -> usize {
        4
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// Losses that are the means of the batches.
    fn diagnose(
        &self,
        training: &CriticDraws,
        held_out: Option<&CriticDraws>,
    ) -> Result<Diagnosis> {
        let mean = |draws: &CriticDraws| -> Result<f64> {
            Ok(draws.real.to_dtype(DType::F64)?.mean_all()?.to_scalar()?)
        };
        self.diagnosed.borrow_mut().push(training.clone());
        let norms = |mean| Some(Norms { mean, max: 2.0 * mean });
        Ok(Diagnosis {
            critic_loss: mean(training)?,
            held_out_critic_loss: held_out.map(mean).transpose()?,
            real: norms(1.0),
            fake: norms(3.0),
            interpolates: None,
            share_at_bound: Some(0.25),
            critic_gradients: vec![("fc1".into(), 0.5)],
            generator_gradients: vec![("fc1".into(), 0.125), ("out".into(), f64::NAN)],
        })
    }

    fn average_tensors(&self) -> Option<BTreeMap<String, Tensor>> {
        let average = self.average.as_ref()?;
        Some(BTreeMap::from([("g.weight".into(), average.clone())]))
    }

    fn generator_tensors(&self) -> BTreeMap<String, Tensor> {
        tensors([("g.steps", DType::I64), ("g.weight", self.dtype)])
    }

    fn critic_tensors(&self) -> BTreeMap<String, Tensor> {
        match &self.weights {
            Some(weights) => BTreeMap::from([("c.weight".into(), weights.clone())]),
            None => tensors([("c.bias", self.dtype), ("c.weight", self.dtype)]),
        }
    }
}

fn tensors(named: [(&str, DType); 2]) -> BTreeMap<String, Tensor> {
    named
        .into_iter()
        .map(|(name, dtype)| {
            let values = Tensor::arange(0f64, 6.0, &Device::Cpu).unwrap();
            let strided = values.reshape((2, 3)).unwrap().t().unwrap();
            (name.into(), strided.to_dtype(dtype).unwrap())
        })
        .collect()
}

/// A record whose figures all differ.
pub(super) fn record(step: u64) -> Record {
    let x = step as f64;
    Record {
        step,
        wasserstein_estimate: x / 3.0,
        critic_loss: -x / 7.0,
        penalty: 1e-300 * x,
        generator_loss: 1e300 / x,
        gradient_norm: 0.1 + x,
        seconds: x,
        ..Default::default()
    }
}

/// Calls `f` with the snapshot at the end of `history`, of a run of 100 steps with 640 samples a step.
pub(super) fn with_snapshot<T>(
    history: &[Record],
    models: &FakeModels,
    f: impl FnOnce(&Snapshot<'_>) -> T,
) -> T {
    f(&Snapshot {
        record: history.last().unwrap(),
        history,
        total_steps: 100,
        samples_per_step: 640,
        models,
    })
}
