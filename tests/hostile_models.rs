//! Ready-made models, gradient checks and conditional training under hostile labels and settings: every misfit is an error
//! that says what came and what was expected.

mod support;

use candle_core::{DType, Device, Tensor};
use support::bits;
use support::refusal::{none, refused};
use wgan::data::Dataset;
use wgan::testing::{check_conditional_critic, check_critic, check_generator};
use wgan::zoo::*;
use wgan::{
    Critic, CriticDraws, Generator, ModelBuilder, Network, Result, Traced, TrainConfig, WganTrainer,
};

const CPU: &Device = &Device::Cpu;
const MAX: usize = usize::MAX;

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, CPU).unwrap()
}

fn labels(labels: &[u32]) -> Tensor {
    Tensor::new(labels, CPU).unwrap()
}

type Pair = (&'static str, Network<Box<dyn Generator>>, Network<Box<dyn Critic>>);

/// Small pairs of every kind.
fn pairs(classes: Option<usize>) -> Vec<Pair> {
    let build = ModelBuilder::new(0);
    macro_rules! pair {
        ($name:literal, $generator:ident $of:expr, $critic:ident $with:expr) => {
            (
                $name,
                build
                    .generator(|vb| Ok(Box::new($generator::new($of, vb)?) as Box<dyn Generator>))
                    .unwrap(),
                build
                    .critic(|vb| Ok(Box::new($critic::new($with, vb)?) as Box<dyn Critic>))
                    .unwrap(),
            )
        };
    }
    let (latent_dim, image_size, channels, width, norm) = (2, 28, 1, 2, CriticNorm::Layer);
    let of_32 = ResNet32Config { channels, latent_dim, width, classes };
    let of_64 = ResNet64Config { channels, latent_dim, width, classes, norm };
    let of_mlp = MlpGeneratorConfig { latent_dim, hidden: vec![4], classes, ..Default::default() };
    let of_dcgan = DcganGeneratorConfig {
        image_size,
        channels,
        latent_dim,
        width,
        classes,
        ..Default::default()
    };
    let dcgan =
        DcganCriticConfig { image_size, channels, width, norm, classes, ..Default::default() };
    vec![
        pair!("mlp", MlpGenerator of_mlp, MlpCritic MlpCriticConfig { hidden: vec![4], classes, ..Default::default() }),
        pair!("dcgan", DcganGenerator of_dcgan, DcganCritic dcgan),
        pair!("resnet32", ResNet32Generator of_32.clone(), ResNet32Critic of_32),
        pair!("resnet64", ResNet64Generator of_64.clone(), ResNet64Critic of_64),
    ]
}

#[test]
fn labels_that_do_not_fit_a_model() {
    let mut faults = Vec::new();
    let fine = labels(&[0, 1]);
    let wrong: [(Tensor, &[&str]); 5] = [
        (labels(&[0, 3]), &[" is 3;", "less than 3"]),
        (labels(&[0]), &["[1]", "(2,)"]),
        (fine.unsqueeze(1).unwrap(), &["[2, 1]", "(2,)"]),
        (fine.to_dtype(DType::I64).unwrap(), &["I64", "U32"]),
        (zeros(&[2]), &["F32", "U32"]),
    ];
    for ((name, generator, critic), (_, plain, plain_critic)) in
        pairs(Some(3)).iter().zip(pairs(None))
    {
        let latent = zeros(&[2, 2]);
        let generate = |latent: &Tensor, labels: &Tensor| {
            generator.model().forward_conditional(latent, labels, true)
        };
        let score = |x: &Tensor, labels: &Tensor| {
            critic.model().forward_conditional(&Traced::input(x), labels)
        };
        let samples = generate(&latent, &fine).unwrap().detach();
        for (labels, parts) in &wrong {
            faults.extend([
                refused(name, || generate(&latent, labels), parts),
                refused(name, || score(&samples, labels), parts),
            ]);
        }
        for wrong in [&zeros(&[]), &zeros(&[2]), &zeros(&[2, 1, 5, 5]), &zeros(&[0, 9])] {
            let parts = [&format!("{:?}", wrong.dims()), "expected"];
            faults.extend([
                refused(name, || generate(wrong, &fine), &parts),
                refused(name, || score(wrong, &fine), &parts),
            ]);
        }
        let long = samples.to_dtype(DType::F64).unwrap();
        let (absent, present) =
            (["labels is absent", "expected"], ["labels is present", "expected none"]);
        faults.extend([
            refused(name, || score(&long, &fine), &["F64", "F32", "expected"]),
            // The weights of the pair without classes.
            refused(
                name,
                || critic.parameters().assign(plain_critic.parameters().tensors()),
                &["weight", "expected"],
            ),
            refused(name, || generator.model().forward(&latent, true), &absent),
            refused(name, || critic.model().scores(&samples), &absent),
            refused(name, || plain.model().forward_conditional(&latent, &fine, true), &present),
            refused(
                name,
                || plain_critic.model().forward_conditional(&Traced::input(&samples), &fine),
                &present,
            ),
        ]);
    }
    none(faults);
}

/// Eight images with labels of one's own.
struct Labelled(Labels);

type Labels = fn(&[usize]) -> Result<Option<Tensor>>;

impl Dataset for Labelled {
    fn len(&self) -> usize {
        8
    }
    fn sample_shape(&self) -> &[usize] {
        &[1, 28, 28]
    }
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        Ok(zeros(&[indices.len(), 1, 28, 28]))
    }
    fn label_batch(&self, indices: &[usize]) -> Result<Option<Tensor>> {
        (self.0)(indices)
    }
}

fn trainer(
    of: Option<usize>,
    by: Option<usize>,
) -> Result<WganTrainer<Box<dyn Generator>, Box<dyn Critic>>> {
    let settings =
        TrainConfig { batch_size: 4, n_critic: 1, generator_steps: 1, ..TrainConfig::wgan_gp() };
    WganTrainer::new(pairs(of).swap_remove(1).1, pairs(by).swap_remove(1).2, settings)
}

#[test]
fn labels_that_do_not_fit_a_run() {
    let sets: [(&str, Labels, &[&str]); 3] = [
        ("out of range", |i| Ok(Some(labels(&vec![3; i.len()]))), &[" is 3;", "less than 3"]),
        ("too few", |i| Ok(Some(labels(&vec![0; i.len() - 1]))), &["[7]", "(8,)"]),
        (
            "gone after the check",
            |i| Ok((i.len() == 8).then(|| labels(&[1; 8]))),
            &["labels is absent", "expected"],
        ),
    ];
    let mut faults = Vec::new();
    for (label, give, parts) in sets {
        let mut trainer = trainer(Some(3), Some(3)).unwrap();
        let before = [trainer.generator().parameters(), trainer.critic().parameters()].map(bits);
        faults.push(refused(label, || trainer.fit(&Labelled(give)), parts));
        assert!(
            before == [trainer.generator().parameters(), trainer.critic().parameters()].map(bits),
            "{label}"
        );
    }
    for (of, by, parts) in
        [(Some(3), None, ["3 (gen", "none (crit"]), (Some(2), Some(3), ["2 (gen", "3 (crit"])]
    {
        faults.push(refused("a pair that does not fit", || trainer(of, by).map(drop), &parts));
    }
    for classes in [0, (1 << 16) + 1, MAX] {
        let config = MlpCriticConfig { classes: Some(classes), ..Default::default() };
        let build = || ModelBuilder::new(0).critic(|vb| MlpCritic::new(config, vb));
        faults.push(refused("classes", build, &["classes", &classes.to_string(), "expected"]));
    }
    none(faults);
}

#[test]
fn labels_that_do_not_fit_the_draws() {
    let draws = |real: usize, latent: usize| {
        CriticDraws::new(zeros(&[real, 1, 28, 28]), zeros(&[latent, 2]), Some(zeros(&[real])))
    };
    let (all, half) = (labels(&[0, 1, 2, 0]), labels(&[0, 1]));
    let mut with = trainer(Some(3), Some(3)).unwrap();
    let mut without = trainer(None, None).unwrap();
    let mut clip = WganTrainer::new(
        pairs(Some(3)).swap_remove(0).1,
        pairs(Some(3)).swap_remove(0).2,
        TrainConfig::wgan(),
    )
    .unwrap();
    none([
        refused("no labels", || with.critic_step(&draws(4, 4)), &["labels is absent"]),
        refused(
            "labels not wanted",
            || without.critic_step(&draws(4, 4).with_labels(all.clone())),
            &["labels is present"],
        ),
        refused(
            "half the labels",
            || with.critic_step(&draws(4, 4).with_labels(half.clone())),
            &["[2]", "expected", "4"],
        ),
        // Two labels must not serve four real samples.
        refused(
            "two labels and latent points",
            || clip.critic_step(&draws(4, 2).with_labels(half.clone())),
            &["[2]", "4"],
        ),
        refused(
            "labels of no sample",
            || with.critic_step(&draws(0, 0).with_labels(labels(&[]))),
            &["[0", "expected"],
        ),
    ]);
}

#[test]
fn gradient_checks_of_nothing_are_refused() {
    let build = ModelBuilder::new(0).dtype(DType::F64);
    let x = |shape: &[usize]| Tensor::zeros(shape, DType::F64, CPU).unwrap();
    let critic = |classes| {
        let config = MlpCriticConfig {
            sample_shape: vec![3],
            hidden: vec![4],
            classes,
            ..Default::default()
        };
        build.critic(|vb| MlpCritic::new(config, vb)).unwrap()
    };
    let of = MlpGeneratorConfig {
        latent_dim: 3,
        hidden: vec![4],
        sample_shape: vec![2],
        batch_norm: false,
        ..Default::default()
    };
    let generator = build.generator(|vb| MlpGenerator::new(of, vb)).unwrap();
    let (plain, with) = (critic(None), critic(Some(2)));
    none([
        refused("no samples", || check_critic(&plain, &x(&[0, 3])), &["[0, 3]", "expected"]),
        refused(
            "no latent points",
            || check_generator(&generator, &x(&[0, 3]), None),
            &["[0, 3]", "expected"],
        ),
        refused(
            "half the labels",
            || check_conditional_critic(&with, &x(&[4, 3]), &labels(&[0, 1])),
            &["label", "expected", "4"],
        ),
    ]);
}
