//! Optimisers with PyTorch's semantics that update parameters in place, and the trait for one of your own.
//!
//! [`OptimizerConfig`] names an algorithm and its numbers, [`UpdateConfig`] what happens around it in a run: the learning
//! rate's schedule, groups of parameters with rates of their own, clipping of gradients.

mod adam;
mod clip;
mod config;
mod rates;
mod rmsprop;
mod sgd;
mod state;
mod update;
mod updater;

pub use adam::Adam;
pub(crate) use clip::tensor_norm;
pub use config::OptimizerConfig;
pub use rates::Rates;
pub use rmsprop::RmsProp;
pub use sgd::Sgd;
pub use state::State;
pub use update::{ParameterGroup, UpdateConfig};
pub(crate) use updater::Updater;

use std::collections::BTreeMap;

use candle_core::{Tensor, Var, backprop::GradStore};

use crate::error::{Error, Result};
use crate::ops::each_beside;
use crate::parameters::Parameters;

/// Something that moves parameters along their gradients.
///
/// The crate's own follow from an [`OptimizerConfig`]. One of your own goes to
/// [`WganTrainer::with_critic_optimizer`](crate::WganTrainer::with_critic_optimizer) or
/// [`with_generator_optimizer`](crate::WganTrainer::with_generator_optimizer); schedules, groups and clipping work with it,
/// and checkpoints hold its state.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use candle_core::{Tensor, backprop::GradStore};
/// use wgan::optimizers::{Optimizer, Rates, State, with_gradients};
/// use wgan::{Parameters, Result};
///
/// /// Steps along the sign of a moving mean of gradients.
/// struct SignMomentum {
///     learning_rate: f64,
///     state: State,
/// }
///
/// impl Optimizer for SignMomentum {
///     fn step(
///         &mut self,
///         parameters: &Parameters,
///         gradients: &GradStore,
///         rates: &Rates<'_>,
///     ) -> Result<bool> {
///         // First all that can fail: a step that fails must change nothing.
///         let updates = with_gradients(parameters, gradients)?;
///         self.state.advance(parameters)?;
///         for (name, parameter, gradient) in updates {
///             let mean = self.state.get("exp_avg", name)?;
///             mean.set(&((mean.as_tensor() * 0.9)? + (gradient * 0.1)?)?.detach())?;
///             let rate = rates.learning_rate(name, self.learning_rate);
///             parameter.set(&parameter.sub(&(mean.sign()? * rate)?)?.detach())?;
///         }
///         Ok(false) // whether all parameters are finite is for the trainer to see
///     }
///
///     fn state(&self) -> Result<BTreeMap<String, Tensor>> {
///         self.state.tensors()
///     }
///
///     fn load_state(
///         &mut self,
///         parameters: &Parameters,
///         state: &BTreeMap<String, Tensor>,
///     ) -> Result<()> {
///         self.state.load(parameters, state)
///     }
/// }
/// # use wgan::{ModelBuilder, TrainConfig, WganTrainer};
/// # use wgan::zoo::{MlpCritic, MlpGenerator};
/// # fn main() -> Result<()> {
/// # let build = ModelBuilder::new(0);
/// # let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb))?;
/// # let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb))?;
/// let own = SignMomentum { learning_rate: 1e-4, state: State::new(&["exp_avg"]) };
/// let trainer = WganTrainer::new(generator, critic, TrainConfig::wgan_gp())?
///     .with_critic_optimizer(own);
/// # drop(trainer);
/// # Ok(())
/// # }
/// ```
pub trait Optimizer {
    /// One update of every trained parameter. `gradients` holds those of the trained parameters and no others; `rates` turns the
    /// optimiser's learning rate into that of this step and of this parameter, and its weight decay likewise.
    ///
    /// Returns `true` only where every trained parameter, as the step leaves it, was seen to be finite. `false` is always right: then
    /// the trainer looks, and a wrong `true` lets an overflow pass until the next step. The crate's own optimisers see it as they
    /// go on the CPU in `f32` and `f64`, which saves a pass over the parameters.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] for the first parameter that has no gradient, before any is changed.
    fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        rates: &Rates<'_>,
    ) -> Result<bool>;

    /// Whether a [step](Self::step) that returns `true` has also clamped every trained parameter to [`Rates::bound`]. By default it has
    /// not, and the trainer clamps after it. The crate's own optimisers do it as they go, which saves another pass.
    ///
    /// After a step that returns `false` the trainer clamps in any case, once it has seen that all is finite. So only finite elements
    /// may be clamped: one that has overflown must stay to be seen, whatever becomes of the others.
    ///
    /// One of your own that calls one of the crate's and moves parameters further gives it
    /// [`rates.within(f64::INFINITY)`](Rates::within), so that only the end of its step is clamped.
    fn clamps(&self) -> bool {
        false
    }

    /// Everything that the next step depends on but the parameters and its settings, under names that a person
    /// understands: the quantity, then the parameter, as in `exp_avg.fc1.weight`. The tensors may share the optimiser's
    /// memory, so that the next step changes them. Empty for an optimiser that remembers nothing.
    ///
    /// # Errors
    /// Candle's.
    fn state(&self) -> Result<BTreeMap<String, Tensor>>;

    /// Takes up what [`state`](Self::state) gave, for these parameters.
    ///
    /// # Errors
    /// [`Error::Weights`] with what does not fit by name, shape or type; the optimiser stays as it was.
    fn load_state(
        &mut self,
        parameters: &Parameters,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()>;
}

impl<O: Optimizer + ?Sized> Optimizer for Box<O> {
    fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        rates: &Rates<'_>,
    ) -> Result<bool> {
        (**self).step(parameters, gradients, rates)
    }

    fn clamps(&self) -> bool {
        (**self).clamps()
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        (**self).state()
    }

    fn load_state(
        &mut self,
        parameters: &Parameters,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        (**self).load_state(parameters, state)
    }
}

/// Each trained parameter with its gradient: what a step of an optimiser begins with.
///
/// # Errors
/// [`Error::MissingGradient`] for the first parameter that has none; [`Error::Shape`] for a gradient of another shape or
/// type than its parameter's.
pub fn with_gradients<'a>(
    parameters: &'a Parameters,
    gradients: &'a GradStore,
) -> Result<Vec<(&'a str, &'a Var, &'a Tensor)>> {
    parameters
        .trained()
        .map(|(name, var)| match gradients.get(var) {
            Some(gradient)
                if gradient.shape() == var.shape() && gradient.dtype() == var.dtype() =>
            {
                Ok((name, var, gradient))
            }
            Some(gradient) => Err(Error::Shape {
                what: format!("the gradient of {name}"),
                got: gradient.dims().to_vec(),
                expected: format!("{:?} of {:?}, as the parameter is", var.dims(), var.dtype()),
            }),
            None => Err(Error::MissingGradient { name: name.to_owned() }),
        })
        .collect()
}

/// Calls `update` with each parameter and its gradient, some beside others. Returns whether all calls said `true`.
fn update_each<'a>(
    updates: Vec<(&'a str, &'a Var, &'a Tensor)>,
    update: impl Fn(&'a str, &'a Var, &'a Tensor) -> Result<bool> + Sync,
) -> Result<bool> {
    let update = |(name, parameter, gradient)| update(name, parameter, gradient);
    let seen = each_beside(updates, |(_, parameter, _)| parameter.as_tensor(), update);
    seen.into_iter().try_fold(true, |all, one| Ok(all & one?))
}
