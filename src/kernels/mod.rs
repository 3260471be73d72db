//! The fast arithmetic on the CPU, and the only place for `unsafe` code.
//!
//! Nothing here knows of gradients, layers or training: slices in, slices out. Every kernel is tested against
//! a naive twin written in the test module beside it, and gives the same bytes for any number of threads: work
//! is cut into pieces whose size does not depend on the machine, and a sum that is split between tasks is put together in
//! their order.

pub(crate) mod activation;
pub(crate) mod batch_norm;
pub(crate) mod channels;
pub(crate) mod convolution;
pub(crate) mod elementwise;
pub(crate) mod finite;
mod lanes;
pub(crate) mod matmul;
pub(crate) mod memory;
mod parallel;
mod past_caches;
pub(crate) mod pool;
mod prefetch;
pub(crate) mod rows;
mod scratch;
pub(crate) mod transpose;
pub(crate) mod update;

pub(crate) use parallel::{beside, has_helpers};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, WithDType};

/// The element types that training works in: `f32` and `f64`.
pub(crate) trait Real:
    WithDType + num_traits::Float + lanes::Lanes + scratch::Scratch
{
}
impl Real for f32 {}
impl Real for f64 {}

/// Elements that one task of a parallel elementwise kernel takes: they fit the first level of the cache.
const CHUNK: usize = 16 * 1024;

/// Runs a plain loop, compiled for the widest vectors of the machine.
///
/// The closure is to be `#[inline(always)] move`. What is called here is then its own body, which takes over the instructions of
/// its caller: called as `FnOnce` it would come wrapped in a function of the compiler's, which a long body makes too long to be
/// inlined, and which is then compiled for the oldest machine. And what it captures is its own: behind a reference the compiler
/// has to read it anew after each element that is written.
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnMut() -> R) -> R {
    struct Work<F>(F);

    impl<R, F: FnMut() -> R> pulp::WithSimd for Work<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(mut self, _simd: S) -> R {
            (self.0)()
        }
    }

    pulp::Arch::new().dispatch(Work(work))
}

/// The elements of a contiguous tensor.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => candle_core::bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

/// The elements of a contiguous tensor, to be changed in place.
pub(crate) fn slice_mut<'a, T: Real>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a mut [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("expected a contiguous tensor, got {layout:?}")
    };
    let elements: &mut dyn std::any::Any = match storage {
        CpuStorage::F32(elements) => elements,
        CpuStorage::F64(elements) => elements,
        other => candle_core::bail!("expected f32 or f64, got {:?}", other.dtype()),
    };
    match elements.downcast_mut::<Vec<T>>() {
        Some(elements) => Ok(&mut elements[start..end]),
        None => candle_core::bail!("expected {:?}, got the other float type", T::DTYPE),
    }
}

/// Calls `$kernel::<f32>` or `$kernel::<f64>`, by the storage's element type.
macro_rules! for_real {
    ($storage:expr, $T:ident => $call:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $T = f32;
                $call
            }
            candle_core::CpuStorage::F64(_) => {
                type $T = f64;
                $call
            }
            other => candle_core::bail!(
                "expected f32 or f64, got {:?}",
                candle_core::backend::BackendStorage::dtype(other)
            ),
        }
    };
}
pub(crate) use for_real;

#[cfg(test)]
pub(crate) mod tests {
    use super::Real;
    use candle_core::WithDType;
    use rand::{Rng, SeedableRng};

    /// Reproducible values in [-1, 1).
    pub(crate) fn values<T: Real>(count: usize, seed: u64) -> Vec<T> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| <T as WithDType>::from_f64(rng.random_range(-1.0..1.0))).collect()
    }

    pub(crate) fn assert_close<T: Real>(got: &[T], expected: &[T], tolerance: f64) {
        assert_eq!(got.len(), expected.len());
        for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
            let (g, e) = (WithDType::to_f64(g), WithDType::to_f64(e));
            assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: {g} for {e}");
        }
    }
}
