//! Parameter updates in place, one pass over memory for each tensor that changes.

use super::parallel::for_each_chunk;
use super::{CHUNK, Real};

/// `average = decay * average + (1 - decay) * gradient`
pub(crate) fn average<T: Real>(average: &mut [T], gradient: &[T], decay: f64) {
    let keep = <T as candle_core::WithDType>::from_f64(decay);
    let take = <T as candle_core::WithDType>::from_f64(1.0 - decay);
    zip_mut(average, gradient, |average, gradient| keep * average + take * gradient);
}

/// `average = decay * average + (1 - decay) * gradient^2`
pub(crate) fn average_of_squares<T: Real>(average: &mut [T], gradient: &[T], decay: f64) {
    let keep = <T as candle_core::WithDType>::from_f64(decay);
    let take = <T as candle_core::WithDType>::from_f64(1.0 - decay);
    zip_mut(average, gradient, |average, gradient| keep * average + take * gradient * gradient);
}

/// `parameter -= rate * direction / (sqrt(square) * scale + eps)`
pub(crate) fn descend<T: Real>(
    parameter: &mut [T],
    direction: &[T],
    square: &[T],
    rate: f64,
    scale: f64,
    eps: f64,
) {
    let [rate, scale, eps] = [rate, scale, eps].map(<T as candle_core::WithDType>::from_f64);
    for_each_chunk(parameter, CHUNK, |offset, parameter| {
        let pairs = direction[offset..].iter().zip(&square[offset..]);
        pulp::Arch::new().dispatch(|| {
            for (parameter, (&direction, &square)) in parameter.iter_mut().zip(pairs) {
                *parameter -= rate * direction / (square.sqrt() * scale + eps);
            }
        });
    });
}

/// `target = keep * target + take * source`
pub(crate) fn combine<T: Real>(target: &mut [T], keep: f64, source: &[T], take: f64) {
    let [keep, take] = [keep, take].map(<T as candle_core::WithDType>::from_f64);
    zip_mut(target, source, |target, source| keep * target + take * source);
}

/// `target = factor * target`
pub(crate) fn scale<T: Real>(target: &mut [T], factor: f64) {
    let factor = <T as candle_core::WithDType>::from_f64(factor);
    for_each_chunk(target, CHUNK, |_, target| {
        pulp::Arch::new().dispatch(|| {
            for x in target.iter_mut() {
                *x *= factor;
            }
        });
    });
}

/// `target = keep * target + take * direction / (sqrt(max(square - mean^2, 0)) + eps)`: a step, or a momentum, along a
/// direction divided by its deviation.
pub(crate) fn combine_centred<T: Real>(
    target: &mut [T],
    [keep, take, eps]: [f64; 3],
    direction: &[T],
    square: &[T],
    mean: &[T],
) {
    let [keep, take, eps] = [keep, take, eps].map(<T as candle_core::WithDType>::from_f64);
    for_each_chunk(target, CHUNK, |offset, target| {
        let sources = direction[offset..].iter().zip(&square[offset..]).zip(&mean[offset..]);
        pulp::Arch::new().dispatch(|| {
            for (target, ((&direction, &square), &mean)) in target.iter_mut().zip(sources) {
                let variance = square - mean * mean;
                // Rounding can take it below 0, where a root is NaN. A NaN stays one.
                let variance = if variance < T::zero() { T::zero() } else { variance };
                *target = keep * *target + take * direction / (variance.sqrt() + eps);
            }
        });
    });
}

/// `buffer = momentum * buffer + direction / (sqrt(square) + eps)`
pub(crate) fn accumulate_normalised<T: Real>(
    buffer: &mut [T],
    momentum: f64,
    direction: &[T],
    square: &[T],
    eps: f64,
) {
    let [momentum, eps] = [momentum, eps].map(<T as candle_core::WithDType>::from_f64);
    for_each_chunk(buffer, CHUNK, |offset, buffer| {
        let pairs = direction[offset..].iter().zip(&square[offset..]);
        pulp::Arch::new().dispatch(|| {
            for (buffer, (&direction, &square)) in buffer.iter_mut().zip(pairs) {
                *buffer = momentum * *buffer + direction / (square.sqrt() + eps);
            }
        });
    });
}

/// `parameter -= rate * (gradient + momentum * buffer)`
pub(crate) fn descend_nesterov<T: Real>(
    parameter: &mut [T],
    gradient: &[T],
    buffer: &[T],
    rate: f64,
    momentum: f64,
) {
    let [rate, momentum] = [rate, momentum].map(<T as candle_core::WithDType>::from_f64);
    for_each_chunk(parameter, CHUNK, |offset, parameter| {
        let pairs = gradient[offset..].iter().zip(&buffer[offset..]);
        pulp::Arch::new().dispatch(|| {
            for (parameter, (&gradient, &buffer)) in parameter.iter_mut().zip(pairs) {
                *parameter -= rate * (gradient + momentum * buffer);
            }
        });
    });
}

/// Clamps each element to `[-bound, bound]`. NaN stays NaN, so that it is seen.
pub(crate) fn clamp<T: Real>(elements: &mut [T], bound: f64) {
    let bound = <T as candle_core::WithDType>::from_f64(bound);
    for_each_chunk(elements, CHUNK, |_, elements| {
        pulp::Arch::new().dispatch(|| {
            for x in elements.iter_mut() {
                *x = if *x > bound {
                    bound
                } else if *x < -bound {
                    -bound
                } else {
                    *x
                };
            }
        });
    });
}

fn zip_mut<T: Real>(target: &mut [T], source: &[T], f: impl Fn(T, T) -> T + Sync) {
    for_each_chunk(target, CHUNK, |offset, target| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (target, &source) in target.iter_mut().zip(&source[offset..]) {
                    *target = f(*target, source);
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::values;

    #[test]
    fn every_update_equals_its_formula() {
        let n = 5 * CHUNK + 5;
        let (start, g) = (values::<f64>(n, 1), values::<f64>(n, 2));
        let square: Vec<f64> = values::<f64>(n, 3).iter().map(|x| x * x).collect();

        let mut x = start.clone();
        average(&mut x, &g, 0.9);
        for i in 0..n {
            assert_eq!(x[i], 0.9 * start[i] + (1.0 - 0.9) * g[i]);
        }
        let mut x = start.clone();
        average_of_squares(&mut x, &g, 0.9);
        for i in 0..n {
            assert_eq!(x[i], 0.9 * start[i] + (1.0 - 0.9) * g[i] * g[i]);
        }
        let mut x = start.clone();
        descend(&mut x, &g, &square, 0.1, 2.0, 1e-8);
        for i in 0..n {
            assert_eq!(x[i], start[i] - 0.1 * g[i] / (square[i].sqrt() * 2.0 + 1e-8));
        }
        let mut x = start.clone();
        combine(&mut x, 0.7, &g, -0.2);
        for i in 0..n {
            assert_eq!(x[i], 0.7 * start[i] + -0.2 * g[i]);
        }
        let mut x = start.clone();
        scale(&mut x, 0.7);
        for i in 0..n {
            assert_eq!(x[i], start[i] * 0.7);
        }
        let mean = values::<f64>(n, 4);
        let mut x = start.clone();
        combine_centred(&mut x, [0.7, -0.2, 1e-3], &g, &square, &mean);
        for i in 0..n {
            let deviation = (square[i] - mean[i] * mean[i]).max(0.0).sqrt();
            assert_eq!(x[i], 0.7 * start[i] + -0.2 * g[i] / (deviation + 1e-3));
        }
        let mut x = start.clone();
        accumulate_normalised(&mut x, 0.7, &g, &square, 1e-3);
        for i in 0..n {
            assert_eq!(x[i], 0.7 * start[i] + g[i] / (square[i].sqrt() + 1e-3));
        }
        let mut x = start.clone();
        descend_nesterov(&mut x, &g, &mean, 0.1, 0.9);
        for i in 0..n {
            assert_eq!(x[i], start[i] - 0.1 * (g[i] + 0.9 * mean[i]));
        }
        let mut x = start.clone();
        clamp(&mut x, 0.25);
        for i in 0..n {
            assert_eq!(x[i], start[i].clamp(-0.25, 0.25));
        }
    }

    #[test]
    fn clamp_keeps_nan() {
        let mut x = [f32::NAN, f32::INFINITY];
        clamp(&mut x, 1.0);
        assert!(x[0].is_nan() && x[1] == 1.0);
    }
}
