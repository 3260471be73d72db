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
    let expected = naive(&to_map, spread(&bias, c.positions()));
    assert_close(&forward(c, &image, &kernel, Some(&bias)), &expected, tolerance);

    let to_image = |out: &mut Vec<f64>, i: usize, k: usize, m: usize| {
        out[i] += exact(maps[m]) * exact(kernel[k]);
    };
    let expected = naive(&to_image, vec![0.0; image.len()]);
    assert_close(&for_image(c, &maps, &kernel, None), &expected, tolerance);
    let expected = naive(&to_image, spread(&image_bias, c.pixels()));
    assert_close(&for_image(c, &maps, &kernel, Some(&image_bias)), &expected, tolerance);

    let to_kernel = |out: &mut Vec<f64>, i: usize, k: usize, m: usize| {
        out[k] += exact(image[i]) * exact(maps[m]);
    };
    let expected = naive(&to_kernel, vec![0.0; kernel.len()]);
    assert_close(&for_kernel(c, &maps, &image), &expected, tolerance);
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

/// Shapes large enough for every way of sharing the work out.
fn large() -> Vec<Convolution> {
    let plain = Geometry { stride: [2, 2], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let same = Geometry { stride: [1, 1], ..plain };
    let shapes = [
        (plain, [9, 1, 32, 32], [32, 1, 4, 4]),
        (plain, [9, 24, 8, 8], [40, 24, 4, 4]),
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
        check::<f32>(&convolution, 1e-4);
        check::<f64>(&convolution, 1e-12);
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
