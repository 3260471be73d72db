//! A model together with its parameters.

use candle_core::{DType, Device};
use candle_nn::{VarBuilder, VarMap};

use crate::critic::Critic;
use crate::error::Result;
use crate::generator::Generator;
use crate::parameters::{InitScheme, Parameters, Seeded};

/// A model together with its named parameters: what a trainer takes.
#[derive(Debug)]
pub struct Network<M> {
    model: M,
    parameters: Parameters,
}

impl<M> Network<M> {
    /// A model that was built from a candle `VarMap`.
    ///
    /// Candle draws the first values of such a model from a generator that cannot be seeded on the CPU; build
    /// with [`ModelBuilder`] for reproducible ones.
    pub fn from_var_map(model: M, var_map: &VarMap) -> Self {
        Self { model, parameters: Parameters::from_var_map(var_map) }
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Its parameters and buffers.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Runs something with the values of an average, where there is one, in the model.
    pub(crate) fn averaged<T>(
        &self,
        average: Option<&Parameters>,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match average {
            Some(average) => self.parameters.with_values_of(average, run),
            None => run(),
        }
    }
}

/// Builds models from a seed.
///
/// | setting | default | meaning |
/// |---|---|---|
/// | `device` | CPU | where the parameters lie |
/// | `dtype` | `F32` | their type: `F32` or `F64` |
/// | `init` | [`InitScheme::PyTorch`] | their first values |
///
/// The same seed gives the same parameters on every machine and device, in whatever order layers are made: they are drawn
/// on the host, each from a stream of its own name. (The tails of a normal distribution go through the system's `ln` and
/// `exp`, whose last bit may differ from one operating system to the next; uniform draws, the default, do not.)
///
/// ```
/// use candle_core::DType;
/// use wgan::zoo::{MlpCritic, MlpGenerator};
/// use wgan::{InitScheme, ModelBuilder};
/// # fn main() -> wgan::Result<()> {
/// let build = ModelBuilder::new(7).dtype(DType::F64).init(InitScheme::Dcgan);
/// let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb))?;
/// let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb))?;
/// # let _ = (generator, critic);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ModelBuilder {
    seed: u64,
    device: Device,
    dtype: DType,
    scheme: InitScheme,
}

impl ModelBuilder {
    /// A builder with this seed and the defaults above.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, device: Device::Cpu, dtype: DType::F32, scheme: InitScheme::default() }
    }

    /// Where the parameters lie.
    #[must_use]
    pub fn device(self, device: &Device) -> Self {
        Self { device: device.clone(), ..self }
    }

    /// Their type.
    #[must_use]
    pub fn dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// Their first values.
    #[must_use]
    pub fn init(self, scheme: InitScheme) -> Self {
        Self { scheme, ..self }
    }

    /// Builds a generator.
    ///
    /// # Errors
    /// Those of `build`; [`Error::DType`](crate::Error::DType) for a type other than `F32` and `F64`.
    pub fn generator<G: Generator>(
        &self,
        build: impl FnOnce(VarBuilder<'static>) -> Result<G>,
    ) -> Result<Network<G>> {
        self.network("generator", build)
    }

    /// Builds a critic.
    ///
    /// # Errors
    /// Those of `build`; [`Error::DType`](crate::Error::DType) for a type other than `F32` and `F64`.
    pub fn critic<C: Critic>(
        &self,
        build: impl FnOnce(VarBuilder<'static>) -> Result<C>,
    ) -> Result<Network<C>> {
        self.network("critic", build)
    }

    /// Builds any other model, such as a classifier. Models of different roles have different first values.
    ///
    /// # Errors
    /// Those of `build`; [`Error::DType`](crate::Error::DType) for a type other than `F32` and `F64`.
    pub fn network<M>(
        &self,
        role: &'static str,
        build: impl FnOnce(VarBuilder<'static>) -> Result<M>,
    ) -> Result<Network<M>> {
        let store = Seeded::new(self.seed, role, self.scheme);
        let model = build(store.var_builder(self.dtype, &self.device))?;
        Ok(Network { model, parameters: store.into_parameters() })
    }
}
