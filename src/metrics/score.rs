//! A figure that says what it was measured with.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ModeCoverage;

/// One figure of sample quality, which prints with all that it depends on:
/// `Frechet distance 3.210 (features: mnist-cnn-1, 10000 against 10000 samples)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What it is, such as `frechet_distance`, with the settings that are not the usual ones, such
    /// as `precision[k=5]`.
    pub measure: String,
    /// The figure: finite.
    pub value: f64,
    /// The standard deviation of the repetitions whose mean it is, where it is one.
    pub deviation: Option<f64>,
    /// The network whose features or classes it was measured with, where it was.
    pub features: Option<String>,
    /// The generated samples.
    pub samples: usize,
    /// The real samples that they were compared with, where they were.
    pub real: Option<usize>,
}

impl Score {
    /// The name of the figure in a run's history, which tells the network: `frechet_distance (mnist-cnn-1)`.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.features {
            Some(features) => format!("{} ({features})", self.measure),
            None => self.measure.clone(),
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.measure.replace('_', " ");
        let first = words.chars().next().into_iter().flat_map(char::to_uppercase);
        let (first, value) = (first.collect::<String>(), digits(self.value));
        write!(f, "{first}{} {value}", words.get(1..).unwrap_or(""))?;
        if let Some(deviation) = self.deviation {
            write!(f, " +- {}", digits(deviation))?;
        }
        f.write_str(" (")?;
        if let Some(features) = &self.features {
            write!(f, "features: {features}, ")?;
        }
        match self.real {
            Some(real) => write!(f, "{} against {real} samples)", self.samples),
            None => write!(f, "{} samples)", self.samples),
        }
    }
}

/// With four digits that mean something.
fn digits(value: f64) -> String {
    let exponent = value.abs().log10().floor();
    match exponent {
        -4.0..=5.0 => format!("{value:.*}", (3.0 - exponent).max(0.0) as usize),
        _ if value == 0.0 => "0".into(),
        _ => format!("{value:.3e}"),
    }
}

impl ModeCoverage {
    /// The figures as scores: `modes`, `reverse_kl` and, where there is one, `high_quality_share`. `features` is the classifier
    /// that told the classes, where one did.
    #[must_use]
    pub fn scores(&self, samples: usize, features: Option<&str>) -> Vec<Score> {
        let figures = [
            ("modes", Some(self.found as f64)),
            ("reverse_kl", Some(self.reverse_kl)),
            ("high_quality_share", self.high_quality),
        ];
        let score = |(measure, value): (&str, Option<f64>)| {
            Some(Score {
                measure: measure.into(),
                value: value?,
                deviation: None,
                features: features.map(str::to_owned),
                samples,
                real: None,
            })
        };
        figures.into_iter().filter_map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_what_it_depends_on() {
        let score = Score {
            measure: "frechet_distance".into(),
            value: 3.21,
            deviation: None,
            features: Some("mnist-cnn-1".into()),
            samples: 10_000,
            real: Some(9_000),
        };
        let expected = "Frechet distance 3.210 (features: mnist-cnn-1, 10000 against 9000 samples)";
        assert_eq!(score.to_string(), expected);
        assert_eq!(score.name(), "frechet_distance (mnist-cnn-1)");
        let own = Score { deviation: Some(0.000_123_46), features: None, real: None, ..score };
        assert_eq!(own.to_string(), "Frechet distance 3.210 +- 0.0001235 (10000 samples)");
        assert_eq!(own.name(), "frechet_distance");
    }

    #[test]
    fn four_digits_of_any_figure() {
        for (value, expected) in [
            (0.0, "0"),
            (1e-4, "0.0001000"),
            (-0.012_345_6, "-0.01235"),
            (26.0, "26.00"),
            (123_456.7, "123457"),
            (1.234_56e-9, "1.235e-9"),
            (1.234_56e9, "1.235e9"),
        ] {
            assert_eq!(digits(value), expected);
        }
    }
}
