//! Every layer by itself against PyTorch: output, first and second derivatives, for input and parameters.
//!
//! `tests/pytorch/layers.py` says what is in the reference file. The second derivative is that of
//! `P = sum(v (ds/dx)^2)`, which is to the input gradient what a gradient penalty is to the critic's.

mod support;

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use candle_nn::{BatchNormConfig, Embedding, VarBuilder};
use support::{Reference, relative_distance};
use wgan::layers::{
    Activation, AvgPool2d, BatchNorm, ConditionalBatchNorm, Conv2d, Conv2dConfig, ConvTranspose2d,
    ConvTranspose2dConfig, GroupNorm, InstanceNorm2d, LayerNorm, Linear, PReLU, PixelShuffle,
    SpectralNorm, UpsampleNearest2d,
};
use wgan::second_order::Layer;
use wgan::{Critic, ModelBuilder, Result, Traced};

type Build = fn(VarBuilder) -> Result<Box<dyn Layer>>;

fn conv(
    channels: [usize; 2],
    kernel: (usize, usize),
    config: Conv2dConfig,
    vb: VarBuilder,
) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Conv2d::new(channels[0], channels[1], kernel, config, vb)?))
}

fn transposed(
    channels: [usize; 2],
    kernel: (usize, usize),
    config: ConvTranspose2dConfig,
    vb: VarBuilder,
) -> Result<Box<dyn Layer>> {
    Ok(Box::new(ConvTranspose2d::new(channels[0], channels[1], kernel, config, vb)?))
}

/// Padding 1.
fn same() -> Conv2dConfig {
    Conv2dConfig { padding: 1.into(), ..Default::default() }
}

/// Stride 2, padding 1.
fn double() -> ConvTranspose2dConfig {
    ConvTranspose2dConfig { stride: 2.into(), padding: 1.into(), ..Default::default() }
}

/// The cases of `layers.py` by name, but for those whose layers take labels.
fn cases() -> Vec<(&'static str, Build)> {
    vec![
        ("linear", |vb| Ok(Box::new(Linear::new(5, 3, vb)?))),
        ("linear_no_bias", |vb| Ok(Box::new(Linear::no_bias(5, 3, vb)?))),
        ("conv2d", |vb| conv([3, 4], (3, 3), same(), vb)),
        ("conv2d_stride", |vb| {
            conv([2, 3], (4, 4), Conv2dConfig { stride: 2.into(), ..same() }, vb)
        }),
        ("conv2d_unreached", |vb| {
            conv([2, 3], (3, 3), Conv2dConfig { stride: 2.into(), ..Default::default() }, vb)
        }),
        ("conv2d_asymmetric", |vb| {
            let config = Conv2dConfig {
                stride: (2, 1).into(),
                padding: (1, 0).into(),
                dilation: (1, 2).into(),
                ..Default::default()
            };
            conv([2, 3], (3, 2), config, vb)
        }),
        ("conv2d_groups", |vb| conv([4, 6], (3, 3), Conv2dConfig { groups: 2, ..same() }, vb)),
        ("conv2d_no_bias", |vb| {
            conv([3, 2], (1, 1), Conv2dConfig { bias: false, ..Default::default() }, vb)
        }),
        ("conv_transpose2d", |vb| transposed([3, 2], (4, 4), double(), vb)),
        ("conv_transpose2d_first", |vb| transposed([5, 4], (4, 4), Default::default(), vb)),
        ("conv_transpose2d_output_padding", |vb| {
            let config = ConvTranspose2dConfig { output_padding: 1.into(), ..double() };
            transposed([3, 2], (3, 3), config, vb)
        }),
        ("conv_transpose2d_asymmetric", |vb| {
            let config = ConvTranspose2dConfig {
                stride: (2, 3).into(),
                padding: (1, 0).into(),
                output_padding: (1, 2).into(),
                ..Default::default()
            };
            transposed([2, 3], (3, 4), config, vb)
        }),
        ("conv_transpose2d_groups", |vb| {
            transposed([4, 6], (3, 3), ConvTranspose2dConfig { groups: 2, ..double() }, vb)
        }),
        ("conv_transpose2d_dilation", |vb| {
            let config = ConvTranspose2dConfig { dilation: 2.into(), bias: false, ..double() };
            transposed([2, 3], (3, 3), config, vb)
        }),
        ("layer_norm_sample", |vb| Ok(Box::new(LayerNorm::new(&[3, 5, 4], vb)?))),
        ("layer_norm_last", |vb| Ok(Box::new(LayerNorm::new(&[6], vb)?))),
        ("group_norm_one", |vb| Ok(Box::new(GroupNorm::per_sample(4, vb)?))),
        ("group_norm", |vb| Ok(Box::new(GroupNorm::new(2, 4, vb)?))),
        ("instance_norm", |_| Ok(Box::new(InstanceNorm2d::new(3, "norm")?))),
        ("instance_norm_affine", |vb| Ok(Box::new(InstanceNorm2d::affine(3, vb)?))),
        ("relu", |_| Ok(Box::new(Activation::Relu))),
        ("leaky_relu", |_| Ok(Box::new(Activation::LeakyRelu(0.2)))),
        ("prelu", |vb| Ok(Box::new(PReLU::new(1, vb)?))),
        ("prelu_channels", |vb| Ok(Box::new(PReLU::new(3, vb)?))),
        ("elu", |_| Ok(Box::new(Activation::Elu(1.0)))),
        ("silu", |_| Ok(Box::new(Activation::Silu))),
        ("softplus", |_| Ok(Box::new(Activation::Softplus))),
        ("tanh", |_| Ok(Box::new(Activation::Tanh))),
        ("sigmoid", |_| Ok(Box::new(Activation::Sigmoid))),
        ("avg_pool2d", |_| Ok(Box::new(AvgPool2d::new(2)))),
        ("avg_pool2d_stride", |_| Ok(Box::new(AvgPool2d::new(3).strided(2, 1)))),
        ("upsample", |_| Ok(Box::new(UpsampleNearest2d::new(2)))),
        ("upsample_asymmetric", |_| Ok(Box::new(UpsampleNearest2d::new((2, 3))))),
        ("pixel_shuffle", |_| Ok(Box::new(PixelShuffle::new(2)))),
        ("compose", |vb| {
            let conv = Conv2d::new(2, 3, 3, same(), vb.pp("conv"))?;
            Ok(Box::new(move |x: &Traced| {
                let there_and_back =
                    x.add(&x.tanh()?)?.flatten_from(1)?.reshape(x.dims().to_vec())?;
                Traced::cat(&[&x.apply(&conv)?, &x.mul(x)?, &there_and_back], 1)?.mean((2, 3))
            }))
        }),
        ("residual", |vb| {
            let conv1 = Conv2d::new(4, 4, 3, same(), vb.pp("conv1"))?;
            let norm = GroupNorm::per_sample(4, vb.pp("norm"))?;
            let conv2 = Conv2d::new(4, 4, 3, same(), vb.pp("conv2"))?;
            Ok(Box::new(move |x: &Traced| {
                let h = x.silu()?.apply(&conv1)?.apply(&norm)?.silu()?;
                x.add(&h.apply(&conv2)?)
            }))
        }),
        ("spectral_linear", |vb| Ok(Box::new(SpectralNorm::new(vb, |vb| Linear::new(5, 3, vb))?))),
        ("spectral_conv2d", |vb| {
            Ok(Box::new(SpectralNorm::new(vb, |vb| Conv2d::new(2, 3, 3, same(), vb))?))
        }),
        ("spectral_conv_transpose2d", |vb| {
            Ok(Box::new(SpectralNorm::new(vb, |vb| ConvTranspose2d::new(2, 3, 4, double(), vb))?))
        }),
    ]
}

/// A layer dressed as a critic, so that a builder gives it parameters.
struct Dressed<L>(L);

impl<L> Critic for Dressed<L> {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        Ok(samples.clone())
    }
}

struct Check {
    reference: Reference,
    case: String,
    dtype: DType,
    tolerance: f64,
}

impl Check {
    fn new(case: &str, dtype: DType, tolerance: f64) -> Self {
        let reference = Reference::read("layers.safetensors");
        Self { reference, case: case.into(), dtype, tolerance }
    }

    fn get(&self, what: &str) -> Tensor {
        self.reference.as_type(&format!("{}.{what}", self.case), self.dtype)
    }

    fn close(&self, what: &str, got: &Tensor) {
        let off = relative_distance(got, self.reference.get(&format!("{}.{what}", self.case)));
        assert!(off <= self.tolerance, "{} {what} in {:?}: off by {off:e}", self.case, self.dtype);
    }

    /// Builds the layer with PyTorch's parameters.
    fn build<L>(&self, build: impl FnOnce(VarBuilder) -> Result<L>) -> wgan::Network<Dressed<L>> {
        let network =
            ModelBuilder::new(0).dtype(self.dtype).critic(|vb| Ok(Dressed(build(vb)?))).unwrap();
        let mut tensors = self.reference.below(&format!("{}.param", self.case));
        tensors.extend(self.reference.below(&format!("{}.buffer", self.case)));
        for (name, buffer) in network.parameters().buffers() {
            if name.contains("running") {
                tensors.insert(name.into(), buffer.as_tensor().clone());
            }
        }
        network.parameters().assign(tensors).unwrap();
        network
    }

    fn run(&self, build: impl FnOnce(VarBuilder) -> Result<Box<dyn Layer>>) {
        let network = self.build(build);
        let layer = &*network.model().0;
        self.first_and_second(&network, |x| x.apply(layer));
    }

    /// One pass, whose derivatives of both orders are held to the reference.
    fn first_and_second<L>(
        &self,
        network: &wgan::Network<Dressed<L>>,
        forward: impl Fn(&Traced) -> Result<Traced>,
    ) {
        let x = Var::from_tensor(&self.get("x")).unwrap();
        let input = Traced::input(x.as_tensor());
        let y = forward(&input).unwrap();
        self.close("y", y.value());
        for (name, buffer) in network.parameters().buffers() {
            self.close(&format!("after.{name}"), buffer);
        }
        let cotangent = y.parameter(&self.get("c"));
        let s = y.mul(&cotangent).unwrap();
        let dx = s.gradient(&input).unwrap();
        self.close("dx", &dx);
        let first = s.value().sum_all().unwrap().backward().unwrap();
        self.close("dx", first.get(&x).unwrap());
        let penalty = dx.sqr().unwrap().mul(&self.get("v")).unwrap().sum_all().unwrap();
        let second = penalty.backward().unwrap();
        let or_zeros = |gradient: Option<&Tensor>, like: &Tensor| {
            gradient.cloned().unwrap_or_else(|| like.zeros_like().unwrap())
        };
        self.close("ddx", &or_zeros(second.get(&x), &x));
        for (name, var) in network.parameters().trained() {
            self.close(&format!("dparam.{name}"), first.get(var).unwrap());
            self.close(&format!("ddparam.{name}"), &or_zeros(second.get(var), var));
        }
    }

    /// The same without the second order.
    fn first<L>(
        &self,
        network: &wgan::Network<Dressed<L>>,
        forward: impl Fn(&Tensor) -> Result<Tensor>,
    ) {
        let x = Var::from_tensor(&self.get("x")).unwrap();
        let y = forward(x.as_tensor()).unwrap();
        self.close("y", &y);
        for (name, buffer) in network.parameters().buffers() {
            self.close(&format!("after.{name}"), buffer);
        }
        let first = y.mul(&self.get("c")).unwrap().sum_all().unwrap().backward().unwrap();
        self.close("dx", first.get(&x).unwrap());
        for (name, var) in network.parameters().trained() {
            self.close(&format!("dparam.{name}"), first.get(var).unwrap());
        }
    }
}

const PRECISIONS: [(DType, f64); 2] = [(DType::F64, 1e-10), (DType::F32, 2e-5)];

#[test]
fn every_layer_to_the_second_order() {
    for (dtype, tolerance) in PRECISIONS {
        for (case, build) in cases() {
            Check::new(case, dtype, tolerance).run(build);
        }
    }
}

#[test]
fn batch_normalisations_to_the_first_order() {
    for (dtype, tolerance) in PRECISIONS {
        let check = Check::new("batch_norm", dtype, tolerance);
        let network = check.build(|vb| BatchNorm::new(3, BatchNormConfig::default(), vb));
        check.first(&network, |x| network.model().0.forward_t(x, true));

        let check = Check::new("conditional_batch_norm", dtype, tolerance);
        let labels = check.get("labels").to_dtype(DType::U32).unwrap();
        let network = check.build(|vb| ConditionalBatchNorm::new(4, 3, vb));
        check.first(&network, |x| network.model().0.forward_t(x, &labels, true));
    }
}

/// The score of a projection critic, written with candle-nn's embedding: `fc(h) + <embedding(label), h>`.
#[test]
fn a_projection_to_the_second_order() {
    for (dtype, tolerance) in PRECISIONS {
        let check = Check::new("projection", dtype, tolerance);
        let labels = check.get("labels").to_dtype(DType::U32).unwrap();
        let network = check.build(|vb| {
            let embedding = vb.pp("embedding").get((3, 4), "weight")?;
            Ok((Linear::new(4, 1, vb.pp("fc"))?, Embedding::new(embedding, 4)))
        });
        let (fc, embedding) = &network.model().0;
        check.first_and_second(&network, |h| {
            let rows = embedding.embeddings().index_select(&labels, 0)?;
            h.apply(fc)?.squeeze(1)?.add(&h.mul(&h.parameter(&rows))?.sum(1)?)
        });
    }
}

/// Every case of the reference file is run by one of the tests above.
#[test]
fn no_case_is_left_out() {
    let known: Vec<&str> = cases().into_iter().map(|(name, _)| name).collect();
    let others = ["batch_norm", "conditional_batch_norm", "projection"];
    let path = format!("{}/tests/pytorch/layers.safetensors", env!("CARGO_MANIFEST_DIR"));
    let all: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(path, &candle_core::Device::Cpu)
            .unwrap()
            .into_iter()
            .collect();
    for name in all.keys() {
        let case = name.split('.').next().unwrap();
        assert!(known.contains(&case) || others.contains(&case), "{case}");
    }
}

/// In evaluation mode the running statistics take the batch's place.
#[test]
fn evaluation_normalises_with_the_running_statistics() -> Result<()> {
    let check = Check::new("batch_norm", DType::F64, 1e-10);
    let network = check.build(|vb| BatchNorm::new(3, BatchNormConfig::default(), vb));
    let (layer, x) = (&network.model().0, check.get("x"));
    let tensors = network.parameters().tensors();
    let of = |name: &str| tensors[name].reshape((1, 3, 1, 1)).unwrap();
    let deviation = of("running_var").affine(1.0, 1e-5)?.sqrt()?;
    let expected = x
        .broadcast_sub(&of("running_mean"))?
        .broadcast_div(&deviation)?
        .broadcast_mul(&of("weight"))?
        .broadcast_add(&of("bias"))?;
    assert!(relative_distance(&layer.forward_t(&x, false)?, &expected) < 1e-14);
    Ok(())
}
