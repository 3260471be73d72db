//! Layers under hostile input: nothing panics, hangs, takes terabytes or is silently wrong, and each error names the layer by
//! its path, what came and what was expected.

mod support;

use std::process::Command;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use support::refusal::{complaint, none, refused};
use support::{bits, distance, draw};
use wgan::layers::*;
use wgan::second_order::Layer;
use wgan::zoo::*;
use wgan::{Critic, ModelBuilder, Parameters, Result, Traced};

const CPU: &Device = &Device::Cpu;
const TERA: usize = 1 << 40;
const MAX: usize = usize::MAX;

/// Holds what layers make to be a critic, so that a builder of this crate hands out their parameters.
struct Made<L>(L);

impl<L: Layer> Critic for Made<L> {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.apply(&self.0)?.silu()?.flatten_from(1)?.sqr()?.sum(1)
    }
}

impl<L: Layer + ?Sized> Layer for Made<Box<L>> {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        self.0.forward(x)
    }
}

/// A layer at `block1.x` with its parameters.
fn make<L>(build: impl FnOnce(VarBuilder<'static>) -> Result<L>) -> Result<(L, Parameters)> {
    let (mut made, identity) = (None, Activation::Identity);
    let network = ModelBuilder::new(0).critic(|vb| {
        build(vb.pp("block1").pp("x")).map(|layer| made = Some(layer)).map(|_| Made(identity))
    })?;
    Ok((made.unwrap(), network.parameters().clone()))
}

type Named = (&'static str, Made<Box<dyn Layer>>);

/// One of each, for images `(batch, 4, 6, 6)`, with what an error must call it.
fn layers(vb: VarBuilder<'static>) -> Vec<Named> {
    fn named(name: &'static str, layer: impl Layer + 'static) -> Named {
        (name, Made(Box::new(layer)))
    }
    let block = vb.pp("block1");
    let conv =
        Conv2dConfig { stride: (2, 1).into(), padding: 1.into(), groups: 2, ..Default::default() };
    let plain = Conv2dConfig::default();
    let up = ConvTranspose2dConfig {
        stride: 2.into(),
        padding: 1.into(),
        output_padding: 1.into(),
        groups: 2,
        ..Default::default()
    };
    vec![
        named("block1.conv (Conv2d)", Conv2d::new(4, 6, 3, conv, block.pp("conv")).unwrap()),
        named("block1.whole (Conv2d)", Conv2d::new(4, 1, 6, plain, block.pp("whole")).unwrap()),
        named(
            "block1.up (ConvTranspose2d)",
            ConvTranspose2d::new(4, 6, 3, up, block.pp("up")).unwrap(),
        ),
        named("block1.in (InstanceNorm2d)", InstanceNorm2d::affine(4, block.pp("in")).unwrap()),
        named("AvgPool2d", AvgPool2d::new(2)),
        named("AvgPool2d", AvgPool2d::new(3).strided(2, 1)),
        named("UpsampleNearest2d", UpsampleNearest2d::new((2, 3))),
        named("PixelShuffle", PixelShuffle::new(2)),
        named(
            "block1.sn (Conv2d)",
            SpectralNorm::new(block.pp("sn"), |vb| Conv2d::new(4, 3, 3, plain, vb)).unwrap(),
        ),
        // Those from here on take other shapes too.
        named("block1.ln (LayerNorm)", LayerNorm::new(&[4, 6, 6], block.pp("ln")).unwrap()),
        named("block1.gn (GroupNorm)", GroupNorm::new(2, 4, block.pp("gn")).unwrap()),
        named("block1.fc (Linear)", Linear::new(6, 3, block.pp("fc")).unwrap()),
        named("block1.prelu (PReLU)", PReLU::new(4, block.pp("prelu")).unwrap()),
        named("Activation", Activation::Tanh),
    ]
}

const OF_IMAGES: usize = 9;
/// The layers with the same parameters as ever, in a type.
fn layers_of(dtype: DType) -> Vec<Named> {
    let store =
        ModelBuilder::new(1).dtype(DType::F64).critic(|vb| Ok(Made(layers(vb).swap_remove(0).1)));
    let tensors = store.unwrap().parameters().tensors().into_iter();
    let vars = tensors.map(|(name, t)| {
        (name, Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap().into_inner())
    });
    layers(VarBuilder::from_tensors(vars.collect(), dtype, CPU))
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, CPU).unwrap()
}

fn labels(labels: &[u32]) -> Tensor {
    Tensor::new(labels, CPU).unwrap()
}

#[test]
fn views_give_what_their_copies_give_to_the_second_order() {
    type View = fn(&Tensor) -> candle_core::Result<Tensor>;
    let views: [(&str, &[usize], View); 4] = [
        ("transposed", &[2, 4, 6, 6], |x| x.t()),
        ("samples narrowed", &[5, 4, 6, 6], |x| x.narrow(0, 3, 2)),
        ("no samples", &[5, 4, 6, 6], |x| x.narrow(0, 5, 0)),
        ("broadcast", &[2, 1, 6, 1], |x| x.broadcast_as((2, 4, 6, 6))),
    ];
    // Two sets, as a spectral normalisation moves with each pass.
    for ((name, layer), (_, twin)) in layers_of(DType::F64).iter().zip(&layers_of(DType::F64)) {
        for (how, shape, view) in &views {
            let base = Var::from_tensor(&draw(how, *shape, DType::F64)).unwrap();
            let run = |layer: &Made<Box<dyn Layer>>, x: Tensor| {
                let (scores, gradient) =
                    Made(|x: &Traced| layer.forward(x)).scores_and_gradient(&x).unwrap();
                assert!(scores.dims() == [x.dims()[0]] && gradient.dims() == x.dims());
                let back = gradient.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                [scores, gradient, back.get(&base).cloned().unwrap_or(base.zeros_like().unwrap())]
            };
            let got = run(layer, view(&base).unwrap());
            let expected = run(twin, view(&base).unwrap().force_contiguous().unwrap());
            for (order, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!(
                    got.elem_count() == 0 || distance(got, expected) < 1e-12,
                    "{name}, {how}, order {order}"
                );
            }
        }
    }
}

#[test]
fn inputs_of_a_wrong_shape_are_refused_by_name() {
    let mut faults = Vec::new();
    let all: [&[usize]; 11] = [
        &[],
        &[4],
        &[4, 5],
        &[2, 4, 5],
        &[2, 5, 5, 5],
        &[2, 4, 6, 6, 1],
        &[2, 4, 0, 6],
        &[2, 4, 6, 0],
        &[0, 4, TERA, TERA],
        &[TERA, TERA, 0, 6],
        &[2, 4, 0, MAX],
    ];
    for (i, shape) in (0..14).flat_map(|i| all.map(|shape| (i, shape))) {
        let (name, layer) = layers_of(DType::F32).swap_remove(i);
        // Any rank will do for some layers, and a pooling takes all channels.
        let pools = shape.len() == 4 && (shape.contains(&0) || !name.contains("block1"));
        let fits = i >= OF_IMAGES && shape.len() > 1 && shape != [2, 5, 5, 5];
        let (got, taken) = (format!("{shape:?}"), fits || pools || name == "Activation");
        let run = || layer.forward(&Traced::input(&zeros(shape)));
        faults.push(complaint(
            &format!("{name} of {got}"),
            run,
            |_| taken,
            &[name, &got, "expected"],
        ));
    }
    none(faults);
}

#[test]
fn types_are_refused_by_name_or_taken_for_what_they_are() {
    // Small whole numbers, the same in every type.
    let x = draw("x", (2, 4, 6, 6), DType::F32).affine(8.0, 8.0).unwrap().round().unwrap();
    let mut faults = Vec::new();
    let mixed = [DType::F64, DType::F16, DType::BF16, DType::U8, DType::U32, DType::I64]
        .map(|t| (DType::F32, t));
    for (of_layer, of_input) in mixed.into_iter().chain([DType::F16, DType::BF16].map(|t| (t, t))) {
        for ((name, layer), (_, twin)) in layers_of(of_layer).iter().zip(&layers_of(DType::F32)) {
            let expected =
                twin.forward(&Traced::untracked(&x)).unwrap().value().to_dtype(DType::F64).unwrap();
            let run = || layer.forward(&Traced::input(&x.to_dtype(of_input)?));
            let (label, got) =
                (format!("{name} in {of_layer:?} of {of_input:?}"), format!("{of_input:?}"));
            let near = |y: &Traced| distance(y.value(), &expected) < 0.1;
            faults.push(complaint(&label, run, near, &[name, &got, "expected"]));
        }
    }
    none(faults);
}

#[test]
fn settings_outside_their_range_name_the_layer() {
    let conv = |c| make(|vb| Conv2d::new(4, 6, 3, c, vb)).map(drop);
    let up = |c| make(|vb| ConvTranspose2d::new(4, 4, 3, c, vb)).map(drop);
    let run = |layer: &dyn Layer| layer.forward(&Traced::input(&zeros(&[1, 4, 4, 4]))).map(drop);
    none(
        [
            (conv(Conv2dConfig { groups: 3, ..PLAIN() }), "in_channels", CONV),
            (
                up(ConvTranspose2dConfig { output_padding: MAX.into(), ..WIDE() }),
                "output_padding",
                UP,
            ),
            (
                make(|vb| ConditionalBatchNorm::new(0, 3, vb)).map(drop),
                "classes",
                "block1.x (ConditionalBatchNorm)",
            ),
            (run(&AvgPool2d::new(0)), "kernel_size", "AvgPool2d"),
            (run(&AvgPool2d::new(2).strided(0, 2)), "stride", "AvgPool2d"),
            (run(&UpsampleNearest2d::new((2, 0))), "scale_factor", "UpsampleNearest2d"),
            (run(&PixelShuffle::new(0)), "[1, 4, 4, 4]", "PixelShuffle"),
        ]
        .map(|(result, what, layer)| refused(what, || result, &[what, layer, "expected"])),
    );
}

/// A case that may end its process: what it is, what an error must say, and the case, true where it was rightly taken.
type Extreme = (&'static str, &'static str, fn() -> Result<bool>);

/// Applies a layer to an image of 4x4, for which the one right size of a result is a single pixel.
fn applied<L: Layer>(build: impl FnOnce(VarBuilder<'static>) -> Result<L>) -> Result<bool> {
    Ok(make(build)?.0.forward(&Traced::input(&zeros(&[1, 1, 4, 4])))?.dims() == [1, 1, 1, 1])
}

const PLAIN: fn() -> Conv2dConfig = Conv2dConfig::default;
const WIDE: fn() -> ConvTranspose2dConfig = ConvTranspose2dConfig::default;
const CONV: &str = "block1.x (Conv2d)";
const UP: &str = "block1.x (ConvTranspose2d)";
const EXTREMES: &[Extreme] = &[
    ("Conv2d of 2^40 channels", CONV, || {
        make(|vb| Conv2d::new(TERA, 1, 1, PLAIN(), vb)).map(|_| false)
    }),
    ("Conv2d with a kernel of 2^40", CONV, || {
        make(|vb| Conv2d::new(1, 1, TERA, PLAIN(), vb)).map(|_| false)
    }),
    ("Conv2d padded by 2^40 in height", CONV, || {
        applied(|vb| {
            Conv2d::new(1, 1, 3, Conv2dConfig { padding: (TERA, 0).into(), ..PLAIN() }, vb)
        })
    }),
    ("Conv2d at a stride of 2^20", CONV, || {
        applied(|vb| Conv2d::new(1, 1, 3, Conv2dConfig { stride: (1 << 20).into(), ..PLAIN() }, vb))
    }),
    ("Conv2d dilated and padded by 2^40", CONV, || {
        applied(|vb| {
            Conv2d::new(
                1,
                1,
                3,
                Conv2dConfig { dilation: TERA.into(), padding: TERA.into(), ..PLAIN() },
                vb,
            )
        })
    }),
    ("ConvTranspose2d at a stride of 2^40", UP, || {
        applied(|vb| {
            ConvTranspose2d::new(
                1,
                1,
                3,
                ConvTranspose2dConfig { stride: TERA.into(), ..WIDE() },
                vb,
            )
        })
    }),
    ("AvgPool2d padded by usize::MAX", "AvgPool2d", || {
        applied(|_| Ok(AvgPool2d::new(2).strided(1, MAX)))
    }),
    ("AvgPool2d padded by half of 2^40", "AvgPool2d", || {
        applied(|_| Ok(AvgPool2d::new(TERA).strided(1, TERA / 2)))
    }),
    ("AvgPool2d at a stride of 2^20", "AvgPool2d", || {
        applied(|_| Ok(AvgPool2d::new(2).strided(1 << 20, 0)))
    }),
    ("UpsampleNearest2d by 2^20", "UpsampleNearest2d", || {
        applied(|_| Ok(UpsampleNearest2d::new(1 << 20)))
    }),
    ("Linear of 2^40", "block1.x (Linear)", || make(|vb| Linear::new(1, TERA, vb)).map(|_| false)),
    ("LayerNorm of 2^80", "block1.x (LayerNorm)", || {
        make(|vb| LayerNorm::new(&[TERA, TERA], vb)).map(|_| false)
    }),
    ("BatchNorm of 2^40", "block1.x (BatchNorm)", || {
        make(|vb| BatchNorm::new(TERA, Default::default(), vb)).map(|_| false)
    }),
    ("ConditionalBatchNorm of 2^80", "block1.x (ConditionalBatchNorm)", || {
        make(|vb| ConditionalBatchNorm::new(TERA, TERA, vb)).map(|_| false)
    }),
    ("DcganGenerator of width 2^16", "expected", || {
        ModelBuilder::new(0)
            .generator(|vb| {
                DcganGenerator::new(
                    DcganGeneratorConfig { latent_dim: 1, width: 1 << 16, ..Default::default() },
                    vb,
                )
            })
            .map(|_| false)
    }),
    ("ResNet32Generator of width 2^16", "expected", || {
        ModelBuilder::new(0)
            .generator(|vb| {
                ResNet32Generator::new(
                    ResNet32Config { latent_dim: 1, width: 1 << 16, ..Default::default() },
                    vb,
                )
            })
            .map(|_| false)
    }),
    ("ResNet64Generator of 2^40 classes", "classes", || {
        ModelBuilder::new(0)
            .generator(|vb| {
                ResNet64Generator::new(
                    ResNet64Config { width: 1, classes: Some(TERA), ..Default::default() },
                    vb,
                )
            })
            .map(|_| false)
    }),
];

/// Each case runs in a process of its own, with 4 GiB of address space and 20 seconds of processor time.
#[cfg(unix)]
#[test]
fn extreme_sizes_are_errors_and_take_no_memory() {
    if let Ok(case) = std::env::var("WGAN_EXTREME") {
        let (_, part, run) = EXTREMES[case.parse::<usize>().unwrap()];
        let fault = complaint("", run, |&right| right, &[part, "expected"]);
        return println!("verdict: {}", fault.unwrap_or("none".into()));
    }
    none(EXTREMES.iter().enumerate().map(|(i, (label, ..))| {
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 4194304; ulimit -t 20; ulimit -c 0; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args([
                "extreme_sizes_are_errors_and_take_no_memory",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("WGAN_EXTREME", i.to_string())
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match out.lines().find_map(|line| line.split_once("verdict: ")) {
            Some((_, "none")) => None,
            Some((_, verdict)) => Some(format!("{label}{verdict}")),
            None => Some(format!(
                "{label}: {}: {:?}",
                output.status,
                err.lines().find(|line| line.contains("alloc"))
            )),
        }
    }));
}

/// Statistics follow what was taken, and nothing else.
#[test]
fn what_a_normalisation_refuses_leaves_its_buffers() {
    let plain = make(|vb| BatchNorm::new(3, Default::default(), vb)).unwrap();
    let conditional = make(|vb| ConditionalBatchNorm::new(2, 3, vb)).unwrap();
    let spectral = make(|vb| SpectralNorm::new(vb, |vb| Linear::new(3, 2, vb))).unwrap();
    let (single, wide, long) = (zeros(&[1, 3]), zeros(&[2, 4]), draw("x", (4, 3), DType::F64));
    let bn = |x: &Tensor| plain.0.forward_t(x, true);
    let cbn = |x: &Tensor, n: usize| conditional.0.forward_t(x, &labels(&vec![0; n]), true);
    let sn = |x: &Tensor| spectral.0.forward(&Traced::input(x));
    let models = [&plain.1, &conditional.1, &spectral.1];
    let before = models.map(bits);
    let (b, c) = ("block1.x (BatchNorm)", "block1.x (ConditionalBatchNorm)");
    let mut faults = vec![
        refused("one sample", || bn(&single), &[b, "[1, 3]", "more than one value"]),
        refused("BatchNorm of F64", || bn(&long), &[b, "F64", "F32"]),
        refused("a label too few", || cbn(&zeros(&[2, 3]), 1), &[c, "[1]", "(2,)"]),
        refused("ConditionalBatchNorm of F64", || cbn(&long, 4), &[c, "F64", "F32"]),
        refused(
            "plain weights",
            || spectral.1.assign(plain.1.tensors()),
            &["weight_orig", "weight_u", "expected"],
        ),
        refused(
            "four features, spectral",
            || sn(&wide),
            &["block1.x (Linear)", "[2, 4]", "(batch, 3)"],
        ),
    ];
    for (parameters, before) in models.iter().zip(before) {
        let moved = bits(parameters).into_iter().filter(|(name, bits)| before[name] != *bits);
        faults.extend(moved.map(|(name, _)| Some(format!("a refused input moved {name}"))));
    }
    none(faults);
}

#[test]
fn a_zero_weight_stays_finite_under_spectral_normalisation() {
    let (layer, parameters) = make(|vb| SpectralNorm::new(vb, |vb| Linear::new(3, 2, vb))).unwrap();
    let (_, weight) = parameters.trained().find(|(name, _)| name.ends_with("orig")).unwrap();
    let finite = [0.0, 1.0].map(|value| {
        weight
            .set(&Tensor::full(value, (2, 3), CPU).unwrap().to_dtype(DType::F32).unwrap())
            .unwrap();
        let y = layer.forward(&Traced::input(&zeros(&[2, 3]))).unwrap().value().sum_all().unwrap();
        y.to_scalar::<f32>().unwrap().is_finite()
    });
    assert_eq!(finite, [true, true], "a spectral norm of a zero weight, then of another");
}
