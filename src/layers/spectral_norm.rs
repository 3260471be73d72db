//! Spectral normalisation.

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use super::{Conv2d, ConvTranspose2d, Linear};
use crate::error::Result;
use crate::second_order::{Layer, Traced};

/// Keeps a norm from dividing by zero; PyTorch's.
const EPS: f64 = 1e-12;

/// A layer whose weight is divided by its largest singular value (Miyato et al. 2018), PyTorch's `utils.spectral_norm` in
/// training mode: each forward pass takes one step of the power iteration.
///
/// The weight is seen as a matrix, `(out_channels, rest)`. The two vectors are constants to the gradient, which reaches the
/// weight through the matrix and through the singular value.
///
/// Parameters: `weight_orig` in place of the layer's `weight`, and `bias`; buffers: `weight_u` and `weight_v`, the
/// vectors, saved with the model. There is no evaluation mode: every pass moves them, one that only asks for scores too. So a critic that has them is run over the real and the generated
/// batch one after the other, as PyTorch programs run it.
///
/// ```
/// use wgan::layers::{Conv2d, Conv2dConfig, SpectralNorm};
/// # fn build(vb: candle_nn::VarBuilder) -> wgan::Result<()> {
/// let conv = SpectralNorm::new(vb.pp("conv1"), |vb| Conv2d::new(3, 64, 3, Conv2dConfig::default(), vb))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SpectralNorm<L> {
    layer: L,
    u: Tensor,
    v: Tensor,
}

/// A layer that [`SpectralNorm`] can wrap: [`Linear`], [`Conv2d`] and [`ConvTranspose2d`].
pub trait Normalised: Layer + Clone + private::Sealed {
    #[doc(hidden)]
    fn weight(&self) -> &Tensor;
    #[doc(hidden)]
    fn with_weight(&self, weight: Tensor) -> Self;
    /// The dimension of the weight that counts outputs.
    #[doc(hidden)]
    const OUTPUTS: usize;
}

mod private {
    pub trait Sealed {}
}

macro_rules! impl_normalised {
    ($($layer:ty: $outputs:literal),*) => {
        $(impl private::Sealed for $layer {}
        impl Normalised for $layer {
            fn weight(&self) -> &Tensor {
                &self.weight
            }
            fn with_weight(&self, weight: Tensor) -> Self {
                let mut layer = self.clone();
                layer.weight = weight;
                layer
            }
            const OUTPUTS: usize = $outputs;
        })*
    };
}
impl_normalised!(Linear: 0, Conv2d: 0, ConvTranspose2d: 1);

impl<L: Normalised> SpectralNorm<L> {
    /// Wraps the layer that `build` makes.
    ///
    /// # Errors
    /// Those of `build`; candle's if a vector cannot be made.
    pub fn new<'a>(
        vb: VarBuilder<'a>,
        build: impl FnOnce(VarBuilder<'a>) -> Result<L>,
    ) -> Result<Self> {
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let prefix = vb.prefix();
        let renamed = Renamed { root: vb.root(), prefix: prefix.clone() };
        let renamed = VarBuilder::from_backend(Box::new(renamed), dtype, device);
        // Under the same path, so that errors name it.
        let layer = build(if prefix.is_empty() { renamed } else { renamed.pp(prefix) })?;
        let (outputs, rest) = matrix::<L>(layer.weight())?.dims2()?;
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let vector =
            |len: usize, name| -> Result<Tensor> { Ok(vb.get_with_hints(len, name, normal)?) };
        Ok(Self { u: vector(outputs, "weight_u")?, v: vector(rest, "weight_v")?, layer })
    }

    /// The weight over its largest singular value, after one step of the power iteration, and the two vectors. A weight of
    /// zero stays zero, and leaves the vectors as they were.
    fn normalised_weight(&self) -> Result<(Tensor, [Tensor; 2])> {
        let weight = self.layer.weight();
        let fixed = matrix::<L>(&weight.detach())?;
        let (u, v) = (self.u.detach().unsqueeze(1)?, self.v.detach().unsqueeze(1)?);
        let v = unit(&fixed.t()?.matmul(&u)?, &v)?;
        let u = unit(&fixed.matmul(&v)?, &u)?;
        let sigma = matrix::<L>(weight)?.matmul(&v)?.mul(&u)?.sum_all()?;
        let sigma = sigma.add(&is_zero(&sigma)?)?;
        Ok((weight.broadcast_div(&sigma)?, [u, v]))
    }
}

/// A weight as `(outputs, rest)`.
fn matrix<L: Normalised>(weight: &Tensor) -> Result<Tensor> {
    let turned = if L::OUTPUTS == 0 { weight.clone() } else { weight.transpose(0, L::OUTPUTS)? };
    Ok(turned.flatten_from(1)?)
}

/// The vector at length 1, or the former one where it is zero.
fn unit(vector: &Tensor, former: &Tensor) -> Result<Tensor> {
    let norm = vector.sqr()?.sum_all()?.sqrt()?;
    let zero = is_zero(&norm)?;
    let kept = vector.add(&former.broadcast_mul(&zero)?)?;
    Ok(kept.broadcast_div(&norm.add(&zero)?.maximum(EPS)?)?)
}

/// 1 for a scalar that is zero, else 0; a constant.
fn is_zero(scalar: &Tensor) -> Result<Tensor> {
    Ok(scalar.detach().eq(0.0)?.to_dtype(scalar.dtype())?)
}

impl<L: Normalised> Layer for SpectralNorm<L> {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let (weight, [u, v]) = self.normalised_weight()?;
        let y = self.layer.with_weight(weight).forward(x)?;
        for (buffer, vector) in [(&self.u, u), (&self.v, v)] {
            Var::from_tensor(buffer)?.set(&vector.flatten_all()?)?;
        }
        Ok(y)
    }
}

/// Hands out another builder's tensors with the `weight` at a path called `weight_orig`.
struct Renamed<'a> {
    root: VarBuilder<'a>,
    prefix: String,
}

impl Renamed<'_> {
    fn name(&self, name: &str) -> String {
        let leaf = name.strip_prefix(&self.prefix).map(|leaf| leaf.trim_start_matches('.'));
        if leaf == Some("weight") { format!("{name}_orig") } else { name.to_owned() }
    }
}

impl SimpleBackend for Renamed<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hint: Init,
        dtype: DType,
        _: &Device,
    ) -> candle_core::Result<Tensor> {
        self.root.get_with_hints_dtype(shape, &self.name(name), hint, dtype)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.root.get_unchecked_dtype(&self.name(name), dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.root.contains_tensor(&self.name(name))
    }
}
