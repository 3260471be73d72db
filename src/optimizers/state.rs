//! What an optimiser remembers from one step to the next.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::parameters::Parameters;

/// The name under which the number of steps is saved.
const STEP: &str = "step";

/// The tensors that an optimiser keeps for each parameter, and the number of its steps.
///
/// A quantity, such as `exp_avg`, has one tensor for each trained parameter, in its shape and type; they are zeros before
/// the first step. Saved, a tensor is called after the quantity and the parameter, `exp_avg.fc1.weight`, and the number of
/// steps is `step`.
///
/// ```
/// use wgan::ModelBuilder;
/// use wgan::optimizers::State;
/// use wgan::zoo::MlpCritic;
/// # fn main() -> wgan::Result<()> {
/// let critic = ModelBuilder::new(0).critic(|vb| MlpCritic::new(Default::default(), vb))?;
/// let mut state = State::new(&["momentum_buffer"]);
/// assert_eq!(state.advance(critic.parameters())?, 1);
/// assert_eq!(state.get("momentum_buffer", "fc1.bias")?.dims(), [512]);
/// let saved = state.tensors()?;
/// assert!(saved.contains_key("momentum_buffer.fc1.bias") && saved.contains_key("step"));
/// state.load(critic.parameters(), &saved)?;
/// assert_eq!(state.steps(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct State {
    steps: u64,
    quantities: Vec<Quantity>,
}

#[derive(Debug)]
struct Quantity {
    name: &'static str,
    tensors: BTreeMap<String, Kept>,
}

#[derive(Debug)]
enum Kept {
    /// A tensor that a step changes.
    Changed(Var),
    /// One that a step has put in the place of the last one.
    Put(Tensor),
}

impl std::ops::Deref for Kept {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        match self {
            Self::Changed(var) => var,
            Self::Put(tensor) => tensor,
        }
    }
}

impl State {
    /// The state before the first step, of the quantities that are named.
    #[must_use]
    pub fn new(quantities: &[&'static str]) -> Self {
        let empty = |&name| Quantity { name, tensors: BTreeMap::new() };
        Self { steps: 0, quantities: quantities.iter().map(empty).collect() }
    }

    /// Steps done, or under way since [`advance`](Self::advance).
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Begins a step: counts it, returns its number from 1, and makes the tensors of the first one.
    ///
    /// # Errors
    /// [`Error::Weights`] where the parameters are not those of the step before; nothing is counted then.
    pub fn advance(&mut self, parameters: &Parameters) -> Result<u64> {
        if self.steps == 0 {
            for quantity in &mut self.quantities {
                quantity.tensors = parameters
                    .trained()
                    .map(|(name, var)| {
                        let zeros = Var::zeros(var.shape(), var.dtype(), var.device())?;
                        Ok((name.to_owned(), Kept::Changed(zeros)))
                    })
                    .collect::<Result<_>>()?;
            }
        } else {
            for quantity in &self.quantities {
                quantity.check(parameters)?;
            }
        }
        self.steps += 1;
        Ok(self.steps)
    }

    /// A parameter's tensor, there since the first [`advance`](Self::advance).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a quantity or a parameter that there is not to change.
    pub fn get(&self, quantity: &str, parameter: &str) -> Result<&Var> {
        let found = self.quantities.iter().find(|known| known.name == quantity);
        match found.and_then(|quantity| quantity.tensors.get(parameter)) {
            Some(Kept::Changed(var)) => Ok(var),
            _ => Err(unknown(quantity, parameter)),
        }
    }

    /// Puts a tensor in the place of a parameter's, without a copy: for a quantity that does not depend on what it was. It is
    /// no longer there to [`get`](Self::get).
    pub(super) fn put(&mut self, quantity: &str, parameter: &str, tensor: &Tensor) -> Result<()> {
        let found = self.quantities.iter_mut().find(|known| known.name == quantity);
        let kept = found.and_then(|quantity| quantity.tensors.get_mut(parameter));
        *kept.ok_or_else(|| unknown(quantity, parameter))? = Kept::Put(tensor.detach());
        Ok(())
    }

    /// Everything by name. The tensors may share the state's memory: the next step changes or replaces them.
    ///
    /// # Errors
    /// Candle's, where the number of steps cannot be made a tensor.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let steps = Tensor::new(self.steps as i64, &Device::Cpu)?;
        let mut tensors = BTreeMap::from([(STEP.to_owned(), steps)]);
        for Quantity { name, tensors: of_parameters } in &self.quantities {
            tensors.extend(
                of_parameters
                    .iter()
                    .map(|(parameter, kept)| (format!("{name}.{parameter}"), kept.detach())),
            );
        }
        Ok(tensors)
    }

    /// Replaces the state by what [`tensors`](Self::tensors) gave, copied to the parameters' device.
    ///
    /// # Errors
    /// [`Error::Weights`] with everything that does not fit by name, shape or type; the state stays as it was.
    pub fn load(
        &mut self,
        parameters: &Parameters,
        saved: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let mut misfit = Misfit::default();
        let mut saved = saved.clone();
        let steps = match saved.remove(STEP) {
            Some(steps) => steps_of(&steps, &mut misfit)?,
            None => {
                misfit.missing.push(STEP.to_owned());
                1
            }
        };
        let mut quantities = Vec::with_capacity(self.quantities.len());
        for &Quantity { name, .. } in &self.quantities {
            let mut tensors = BTreeMap::new();
            // Before the first step there are none.
            for (parameter, var) in parameters.trained().filter(|_| steps > 0) {
                let key = format!("{name}.{parameter}");
                let Some(value) = saved.remove(&key) else {
                    misfit.missing.push(key);
                    continue;
                };
                if value.shape() == var.shape() && value.dtype() == var.dtype() {
                    // Detached, it is copied; a variable would be taken as it is.
                    let value = value.to_device(var.device())?.detach();
                    let var = Kept::Changed(Var::from_tensor(&value)?);
                    tensors.insert(parameter.to_owned(), var);
                } else {
                    misfit.mismatched.push(format!(
                        "{key}: {:?} {:?}, in the optimiser {:?} {:?}",
                        value.dims(),
                        value.dtype(),
                        var.dims(),
                        var.dtype()
                    ));
                }
            }
            quantities.push(Quantity { name, tensors });
        }
        misfit.unexpected.extend(saved.into_keys());
        misfit.check("the optimiser's state")?;
        *self = Self { steps, quantities };
        Ok(())
    }
}

fn unknown(quantity: &str, parameter: &str) -> Error {
    Error::config(
        "a tensor of an optimiser's state",
        format!("{quantity}.{parameter}"),
        "a quantity and a trained parameter of its own",
    )
}

impl Quantity {
    /// Holds the tensors to be those of these parameters.
    fn check(&self, parameters: &Parameters) -> Result<()> {
        let mut misfit = Misfit::default();
        let mut left: BTreeMap<&str, &Kept> =
            self.tensors.iter().map(|(name, var)| (name.as_str(), var)).collect();
        for (name, var) in parameters.trained() {
            match left.remove(name) {
                None => misfit.missing.push(name.to_owned()),
                Some(state)
                    if state.shape() != var.shape()
                        || state.dtype() != var.dtype()
                        || !state.device().same_device(var.device()) =>
                {
                    misfit.mismatched.push(format!(
                        "{name}: {:?} {:?}, now {:?} {:?}",
                        state.dims(),
                        state.dtype(),
                        var.dims(),
                        var.dtype()
                    ));
                }
                Some(_) => {}
            }
        }
        misfit.unexpected.extend(left.into_keys().map(str::to_owned));
        misfit.check("an optimiser that has served another model")
    }
}

/// The number of steps as it was saved; 1 where it is none, so that all the rest is compared too.
fn steps_of(saved: &Tensor, misfit: &mut Misfit) -> Result<u64> {
    if saved.dims().is_empty() && saved.dtype() == DType::I64 {
        let steps: i64 = saved.to_device(&Device::Cpu)?.to_scalar()?;
        if let Ok(steps) = u64::try_from(steps) {
            return Ok(steps);
        }
        misfit.mismatched.push(format!("{STEP}: {steps}, expected 0 or more"));
    } else {
        misfit.mismatched.push(format!(
            "{STEP}: {:?} {:?}, in the optimiser [] I64",
            saved.dims(),
            saved.dtype()
        ));
    }
    Ok(1)
}

/// What does not fit.
#[derive(Default)]
struct Misfit {
    missing: Vec<String>,
    unexpected: Vec<String>,
    mismatched: Vec<String>,
}

impl Misfit {
    fn check(self, origin: &str) -> Result<()> {
        let Self { missing, unexpected, mismatched } = self;
        if missing.is_empty() && unexpected.is_empty() && mismatched.is_empty() {
            return Ok(());
        }
        Err(Error::Weights { origin: origin.into(), missing, unexpected, mismatched })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(dims: &[usize]) -> Parameters {
        let var = |name: &str, dims: &[usize]| {
            (name.to_owned(), Var::zeros(dims, DType::F32, &Device::Cpu).unwrap())
        };
        [var("a", dims), var("b", &[3]), var("bn.running_mean", &[3])].into_iter().collect()
    }

    fn stepped() -> State {
        let mut state = State::new(&["square_avg", "momentum_buffer"]);
        state.advance(&parameters(&[2])).unwrap();
        state.advance(&parameters(&[2])).unwrap();
        let ones = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
        state.get("square_avg", "a").unwrap().set(&ones).unwrap();
        state
    }

    proptest::proptest! {
        #[test]
        fn any_state_comes_back_to_the_bit(
            shapes in proptest::collection::vec(proptest::collection::vec(1usize..4, 0..4), 1..5),
            values in proptest::array::uniform32(proptest::num::f64::ANY),
            steps in 0u64..4,
        ) {
            let parameters: Parameters = (shapes.iter().enumerate())
                .map(|(i, dims)| {
                    let var = Var::zeros(dims.as_slice(), DType::F64, &Device::Cpu).unwrap();
                    (format!("layer{i}.weight"), var)
                })
                .collect();
            let mut state = State::new(&["exp_avg", "exp_avg_sq"]);
            (0..steps).for_each(|_| assert!(state.advance(&parameters).is_ok()));
            for quantity in &state.quantities {
                for (name, kept) in &quantity.tensors {
                    let some = values.iter().copied().cycle().take(kept.elem_count());
                    let some = Tensor::from_vec(some.collect(), kept.shape(), &Device::Cpu).unwrap();
                    state.get(quantity.name, name).unwrap().set(&some).unwrap();
                }
            }
            let mut other = State::new(&["exp_avg", "exp_avg_sq"]);
            other.load(&parameters, &state.tensors().unwrap()).unwrap();
            let bits = |state: &State| -> Vec<(String, Vec<u64>)> {
                let mut tensors = state.tensors().unwrap();
                assert_eq!(tensors.remove("step").unwrap().to_scalar::<i64>().unwrap(), steps as i64);
                let bits = |tensor: &Tensor| -> Vec<u64> {
                    let values = tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                    values.into_iter().map(f64::to_bits).collect()
                };
                tensors.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
            };
            assert_eq!(bits(&other), bits(&state));
        }
    }

    #[test]
    fn names_say_the_quantity_and_the_parameter() -> Result<()> {
        let tensors = stepped().tensors()?;
        let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        let expected =
            ["momentum_buffer.a", "momentum_buffer.b", "square_avg.a", "square_avg.b", "step"];
        assert_eq!(names, expected);
        assert_eq!(tensors["step"].to_scalar::<i64>()?, 2);
        Ok(())
    }

    #[test]
    fn what_is_loaded_is_a_copy_of_what_was_saved() -> Result<()> {
        let saved = stepped().tensors()?;
        let mut state = State::new(&["square_avg", "momentum_buffer"]);
        state.load(&parameters(&[2]), &saved)?;
        assert_eq!(state.steps(), 2);
        assert_eq!(state.get("square_avg", "a")?.to_vec1::<f32>()?, [1.0, 1.0]);
        state.get("square_avg", "a")?.set(&Tensor::zeros(2, DType::F32, &Device::Cpu)?)?;
        assert_eq!(saved["square_avg.a"].to_vec1::<f32>()?, [1.0, 1.0]);
        // A variable of the caller's own is copied too.
        let own = Var::ones(2, DType::F32, &Device::Cpu)?;
        let mut of_caller = saved.clone();
        of_caller.insert("square_avg.a".into(), own.as_tensor().clone());
        state.load(&parameters(&[2]), &of_caller)?;
        state.get("square_avg", "a")?.set(&Tensor::zeros(2, DType::F32, &Device::Cpu)?)?;
        assert_eq!(own.to_vec1::<f32>()?, [1.0, 1.0]);
        // Before the first step there is only the counter.
        let fresh = State::new(&["square_avg", "momentum_buffer"]).tensors()?;
        assert_eq!(fresh.len(), 1);
        state.load(&parameters(&[2]), &fresh)?;
        assert_eq!(state.advance(&parameters(&[2]))?, 1);
        Ok(())
    }

    #[test]
    fn everything_that_does_not_fit_is_named_and_nothing_changes() -> Result<()> {
        let mut saved = stepped().tensors()?;
        saved.remove("square_avg.b");
        saved.insert("exp_avg.a".into(), Tensor::zeros(2, DType::F32, &Device::Cpu)?);
        saved.insert("square_avg.a".into(), Tensor::zeros(3, DType::F32, &Device::Cpu)?);
        saved.insert("momentum_buffer.b".into(), Tensor::zeros(3, DType::F64, &Device::Cpu)?);
        saved.insert("step".into(), Tensor::new(-1i64, &Device::Cpu)?);
        let mut state = stepped();
        match state.load(&parameters(&[2]), &saved) {
            Err(Error::Weights { missing, unexpected, mismatched, .. }) => {
                assert_eq!(missing, ["square_avg.b"]);
                assert_eq!(unexpected, ["exp_avg.a"]);
                assert_eq!(mismatched.len(), 3);
                assert!(mismatched[0].starts_with("step: -1"), "{mismatched:?}");
            }
            other => panic!("{other:?}"),
        }
        saved.insert("step".into(), Tensor::new(4i64, &Device::Cpu)?);
        match state.load(&parameters(&[2]), &saved) {
            Err(Error::Weights { missing, unexpected, mismatched, .. }) => {
                assert_eq!(
                    (missing, unexpected),
                    (vec!["square_avg.b".into()], vec!["exp_avg.a".into()])
                );
                assert_eq!(mismatched.len(), 2, "{mismatched:?}");
            }
            other => panic!("{other:?}"),
        }
        for wrong in [Tensor::new(2u32, &Device::Cpu)?, Tensor::new(&[2i64], &Device::Cpu)?] {
            let mut saved = stepped().tensors()?;
            saved.insert("step".into(), wrong);
            assert!(state.load(&parameters(&[2]), &saved).is_err());
        }
        let mut saved = stepped().tensors()?;
        saved.remove("step");
        assert!(state.load(&parameters(&[2]), &saved).is_err());
        assert_eq!(state.steps(), 2);
        assert_eq!(state.get("square_avg", "a")?.to_vec1::<f32>()?, [1.0, 1.0]);
        Ok(())
    }

    #[test]
    fn what_is_put_is_saved_and_checked_like_the_rest() -> Result<()> {
        let mut state = stepped();
        let gradient = Var::new(&[3f32, 4.0], &Device::Cpu)?;
        state.put("square_avg", "a", &gradient)?;
        assert!(state.put("square_avg", "c", &gradient).is_err());
        assert!(state.get("square_avg", "a").is_err(), "nobody is to change it");
        assert_eq!(state.advance(&parameters(&[2]))?, 3);
        assert!(state.advance(&parameters(&[5])).is_err());
        let saved = state.tensors()?;
        assert_eq!(saved["square_avg.a"].to_vec1::<f32>()?, [3.0, 4.0]);
        assert!(!saved["square_avg.a"].track_op());
        let mut other = State::new(&["square_avg", "momentum_buffer"]);
        other.load(&parameters(&[2]), &saved)?;
        assert_eq!(other.get("square_avg", "a")?.to_vec1::<f32>()?, [3.0, 4.0]);
        Ok(())
    }

    #[test]
    fn one_state_serves_one_model() {
        let mut state = stepped();
        let error = state.advance(&parameters(&[5])).unwrap_err().to_string();
        assert!(
            error.contains("another model") && error.contains("a: [2] F32, now [5] F32"),
            "{error}"
        );
        assert_eq!(state.steps(), 2);
    }
}
