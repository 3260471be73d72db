//! The two ends of the tape that meet candle's graph.
//!
//! A leaf may be a tensor that candle computed (generated samples, a weight over its norm): its gradient is handed on to
//! candle's backward pass. And the value of a traced tensor may be used in candle's operators: their backward pass is handed
//! on to the tape. Either way the gradients are complete, to the first order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, MetalStorage, Result, Shape,
    Tensor, TensorId,
};

use super::Traced;
use super::gradients::{Gradient, Gradients};
use super::tape::{Node, walk_back};
use crate::error;

/// Leaves with their gradients, each once, in the order in which they were reached.
type Leaves = Vec<(Tensor, Gradient)>;

/// The gradients of a node's leaves, none of it recorded.
fn leaf_gradients(node: Arc<Node>, gradient: Tensor) -> error::Result<Leaves> {
    let mut leaves = Leaves::new();
    let mut places: HashMap<TensorId, usize> = HashMap::new();
    walk_back(node, Traced::unrecorded(gradient), Node::reaches_leaf, |node, gradient| {
        let Some(leaf) = node.as_leaf() else {
            return gradient.traced().map(Some);
        };
        match places.get(&leaf.id()) {
            Some(&place) => leaves[place].1.add(gradient)?,
            None => {
                places.insert(leaf.id(), leaves.len());
                leaves.push((leaf.clone(), gradient));
            }
        }
        Ok(None)
    })?;
    Ok(leaves)
}

fn multiplied(leaves: Leaves) -> error::Result<Vec<(Tensor, Tensor)>> {
    leaves.into_iter().map(|(leaf, gradient)| Ok((leaf, gradient.multiplied()?.0))).collect()
}

/// The gradients of every variable that the node was computed from, on the tape and beyond it.
pub(super) fn backward(node: Arc<Node>, gradient: Tensor) -> error::Result<Gradients> {
    let (variables, computed): (Leaves, Leaves) =
        leaf_gradients(node, gradient)?.into_iter().partition(|(leaf, _)| leaf.is_variable());
    // One pass of candle's for all that it computed.
    let mut gradients = Gradients::default();
    if !computed.is_empty() {
        let ends = multiplied(computed)?.into_iter();
        let ends = ends.map(|(leaf, gradient)| leaf.apply_op1(End(gradient)));
        let ends = ends.collect::<Result<Vec<_>>>()?;
        gradients = Gradients::of_candle(&Tensor::cat(&ends, 0)?.backward()?);
    }
    for (variable, gradient) in variables {
        gradients.add(variable.id(), gradient)?;
    }
    Ok(gradients)
}

/// A constant as part of candle's graph: candle's backward pass goes on from it along the tape, to the node's leaves.
pub(super) fn attach(value: &Tensor, node: &Arc<Node>) -> Result<Tensor> {
    let mut leaves: HashMap<TensorId, &Tensor> = HashMap::new();
    let mut ends = Vec::new();
    let arrived = Arrived::default();
    for leaf in node.ancestry(Node::reaches_leaf).filter_map(Node::as_leaf) {
        if leaves.insert(leaf.id(), leaf).is_none() {
            ends.push(leaf.apply_op1(Continued { leaf: leaf.id(), arrived: arrived.clone() })?);
        }
    }
    let ends = Tensor::cat(&ends, 0)?;
    value.apply_op2(&ends, Attached { node: node.clone(), arrived })
}

/// A scalar whose gradient for the operand is given.
struct End(Tensor);

impl CustomOp1 for End {
    fn name(&self) -> &'static str {
        "given-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        scalar(x)
    }

    fn cuda_fwd(&self, x: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        scalar(x)
    }

    fn metal_fwd(&self, x: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        scalar(x)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// Gradients on their way from the end of a tape to its leaves. Candle runs a backward pass on one thread; two of them may
/// run over the same graph.
#[derive(Clone, Default)]
struct Arrived(Arc<Mutex<HashMap<(ThreadId, TensorId), Tensor>>>);

impl Arrived {
    fn lock(&self) -> MutexGuard<'_, HashMap<(ThreadId, TensorId), Tensor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value at the end of a tape. Its second operand are the ends of the [`Continued`] leaves, which makes candle visit them
/// after this.
struct Attached {
    node: Arc<Node>,
    arrived: Arrived,
}

impl CustomOp2 for Attached {
    fn name(&self) -> &'static str {
        "tape"
    }

    fn cpu_fwd(
        &self,
        value: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        copy(value, layout)
    }

    fn cuda_fwd(
        &self,
        value: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        copy(value, layout)
    }

    fn metal_fwd(
        &self,
        value: &MetalStorage,
        layout: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        copy(value, layout)
    }

    fn bwd(
        &self,
        _: &Tensor,
        ends: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let leaves = leaf_gradients(self.node.clone(), gradient.detach())
            .and_then(multiplied)
            .map_err(error::Error::into_candle)?;
        let thread = std::thread::current().id();
        let arrivals = leaves.into_iter().map(|(leaf, gradient)| ((thread, leaf.id()), gradient));
        self.arrived.lock().extend(arrivals);
        Ok((None, Some(ends.zeros_like()?)))
    }
}

/// A leaf of a tape whose end is [`Attached`] to candle's graph.
struct Continued {
    leaf: TensorId,
    arrived: Arrived,
}

impl CustomOp1 for Continued {
    fn name(&self) -> &'static str {
        "leaf-of-a-tape"
    }

    fn cpu_fwd(&self, x: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        scalar(x)
    }

    fn cuda_fwd(&self, x: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        scalar(x)
    }

    fn metal_fwd(&self, x: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        scalar(x)
    }

    fn bwd(&self, leaf: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        let arrived = self.arrived.lock().remove(&(std::thread::current().id(), self.leaf));
        // Candle takes it for granted that every tensor it visits has a gradient.
        arrived.map_or_else(|| leaf.zeros_like(), Ok).map(Some)
    }
}

/// `(1,)`, a zero beside the operand.
fn scalar<S: BackendStorage<Device: BackendDevice<Storage = S>>>(x: &S) -> Result<(S, Shape)> {
    let shape = Shape::from(1);
    Ok((x.device().zeros_impl(&shape, DType::F32)?, shape))
}

fn copy<S: BackendStorage<Device: BackendDevice<Storage = S>>>(
    x: &S,
    layout: &Layout,
) -> Result<(S, Shape)> {
    let shape = layout.shape().clone();
    let mut copy = x.device().zeros_impl(&shape, x.dtype())?;
    x.copy_strided_src(&mut copy, 0, layout)?;
    Ok((copy, shape))
}
