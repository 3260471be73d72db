//! The store that a model's layers take their tensors from.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, VarMap, var_builder::SimpleBackend};

use super::{InitScheme, weights_file};
use crate::error::{Error, Result};
use crate::files::write_safetensors;
use crate::ops::in_place;
use crate::random::Stream;

/// The named tensors of a model, in the order of their names: those that are trained, and buffers.
///
/// A buffer is a tensor that a layer updates by itself: its name ends in `running_mean` or `running_var` (batch
/// normalisation), or in `weight_u` or `weight_v` (spectral normalisation), as PyTorch has it.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    trained: BTreeMap<String, Var>,
    buffers: BTreeMap<String, Var>,
}

impl Parameters {
    /// The tensors of a `VarMap` that a model was built from.
    #[must_use]
    pub fn from_var_map(var_map: &VarMap) -> Self {
        let tensors = var_map.data().lock().unwrap_or_else(PoisonError::into_inner);
        tensors.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The tensors that an optimiser changes.
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.trained.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Clamps those to `[-bound, bound]`; NaN stays NaN.
    pub(crate) fn clamp(&self, bound: f64) -> Result<()> {
        for (_, parameter) in self.trained() {
            in_place::clamp(parameter, bound)?;
        }
        Ok(())
    }

    /// The tensors that layers update by themselves.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.buffers.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// All of them, as plain tensors that share their memory.
    #[must_use]
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.trained
            .iter()
            .chain(&self.buffers)
            .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
            .collect()
    }

    /// The number of trained elements.
    #[must_use]
    pub fn count(&self) -> usize {
        self.trained.values().map(|var| var.elem_count()).sum()
    }

    /// Where the tensors lie and of what type they are; `None` where nothing is trained.
    #[must_use]
    pub fn place(&self) -> Option<(&Device, DType)> {
        self.trained.values().next().map(|var| (var.device(), var.dtype()))
    }

    /// Writes all tensors as a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] that names the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_safetensors(path.as_ref(), &self.tensors())
    }

    /// Replaces all values by those of a safetensors file, such as a PyTorch `state_dict` saved from Python.
    ///
    /// The file must hold exactly the model's tensors, by name and shape, in `f32`, `f64`, `f16` or `bf16`;
    /// PyTorch's counters `num_batches_tracked` are passed over.
    ///
    /// # Errors
    /// [`Error::Weights`] with the list of what does not fit, [`Error::Format`] for a file that is no
    /// safetensors file, [`Error::Io`]; the model stays as it was.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.assign_from(weights_file::read(path)?, path.display().to_string())
    }

    /// Replaces all values by these tensors, on the terms of [`load`](Self::load).
    ///
    /// # Errors
    /// [`Error::Weights`] with the list of what does not fit; the model stays as it was.
    pub fn assign(&self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        self.assign_from(tensors, "the tensors given".into())
    }

    fn assign_from(&self, mut tensors: BTreeMap<String, Tensor>, origin: String) -> Result<()> {
        let mut missing = Vec::new();
        let mut mismatched = Vec::new();
        let mut assignments = Vec::new();
        for (name, var) in self.trained.iter().chain(&self.buffers) {
            let Some(value) = tensors.remove(name) else {
                missing.push(name.clone());
                continue;
            };
            let float = matches!(value.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64);
            if value.dims() == var.dims() && float {
                // A copy: the value may be a view of the very parameter.
                let value = value.to_device(var.device())?.to_dtype(var.dtype())?.copy()?.detach();
                assignments.push((var, value));
            } else {
                mismatched.push(format!(
                    "{name}: {:?} {:?}, in the model {:?} {:?}",
                    value.dims(),
                    value.dtype(),
                    var.dims(),
                    var.dtype()
                ));
            }
        }
        let counter = |name: &str| name.rsplit('.').next() == Some("num_batches_tracked");
        let unexpected: Vec<String> = tensors.into_keys().filter(|name| !counter(name)).collect();
        if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
            return Err(Error::Weights { origin, missing, unexpected, mismatched });
        }
        for (var, value) in assignments {
            var.set(&value)?;
        }
        Ok(())
    }

    /// Tensors of the same names, shapes and types with these values, copied to the same device.
    ///
    /// # Errors
    /// [`Error::Weights`] with the list of what does not fit; nothing of these parameters changes in any case.
    pub(crate) fn twin(&self, values: &BTreeMap<String, Tensor>, origin: &str) -> Result<Self> {
        let (mut missing, mut mismatched, mut twin) = (Vec::new(), Vec::new(), Vec::new());
        let mut left: Vec<&String> = values.keys().collect();
        for (name, var) in self.trained.iter().chain(&self.buffers) {
            left.retain(|other| *other != name);
            match values.get(name) {
                None => missing.push(name.clone()),
                Some(value) if value.shape() == var.shape() && value.dtype() == var.dtype() => {
                    // Detached, it is copied; a variable would be taken as it is.
                    let value = value.to_device(var.device())?.detach();
                    twin.push((name.clone(), Var::from_tensor(&value)?));
                }
                Some(value) => mismatched.push(format!(
                    "{name}: {:?} {:?}, in the model {:?} {:?}",
                    value.dims(),
                    value.dtype(),
                    var.dims(),
                    var.dtype()
                )),
            }
        }
        if missing.is_empty() && left.is_empty() && mismatched.is_empty() {
            return Ok(twin.into_iter().collect());
        }
        let unexpected = left.into_iter().cloned().collect();
        Err(Error::Weights { origin: origin.into(), missing, unexpected, mismatched })
    }

    /// Runs something with the values of a twin in place of its own, which are there again afterwards.
    pub(crate) fn with_values_of<T>(
        &self,
        twin: &Self,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let own = self.trained.iter().chain(&self.buffers);
        let others = twin.trained.values().chain(twin.buffers.values());
        let mut before = PutBack(Vec::new());
        for ((_, var), other) in own.zip(others) {
            before.0.push((var, var.copy()?.detach()));
            var.set(other)?;
        }
        let result = run();
        before.put_back()?;
        result
    }

    /// Runs something that moves buffers only to look at its result, and puts the buffers back.
    pub(crate) fn keeping_buffers<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let before: Vec<Tensor> =
            self.buffers.values().map(|var| var.copy()).collect::<candle_core::Result<_>>()?;
        let result = run();
        for (var, value) in self.buffers.values().zip(&before) {
            var.set(&value.detach())?;
        }
        result
    }
}

/// Values to be put back whatever happens, a panic in a model's forward pass included.
struct PutBack<'a>(Vec<(&'a Var, Tensor)>);

impl PutBack<'_> {
    fn put_back(&mut self) -> Result<()> {
        while let Some((var, value)) = self.0.pop() {
            var.set(&value)?;
        }
        Ok(())
    }
}

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        // Only where an error or a panic is on its way already.
        let _ = self.put_back();
    }
}

impl FromIterator<(String, Var)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Var)>>(tensors: I) -> Self {
        let (buffers, trained) = tensors.into_iter().partition(|(name, _)| is_buffer(name));
        Self { trained, buffers }
    }
}

/// The layer that a parameter belongs to: its name without the last part.
pub(crate) fn layer_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(layer, _)| layer)
}

pub(crate) fn is_buffer(name: &str) -> bool {
    matches!(
        name.rsplit('.').next(),
        Some("running_mean" | "running_var" | "weight_u" | "weight_v")
    )
}

/// Whether a tensor holds the statistics of batches, which only batch normalisation keeps.
pub(crate) fn is_statistic(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"))
}

/// Makes each tensor from the seed and its own name, in whatever order they are asked for.
#[derive(Clone)]
pub(crate) struct Seeded {
    seed: u64,
    role: &'static str,
    scheme: InitScheme,
    tensors: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Seeded {
    /// `role` keeps equal names in the generator and the critic apart.
    pub(crate) fn new(seed: u64, role: &'static str, scheme: InitScheme) -> Self {
        Self { seed, role, scheme, tensors: Arc::default() }
    }

    pub(crate) fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    pub(crate) fn into_parameters(self) -> Parameters {
        let tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        tensors.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn make(
        &self,
        shape: &Shape,
        name: &str,
        hint: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(var) = tensors.get(name) {
            if var.shape() != shape {
                return Err(Error::Shape {
                    what: format!("parameter {name}, asked for a second time,"),
                    got: shape.dims().to_vec(),
                    expected: format!("{:?} as before", var.dims()),
                });
            }
            return Ok(var.as_tensor().clone());
        }
        let sibling = |leaf: &str| {
            name.strip_suffix("bias").and_then(|prefix| tensors.get(&format!("{prefix}{leaf}")))
        };
        let weight = sibling("weight").or_else(|| sibling("weight_orig"));
        let weight = weight.map(|var| var.shape().clone());
        let mut stream = Stream::new(self.seed, &format!("parameter/{}/{name}", self.role), 0);
        let value =
            self.scheme.draw(&mut stream, name, shape, hint, weight.as_ref(), (dtype, device))?;
        let var = Var::from_tensor(&value)?;
        tensors.insert(name.to_owned(), var.clone());
        Ok(var.into_inner())
    }
}

impl SimpleBackend for Seeded {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hint: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.make(&shape, name, hint, dtype, device).map_err(Error::into_candle)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("parameter {name}: a new parameter needs a shape, use `get`")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(seed: u64, role: &'static str, scheme: InitScheme, reverse: bool) -> Parameters {
        let store = Seeded::new(seed, role, scheme);
        let vb = store.var_builder(DType::F64, &Device::Cpu);
        let first = || candle_nn::linear(784, 512, vb.pp("fc1")).map(drop);
        let second = || candle_nn::conv2d(3, 16, 5, Default::default(), vb.pp("conv")).map(drop);
        let norm = || candle_nn::batch_norm(16, 1e-5, vb.pp("bn")).map(drop);
        if reverse {
            norm().and_then(|()| second()).and_then(|()| first()).unwrap();
        } else {
            first().and_then(|()| second()).and_then(|()| norm()).unwrap();
        }
        store.into_parameters()
    }

    fn flat(parameters: &Parameters, name: &str) -> Vec<f64> {
        parameters.tensors()[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn values_do_not_depend_on_the_order_of_construction() {
        let (one, other) = (
            build(1, "critic", InitScheme::PyTorch, false),
            build(1, "critic", InitScheme::PyTorch, true),
        );
        for name in one.tensors().keys() {
            assert_eq!(flat(&one, name), flat(&other, name), "{name}");
        }
        let next = build(2, "critic", InitScheme::PyTorch, false);
        let generator = build(1, "generator", InitScheme::PyTorch, false);
        assert_ne!(flat(&one, "fc1.weight"), flat(&next, "fc1.weight"));
        assert_ne!(flat(&one, "fc1.weight"), flat(&generator, "fc1.weight"));
    }

    /// Bounds as PyTorch 2.15 has them: Linear(784, 512) 1/28 for both, Conv2d(3, 16, 5) 1/sqrt(75) for both.
    #[test]
    fn pytorch_scheme_has_pytorch_bounds() {
        let parameters = build(1, "critic", InitScheme::PyTorch, false);
        for (name, bound) in [
            ("fc1.weight", 1.0 / 28.0),
            ("fc1.bias", 1.0 / 28.0),
            ("conv.weight", 1.0 / 75f64.sqrt()),
            ("conv.bias", 1.0 / 75f64.sqrt()),
        ] {
            let values = flat(&parameters, name);
            let largest = values.iter().fold(0f64, |m, v| m.max(v.abs()));
            assert!(largest <= bound && largest > 0.8 * bound, "{name}: {largest} against {bound}");
        }
        let weights = flat(&parameters, "fc1.weight");
        let variance = weights.iter().map(|w| w * w).sum::<f64>() / weights.len() as f64;
        // A uniform distribution on ±b has variance b²/3; five standard errors of the estimate.
        let expected = 1.0 / (3.0 * 784.0);
        assert!((variance / expected - 1.0).abs() < 5.0 * (0.8 / weights.len() as f64).sqrt());
        assert!(flat(&parameters, "bn.weight").iter().all(|&w| w == 1.0));
    }

    #[test]
    fn dcgan_scheme_has_its_deviation() {
        let parameters = build(1, "critic", InitScheme::Dcgan, false);
        let weights = flat(&parameters, "fc1.weight");
        let deviation = (weights.iter().map(|w| w * w).sum::<f64>() / weights.len() as f64).sqrt();
        assert!((deviation / 0.02 - 1.0).abs() < 5.0 * (0.5 / weights.len() as f64).sqrt());
        assert!(flat(&parameters, "fc1.bias").iter().all(|&b| b == 0.0));
        let scales = flat(&parameters, "bn.weight");
        assert!(scales.iter().any(|&w| w != 1.0) && scales.iter().all(|w| (w - 1.0).abs() < 0.2));
    }

    #[test]
    fn buffers_are_told_from_parameters_by_name() {
        let parameters = build(1, "critic", InitScheme::PyTorch, false);
        let buffers: Vec<_> = parameters.buffers().map(|(name, _)| name).collect();
        assert_eq!(buffers, ["bn.running_mean", "bn.running_var"]);
        assert!(parameters.trained().all(|(name, _)| !name.contains("running")));
    }
}
