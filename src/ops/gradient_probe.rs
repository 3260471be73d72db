//! Reading the gradient that passes a point of the graph.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Tensor,
    backend::BackendStorage,
};

/// Notes the mean length of the samples' gradients when `backward` passes it; changes nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct GradientProbe(Arc<Mutex<Option<Tensor>>>);

impl GradientProbe {
    /// The same tensor, with the probe in its gradient's way.
    pub(crate) fn attach(&self, x: &Tensor) -> Result<Tensor> {
        x.force_contiguous()?.apply_op1(Identity(self.clone()))
    }

    /// The mean over the batch of the length of each sample's gradient, a scalar; `None` before `backward`.
    pub(crate) fn mean_norm(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Identity(GradientProbe);

impl CustomOp1 for Identity {
    fn name(&self) -> &'static str {
        "gradient-probe"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((x.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((x.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        Ok((x.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let norm = gradient.flatten_from(1)?.sqr()?.sum(1)?.sqrt()?.mean_all()?;
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(norm);
        Ok(Some(gradient.clone()))
    }
}
