//! Warnings when a run goes wrong without an error.

use std::fmt;

use super::{Flow, Models, Observer, Snapshot};
use crate::diagnosis::share_at_bound;
use crate::error::Result;
use crate::history::Record;
use crate::lipschitz::Lipschitz;
use crate::parameters::is_buffer;

/// Steps over which the size of the loss is averaged, and which it must have been followed for.
const MEMORY: u64 = 100;
/// A loss so many times its usual size has exploded.
const EXPLOSION: f64 = 100.0;
/// Steps that the other symptoms must last for.
const PERSISTENCE: u64 = 20;
/// A critic whose figures are so much smaller than they were is a constant.
const COLLAPSE: f64 = 1e-6;
/// Below this length of the critic's gradient the generator's is lost beside an optimiser's eps of 1e-8.
const VANISHED: f64 = 1e-5;
/// More weights than this at the clip bound, and the critic is nothing else. A DCGAN in good order has some 95% there.
const SATURATION: f64 = 0.99;
/// Steps between two looks at the weights.
const WEIGHTS_EVERY: u64 = 100;
/// Steps after which a symptom that lasts is told again.
const AGAIN: u64 = 1_000;

/// Something that is going wrong in a run, with what usually helps in its [`Display`](fmt::Display).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Symptom {
    /// The critic's loss is a hundred times as large as it was over the last hundred steps.
    LossExplosion {
        /// The loss.
        loss: f64,
        /// Its usual size.
        usual: f64,
    },
    /// The critic gives every sample the same score.
    ConstantCritic {
        /// The Wasserstein estimate.
        estimate: f64,
        /// The mean length of its gradient at generated samples.
        gradient_norm: f64,
    },
    /// The gradient that reaches the generator is all but 0, though the critic tells real from generated samples.
    VanishedGradient {
        /// The mean length of the critic's gradient at generated samples.
        gradient_norm: f64,
    },
    /// Nearly all of the critic's weights lie at the clip bound.
    SaturatedClipping {
        /// The share that does.
        share: f64,
        /// The bound.
        c: f64,
    },
}

impl Symptom {
    /// Whether two symptoms are one, whatever their figures.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Symptom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LossExplosion { loss, usual } => write!(
                f,
                "the critic loss explodes: {loss:.3e}, where its usual size was {usual:.3e}. What usually helps: a lower \
                 learning rate of the critic, clip_norm in critic_updates, a smaller lambda, k or p of the penalty"
            ),
            Self::ConstantCritic { estimate, gradient_norm } => write!(
                f,
                "the critic has collapsed to a constant: the Wasserstein estimate is {estimate:.3e} and its gradient \
                 {gradient_norm:.3e}. What usually helps: a lower learning rate of the critic, leaky activations instead of \
                 ReLU, a larger clip value c or the gradient penalty instead of clipping; the run has to begin anew"
            ),
            Self::VanishedGradient { gradient_norm } => write!(
                f,
                "the generator's gradient has vanished: the critic's gradient at generated samples is {gradient_norm:.3e} \
                 long. What usually helps: under clipping a larger c, fewer layers or normalisation in the critic; else the \
                 gradient penalty (WGAN-GP, section 3)"
            ),
            Self::SaturatedClipping { share, c } => write!(
                f,
                "{:.0}% of the critic's weights lie at the clip bound {c}: it is a much simpler function than it could be. \
                 What usually helps: a lower learning rate of the critic, a larger c, or the gradient penalty (WGAN-GP, \
                 section 3)",
                100.0 * share
            ),
        }
    }
}

/// Watches every step for what goes wrong without an error, and warns through `tracing`: a loss that explodes, a critic that
/// collapsed to a constant, a vanished generator gradient, clip bounds that saturate.
///
/// Every trainer has one. It looks at the records, and every hundred steps under clipping at the weights, and costs next to
/// nothing. A symptom is told once, and again after a thousand steps where it lasts. To see the warnings a program installs
/// a subscriber, such as that of `tracing-subscriber`; the crate installs none.
///
/// | symptom | told when |
/// |---|---|
/// | loss explosion | the critic loss is 100 times its mean size over the last 100 steps |
/// | constant critic | estimate and gradient are 1e-6 of their largest or less, or 0, for 20 steps |
/// | vanished gradient | the critic's gradient at generated samples is below 1e-5 for 20 steps |
/// | saturated clipping | more than 99% of the critic's weights lie at ±c |
#[derive(Debug)]
pub struct Watch {
    lipschitz: Lipschitz,
    steps: u64,
    usual_loss: f64,
    largest_estimate: f64,
    largest_gradient: f64,
    constant_for: u64,
    vanished_for: u64,
    told: Vec<(Symptom, u64)>,
}

impl Watch {
    /// A watch over a run with this strategy, whose bound it knows.
    #[must_use]
    pub fn new(lipschitz: Lipschitz) -> Self {
        Self {
            lipschitz,
            steps: 0,
            usual_loss: 0.0,
            largest_estimate: 0.0,
            largest_gradient: 0.0,
            constant_for: 0,
            vanished_for: 0,
            told: Vec::new(),
        }
    }

    /// The symptoms that this step shows and that are to be told now.
    ///
    /// # Errors
    /// Candle's, where the weights cannot be read.
    pub fn look(&mut self, record: &Record, models: &dyn Models) -> Result<Vec<Symptom>> {
        let mut shown = self.in_record(record);
        let weights_due = record.step.is_multiple_of(WEIGHTS_EVERY);
        if weights_due {
            shown.extend(self.in_weights(models)?);
        }
        // What is over may come again.
        let of_weights = |symptom: &Symptom| matches!(symptom, Symptom::SaturatedClipping { .. });
        self.told.retain(|(told, step)| {
            let looked_for = weights_due || !of_weights(told);
            let lasts = !looked_for || shown.iter().any(|symptom| symptom.is_like(told));
            lasts && record.step < step.saturating_add(AGAIN)
        });
        shown.retain(|symptom| !self.told.iter().any(|(told, _)| told.is_like(symptom)));
        self.told.extend(shown.iter().map(|&symptom| (symptom, record.step)));
        Ok(shown)
    }

    fn in_record(&mut self, record: &Record) -> Vec<Symptom> {
        let mut shown = Vec::new();
        let size = record.critic_loss.abs();
        let has_usual = self.steps >= MEMORY && self.usual_loss > 0.0;
        if has_usual && size > EXPLOSION * self.usual_loss {
            shown.push(Symptom::LossExplosion { loss: record.critic_loss, usual: self.usual_loss });
        }
        // A mean at first, a moving one from then on.
        self.steps += 1;
        self.usual_loss += (size - self.usual_loss) / self.steps.min(MEMORY) as f64;

        let (estimate, gradient) = (record.wasserstein_estimate.abs(), record.gradient_norm);
        self.largest_estimate = self.largest_estimate.max(estimate);
        self.largest_gradient = self.largest_gradient.max(gradient);
        let is_constant = estimate <= COLLAPSE * self.largest_estimate
            && gradient <= COLLAPSE * self.largest_gradient;
        self.constant_for = if is_constant { self.constant_for + 1 } else { 0 };
        let has_vanished = gradient < VANISHED && !is_constant;
        self.vanished_for = if has_vanished { self.vanished_for + 1 } else { 0 };
        if self.constant_for >= PERSISTENCE {
            let (estimate, gradient_norm) = (record.wasserstein_estimate, gradient);
            shown.push(Symptom::ConstantCritic { estimate, gradient_norm });
        }
        if self.vanished_for >= PERSISTENCE {
            shown.push(Symptom::VanishedGradient { gradient_norm: gradient });
        }
        shown
    }

    fn in_weights(&self, models: &dyn Models) -> Result<Option<Symptom>> {
        let Lipschitz::Clip { c } = self.lipschitz else {
            return Ok(None);
        };
        let tensors = models.critic_tensors();
        let weights = tensors.iter().filter(|(name, _)| !is_buffer(name)).map(|(_, t)| t);
        let share = share_at_bound(weights, c)?;
        Ok((share > SATURATION).then_some(Symptom::SaturatedClipping { share, c }))
    }
}

impl Observer for Watch {
    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        for symptom in self.look(snapshot.record, snapshot.models)? {
            tracing::warn!(step = snapshot.record.step, "{symptom}");
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::super::fake::FakeModels;
    use super::*;

    fn healthy(step: u64) -> Record {
        Record {
            step,
            wasserstein_estimate: 1.0 + (step as f64).sin() / 4.0,
            critic_loss: -1.0 + (step as f64).sin() / 4.0,
            penalty: 0.1,
            generator_loss: 0.3,
            gradient_norm: 1.0,
            ..Default::default()
        }
    }

    /// The steps at which something is told, with what it is.
    fn told(
        watch: &mut Watch,
        models: &FakeModels,
        steps: std::ops::RangeInclusive<u64>,
        make: impl Fn(u64) -> Record,
    ) -> Vec<(u64, Symptom)> {
        steps
            .flat_map(|step| {
                let shown = watch.look(&make(step), models).unwrap();
                shown.into_iter().map(move |symptom| (step, symptom))
            })
            .collect()
    }

    fn watch() -> Watch {
        Watch::new(Lipschitz::gradient_penalty())
    }

    #[test]
    fn a_healthy_run_is_left_in_peace() {
        let models = FakeModels::new(DType::F32);
        assert_eq!(told(&mut watch(), &models, 1..=5_000, healthy), []);
        // A critic that is at its beginning, or whose losses are small by nature, is healthy too.
        let small = |step| Record {
            wasserstein_estimate: 1e-6 * step as f64,
            critic_loss: -1e-6 * step as f64,
            gradient_norm: 1e-3,
            ..healthy(step)
        };
        assert_eq!(told(&mut watch(), &models, 1..=5_000, small), []);
        // Nothing is many times as large as 0.
        let late =
            |step| Record { critic_loss: if step < 200 { 0.0 } else { -1e-3 }, ..healthy(step) };
        assert_eq!(told(&mut watch(), &models, 1..=300, late), []);
    }

    #[test]
    fn an_explosion_is_told_once_and_again_when_it_comes_again() {
        let models = FakeModels::new(DType::F32);
        let explodes = |step: u64| match step {
            300..=310 | 700 => Record { critic_loss: 5e3, ..healthy(step) },
            _ => healthy(step),
        };
        let told = told(&mut watch(), &models, 1..=1_000, explodes);
        assert_eq!(told.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [300, 700]);
        let text = told[0].1.to_string();
        assert!(text.contains("5.000e3") && text.contains("lower learning rate"), "{text}");
    }

    #[test]
    fn a_constant_critic_and_a_vanished_gradient_are_told_apart() {
        let models = FakeModels::new(DType::F32);
        for (estimate, gradient_norm, constant) in
            [(0.0, 0.0, true), (-1e-8, 1e-8, true), (1.0, 1e-7, false), (1.0, 0.0, false)]
        {
            let breaks = |step: u64| match step {
                50.. => Record { wasserstein_estimate: estimate, gradient_norm, ..healthy(step) },
                _ => healthy(step),
            };
            let told = told(&mut watch(), &models, 1..=1_100, breaks);
            // After twenty steps, and a thousand later as it lasts.
            assert_eq!(told.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [69, 1_069]);
            for (_, symptom) in told {
                let is_constant = matches!(symptom, Symptom::ConstantCritic { .. });
                let is_vanished = matches!(symptom, Symptom::VanishedGradient { .. });
                assert_eq!((is_constant, is_vanished), (constant, !constant), "{symptom}");
            }
        }
        // One that has always been a constant.
        let dead = |step| Record { wasserstein_estimate: 0.0, gradient_norm: 0.0, ..healthy(step) };
        assert_eq!(told(&mut watch(), &models, 1..=30, dead).len(), 1);
    }

    #[test]
    fn saturated_bounds_are_told_under_clipping_alone() {
        let weights = |at: usize| {
            let values: Vec<f32> = (0..100).map(|i| if i < at { -0.01 } else { 0.001 }).collect();
            let weights = Some(Tensor::from_vec(values, 100, &Device::Cpu).unwrap());
            FakeModels { weights, ..FakeModels::new(DType::F32) }
        };
        let clip = || Watch::new(Lipschitz::Clip { c: 0.01 });
        assert_eq!(told(&mut clip(), &weights(98), 1..=1_000, healthy), []);
        assert_eq!(told(&mut watch(), &weights(100), 1..=1_000, healthy), []);
        let told = told(&mut clip(), &weights(100), 1..=1_150, healthy);
        let expected = Symptom::SaturatedClipping { share: 1.0, c: 0.01 };
        assert_eq!(told, [(100, expected), (1_100, expected)]);
        assert!(told[0].1.to_string().starts_with("100% of the critic's weights"));
    }
}
