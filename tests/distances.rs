//! Distances between distributions against SciPy and POT, and the properties that they have.

mod support;

use candle_core::{DType, Device};
use proptest::prelude::*;
use support::Reference;
use wgan::metrics::transport::{
    Sinkhorn, Sliced, assignment, exact, sinkhorn, sinkhorn_divergence, sliced, sliced_along,
    wasserstein, wasserstein_1d,
};
use wgan::metrics::{Gaussian, Points, divergence};
use wgan::random::Stream;

fn reference() -> Reference {
    Reference::read("distances.safetensors")
}

fn points(reference: &Reference, name: &str) -> Points {
    let tensor = reference.get(name);
    let tensor = if tensor.rank() == 1 { tensor.unsqueeze(1).unwrap() } else { tensor.clone() };
    Points::from_tensor(&tensor).unwrap()
}

fn first(points: &Points, count: usize) -> Points {
    Points::new(points.values()[..count * points.dims()].to_vec(), points.dims()).unwrap()
}

#[track_caller]
fn assert_near(what: &str, got: f64, expected: f64, relative: f64) {
    assert!((got - expected).abs() <= relative * expected.abs(), "{what}: {got} for {expected}");
}

#[test]
fn one_dimension() {
    let figures = reference();
    let (x, y) = (points(&figures, "line.x"), points(&figures, "line.y"));
    let (wx, wy) = (figures.numbers("line.wx"), figures.numbers("line.wy"));
    let (weighted_x, weighted_y) = (x.weighted(&wx).unwrap(), y.weighted(&wy).unwrap());
    for p in [1, 2, 3] {
        let order = f64::from(p);
        let plain = wasserstein_1d(&x, &y, order).unwrap();
        let weighted = wasserstein_1d(weighted_x, weighted_y, order).unwrap();
        if p == 1 {
            assert_near("SciPy", plain, figures.number("line.scipy"), 1e-13);
            assert_near("SciPy", weighted, figures.number("line.scipy_weighted"), 1e-13);
        }
        assert_near("POT", plain, figures.number(&format!("line.p{p}")), 1e-13);
        assert_near("POT", weighted, figures.number(&format!("line.p{p}_weighted")), 1e-13);
    }
}

#[test]
fn sets_of_points() {
    let figures = reference();
    let [a, b, c] = ["a", "b", "c"].map(|name| points(&figures, &format!("sets.{name}")));
    let (wa, wc) = (figures.numbers("sets.wa"), figures.numbers("sets.wc"));
    let (weighted_a, weighted_c) = (a.weighted(&wa).unwrap(), c.weighted(&wc).unwrap());
    let directions = points(&figures, "sets.directions");
    for p in [1, 2, 3] {
        let order = f64::from(p);
        let near = |name: &str, got: f64| {
            assert_near(name, got, figures.number(&format!("{name}.p{p}")), 1e-12);
        };
        near("assignment", assignment(&a, &b, order).unwrap().distance);
        near("exact", exact(&a, &c, order).unwrap().distance);
        near("sliced", sliced_along(&a, &c, &directions, order).unwrap());
        let near = |name: &str, got: f64| {
            assert_near(name, got, figures.number(&format!("{name}.p{p}_weighted")), 1e-12);
        };
        near("exact", exact(weighted_a, weighted_c, order).unwrap().distance);
        near("sliced", sliced_along(weighted_a, weighted_c, &directions, order).unwrap());
    }
    let (a, b) = (points(&figures, "big.a"), points(&figures, "big.b"));
    for p in [1, 2] {
        let got = assignment(&a, &b, f64::from(p)).unwrap().distance;
        assert_near("300 points", got, figures.number(&format!("big.p{p}")), 1e-12);
    }
}

#[test]
fn assignments_beside_much_larger_costs() {
    let figures = reference();
    let [a, b] = ["near.a", "near.b"].map(|name| points(&figures, name));
    let got = assignment(&a, &b, 8.0).unwrap().distance;
    assert_near("order 8", got, figures.number("near.p8"), 1e-12);
    let with_far_point =
        |points: &Points| Points::new([&[3e7, -4e7], &points.values()[2..]].concat(), 2).unwrap();
    let got = assignment(&with_far_point(&a), &with_far_point(&b), 2.0).unwrap().distance;
    assert_near("a far point", got, figures.number("far.p2"), 1e-12);
}

#[test]
fn entropic_transport() {
    let figures = reference();
    let (a, c) = (first(&points(&figures, "sets.a"), 20), first(&points(&figures, "sets.c"), 15));
    let (wa, wc) = (figures.numbers("sinkhorn.wa"), figures.numbers("sets.wc"));
    let (a, c) = (a.weighted(&wa).unwrap(), c.weighted(&wc[..15]).unwrap());
    for p in [1, 2] {
        for epsilon in ["1.0", "5.0"] {
            let settings = Sinkhorn {
                p: f64::from(p),
                tolerance: 1e-12,
                ..Sinkhorn::new(epsilon.parse().unwrap())
            };
            let plan = sinkhorn(a, c, &settings).unwrap();
            let expected = figures.numbers(&format!("sinkhorn.p{p}_{epsilon}"));
            assert_near("cost", plan.cost, expected[0], 1e-10);
            assert_near("penalised", plan.penalised, expected[1], 1e-11);
            let got = sinkhorn_divergence(a, c, &settings).unwrap();
            let expected = figures.number(&format!("sinkhorn.divergence_p{p}_{epsilon}"));
            assert_near("divergence", got, expected, 1e-10);
        }
    }
}

#[test]
fn discrete_distributions() {
    let figures = reference();
    let (p, q) = (figures.numbers("discrete.p"), figures.numbers("discrete.q"));
    let number = |name: &str| figures.number(&format!("discrete.{name}"));
    assert_near("KL", divergence::kl(&p, &q).unwrap(), number("kl"), 1e-12);
    assert_eq!(divergence::reverse_kl(&p, &q).unwrap(), number("reverse_infinite"));
    let (some_p, some_q): (Vec<f64>, Vec<f64>) =
        p.iter().zip(&q).filter(|(p, _)| **p > 0.0).unzip();
    let reverse = divergence::reverse_kl(&some_p, &some_q).unwrap();
    assert_near("reverse KL", reverse, number("reverse"), 1e-12);
    assert_near("JS", divergence::jensen_shannon(&p, &q).unwrap(), number("js"), 1e-12);
    assert_near("TV", divergence::total_variation(&p, &q).unwrap(), number("tv"), 1e-13);
}

#[cfg(feature = "metrics")]
#[test]
fn normal_distributions() {
    let figures = reference();
    let number = |name: &str| figures.number(&format!("gaussian.{name}"));
    let [p, q] = [0, 1].map(|i| {
        let numbers = |name: &str| figures.numbers(&format!("gaussian.{name}{i}"));
        Gaussian::new(numbers("mean"), numbers("covariance")).unwrap()
    });
    assert_near("KL", p.kl(&q).unwrap(), number("kl"), 1e-11);
    assert_near("reverse KL", p.reverse_kl(&q).unwrap(), number("reverse_kl"), 1e-11);
    assert_near("W2", p.wasserstein2(&q).unwrap(), number("w2"), 1e-11);
    let line = figures.numbers("gaussian.line");
    let [p, q] = [0, 2].map(|i| Gaussian::new(vec![line[i]], vec![line[i + 1].powi(2)]).unwrap());
    assert_near("TV", p.total_variation(&q).unwrap(), number("line_tv"), 1e-10);
    assert_near("W1", p.wasserstein1(&q).unwrap(), number("line_w1"), 1e-10);
}

fn set(points: std::ops::Range<usize>, dims: usize) -> impl Strategy<Value = Points> {
    prop::collection::vec(prop::collection::vec(-3.0..3.0, dims), points)
        .prop_map(move |rows| Points::new(rows.concat(), dims).unwrap())
}

fn three_sets() -> impl Strategy<Value = [Points; 3]> {
    (1usize..4).prop_flat_map(|dims| [set(1..25, dims), set(1..25, dims), set(1..25, dims)])
}

fn transformed(points: &Points, scale: f64, shift: f64) -> Points {
    let values = points.values().iter().map(|x| scale * x + shift).collect();
    Points::new(values, points.dims()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn they_are_metrics(
        [a, b, c] in three_sets(), scale in -4.0f64..4.0, shift in -9.0f64..9.0,
    ) {
        let settings = Sliced { projections: 5, ..Default::default() };
        let by_slices = |p: f64| move |a: &Points, b: &Points| {
            sliced(a, b, &Sliced { p, ..settings }).unwrap()
        };
        let exactly = |p: f64| move |a: &Points, b: &Points| wasserstein(a, b, p).unwrap();
        let check = |distance: &dyn Fn(&Points, &Points) -> f64| {
            let ab = distance(&a, &b);
            prop_assert_eq!(distance(&a, &a), 0.0);
            prop_assert!((ab - distance(&b, &a)).abs() < 1e-12);
            prop_assert!(distance(&a, &c) <= ab + distance(&b, &c) + 1e-12);
            let both = |points: &Points| transformed(points, scale, shift);
            prop_assert!((distance(&both(&a), &both(&b)) - scale.abs() * ab).abs() < 1e-11);
            Ok(())
        };
        for p in [1.0, 1.5, 2.0] {
            check(&exactly(p))?;
            check(&by_slices(p))?;
            prop_assert!(by_slices(p)(&a, &b) <= exactly(p)(&a, &b) + 1e-12);
        }
        prop_assert!(exactly(1.0)(&a, &b) <= exactly(1.5)(&a, &b) + 1e-12);
        prop_assert!(exactly(1.5)(&a, &b) <= exactly(2.0)(&a, &b) + 1e-12);
        // Carried by a shift alone, a set moves by its length.
        let moved = transformed(&a, 1.0, shift);
        let length = shift.abs() * (a.dims() as f64).sqrt();
        prop_assert!((exactly(2.0)(&a, &moved) - length).abs() < 1e-12);
    }

    #[test]
    fn a_repeated_point_is_a_weight([a, b, _] in three_sets(), seed in 0u64..1000) {
        let mut counts = Stream::new(seed, "counts", 0);
        let counts: Vec<u64> = a.iter().map(|_| 1 + counts.below(3)).collect();
        let repeated = a.iter().zip(&counts).flat_map(|(point, &n)| point.repeat(n as usize)).collect();
        let repeated = Points::new(repeated, a.dims()).unwrap();
        let weights: Vec<f64> = counts.iter().map(|&n| n as f64 / 7.0).collect();
        let weighted = a.weighted(&weights).unwrap();
        for p in [1.0, 2.0] {
            let (got, expected) =
                (wasserstein(weighted, &b, p).unwrap(), wasserstein(&repeated, &b, p).unwrap());
            prop_assert!((got - expected).abs() < 1e-12, "{got} for {expected}");
            let plan = exact(&repeated, weighted, p).unwrap();
            prop_assert!(plan.distance < 1e-7, "{}", plan.distance);
        }
        let settings = Sinkhorn::new(0.5);
        let got = sinkhorn(weighted, &b, &settings).unwrap().penalised;
        let expected = sinkhorn(&repeated, &b, &settings).unwrap().penalised;
        prop_assert!((got - expected).abs() < 1e-8, "{got} for {expected}");
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let normal = |index| {
        let mut stream = Stream::new(2, "points", index);
        Points::from_tensor(&stream.normal((300, 3), DType::F64, &Device::Cpu).unwrap()).unwrap()
    };
    let (a, b) = (normal(0), normal(1));
    let settings = Sinkhorn::new(0.1);
    let all = || {
        let plan = exact(&a, &b, 2.0).unwrap();
        let entropic = sinkhorn(&a, &b, &settings).unwrap();
        (plan, entropic, sliced(&a, &b, &Sliced::default()).unwrap())
    };
    let with = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(all)
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(5));
}
