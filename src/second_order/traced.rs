//! The traced tensor and the reverse pass over its trace.

use std::collections::{BTreeMap, btree_map::Entry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// A candle tensor that knows how it was computed from a critic's input.
///
/// It offers candle's operations under candle's names; [`apply`](Self::apply) takes candle-nn's layers as they
/// are. A tensor that does not come from the input (a weight, a constant) is lifted with
/// [`parameter`](Self::parameter).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use wgan::Traced;
/// # fn main() -> wgan::Result<()> {
/// let x = Traced::input(&Tensor::new(&[[3f64, 4.0]], &Device::Cpu)?);
/// let y = x.sqr()?.sum(1)?; // x0^2 + x1^2, one score a sample
/// let gradient = y.gradient(&x)?;
/// assert_eq!(gradient.to_vec2::<f64>()?, [[6.0, 8.0]]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Traced {
    value: Tensor,
    mode: Mode,
    node: Option<Arc<Node>>,
}

/// What a forward pass is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The critic trains: gradients reach its parameters.
    Trained,
    /// The generator trains through the critic, whose parameters are constants.
    Frozen,
}

/// A gradient pulled back through one operation: the gradient of its result to the gradient of one operand.
pub(super) type PullBack = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor> + Send + Sync>;

/// An operation in the trace. Numbers grow along the computation, so a walk from the highest down is a
/// reverse topological order.
struct Node {
    number: u64,
    operands: Vec<(Arc<Node>, PullBack)>,
}

impl Node {
    fn new(operands: Vec<(Arc<Node>, PullBack)>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), operands })
    }
}

impl Traced {
    /// An input to differentiate with respect to, by [`gradient`](Self::gradient).
    #[must_use]
    pub fn input(value: &Tensor) -> Self {
        Self { value: value.clone(), mode: Mode::Trained, node: Some(Node::new(Vec::new())) }
    }

    /// An input that is not differentiated with respect to: the same values at no extra cost. It starts a pass of its own;
    /// in the middle of another it would cut what came before off.
    #[must_use]
    pub fn untracked(value: &Tensor) -> Self {
        Self { value: value.clone(), mode: Mode::Trained, node: None }
    }

    /// The same, in a forward pass that treats every parameter as a constant: candle's `backward` then reaches
    /// the input but does no work for the parameters.
    #[must_use]
    pub fn frozen(value: &Tensor) -> Self {
        Self { value: value.clone(), mode: Mode::Frozen, node: None }
    }

    /// The value, part of candle's graph.
    #[must_use]
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether [`gradient`](Self::gradient) can be taken with respect to something this was computed from.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// Whether parameters are constants in this forward pass.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.mode == Mode::Frozen
    }

    /// The dimensions of the value.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// The element type of the value.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// The device of the value.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.value.device()
    }

    /// A tensor of the critic's own, a weight or a constant, for use in this forward pass.
    ///
    /// Candle's `backward` reaches it, except in a pass in which parameters are constants.
    #[must_use]
    pub fn parameter(&self, tensor: &Tensor) -> Self {
        Self { value: self.weight(tensor), mode: self.mode, node: None }
    }

    /// The tensor as this forward pass sees it: detached where parameters are constants.
    #[must_use]
    pub(crate) fn weight(&self, tensor: &Tensor) -> Tensor {
        if self.is_frozen() { tensor.detach() } else { tensor.clone() }
    }

    /// The gradient of the sum of this tensor's elements with respect to `input`, in the shape of `input`.
    ///
    /// For scores `(batch,)` of a critic that looks at each sample alone this is each sample's own gradient. The
    /// result is a differentiable function of `input` and of every parameter on the way.
    ///
    /// # Errors
    /// [`Error::NotConnected`] where this tensor was not computed from `input`; candle's if a product fails.
    pub fn gradient(&self, input: &Self) -> Result<Tensor> {
        let not_connected = || Error::NotConnected {
            what: format!("a tensor of shape {:?}", self.dims()),
            on: format!("the input of shape {:?}", input.dims()),
        };
        let (Some(output), Some(target)) = (&self.node, &input.node) else {
            return Err(not_connected());
        };
        // Gradients that wait for their operation, by its number.
        let mut pending: BTreeMap<u64, (Arc<Node>, Tensor)> = BTreeMap::new();
        pending.insert(output.number, (output.clone(), self.value.ones_like()?.detach()));
        while let Some((number, (node, gradient))) = pending.pop_last() {
            if number == target.number {
                return Ok(gradient);
            }
            for (operand, pull_back) in &node.operands {
                if operand.number < target.number {
                    continue;
                }
                let share = pull_back(&gradient)?;
                match pending.entry(operand.number) {
                    Entry::Vacant(entry) => {
                        entry.insert((operand.clone(), share));
                    }
                    Entry::Occupied(mut entry) => {
                        let sum = entry.get().1.add(&share)?;
                        entry.get_mut().1 = sum;
                    }
                }
            }
        }
        Err(not_connected())
    }

    /// The result of an operation that no gradient is pulled back through.
    pub(super) fn unrecorded(&self, value: Tensor) -> Self {
        Self { value, mode: self.mode, node: None }
    }

    /// The result of an operation on this tensor alone.
    pub(super) fn unary(
        &self,
        value: Tensor,
        pull_back: impl Fn(&Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        let node = self
            .node
            .as_ref()
            .map(|node| Node::new(vec![(node.clone(), Box::new(pull_back) as PullBack)]));
        Self { value, mode: self.mode, node }
    }

    /// The result of an operation on several tensors, with a pull-back for each. Only those of tracked
    /// operands are kept.
    pub(super) fn from_operands<'a>(
        value: Tensor,
        operands: impl IntoIterator<Item = (&'a Self, PullBack)>,
    ) -> Self {
        let mut mode = Mode::Trained;
        let mut tracked = Vec::new();
        for (operand, pull_back) in operands {
            if operand.is_frozen() {
                mode = Mode::Frozen;
            }
            if let Some(node) = &operand.node {
                tracked.push((node.clone(), pull_back));
            }
        }
        let node = (!tracked.is_empty()).then(|| Node::new(tracked));
        Self { value, mode, node }
    }
}

impl std::fmt::Debug for Traced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traced")
            .field("value", &self.value)
            .field("mode", &self.mode)
            .field("tracked", &self.is_tracked())
            .finish()
    }
}
