//! The tape: operations with their pull-backs, and the walk back over them.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;

use super::Traced;
use super::gradients::Gradient;
use crate::error::Result;
use crate::kernels::beside;

/// A gradient pulled back through one operation: the gradient of its result to the gradient of one operand.
///
/// It is written in traced operations, and each of them has the gradient for an operand. So where the gradient is
/// recorded, so is what becomes of it; where it is not, nothing is.
pub(super) type PullBack = Box<dyn Fn(&Traced) -> Result<Gradient> + Send + Sync>;

/// A pull-back that multiplies what it multiplies at once.
pub(super) fn pull_back(f: impl Fn(&Traced) -> Result<Traced> + Send + Sync + 'static) -> PullBack {
    Box::new(move |g| f(g).map(Gradient::from))
}

/// The gradients of all operands at once, for an operation that computes them together. It is given a gradient that is not
/// recorded, as only the first order is known.
pub(super) type JointPullBack = Box<dyn Fn(&Traced) -> Result<Vec<Traced>> + Send + Sync>;

/// What an operation was computed from, with the way back.
pub(super) enum Operands {
    Each(Vec<(Arc<Node>, PullBack)>),
    /// Constants among them have no node.
    Together(Vec<Option<Arc<Node>>>, JointPullBack),
}

impl Operands {
    fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        let (each, together) = match self {
            Self::Each(operands) => (operands.as_slice(), [].as_slice()),
            Self::Together(operands, _) => ([].as_slice(), operands.as_slice()),
        };
        each.iter().map(|(operand, _)| operand).chain(together.iter().flatten())
    }
}

/// An operation on the tape, or a leaf. Numbers grow along the computation, so a walk from the highest down is a
/// reverse topological order.
pub(super) struct Node {
    number: u64,
    /// The tensor of candle's that a leaf stands for, where a gradient of it is wanted.
    leaf: Option<Tensor>,
    has_input: bool,
    reaches_leaf: bool,
    /// The size of an operation's result; 0 for a leaf.
    bytes: usize,
    operands: Operands,
}

impl Node {
    /// A leaf. `tensor` is what candle knows it as, if it knows it.
    pub(super) fn leaf(tensor: Option<Tensor>, is_input: bool) -> Arc<Self> {
        Self::number(Self {
            number: 0,
            reaches_leaf: tensor.is_some(),
            leaf: tensor,
            has_input: is_input,
            bytes: 0,
            operands: Operands::Each(Vec::new()),
        })
    }

    /// An operation with this result.
    pub(super) fn operation(operands: Operands, result: &Tensor) -> Arc<Self> {
        let has_input = operands.nodes().any(|operand| operand.has_input);
        let reaches_leaf = operands.nodes().any(|operand| operand.reaches_leaf);
        let bytes = result.elem_count() * result.dtype().size_in_bytes();
        Self::number(Self { number: 0, leaf: None, has_input, reaches_leaf, bytes, operands })
    }

    fn number(node: Self) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        #[cfg(test)]
        count::note();
        Arc::new(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), ..node })
    }

    /// Whether it was computed from a [`Traced::input`].
    pub(super) fn has_input(&self) -> bool {
        self.has_input
    }

    /// Whether it was computed from a tensor that a gradient is wanted of.
    pub(super) fn reaches_leaf(&self) -> bool {
        self.reaches_leaf
    }

    /// The size of its result; for a leaf that of what candle computed it from.
    pub(super) fn bytes(&self) -> usize {
        let size = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        let computed = |leaf: &Tensor| -> usize {
            leaf.sorted_nodes().into_iter().filter(|x| !x.is_variable()).map(size).sum()
        };
        self.bytes + self.leaf.as_ref().map_or(0, computed)
    }

    pub(super) fn as_leaf(&self) -> Option<&Tensor> {
        self.leaf.as_ref()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.number == other.number
    }

    /// What it was computed from, itself included, from the first to the last; only what `enter` says yes to.
    pub(super) fn ancestry(&self, enter: impl Fn(&Self) -> bool) -> impl Iterator<Item = &Self> {
        let mut found: BTreeMap<u64, &Self> = BTreeMap::new();
        let mut ahead = vec![self];
        while let Some(node) = ahead.pop() {
            if enter(node) && found.insert(node.number, node).is_none() {
                ahead.extend(node.operands.nodes().map(|operand| &**operand));
            }
        }
        found.into_values()
    }

    /// The nodes between this one and `target`, both included; none where there is no way.
    pub(super) fn way_to(&self, target: &Self) -> Way {
        let mut way = BTreeSet::new();
        for node in self.ancestry(|node| node.number >= target.number) {
            let leads_on = |operand: &Arc<Self>| way.contains(&operand.number);
            if node.is(target) || node.operands.nodes().any(leads_on) {
                way.insert(node.number);
            }
        }
        Way(way)
    }
}

/// Nodes between two others.
pub(super) struct Way(BTreeSet<u64>);

impl Way {
    pub(super) fn holds(&self, node: &Node) -> bool {
        self.0.contains(&node.number)
    }
}

/// Pulls the gradient of `from` back to everything on the way.
///
/// `at` is given each node with its whole gradient, and says what is pulled back further from there, if anything. The first
/// share of a gradient that arrives is taken as it is, others are added. A node that nobody else holds is dropped as it is
/// passed, so that what its pull-backs hold is free before the next ones allocate.
pub(super) fn walk_back(
    from: Arc<Node>,
    gradient: Traced,
    on_the_way: impl Fn(&Node) -> bool,
    mut at: impl FnMut(&Node, Gradient) -> Result<Option<Traced>>,
) -> Result<()> {
    let mut pending = BTreeMap::from([(from.number, (from, Gradient::from(gradient)))]);
    while let Some((_, (node, gradient))) = pending.pop_last() {
        let Some(gradient) = at(&node, gradient)? else { continue };
        let mut arrive = |operand: Arc<Node>, share: Gradient| -> Result<()> {
            match pending.entry(operand.number) {
                Entry::Vacant(entry) => {
                    entry.insert((operand, share));
                }
                Entry::Occupied(mut entry) => entry.get_mut().1.add(share)?,
            }
            Ok(())
        };
        match &node.operands {
            Operands::Each(operands) => {
                let (operands, pull_backs): (Vec<_>, Vec<_>) = (operands.iter())
                    .filter(|(operand, _)| on_the_way(operand))
                    .map(|(operand, pull_back)| (operand, pull_back))
                    .unzip();
                for (operand, share) in operands.into_iter().zip(shares(&gradient, &pull_backs)?) {
                    arrive(operand.clone(), share)?;
                }
            }
            Operands::Together(operands, pull_back) => {
                for (operand, share) in operands.iter().zip(pull_back(&gradient)?) {
                    if let Some(operand) = operand.as_ref().filter(|operand| on_the_way(operand)) {
                        arrive(operand.clone(), share.into())?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The shares of an operation's operands. Those of long tensors are made beside each other: the gradients of a layer's parameters
/// are of no use to the layers before it, which wait for that of its input. Not where they are recorded, as the order of the
/// tape would then depend on which thread was faster.
fn shares(gradient: &Traced, pull_backs: &[&PullBack]) -> Result<Vec<Gradient>> {
    /// Elements of a gradient from which a second thread pays.
    const LONG: usize = 16 * 1024;
    let long = || gradient.raw().elem_count() >= LONG && gradient.device().is_cpu();
    let each = |pull_backs: &[&PullBack]| pull_backs.iter().map(|f| f(gradient)).collect();
    match pull_backs {
        [first, others @ ..] if !others.is_empty() && !gradient.is_recorded() && long() => {
            let (first, others) = beside(|| first(gradient), || each(others));
            let mut shares = vec![first?];
            let others: Vec<_> = others?;
            shares.extend(others);
            Ok(shares)
        }
        _ => each(pull_backs),
    }
}

/// How many nodes a thread has made: the first-order pass must make none.
#[cfg(test)]
pub(super) mod count {
    use std::cell::Cell;

    thread_local! {
        static NODES: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn note() {
        NODES.with(|nodes| nodes.set(nodes.get() + 1));
    }

    pub(crate) fn made() -> usize {
        NODES.with(Cell::get)
    }
}
