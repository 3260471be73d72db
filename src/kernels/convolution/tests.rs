//! The kernels against a loop over the definition.

use candle_core::WithDType;
use proptest::prelude::*;

use super::*;
use crate::kernels::tests::{assert_close, values};

/// Calls `visit(image element, kernel element, map element)` for every product of the definition.
fn each_product(c: &Convolution, mut visit: impl FnMut(usize, usize, usize)) {
    let Geometry { stride, padding, dilation, groups } = c.geometry;
    let (per_group, outputs) = (c.inputs / groups, c.outputs / groups);
    for n in 0..c.batch {
        for o in 0..c.outputs {
            for i in 0..per_group {
                for y in 0..c.map[0] {
                    for x in 0..c.map[1] {
                        for down in 0..c.kernel[0] {
                            for right in 0..c.kernel[1] {
                                let row =
                                    (y * stride[0] + down * dilation[0]).checked_sub(padding[0]);
                                let column =
                                    (x * stride[1] + right * dilation[1]).checked_sub(padding[1]);
                                let (Some(row), Some(column)) = (row, column) else { continue };
                                if row >= c.image[0] || column >= c.image[1] {
                                    continue;
                                }
                                let channel = n * c.inputs + o / outputs * per_group + i;
                                visit(
                                    (channel * c.image[0] + row) * c.image[1] + column,
                                    ((o * per_group + i) * c.kernel[0] + down) * c.kernel[1]
                                        + right,
                                    ((n * c.outputs + o) * c.map[0] + y) * c.map[1] + x,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a product of an image, a kernel and a map element adds to.
type Visit<'a> = dyn Fn(&mut Vec<f64>, usize, usize, usize) + 'a;

fn check<T: Real>(c: &Convolution, tolerance: f64) {
    let real = <T as WithDType>::from_f64;
    let exact = |x: T| WithDType::to_f64(x);
    let image = values::<T>(c.batch * c.inputs * c.pixels(), 1);
    let kernel = values::<T>(c.outputs * c.window(), 2);
    let maps = values::<T>(c.batch * c.outputs * c.positions(), 3);
    let (bias, image_bias) = (values::<T>(c.outputs, 4), values::<T>(c.inputs, 5));
    let naive = |visit: &Visit, mut out: Vec<f64>| -> Vec<T> {
        each_product(c, |i, k, m| visit(&mut out, i, k, m));
        out.into_iter().map(real).collect()
    };
    let spread = |bias: &[T], each: usize| -> Vec<f64> {
        let channels = bias.iter().flat_map(|&b| std::iter::repeat_n(exact(b), each));
        channels.collect::<Vec<_>>().repeat(c.batch)
    };
    let to_map = |out: &mut Vec<f64>, i: usize, k: usize, m: usize| {
        out[m] += exact(image[i]) * exact(kernel[k]);
    };
    let expected = naive(&to_map, vec![0.0; maps.len()]);
    assert_close(&forward(c, &image, &kernel, None), &expected, tolerance);
    assert_close(&by_columns::forward(c, &image, &kernel, None), &expected, tolerance);
    let expected = naive(&to_map, spread(&bias, c.positions()));
    assert_close(&forward(c, &image, &kernel, Some(&bias)), &expected, tolerance);
    assert_close(&by_columns::forward(c, &image, &kernel, Some(&bias)), &expected, tolerance);

    let to_image = |out: &mut Vec<f64>, i: usize, k: usize, m: usize| {
        out[i] += exact(maps[m]) * exact(kernel[k]);
    };
    let expected = naive(&to_image, vec![0.0; image.len()]);
    assert_close(&for_image(c, &maps, &kernel, None), &expected, tolerance);
    assert_close(&by_columns::for_image(c, &maps, &kernel, None), &expected, tolerance);
    let expected = naive(&to_image, spread(&image_bias, c.pixels()));
    assert_close(&for_image(c, &maps, &kernel, Some(&image_bias)), &expected, tolerance);
    assert_close(
        &by_columns::for_image(c, &maps, &kernel, Some(&image_bias)),
        &expected,
        tolerance,
    );

    let to_kernel = |out: &mut Vec<f64>, i: usize, k: usize, m: usize| {
        out[k] += exact(image[i]) * exact(maps[m]);
    };
    let expected = naive(&to_kernel, vec![0.0; kernel.len()]);
    assert_close(&for_kernel(c, &maps, &image), &expected, tolerance);
    assert_close(&by_columns::for_kernel(c, &maps, &image), &expected, tolerance);
}

fn pair(range: std::ops::Range<usize>) -> impl Strategy<Value = [usize; 2]> {
    [range.clone(), range]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn equals_the_definition(
        (batch, groups) in (0usize..6, 1usize..4),
        (inputs, outputs) in (0usize..5, 0usize..5),
        (image, kernel) in (pair(0..11), pair(1..5)),
        (stride, padding, dilation) in (pair(1..4), pair(0..4), pair(1..4)),
    ) {
        let geometry = Geometry { stride, padding, dilation, groups };
        let image = [batch, inputs * groups, image[0], image[1]];
        let kernel = [outputs * groups, inputs, kernel[0], kernel[1]];
        if let Some(convolution) = Convolution::new(geometry, &image, &kernel) {
            check::<f64>(&convolution, 1e-13);
            check::<f32>(&convolution, 1e-5);
        }
    }
}

fn takes_fewer(c: &Convolution) -> bool {
    winograd::taps(c).is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn fewer_multiplications_equal_the_definition(
        (batch, image) in (0usize..10, pair(0..12)),
        (inputs, outputs) in (1usize..4, 1usize..4),
        (size, padding) in (3usize..5, pair(0..4)),
    ) {
        let stride = if size == 4 { [2, 2] } else { [1, 1] };
        let geometry = Geometry { stride, padding, dilation: [1, 1], groups: 1 };
        let image = [batch, 16 * inputs, image[0], image[1]];
        let kernel = [16 * outputs, 16 * inputs, size, size];
        let convolution = Convolution::new(geometry, &image, &kernel);
        if let Some(c) = convolution.filter(takes_fewer) {
            check::<f64>(&c, 2e-13);
            check::<f32>(&c, 1e-4);
        }
    }
}

/// Shapes large enough for every way of sharing the work out.
fn large() -> Vec<Convolution> {
    let plain = Geometry { stride: [2, 2], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let same = Geometry { stride: [1, 1], ..plain };
    let shapes = [
        (plain, [9, 1, 32, 32], [32, 1, 4, 4]),
        (plain, [9, 24, 8, 8], [40, 24, 4, 4]),
        (plain, [9, 32, 16, 16], [48, 32, 4, 4]),
        (plain, [40, 80, 8, 8], [96, 80, 4, 4]),
        (plain, [3, 16, 13, 21], [16, 16, 4, 4]),
        (same, [3, 48, 9, 14], [32, 48, 3, 3]),
        (same, [13, 16, 20, 20], [80, 16, 3, 3]),
        (plain, [10, 16, 8, 8], [16, 16, 4, 4]),
        (Geometry { padding: [3, 0], ..plain }, [2, 16, 23, 76], [16, 16, 4, 4]),
        (Geometry { padding: [0, 2], ..plain }, [2, 16, 41, 47], [16, 16, 4, 4]),
        (same, [1, 16, 5, 270], [16, 16, 3, 3]),
        (Geometry { padding: [0, 2], ..same }, [2, 16, 9, 8], [80, 16, 3, 3]),
        (Geometry { dilation: [1, 2], ..same }, [2, 16, 8, 10], [16, 16, 3, 3]),
        (Geometry { stride: [2, 1], ..same }, [2, 16, 8, 8], [16, 16, 4, 4]),
        (same, [5, 16, 16, 16], [16, 16, 3, 3]),
        (Geometry { padding: [0, 0], ..same }, [3, 32, 16, 16], [48, 32, 1, 1]),
        (same, [3, 32, 16, 16], [13, 32, 3, 3]),
        (Geometry { groups: 4, ..same }, [7, 32, 12, 12], [32, 8, 3, 3]),
        (Geometry { padding: [0, 0], ..same }, [40, 64, 4, 4], [1, 64, 4, 4]),
    ];
    let make = |(geometry, image, kernel): (Geometry, [usize; 4], [usize; 4])| {
        Convolution::new(geometry, &image, &kernel).unwrap()
    };
    shapes.map(make).to_vec()
}

#[test]
fn equals_the_definition_on_large_shapes() {
    for convolution in large() {
        check::<f32>(&convolution, 5e-5);
        check::<f64>(&convolution, 2e-13);
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    for c in large() {
        let image = values::<f32>(c.batch * c.inputs * c.pixels(), 1);
        let kernel = values::<f32>(c.outputs * c.window(), 2);
        let maps = values::<f32>(c.batch * c.outputs * c.positions(), 3);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = forward(&c, &image, &kernel, None);
                (y, for_image(&c, &maps, &kernel, None), for_kernel(&c, &maps, &image))
            })
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            assert!(one == run(threads), "{c:?} on {threads} threads");
        }
    }
}

/// The convolutions of DCGAN and of residual networks that have most of their work.
fn usual() -> [Convolution; 5] {
    let half = Geometry { stride: [2, 2], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let same = Geometry { stride: [1, 1], ..half };
    let shapes = [
        (half, [6, 32, 16, 16], [64, 32, 4, 4]),
        (half, [6, 64, 8, 8], [128, 64, 4, 4]),
        (half, [6, 32, 14, 14], [64, 32, 4, 4]),
        (same, [2, 64, 16, 16], [64, 64, 3, 3]),
        (same, [2, 128, 8, 8], [128, 128, 3, 3]),
    ];
    let make = |(geometry, image, kernel): (Geometry, [usize; 4], [usize; 4])| {
        Convolution::new(geometry, &image, &kernel).unwrap()
    };
    shapes.map(make)
}

#[test]
fn usual_convolutions_take_fewer_multiplications() {
    assert!(usual().iter().all(takes_fewer));
    let [half, .., same, _] = usual();
    let geometry = |stride, dilation| Geometry { stride, dilation, ..half.geometry };
    let refused = [
        // Maps that tiles go far beyond.
        Convolution { map: [3, 3], ..half },
        Convolution { map: [1, 8], ..half },
        Convolution { map: [8, 1], ..half },
        // Channels that are no whole vectors.
        Convolution { inputs: 24, ..half },
        Convolution { inputs: 0, ..half },
        Convolution { outputs: 1, ..half },
        // Kernels that are no two or three taps for each step.
        Convolution { geometry: geometry([2, 1], [1, 1]), ..half },
        Convolution { geometry: geometry([1, 2], [1, 1]), ..half },
        Convolution { geometry: geometry([4, 4], [1, 1]), ..half },
        Convolution { kernel: [4, 3], ..half },
        Convolution { kernel: [3, 4], ..half },
        Convolution { geometry: geometry([1, 1], [1, 2]), ..same },
        Convolution { geometry: geometry([1, 1], [2, 1]), ..same },
        Convolution { geometry: Geometry { groups: 2, ..same.geometry }, ..same },
        // Nothing to do.
        Convolution { batch: 0, ..half },
        Convolution { image: [0, 16], ..half },
    ];
    for refused in refused {
        assert!(!takes_fewer(&refused), "{refused:?}");
    }
    assert!(takes_fewer(&Convolution { map: [5, 5], ..half }));
}

/// The root of the mean square of differences from values that were computed in `f64`.
fn error(got: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(got.len(), exact.len());
    let squares = got.iter().zip(exact).map(|(&got, &exact)| (f64::from(got) - exact).powi(2));
    (squares.sum::<f64>() / exact.len() as f64).sqrt()
}

/// Image, kernel and maps.
type Operands<T> = [Vec<T>; 3];

fn on_columns<T: Real>(c: &Convolution, [image, kernel, maps]: &Operands<T>) -> [Vec<T>; 3] {
    [
        by_columns::forward(c, image, kernel, None),
        by_columns::for_image(c, maps, kernel, None),
        by_columns::for_kernel(c, maps, image),
    ]
}

#[test]
fn fewer_multiplications_are_nearly_as_accurate() {
    // Of both signs, and with a mean, as after a ReLU.
    for (least, c) in [-1.0, 0.0].iter().flat_map(|least| usual().map(|c| (least, c))) {
        let values_of = |len, seed| values::<f32>(len, seed).into_iter().map(|x| x.max(*least));
        let image = values_of(c.batch * c.inputs * c.pixels(), 1).collect();
        let kernel = values(c.outputs * c.window(), 2);
        let maps = values_of(c.batch * c.outputs * c.positions(), 3).collect();
        let operands = [image, kernel, maps];
        let wide = operands.each_ref().map(|x| x.iter().map(|&x| f64::from(x)).collect());
        let [image, kernel, maps] = &operands;
        let fewer = [
            forward(&c, image, kernel, None),
            for_image(&c, maps, kernel, None),
            for_kernel(&c, maps, image),
        ];
        let (exact, on_columns) = (on_columns(&c, &wide), on_columns(&c, &operands));
        for ((exact, on_columns), fewer) in exact.iter().zip(&on_columns).zip(&fewer) {
            let (error, of_columns) = (error(fewer, exact), error(on_columns, exact));
            assert!(error <= 2.5 * of_columns, "{c:?}: {error}, on columns {of_columns}");
        }
    }
}

#[test]
fn a_sample_is_the_same_in_any_batch() {
    for c in large().into_iter().chain(usual()).filter(takes_fewer) {
        let (image_len, map_len) = (c.inputs * c.pixels(), c.outputs * c.positions());
        let image = values::<f32>(c.batch * image_len, 1);
        let kernel = values::<f32>(c.outputs * c.window(), 2);
        let maps = values::<f32>(c.batch * map_len, 3);
        let (forward_of_all, back_of_all) =
            (forward(&c, &image, &kernel, None), for_image(&c, &maps, &kernel, None));
        let last = Convolution { batch: 1, ..c };
        let image = &image[(c.batch - 1) * image_len..];
        let of_last = &forward_of_all[(c.batch - 1) * map_len..];
        assert!(forward(&last, image, &kernel, None) == of_last, "{c:?}");
        let maps = &maps[(c.batch - 1) * map_len..];
        let of_last = &back_of_all[(c.batch - 1) * image_len..];
        assert!(for_image(&last, maps, &kernel, None) == of_last, "{c:?}");
    }
}
