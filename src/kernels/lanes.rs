//! Vectors of `f32` and `f64`, of the length that a machine has.

use pulp::Simd;

/// The vector instructions that kernels are written in, for `f32` and `f64`.
pub(crate) trait Lanes: Copy + 'static {
    /// A vector of these elements.
    type Vector<S: Simd>: Copy;
    /// A vector of copies of an element.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// `a * b + c`, rounded once where the machine has an instruction for it.
    fn multiply_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    fn add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn subtract<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn multiply<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn divide<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn square_root<S: Simd>(simd: S, a: Self::Vector<S>) -> Self::Vector<S>;
    /// Where the first of two is less than the second, as NaN never is, an element of `then`, and elsewhere one of `otherwise`.
    fn if_less<S: Simd>(
        simd: S,
        two: [Self::Vector<S>; 2],
        then: Self::Vector<S>,
        otherwise: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// Whether all are finite; their sum must not overflow.
    fn all_finite<S: Simd>(simd: S, a: Self::Vector<S>) -> bool;
}

impl Lanes for f32 {
    type Vector<S: Simd> = S::f32s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f32s {
        simd.splat_f32s(x)
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, c)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }

    #[inline(always)]
    fn subtract<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.sub_f32s(a, b)
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.mul_f32s(a, b)
    }

    #[inline(always)]
    fn divide<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.div_f32s(a, b)
    }

    #[inline(always)]
    fn square_root<S: Simd>(simd: S, a: S::f32s) -> S::f32s {
        simd.sqrt_f32s(a)
    }

    #[inline(always)]
    fn if_less<S: Simd>(
        simd: S,
        [a, b]: [S::f32s; 2],
        then: S::f32s,
        otherwise: S::f32s,
    ) -> S::f32s {
        simd.select_f32s(simd.less_than_f32s(a, b), then, otherwise)
    }

    #[inline(always)]
    fn all_finite<S: Simd>(simd: S, a: S::f32s) -> bool {
        simd.reduce_sum_f32s(a).is_finite()
    }
}

impl Lanes for f64 {
    type Vector<S: Simd> = S::f64s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f64s {
        simd.splat_f64s(x)
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
        simd.mul_add_e_f64s(a, b, c)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.add_f64s(a, b)
    }

    #[inline(always)]
    fn subtract<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.sub_f64s(a, b)
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.mul_f64s(a, b)
    }

    #[inline(always)]
    fn divide<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.div_f64s(a, b)
    }

    #[inline(always)]
    fn square_root<S: Simd>(simd: S, a: S::f64s) -> S::f64s {
        simd.sqrt_f64s(a)
    }

    #[inline(always)]
    fn if_less<S: Simd>(
        simd: S,
        [a, b]: [S::f64s; 2],
        then: S::f64s,
        otherwise: S::f64s,
    ) -> S::f64s {
        simd.select_f64s(simd.less_than_f64s(a, b), then, otherwise)
    }

    #[inline(always)]
    fn all_finite<S: Simd>(simd: S, a: S::f64s) -> bool {
        simd.reduce_sum_f64s(a).is_finite()
    }
}

/// Elements of a vector.
pub(crate) const fn lanes<S: Simd, T: Lanes>() -> usize {
    size_of::<T::Vector<S>>() / size_of::<T>()
}
