//! Changes to a tensor's own memory: what optimisers and weight clipping do to parameters, and batches to running statistics.
//!
//! A [`Formula`] is written once. On the CPU it is one pass without a temporary over all the tensors that it changes; on other
//! devices candle's operators make the new values, which are copied over the old ones.

use std::cell::Cell;
use std::ops::{Add, Div, Mul, Sub};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, Var};

use super::{contiguous, has_kernel, on_slices};
use crate::kernels::update::{self, Formula, Number};
use crate::kernels::{Real, slice_mut};

/// Clamps each element to `[-bound, bound]`; NaN stays NaN.
pub(crate) fn clamp(target: &Var, bound: f64) -> Result<()> {
    #[derive(Clone, Copy)]
    struct Clamp(f64);

    impl Formula<1, 0> for Clamp {
        #[inline(always)]
        fn apply<N: Number>(&self, [x]: [N; 1], []: [N; 0]) -> [N; 1] {
            [x.clamp(-self.0, self.0)]
        }
    }

    update([target], [], &Clamp(bound))
}

/// `average = decay * average + (1 - decay) * x`
pub(crate) fn average(average: &Var, x: &Tensor, decay: f64) -> Result<()> {
    #[derive(Clone, Copy)]
    struct Average(f64);

    impl Formula<1, 1> for Average {
        #[inline(always)]
        fn apply<N: Number>(&self, [average]: [N; 1], [x]: [N; 1]) -> [N; 1] {
            [averaged(average, x, self.0)]
        }
    }

    update([average], [x], &Average(decay))
}

/// `x = keep * x + term`
pub(crate) fn scale_and_add(x: &Var, keep: f64, term: &Tensor) -> Result<()> {
    #[derive(Clone, Copy)]
    struct ScaleAndAdd(f64);

    impl Formula<1, 1> for ScaleAndAdd {
        #[inline(always)]
        fn apply<N: Number>(&self, [x]: [N; 1], [term]: [N; 1]) -> [N; 1] {
            [x.scale(self.0) + term]
        }
    }

    update([x], [term], &ScaleAndAdd(keep))
}

/// Gives each element of the targets, which are different variables of one shape, its new value.
pub(crate) fn update<const TARGETS: usize, const SOURCES: usize>(
    targets: [&Var; TARGETS],
    sources: [&Tensor; SOURCES],
    formula: &impl Formula<TARGETS, SOURCES>,
) -> Result<()> {
    with_bound(targets, sources, formula, None).map(drop)
}

/// The same where the first target is a parameter, whose finite elements are clamped to `[-bound, bound]` at once; an infinite bound
/// holds nothing back. Returns whether all of the parameter was seen to be finite. Where there is no kernel nobody looks, and
/// nothing is clamped.
pub(crate) fn update_parameter<const TARGETS: usize, const SOURCES: usize>(
    targets: [&Var; TARGETS],
    sources: [&Tensor; SOURCES],
    formula: &impl Formula<TARGETS, SOURCES>,
    bound: f64,
) -> Result<bool> {
    with_bound(targets, sources, formula, Some(bound))
}

fn with_bound<const TARGETS: usize, const SOURCES: usize>(
    targets: [&Var; TARGETS],
    sources: [&Tensor; SOURCES],
    formula: &impl Formula<TARGETS, SOURCES>,
    bound: Option<f64>,
) -> Result<bool> {
    if has_kernel(targets[0]) {
        let sources = contiguous(sources)?;
        return match targets[0].dtype() {
            DType::F32 => run::<f32, TARGETS, SOURCES>(targets, &sources, formula, bound),
            _ => run::<f64, TARGETS, SOURCES>(targets, &sources, formula, bound),
        };
    }
    let composed = |x: &Tensor| Composed(Ok(x.detach()));
    let new = formula.apply(targets.map(|x| composed(x)), sources.map(composed));
    targets.into_iter().zip(new).try_for_each(|(target, Composed(new))| target.set(&new?))?;
    Ok(false)
}

fn run<T: Real, const TARGETS: usize, const SOURCES: usize>(
    targets: [&Var; TARGETS],
    sources: &[Tensor; SOURCES],
    formula: &impl Formula<TARGETS, SOURCES>,
    bound: Option<f64>,
) -> Result<bool> {
    let finite = Cell::new(false);
    on_slices::<T, _, _>(sources, |sources| {
        open::<T>(&targets, Vec::with_capacity(TARGETS), &|opened| {
            let Ok(targets) = opened.try_into() else {
                candle_core::bail!("expected {TARGETS} tensors to change");
            };
            finite.set(update::update(targets, sources, formula, bound));
            Ok(())
        })
    })?;
    Ok(finite.get())
}

/// What is done with the elements of opened variables.
type Then<'a, T> = &'a dyn for<'b> Fn(Vec<&'b mut [T]>) -> Result<()>;

/// Opens one variable after the other: candle lends the elements of a single one, and only to an operation.
fn open<T: Real>(vars: &[&Var], opened: Vec<&mut [T]>, then: Then<'_, T>) -> Result<()> {
    match vars.split_first() {
        Some((first, rest)) => first.inplace_op1(&Open { rest, opened: Cell::new(opened), then }),
        None => then(opened),
    }
}

struct Open<'a, T> {
    rest: &'a [&'a Var],
    opened: Cell<Vec<&'a mut [T]>>,
    then: Then<'a, T>,
}

impl<T: Real> InplaceOp1 for Open<'_, T> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let mut opened: Vec<&mut [T]> = self.opened.take();
        opened.push(slice_mut(storage, layout)?);
        open(self.rest, opened, self.then)
    }
}

/// A tensor that a formula computes with candle's operators; the first error stays to the end.
#[derive(Debug)]
struct Composed(Result<Tensor>);

impl Composed {
    fn map(self, f: impl FnOnce(Tensor) -> Result<Tensor>) -> Self {
        Self(self.0.and_then(f))
    }

    fn with(self, other: Self, f: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>) -> Self {
        self.map(|x| f(&x, &other.0?))
    }
}

impl Clone for Composed {
    fn clone(&self) -> Self {
        match &self.0 {
            Ok(x) => Self(Ok(x.clone())),
            Err(error) => Self(Err(candle_core::Error::Msg(error.to_string()))),
        }
    }
}

impl Add for Composed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(other, Tensor::add)
    }
}

impl Sub for Composed {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(other, Tensor::sub)
    }
}

impl Mul for Composed {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        self.with(other, Tensor::mul)
    }
}

impl Div for Composed {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        self.with(other, Tensor::div)
    }
}

impl Number for Composed {
    fn scale(self, factor: f64) -> Self {
        self.map(|x| x.affine(factor, 0.0))
    }

    fn plus(self, term: f64) -> Self {
        self.map(|x| x.affine(1.0, term))
    }

    fn sqrt(self) -> Self {
        self.map(|x| x.sqrt())
    }

    fn clamp(self, low: f64, high: f64) -> Self {
        self.map(|x| x.clamp(low, high))
    }
}

/// `average = decay * average + (1 - decay) * x`
#[inline(always)]
pub(crate) fn averaged<N: Number>(average: N, x: N, decay: f64) -> N {
    average.scale(decay) + x.scale(1.0 - decay)
}

/// `average = decay * average + (1 - decay) * x^2`
#[inline(always)]
pub(crate) fn averaged_square<N: Number>(average: N, x: N, decay: f64) -> N {
    average.scale(decay) + x.clone().scale(1.0 - decay) * x
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, IndexOp};

    use super::*;

    #[derive(Clone, Copy)]
    struct Both;

    impl Formula<2, 2> for Both {
        fn apply<N: Number>(&self, [x, y]: [N; 2], [a, b]: [N; 2]) -> [N; 2] {
            let root =
                averaged_square(x.clone(), y.clone(), 0.75).clamp(0.0, 9.0).plus(0.25).sqrt();
            [averaged(x, a * b.clone(), 0.5) - b / root, y.scale(0.5)]
        }
    }

    /// Half precision has no kernel, so it takes the path of the other devices.
    #[test]
    fn kernels_and_compositions_agree() -> Result<()> {
        let run = |dtype: DType| -> Result<Vec<Vec<f32>>> {
            let make = |values: [[f32; 2]; 2]| Tensor::new(&values, &Device::Cpu)?.to_dtype(dtype);
            let x = Var::from_tensor(&make([[1.0, -2.0], [0.25, 0.5]])?)?;
            let y = Var::from_tensor(&make([[0.5, 0.25], [1.0, -1.0]])?)?;
            // A source need not be contiguous.
            let a = make([[2.0, -1.0], [0.5, 0.0]])?.t()?;
            let b = make([[0.5, 1.0], [-0.5, 2.0]])?;
            update([&x, &y], [&a, &b], &Both)?;
            Tensor::cat(&[x.as_tensor(), y.as_tensor()], 0)?.to_dtype(DType::F32)?.to_vec2()
        };
        let (fast, plain) = (run(DType::F32)?.concat(), run(DType::F16)?.concat());
        for (fast, plain) in fast.iter().zip(plain) {
            assert!((fast - plain).abs() < 4e-3, "{fast} against {plain}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_changed_stays_as_it_was() -> Result<()> {
        let x = Var::zeros(3, DType::F32, &Device::Cpu)?;
        let y = Var::zeros(3, DType::F64, &Device::Cpu)?;
        let a = Tensor::ones((2, 3), DType::F32, &Device::Cpu)?.i(0)?;
        assert!(update([&x, &y], [&a, &a], &Both).is_err());
        assert_eq!(x.to_vec1::<f32>()?, [0.0; 3]);
        Ok(())
    }
}
