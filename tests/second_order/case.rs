//! One function at one point, held to central differences.

use candle_core::{DType, Device, Tensor, Var};
use wgan::{Result, Traced};

use super::support::{self, assert_close, normal};

/// Values on both sides of 0 and away from it, so that no kink and no pole lies within a difference's step.
pub(super) fn away_from_zero(name: &str, dims: &[usize]) -> Tensor {
    let x = normal(name, dims, DType::F64);
    let sign = x.ge(0.0).unwrap().to_dtype(DType::F64).unwrap().affine(2.0, -1.0).unwrap();
    x.abs().unwrap().affine(0.5, 0.5).unwrap().mul(&sign).unwrap()
}

pub(super) fn positive(name: &str, dims: &[usize]) -> Tensor {
    away_from_zero(name, dims).abs().unwrap()
}

/// How the variables lie in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Memory {
    Contiguous,
    /// The function sees views with the first and last dimension swapped.
    Turned,
}

impl Memory {
    fn turn(self, t: &Tensor) -> Tensor {
        match self {
            Self::Turned if t.rank() > 1 => t.transpose(0, t.rank() - 1).unwrap(),
            _ => t.clone(),
        }
    }

    fn variable(self, value: &Tensor, dtype: DType) -> Var {
        Var::from_tensor(&self.turn(value).contiguous().unwrap().to_dtype(dtype).unwrap()).unwrap()
    }
}

/// What the crate computes for one function at one point.
pub(super) struct Outcome {
    pub(super) gradient: Tensor,
    /// Of the score's own sum, for each parameter.
    pub(super) first: Vec<Tensor>,
    /// Of the penalty, for the input and each parameter.
    pub(super) second: Vec<Tensor>,
}

/// A function of an input and parameters, and the point at which it is examined.
pub(super) struct Case<'a> {
    pub(super) what: &'a str,
    pub(super) x: Tensor,
    pub(super) parameters: Vec<Tensor>,
    pub(super) f: &'a dyn Fn(&Traced, &[Tensor]) -> Result<Traced>,
}

impl Case<'_> {
    /// `c y^2 + d y`, elementwise.
    pub(super) fn score(&self, x: &Traced, parameters: &[Tensor]) -> Traced {
        let y = (self.f)(x, parameters).unwrap_or_else(|error| panic!("{}: {error}", self.what));
        let constant = |name| Traced::untracked(&normal(name, y.dims(), y.dtype()));
        let linear = y.mul(&constant("d")).unwrap();
        y.sqr().unwrap().mul(&constant("c")).unwrap().add(&linear).unwrap()
    }

    pub(super) fn penalty(&self, gradient: &Tensor) -> Tensor {
        let weights = normal("w", gradient.dims(), gradient.dtype());
        gradient.sin().unwrap().mul(&weights).unwrap().sum_all().unwrap()
    }

    pub(super) fn outcome(&self, dtype: DType, memory: Memory) -> Outcome {
        let x = memory.variable(&self.x, dtype);
        let parameters: Vec<Var> =
            self.parameters.iter().map(|value| memory.variable(value, dtype)).collect();
        let x_view = memory.turn(&x);
        let views: Vec<Tensor> = parameters.iter().map(|var| memory.turn(var)).collect();
        let or_zeros = |gradient: Option<&Tensor>, var: &Var| match gradient {
            Some(gradient) => memory.turn(gradient),
            None => memory.turn(&var.zeros_like().unwrap()),
        };
        let total = |score: &Traced| score.value().sum_all().unwrap();

        let input = Traced::input(&x_view);
        let score = self.score(&input, &views);
        let gradient = score.gradient(&input).unwrap();
        assert_eq!(gradient.dims(), self.x.dims(), "{}", self.what);
        let found = self.penalty(&gradient).backward().unwrap();
        let variables = std::iter::once(&x).chain(&parameters);
        let second: Vec<_> = variables.map(|var| or_zeros(found.get(var), var)).collect();
        self.same_by_the_tape(&input, &score, &gradient, std::iter::once(&x).chain(&parameters));

        let untracked = self.score(&Traced::untracked(&x_view), &views);
        assert!(!untracked.is_tracked() && untracked.gradient(&input).is_err());
        assert_eq!(
            support::tensor_bits(untracked.value()),
            support::tensor_bits(score.value()),
            "{}: the same values at no extra cost",
            self.what
        );
        let found = total(&untracked).backward().unwrap();
        let by_tape = untracked.sum_all().unwrap().backward().unwrap();
        for var in &parameters {
            let bits = |found: Option<&Tensor>| support::tensor_bits(&or_zeros(found, var));
            assert_eq!(bits(by_tape.get(var)), bits(found.get(var)), "{}, by the tape", self.what);
        }
        let first = parameters.iter().map(|var| or_zeros(found.get(var), var)).collect();

        let frozen = self.score(&Traced::frozen(&x_view), &views);
        assert!(frozen.is_frozen());
        let found = total(&frozen).backward().unwrap();
        for var in &parameters {
            assert!(found.get(var).is_none(), "{}: a frozen parameter has a gradient", self.what);
        }
        let tolerance = if dtype == DType::F64 { 1e-10 } else { 1e-4 };
        let (got, expected) = (or_zeros(found.get(&x), &x), gradient.to_dtype(DType::F64).unwrap());
        assert_close(&got, &expected, tolerance, &format!("{}, frozen", self.what));
        Outcome { gradient: gradient.detach(), first, second }
    }

    /// The tape's own reverse pass gives what candle's gives, which hands over to the tape at the gradient's value.
    fn same_by_the_tape<'v>(
        &self,
        input: &Traced,
        score: &Traced,
        gradient: &Tensor,
        variables: impl Iterator<Item = &'v Var>,
    ) {
        let traced = score.differentiate(input).unwrap();
        let weights = normal("w", gradient.dims(), gradient.dtype());
        let candles = gradient.sqr().unwrap().mul(&weights).unwrap().sum_all().unwrap();
        let candles = candles.backward().unwrap();
        let ours = traced.sqr().unwrap().mul(&traced.parameter(&weights)).unwrap();
        let ours = ours.sum_all().unwrap().backward().unwrap();
        let tolerance = if gradient.dtype() == DType::F64 { 1e-12 } else { 1e-5 };
        for var in variables {
            match (ours.get(var), candles.get(var)) {
                (Some(ours), Some(candles)) => {
                    let candles = candles.to_dtype(DType::F64).unwrap();
                    assert_close(ours, &candles, tolerance, &format!("{}, by the tape", self.what));
                }
                (ours, candles) => assert!(ours.is_none() && candles.is_none(), "{}", self.what),
            }
        }
    }

    /// Central differences of the fourth order of `of(x, parameters)` along every element of variable `which`, 0 being
    /// the input.
    pub(super) fn differences(
        &self,
        which: usize,
        of: impl Fn(&Tensor, &[Tensor]) -> f64,
    ) -> Tensor {
        let h = 1e-4;
        let mut variables = vec![self.x.clone()];
        variables.extend(self.parameters.iter().cloned());
        let dims = variables[which].dims().to_vec();
        let values: Vec<f64> = variables[which].flatten_all().unwrap().to_vec1().unwrap();
        let slopes = (0..values.len()).map(|i| {
            let mut at = |shift: f64| {
                let mut values = values.clone();
                values[i] += shift;
                variables[which] = Tensor::from_vec(values, dims.as_slice(), &Device::Cpu).unwrap();
                of(&variables[0], &variables[1..])
            };
            (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
        });
        let slopes = slopes.collect::<Vec<f64>>();
        Tensor::from_vec(slopes, dims.as_slice(), &Device::Cpu).unwrap()
    }

    pub(super) fn check(&self, memories: &[Memory]) {
        let number = |t: &Tensor| t.to_scalar::<f64>().unwrap();
        let total = |x: &Tensor, parameters: &[Tensor]| {
            number(&self.score(&Traced::untracked(x), parameters).value().sum_all().unwrap())
        };
        let penalty = |x: &Tensor, parameters: &[Tensor]| {
            let input = Traced::input(x);
            let gradient = self.score(&input, parameters).gradient(&input).unwrap();
            number(&self.penalty(&gradient))
        };
        let mut first: Vec<_> =
            (0..=self.parameters.len()).map(|which| self.differences(which, total)).collect();
        let gradient = first.remove(0);
        let second: Vec<_> =
            (0..=self.parameters.len()).map(|which| self.differences(which, penalty)).collect();

        let compare = |outcome: &Outcome, tolerance: f64, what: &str| {
            let what = |part: String| format!("{}, {what}, {part}", self.what);
            assert_close(&outcome.gradient, &gradient, tolerance, &what("first order".into()));
            for (i, (got, expected)) in outcome.first.iter().zip(&first).enumerate() {
                let part = format!("first order for parameter {i}");
                assert_close(got, expected, tolerance, &what(part));
            }
            for (i, (got, expected)) in outcome.second.iter().zip(&second).enumerate() {
                let part = format!("second order for variable {i}");
                assert_close(got, expected, tolerance, &what(part));
            }
        };
        for &memory in memories {
            compare(&self.outcome(DType::F64, memory), 1e-6, &format!("f64, {memory:?}"));
            compare(&self.outcome(DType::F32, memory), 2e-3, &format!("f32, {memory:?}"));
        }
    }
}

pub(super) fn check(
    what: &str,
    x: Tensor,
    parameters: Vec<Tensor>,
    f: impl Fn(&Traced, &[Tensor]) -> Result<Traced>,
) {
    Case { what, x, parameters, f: &f }.check(&[Memory::Contiguous, Memory::Turned]);
}
