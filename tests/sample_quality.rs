//! Measures of sample quality against the packages that the field computes them with: `tests/pytorch/metrics.py`.
#![cfg(feature = "metrics")]

mod support;

use candle_core::{DType, Tensor};
use support::{assert_number, draw, draw_classes};
use wgan::Result;
use wgan::metrics::{
    Gaussian, InceptionScore, KernelDistance, ModeCoverage, MsSsim, Points, density_coverage,
    precision_recall,
};

const DIMS: usize = 24;
const EXACT: f64 = 1e-9;

struct Figures(serde_json::Value);

impl Figures {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pytorch/metrics.json");
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self(serde_json::from_str(&text).unwrap())
    }

    fn number(&self, name: &str) -> f64 {
        self.0[name].as_f64().unwrap_or_else(|| panic!("no number {name}"))
    }

    fn numbers<const N: usize>(&self, name: &str) -> [f64; N] {
        std::array::from_fn(|i| {
            self.0[name][i].as_f64().unwrap_or_else(|| panic!("no {name}[{i}]"))
        })
    }
}

/// The script's features.
fn features(name: &str, count: usize) -> Tensor {
    let mixing = draw("metrics/mixing", (DIMS, DIMS), DType::F64);
    let features = draw(name, (count, DIMS), DType::F64);
    features.matmul(&mixing).unwrap().relu().unwrap()
}

fn points(name: &str, count: usize) -> Points {
    Points::from_tensor(&features(name, count)).unwrap()
}

#[test]
fn frechet_distances() -> Result<()> {
    let figures = Figures::read();
    let of = |name, count| Gaussian::of(&points(name, count));
    let (real, generated) = (of("metrics/real", 400)?, of("metrics/generated", 300)?);
    assert_number(real.frechet_distance(&generated)?, figures.number("frechet"), EXACT, "Frechet");
    assert_number(generated.frechet_distance(&real)?, figures.number("frechet"), EXACT, "Frechet");

    // Fewer samples than dimensions.
    let (few, fewer) = (of("metrics/few", 9)?, of("metrics/fewer", 5)?);
    let expected = figures.number("frechet_few");
    assert_number(few.frechet_distance(&generated)?, expected, EXACT, "one singular");
    let expected = figures.number("frechet_few_few");
    assert_number(few.frechet_distance(&fewer)?, expected, EXACT, "both singular");
    // Given as matrices, nothing is known of the samples.
    let matrix = |g: &Gaussian| Gaussian::new(g.mean().to_vec(), g.covariance().to_vec());
    let singular = matrix(&few)?.frechet_distance(&matrix(&fewer)?)?;
    assert_number(singular, expected, EXACT, "both singular, as matrices");
    Ok(())
}

#[test]
fn kernel_distances() -> Result<()> {
    let figures = Figures::read();
    let real = Points::from_tensor(&features("metrics/real", 400).narrow(0, 0, 300)?)?;
    let generated = points("metrics/generated", 300);
    let whole = KernelDistance { subsets: 3, subset_size: 300, ..Default::default() };
    let found = whole.between(&real, &generated)?;
    assert_number(found.mean, figures.number("kernel"), EXACT, "the default kernel");
    assert!(found.deviation < 1e-12, "each subset is the whole set");
    let other = KernelDistance { degree: 2, gamma: Some(0.5), coefficient: 0.25, ..whole };
    let found = other.between(&real, &generated)?;
    assert_number(found.mean, figures.number("kernel_other"), EXACT, "another kernel");
    Ok(())
}

#[test]
fn inception_scores() -> Result<()> {
    let figures = Figures::read();
    let logits = (draw("metrics/logits", (103, 7), DType::F64) * 4.0)?;
    let probabilities = candle_nn::ops::softmax(&logits, 1)?;
    for (splits, name) in [(1, "inception_score_1"), (10, "inception_score_10")] {
        let mut score = InceptionScore::new(103, splits)?;
        for first in (0..103).step_by(20) {
            let batch = probabilities.narrow(0, first, 20.min(103 - first))?;
            score.add(&Points::from_tensor(&batch)?)?;
        }
        let (found, [mean, deviation]) = (score.finish()?, figures.numbers(name));
        assert_number(found.mean, mean, EXACT, name);
        assert_number(found.deviation, deviation, EXACT, name);
    }
    Ok(())
}

#[test]
fn neighbourhoods() -> Result<()> {
    let figures = Figures::read();
    let (real, generated) = (points("metrics/real", 400), points("metrics/generated", 300));
    for (k, name) in [(3, "prdc_3"), (5, "prdc_5")] {
        let manifolds = precision_recall(&real, &generated, k)?;
        let balls = density_coverage(&real, &generated, k)?;
        let found = [manifolds.precision, manifolds.recall, balls.density, balls.coverage];
        for (found, expected) in found.into_iter().zip(figures.numbers::<4>(name)) {
            assert_number(found, expected, 1e-12, name);
        }
    }
    Ok(())
}

#[test]
fn coverage_of_modes() -> Result<()> {
    let figures = Figures::read();
    let centres = (draw("metrics/centres", (15, 2), DType::F64) * 3.0)?;
    let samples = (draw("metrics/samples_of_modes", (400, 2), DType::F64) * 3.0)?;
    let mut samples = Points::from_tensor(&samples)?.values().to_vec();
    samples.iter_mut().filter(|x| **x > 1.0).for_each(|x| *x -= 2.0);
    let (samples, centres) = (Points::new(samples, 2)?, Points::from_tensor(&centres)?);
    let found = ModeCoverage::of_mixture(&samples, &centres, 0.15)?;
    let [modes, high_quality, reverse_kl] = figures.numbers("coverage_of_mixture");
    assert_eq!((found.found as f64, found.modes), (modes, 15));
    let share = found.high_quality.expect("a share");
    assert_number(share, high_quality, 1e-12, "the share of high quality");
    assert_number(found.reverse_kl, reverse_kl, 1e-12, "the divergence of a mixture");

    let real = draw("metrics/shares", 50, DType::F64).to_vec1::<f64>()?;
    let sum: f64 = real.iter().map(|share| share + 1.5).sum();
    let real: Vec<f64> = real.iter().map(|share| (share + 1.5) / sum).collect();
    let classes = draw_classes("metrics/classes", 80, 50).to_vec1::<u32>()?;
    let found = ModeCoverage::of_classes(&classes, &real)?;
    let [modes, reverse_kl] = figures.numbers("coverage_of_classes");
    assert_eq!((found.found as f64, found.modes), (modes, 50));
    assert_number(found.reverse_kl, reverse_kl, 1e-12, "the divergence of classes");
    Ok(())
}

#[test]
fn structural_similarities() -> Result<()> {
    let figures = Figures::read();
    let shape = (2, 3, 165, 171);
    let x = draw("metrics/images", shape, DType::F64);
    let y = ((&x * 0.8)? + (draw("metrics/noise", shape, DType::F64) * 0.2)?)?;
    let small = |x: &Tensor| x.narrow(2, 0, 21)?.narrow(3, 0, 24);
    for (found, name) in [
        (MsSsim::default().between(&x, &y)?, "ms_ssim_5"),
        (MsSsim::default().between(&(&x * 0.02)?, &(&y * 0.02)?)?, "ms_ssim_grey"),
        (MsSsim::scales(1)?.between(&small(&x)?, &small(&y)?)?, "ms_ssim_1"),
    ] {
        for (found, expected) in found.into_iter().zip(figures.numbers::<2>(name)) {
            assert_number(found, expected, EXACT, name);
        }
    }
    Ok(())
}
