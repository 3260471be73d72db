//! Convolutions in a critic, first and second order, against central differences.
//!
//! Strides that step over the edge of a non-square input are in, where candle's own gradient rule takes the width's
//! output padding to be the height's.

use candle_core::{DType, Device, Tensor};
use candle_nn::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig,
};
use wgan::random::Stream;
use wgan::second_order::Layer;
use wgan::{Critic, ModelBuilder, Network, Result, Traced};

/// One convolution, a smooth activation, and a weighted sum: the second order sees all of it.
struct OneLayer<L>(L);

impl<L: Layer> Critic for OneLayer<L> {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        let h = samples.apply(&self.0)?.tanh()?.flatten_from(1)?;
        h.sqr()?.add(&h)?.sum(1)
    }
}

fn penalty<C: Critic>(critic: &C, x: &Tensor) -> Result<Tensor> {
    let (_, gradient) = critic.scores_and_gradient(x)?;
    let norms = gradient.flatten_from(1)?.sqr()?.sum(1)?.sqrt()?;
    Ok(norms.affine(1.0, -1.0)?.sqr()?.mean_all()?)
}

fn number(tensor: Tensor) -> f64 {
    tensor.to_scalar().unwrap()
}

/// The derivative of `f` along each element of `at` by central differences.
fn differences(at: &Tensor, mut f: impl FnMut(&Tensor) -> f64) -> Vec<f64> {
    let values: Vec<f64> = at.flatten_all().unwrap().to_vec1().unwrap();
    let h = 1e-5;
    (0..values.len())
        .map(|i| {
            let mut shifted = |by: f64| {
                let mut values = values.clone();
                values[i] += by;
                f(&Tensor::from_vec(values, at.dims(), &Device::Cpu).unwrap())
            };
            (shifted(h) - shifted(-h)) / (2.0 * h)
        })
        .collect()
}

fn assert_near(got: &Tensor, expected: &[f64], what: &str) {
    let got: Vec<f64> = got.flatten_all().unwrap().to_vec1().unwrap();
    let size = expected.iter().fold(1f64, |m, e| m.max(e.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-7 * size, "{what}: {got} for {expected}");
    }
}

fn check<L: Layer>(network: &Network<OneLayer<L>>, shape: &[usize], what: &str) {
    let x = Stream::new(3, what, 0).normal(shape.to_vec(), DType::F64, &Device::Cpu).unwrap();
    let critic = network.model();
    let (_, gradient) = critic.scores_and_gradient(&x).unwrap();
    let sum = |x: &Tensor| number(critic.scores(x).unwrap().sum_all().unwrap());
    assert_near(&gradient, &differences(&x, sum), &format!("{what}, first order"));

    let gradients = penalty(critic, &x).unwrap().backward().unwrap();
    for (name, var) in network.parameters().trained() {
        let start = var.as_tensor().copy().unwrap().detach();
        let expected = differences(&start, |value| {
            var.set(value).unwrap();
            number(penalty(critic, &x).unwrap())
        });
        var.set(&start).unwrap();
        assert_near(
            gradients.get(var).unwrap(),
            &expected,
            &format!("{what}, second order, {name}"),
        );
    }
}

#[test]
fn conv2d_of_every_stride_and_padding() {
    for (height, width) in [(5, 5), (6, 5), (5, 7), (6, 7)] {
        for (kernel, padding, stride, dilation, groups) in [
            (3, 1, 1, 1, 1),
            (3, 0, 2, 1, 1),
            (3, 1, 2, 1, 1),
            (4, 1, 2, 1, 1),
            (2, 1, 3, 1, 1),
            (2, 0, 1, 2, 1),
            (3, 1, 2, 1, 2),
            (1, 0, 1, 1, 1),
        ] {
            let config = Conv2dConfig { padding, stride, dilation, groups, ..Default::default() };
            let network = ModelBuilder::new(1)
                .dtype(DType::F64)
                .critic(|vb| Ok(OneLayer::<Conv2d>(candle_nn::conv2d(2, 4, kernel, config, vb)?)))
                .unwrap();
            let what = format!("{height}x{width}, kernel {kernel}, {config:?}");
            check(&network, &[2, 2, height, width], &what);
        }
    }
}

#[test]
fn conv1d_has_a_second_order() {
    for (padding, stride, dilation, groups) in
        [(0, 1, 1, 1), (1, 2, 1, 1), (2, 3, 2, 1), (1, 1, 1, 2)]
    {
        let config = Conv1dConfig { padding, stride, dilation, groups, ..Default::default() };
        let network = ModelBuilder::new(1)
            .dtype(DType::F64)
            .critic(|vb| Ok(OneLayer::<Conv1d>(candle_nn::conv1d(2, 4, 3, config, vb)?)))
            .unwrap();
        check(&network, &[2, 2, 9], &format!("{config:?}"));
    }
}

#[test]
fn conv_transpose2d_of_every_stride_and_padding() {
    for (padding, output_padding, stride) in [(0, 0, 1), (1, 0, 2), (1, 1, 2)] {
        let config =
            ConvTranspose2dConfig { padding, output_padding, stride, ..Default::default() };
        let network = ModelBuilder::new(1)
            .dtype(DType::F64)
            .critic(|vb| {
                let layer = candle_nn::conv_transpose2d(2, 3, 3, config, vb)?;
                Ok(OneLayer::<ConvTranspose2d>(layer))
            })
            .unwrap();
        check(&network, &[2, 2, 3, 4], &format!("{config:?}"));
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let network = ModelBuilder::new(1)
        .critic(|vb| Ok(OneLayer(candle_nn::conv2d(2, 4, 3, Default::default(), vb)?)))
        .unwrap();
    for shape in [&[2, 3, 5, 5][..], &[2, 2, 2, 2], &[2, 2, 5], &[2]] {
        let x = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let error = network.model().scores_and_gradient(&x).unwrap_err();
        assert!(matches!(error, wgan::Error::Shape { .. }), "{shape:?}: {error}");
    }
}
