//! Fully connected layers at points between samples.
//!
//! A gradient penalty looks at mixtures of samples that the estimate has looked at. A fully connected layer takes a mixture to
//! the mixture of what it makes of both:
//!
//! ```text
//! A(ε x + (1 - ε) y) = ε A(x) + (1 - ε) A(y)    for A(x) = x Wᵀ + b
//! ```
//!
//! So what layers make of the samples themselves is kept, and mixed: a product less in each critic step, the largest one of a
//! fully connected critic's pass. Only the value comes from there; gradients are those of the layer at the mixture.
//!
//! Only for layers that are applied to the samples themselves, maybe reshaped within each: not where labels were appended. And not
//! for convolutions: images have few channels, so that their first convolution costs little more than a mixture of its maps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor, TensorId};

use super::Traced;
use crate::ops;

/// What layers have made of the samples of one step. They are known by their parameters, which must not change meanwhile.
#[derive(Clone, Default)]
pub(crate) struct AtSamples(Arc<Mutex<Vec<(Layer, Tensor)>>>);

/// A layer's weight and its bias.
type Layer = (TensorId, Option<TensorId>);

impl AtSamples {
    /// Two batches of samples one after the other; what layers make of them is kept.
    pub(crate) fn samples(&self, samples: &Traced) -> Traced {
        samples.clone().with_rows(Some(Rows::Samples(self.clone())))
    }

    /// The same samples again.
    pub(crate) fn again(&self, samples: &Traced) -> Traced {
        samples.clone().with_rows(Some(Rows::Again(self.clone())))
    }

    /// `epsilon * x + (1 - epsilon) * y` of samples x of the first batch and y of the second, with a coefficient `(batch,)` each.
    pub(crate) fn mixtures(&self, points: &Traced, epsilon: &Tensor) -> Traced {
        points.clone().with_rows(Some(Rows::Mixtures(self.clone(), epsilon.detach())))
    }

    fn known(&self) -> MutexGuard<'_, Vec<(Layer, Tensor)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn output(&self, layer: Layer) -> Option<Tensor> {
        self.known().iter().find(|(of, _)| *of == layer).map(|(_, output)| output.clone())
    }
}

/// What the rows of a tensor are.
#[derive(Clone)]
pub(super) enum Rows {
    Samples(AtSamples),
    Again(AtSamples),
    /// With the coefficients.
    Mixtures(AtSamples, Tensor),
}

impl Rows {
    /// Inputs of a layer from which its product costs more than a mixture of its outputs.
    const WORTH: usize = 64;

    /// What a layer, by its weight and its bias, makes of these rows; `compute`d where it is not known.
    pub(super) fn output(
        &self,
        (weight, bias): (&Tensor, Option<&Tensor>),
        compute: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if weight.dims()[1] < Self::WORTH {
            return compute();
        }
        let layer = (weight.id(), bias.map(Tensor::id));
        match self {
            Self::Samples(at_samples) => {
                let output = compute()?;
                at_samples.known().push((layer, output.clone()));
                Ok(output)
            }
            Self::Again(at_samples) => at_samples.output(layer).map_or_else(compute, Ok),
            Self::Mixtures(at_samples, epsilon) => {
                let Some(output) = at_samples.output(layer) else { return compute() };
                let batch = epsilon.dim(0)?;
                let [x, y] = [output.narrow(0, 0, batch)?, output.narrow(0, batch, batch)?];
                ops::mix_samples([&x, &y], [epsilon, &epsilon.affine(-1.0, 1.0)?])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::ops::count::counted;
    use crate::random::Stream;

    fn draw(name: &str, shape: &[usize]) -> crate::Result<Tensor> {
        Stream::new(0, name, 0).normal(shape.to_vec(), DType::F64, &Device::Cpu)
    }

    /// The largest difference, in units of the largest value.
    fn off(a: &Tensor, b: &Tensor) -> crate::Result<f64> {
        let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
        Ok(largest(&a.sub(b)?)? / largest(b)?)
    }

    /// Samples and their partners, coefficients, and mixtures.
    fn samples(batch: usize, shape: &[usize]) -> crate::Result<[Tensor; 3]> {
        let both = draw("both", &[&[2 * batch], shape].concat())?;
        let epsilon = draw("epsilon", &[batch])?.abs()?;
        let [x, y] = [both.narrow(0, 0, batch)?, both.narrow(0, batch, batch)?];
        let others = epsilon.affine(-1.0, 1.0)?;
        let mixtures = crate::ops::mix_samples([&x, &y], [&epsilon, &others])?;
        Ok([both, epsilon, mixtures])
    }

    /// With a bias and without, of samples as a matrix and as they are: the value, the gradient for the mixtures, and what their
    /// square, a penalty, gives the parameters.
    #[test]
    fn a_mixture_of_outputs_is_the_output_of_the_mixture() -> crate::Result<()> {
        let [both, epsilon, mixtures] = samples(5, &[8, 8])?;
        let weight = Var::from_tensor(&draw("weight", &[7, 64])?)?;
        let bias = Var::from_tensor(&draw("bias", &[7])?)?;
        for bias in [None, Some(bias.as_tensor())] {
            let layer = |x: &Traced| x.flatten_from(1)?.linear(&weight, bias, "a layer");
            let learned = |points: &Traced| -> crate::Result<_> {
                let (h, products) = counted(|| layer(points));
                let h = h?;
                let gradient = h.tanh()?.sum(1)?.differentiate(points)?;
                let penalty = gradient.sqr()?.sum_all()?.add(&h.sqr()?.sum_all()?)?;
                let of_weight = penalty.backward()?.remove(&weight).expect("it has one");
                Ok(([h.detach(), gradient.detach(), of_weight], products.1))
            };
            let at_samples = AtSamples::default();
            let at_both = layer(&at_samples.samples(&Traced::untracked(&both)))?.detach();
            let (computed, products) = learned(&Traced::input(&mixtures))?;
            assert_eq!(products, 1);
            let points = at_samples.mixtures(&Traced::input(&mixtures), &epsilon);
            let (mixed, products) = learned(&points)?;
            assert_eq!(products, 0);
            for (mixed, computed) in mixed.iter().zip(&computed) {
                let off = off(mixed, computed)?;
                assert!(off < 1e-14, "{off:e}");
            }
            // The same samples again give the same bytes.
            let again = at_samples.again(&Traced::input(&both));
            let (again, products) = learned(&again)?;
            assert_eq!((off(&again[0], &at_both)?, products), (0.0, 0));
            let (computed, _) = learned(&Traced::input(&both))?;
            for (again, computed) in again.iter().zip(&computed) {
                assert_eq!(off(again, computed)?, 0.0);
            }
        }
        Ok(())
    }

    /// Another layer, other rows, and what is not the samples themselves.
    #[test]
    fn what_is_not_known_is_computed() -> crate::Result<()> {
        let [both, epsilon, mixtures] = samples(4, &[2, 64])?;
        let [weight, other] = [draw("weight", &[6, 128])?, draw("other", &[6, 128])?];
        let [bias, of_half] = [draw("bias", &[6])?, draw("of a half", &[6, 64])?];
        let at_samples = AtSamples::default();
        let kept = at_samples.samples(&Traced::untracked(&both));
        let points = at_samples.mixtures(&Traced::input(&mixtures), &epsilon);
        let flat = |x: &Traced| x.flatten_from(1);
        flat(&kept)?.linear(&weight, None, "kept")?;
        let halves = |x: &Traced| x.reshape((2 * x.dims()[0], 64));
        halves(&kept)?.linear(&of_half, None, "not kept")?;
        kept.linear(&of_half, None, "not kept")?;
        let products = |work: &dyn Fn(&Traced) -> crate::Result<Traced>| -> crate::Result<usize> {
            let (made, (_, products)) = counted(|| work(&points));
            let plain = work(&Traced::input(&mixtures))?.detach();
            assert!(off(&made?.detach(), &plain)? < 1e-14);
            Ok(products)
        };
        assert_eq!(products(&|x| flat(x)?.linear(&weight, None, "known"))?, 0);
        assert_eq!(products(&|x| flat(x)?.linear(&other, None, "another"))?, 1);
        assert_eq!(products(&|x| flat(x)?.linear(&weight, Some(&bias), "with a bias"))?, 1);
        assert_eq!(products(&|x| flat(x)?.sqr()?.linear(&weight, None, "of squares"))?, 1);
        assert_eq!(products(&|x| halves(x)?.linear(&of_half, None, "of halves"))?, 1);
        assert_eq!(products(&|x| x.linear(&of_half, None, "of halves as they lie"))?, 1);
        // Samples that are looked at again leave nothing behind.
        let again = AtSamples::default();
        flat(&again.again(&Traced::input(&both)))?.linear(&weight, None, "again")?;
        assert!(again.known().is_empty() && at_samples.known().len() == 1);
        // Of another step nothing is known.
        let points = AtSamples::default().mixtures(&Traced::input(&mixtures), &epsilon);
        let (made, (_, products)) = counted(|| flat(&points)?.linear(&weight, None, "later"));
        assert!(made.is_ok() && products == 1);
        Ok(())
    }

    /// From 64 inputs on.
    #[test]
    fn layers_of_few_inputs_are_computed() -> crate::Result<()> {
        for (inputs, expected) in [(63, 1), (64, 0)] {
            let [both, epsilon, mixtures] = samples(4, &[inputs])?;
            let weight = draw("weight", &[6, inputs])?;
            let at_samples = AtSamples::default();
            let layer = |x: &Traced| x.linear(&weight, None, "a layer");
            layer(&at_samples.samples(&Traced::untracked(&both)))?;
            let points = at_samples.mixtures(&Traced::input(&mixtures), &epsilon);
            let (_, (_, products)) = counted(|| layer(&points));
            assert_eq!(products, expected, "{inputs} inputs");
        }
        Ok(())
    }
}
