//! What the classifier of digits that comes with the crate is worth.
#![cfg(all(feature = "idx", feature = "metrics"))]

use candle_core::{DType, Device, Tensor};
use wgan::data::mnist::{self, Split};
use wgan::metrics::{Features, Measure, MnistClassifier, Quality, batches_of};
use wgan::random::Stream;
use wgan::{Error, Result};

const AT_ONCE: usize = 500;

#[test]
fn it_tells_the_test_digits_and_their_quality() -> Result<()> {
    let network = MnistClassifier::shipped()?;
    let test = mnist::load(concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"), Split::Test)?;
    let mut found = Vec::new();
    for batch in batches_of(test.samples(), AT_ONCE) {
        found.extend(network.classify(&batch?)?);
    }
    let labels = test.labels().expect("labels");
    let right = found.iter().zip(labels).filter(|(found, label)| found == label).count();
    assert!(right as f64 >= 0.99 * labels.len() as f64, "{right} of {}", labels.len());

    // Other real digits are near, noisy ones are further and noise alone is far.
    let part = |first| test.samples().narrow(0, first, 1000);
    let measures = [Measure::FrechetDistance, Measure::InceptionScore { splits: 5 }];
    let quality = Quality::new(network, measures, batches_of(&part(0)?, AT_ONCE))?;
    let noise = Stream::new(1, "noise", 0).normal((1000, 1, 28, 28), DType::F32, &Device::Cpu)?;
    let noisy = |share: f64| (part(5000)? + (&noise * share)?)?.clamp(-1f32, 1f32);
    let (mut distances, mut sure) = (Vec::new(), Vec::new());
    for share in [0.0, 0.5, 100.0] {
        let scores = quality.measure(1000, batches_of(&noisy(share)?, AT_ONCE))?;
        println!("{} | {}", scores[0], scores[1]);
        let printed = scores[0].to_string();
        let expected = "(features: mnist-cnn-1, 1000 against 1000 samples)";
        assert!(
            printed.starts_with("Frechet distance ") && printed.ends_with(expected),
            "{printed}"
        );
        assert_eq!(scores[1].name(), "inception_score[splits=5] (mnist-cnn-1)");
        distances.push(scores[0].value);
        sure.push((scores[1].value, scores[1].deviation.expect("a deviation")));
    }
    // By NumPy, in float64 from the network's weights on.
    let (mean, deviation) = sure[0];
    assert!((mean - 9.757_497_077).abs() < 1e-4, "{mean}");
    assert!((deviation - 0.089_326_778).abs() < 1e-4, "{deviation}");
    assert!(mean > sure[1].0 + 0.1 && sure[1].0 > sure[2].0 + 0.1, "{sure:?}");
    assert!(distances.is_sorted() && distances[2] > 10.0 * distances[0], "{distances:?}");
    let wrong = quality.measure(999, batches_of(&part(0)?, AT_ONCE)).unwrap_err();
    assert!(matches!(wrong, Error::InvalidConfig { .. }), "{wrong}");
    Ok(())
}

#[test]
fn stacked_digits_are_numbers_of_three_digits() -> Result<()> {
    let network = MnistClassifier::shipped()?;
    let test = mnist::load(concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist"), Split::Test)?;
    let digits = test.samples().narrow(0, 0, 30)?;
    let stacked = digits.reshape((10, 3, 28, 28))?;
    let single = network.classify(&digits)?;
    let expected: Vec<u32> =
        single.chunks(3).map(|d| d.iter().fold(0, |number, digit| 10 * number + digit)).collect();
    assert_eq!(network.classify_stacked(&stacked)?, expected);
    assert!(matches!(network.classify_stacked(&digits), Err(Error::Shape { .. })));
    let large = Tensor::zeros((1, 1, 32, 32), DType::F32, &Device::Cpu)?;
    assert!(matches!(network.outputs(&large), Err(Error::Shape { .. })));
    Ok(())
}

#[test]
fn no_digit_is_seen_in_values_that_are_not_finite() {
    let network = MnistClassifier::shipped().unwrap();
    // Finite pixels can be so large that the network's sums are not.
    for value in [f32::NAN, f32::INFINITY, f32::MAX, -f32::MAX, 1e38] {
        let images = Tensor::full(value, (2, 1, 28, 28), &Device::Cpu).unwrap();
        let error = network.classify(&images).unwrap_err();
        assert!(matches!(error, Error::NonFiniteData { .. }), "{error}");
        let stacked = Tensor::full(value, (2, 3, 28, 28), &Device::Cpu).unwrap();
        assert!(network.classify_stacked(&stacked).is_err());
    }
}
