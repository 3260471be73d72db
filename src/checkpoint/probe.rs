//! Whether models are the ones that a checkpoint was made from.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// What two models make of fixed latent points.
///
/// Names and shapes of tensors do not show which layers lie between them: another activation, another slope, another
/// order. What comes out does.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// The generator's samples in evaluation mode.
    pub samples: Tensor,
    /// The critic's scores of them.
    pub scores: Tensor,
}

/// How two probes compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeOutcome {
    /// To the last bit.
    Same,
    /// As a device or a processor gives it that rounds otherwise.
    Rounded,
    /// Not the same models.
    Other,
}

impl Probe {
    /// Latent points in a probe.
    pub(crate) const POINTS: usize = 2;
    /// Relative to the largest number: rounding is some thousand times smaller, another layer some times larger.
    const TOLERANCE: f64 = 1e-3;

    /// What differs from a checkpoint's probe.
    pub(crate) fn compare(&self, checkpoint: &Self) -> Result<(ProbeOutcome, Vec<String>)> {
        let mut outcome = ProbeOutcome::Same;
        let mut differences = Vec::new();
        for (what, ours, theirs) in [
            (
                "the generator makes other samples of the same latent points",
                &self.samples,
                &checkpoint.samples,
            ),
            ("the critic gives the same samples other scores", &self.scores, &checkpoint.scores),
        ] {
            let (ours, theirs) = (numbers(ours)?, numbers(theirs)?);
            let pairs = || ours.iter().zip(&theirs);
            if ours.len() == theirs.len() && pairs().all(|(a, b)| a.to_bits() == b.to_bits()) {
                continue;
            }
            let size = theirs.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= Self::TOLERANCE * size;
            if ours.len() == theirs.len() && pairs().all(near) {
                outcome = ProbeOutcome::Rounded;
                continue;
            }
            differences.push(format!(
                "{what} with the checkpoint's parameters ({} where the checkpoint has {}): the layers between the \
                 tensors differ, such as an activation or its slope",
                shown(&ours),
                shown(&theirs)
            ));
        }
        if !differences.is_empty() {
            outcome = ProbeOutcome::Other;
        }
        Ok((outcome, differences))
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let on_host = tensor.to_device(&candle_core::Device::Cpu)?;
    Ok(on_host.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

fn shown(numbers: &[f64]) -> String {
    numbers.first().map_or("nothing".into(), |first| format!("{first:.6e}"))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rounding_is_told_from_another_model() -> Result<()> {
        let probe = |numbers: &[f32]| Probe {
            samples: Tensor::new(&[1f32, -2.0], &Device::Cpu).unwrap(),
            scores: Tensor::new(numbers, &Device::Cpu).unwrap(),
        };
        // Scores of a clipped critic are this small.
        let base = probe(&[1e-6, -3e-6]);
        for (other, expected) in [
            (probe(&[1e-6, -3e-6]), ProbeOutcome::Same),
            (probe(&[1.000_001e-6, -3e-6]), ProbeOutcome::Rounded),
            (probe(&[1.1e-6, -3e-6]), ProbeOutcome::Other),
            (probe(&[f32::NAN, -3e-6]), ProbeOutcome::Other),
            (probe(&[1e-6]), ProbeOutcome::Other),
        ] {
            let (outcome, differences) = other.compare(&base)?;
            assert_eq!(outcome, expected);
            assert_eq!(differences.len(), usize::from(expected == ProbeOutcome::Other));
            assert!(differences.iter().all(|text| text.contains("the critic")), "{differences:?}");
        }
        let nan = probe(&[f32::NAN]);
        assert_eq!(nan.compare(&nan)?.0, ProbeOutcome::Same);
        Ok(())
    }
}
