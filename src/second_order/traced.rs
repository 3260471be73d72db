//! The traced tensor: what it is made of, and how it meets candle's.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor, TensorId};

use super::bridge;
use super::mixtures::Rows;
use super::tape::{JointPullBack, Node, Operands, PullBack, pull_back};
use crate::error::Result;

/// A tensor that knows how it was computed: from a critic's input, and from its parameters.
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
    /// A constant to candle, except in a plain pass.
    raw: Tensor,
    pass: Pass,
    node: Option<Arc<Node>>,
    /// What its rows are, where that is known and of use.
    rows: Option<Rows>,
    /// The value as part of candle's graph, made when it is first asked for.
    value: OnceLock<Tensor>,
}

/// What operations are run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The critic trains: gradients reach its parameters.
    Trained,
    /// The generator trains through the critic, whose parameters are constants; with the samples, where candle made them.
    Frozen { samples: Option<TensorId> },
    /// A layer in candle code: values are part of candle's graph, and nothing is recorded here.
    Plain,
    /// A first-order gradient is on its way back: nothing is recorded at all.
    Unrecorded,
}

impl Pass {
    /// That of the result of an operation on operands of both.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unrecorded, _) | (_, Self::Trained) => self,
            (_, other) => other,
        }
    }
}

impl Traced {
    /// An input to differentiate with respect to, by [`gradient`](Self::gradient).
    #[must_use]
    pub fn input(value: &Tensor) -> Self {
        let node = Node::leaf(value.track_op().then(|| value.clone()), true);
        Self::new(value.detach(), Pass::Trained, Some(node))
    }

    /// An input that is not differentiated with respect to: the same values, and a gradient's pass goes no further than the
    /// parameters. It starts a pass of its own; in the middle of another it would cut what came before off from
    /// [`gradient`](Self::gradient).
    #[must_use]
    pub fn untracked(value: &Tensor) -> Self {
        Self::lifted(value, Pass::Trained)
    }

    /// The same, in a forward pass that treats every parameter as a constant: [`backward`](Self::backward), and candle's,
    /// reaches what candle computed the input from, but does no work for the parameters.
    #[must_use]
    pub fn frozen(value: &Tensor) -> Self {
        let samples = value.track_op().then(|| value.id());
        Self::lifted(value, Pass::Frozen { samples })
    }

    /// A tensor in candle code, for a layer that works on both kinds.
    pub(crate) fn plain(value: &Tensor) -> Self {
        Self::new(value.clone(), Pass::Plain, None)
    }

    /// A constant that operations are not recorded on, whatever their other operands are.
    pub(super) fn unrecorded(raw: Tensor) -> Self {
        Self::new(raw, Pass::Unrecorded, None)
    }

    /// A tensor of candle's, which is a leaf where candle knows how it was made.
    fn lifted(value: &Tensor, pass: Pass) -> Self {
        let node = value.track_op().then(|| Node::leaf(Some(value.clone()), false));
        Self::new(value.detach(), pass, node)
    }

    fn new(raw: Tensor, pass: Pass, node: Option<Arc<Node>>) -> Self {
        Self { raw, pass, node, rows: None, value: OnceLock::new() }
    }

    /// The value, part of candle's graph: candle's `backward` of what is computed from it reaches the parameters, and the
    /// input where candle computed that.
    ///
    /// It costs a copy; [`detach`](Self::detach) is free. A value that was used in candle's operators can be lifted again, but
    /// [`gradient`](Self::gradient) does not see that it depends on the input, so that a penalty lacks a term:
    /// [`check_critic`](crate::testing::check_critic) finds it. Use [`through_candle`](Self::through_candle) for an operation
    /// that is missing here; it refuses what it cannot do.
    ///
    /// # Panics
    /// Where the device cannot hold the copy.
    #[must_use]
    pub fn value(&self) -> &Tensor {
        let Some(node) = self.node.as_ref().filter(|node| node.reaches_leaf()) else {
            return &self.raw;
        };
        self.value.get_or_init(|| match node.as_leaf() {
            Some(leaf) => leaf.clone(),
            None => bridge::attach(&self.raw, node)
                .unwrap_or_else(|error| panic!("no room for a copy of {:?}: {error}", self.dims())),
        })
    }

    /// The value as a constant.
    #[must_use]
    pub fn detach(&self) -> Tensor {
        self.raw.detach()
    }

    /// The value to compute with: a constant, but part of candle's graph in a plain pass.
    pub(crate) fn raw(&self) -> &Tensor {
        &self.raw
    }

    pub(super) fn into_raw(self) -> Tensor {
        self.raw
    }

    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    pub(super) fn into_node(self) -> Option<Arc<Node>> {
        self.node
    }

    /// Whether [`gradient`](Self::gradient) can be taken with respect to an [`input`](Self::input) that this was computed
    /// from.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.has_input())
    }

    /// Whether parameters are constants in this forward pass.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        matches!(self.pass, Pass::Frozen { .. })
    }

    /// Whether it is a tensor in candle code.
    pub(crate) fn is_plain(&self) -> bool {
        self.pass == Pass::Plain
    }

    /// Generated samples on their way into a critic whose parameters are constants.
    pub(crate) fn freeze(self) -> Self {
        let leaf = self.node.as_ref().filter(|node| node.reaches_leaf()).and_then(|node| {
            node.ancestry(Node::reaches_leaf).find_map(Node::as_leaf).map(Tensor::id)
        });
        Self { pass: Pass::Frozen { samples: leaf }, ..self }
    }

    /// Whether a gradient reaches a parameter, or what candle computed.
    pub(crate) fn reaches_leaf(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.reaches_leaf())
    }

    /// The size of all results on the way to this one, in bytes: about what its pass holds for the way back, or more where views
    /// are among them, or what is not needed again. Those of candle's operators count, but nothing that they were given.
    pub(crate) fn pass_bytes(&self) -> usize {
        self.node.as_ref().map_or(0, |node| node.ancestry(|_| true).map(Node::bytes).sum())
    }

    pub(super) fn rows(&self) -> Option<&Rows> {
        self.rows.as_ref()
    }

    pub(super) fn with_rows(self, rows: Option<Rows>) -> Self {
        Self { rows, ..self }
    }

    /// The same tensor; `look` is shown its gradient when that passes. It takes the tensor, so that the backward pass can free
    /// what it was computed from.
    pub(crate) fn watched(
        self,
        look: impl Fn(&Tensor) -> candle_core::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.unary(self.raw.clone(), move |g| {
            look(g.raw())?;
            Ok(g.clone())
        })
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.pass != Pass::Unrecorded
    }

    /// Refuses a plain pass over a tensor that candle differentiates, for operations whose gradients only the tape knows.
    pub(super) fn check_on_tape(&self) -> Result<()> {
        if self.pass == Pass::Plain && self.raw.track_op() {
            return Err(crate::Error::NotConnected {
                what: "what this operation computes in candle's graph".into(),
                on: "its operands: it is one of the tape's".into(),
            });
        }
        Ok(())
    }

    /// The dimensions of the value.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        self.raw.dims()
    }

    /// The element type of the value.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.raw.dtype()
    }

    /// The device of the value.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.raw.device()
    }

    /// A tensor of the critic's own, a weight or a constant, for use in this forward pass.
    ///
    /// Gradients reach it, and what candle computed it from, except in a pass in which parameters are constants. They are made from
    /// its memory: a buffer that a pass changes in place must be given as a copy.
    #[must_use]
    pub fn parameter(&self, tensor: &Tensor) -> Self {
        match self.pass {
            Pass::Trained => Self::lifted(tensor, self.pass),
            // What was computed from the samples by way of candle is no parameter.
            Pass::Frozen { samples: Some(samples) }
                if tensor.track_op()
                    && !tensor.is_variable()
                    && tensor.sorted_nodes().iter().any(|node| node.id() == samples) =>
            {
                Self::lifted(tensor, self.pass)
            }
            Pass::Plain => Self::new(tensor.clone(), self.pass, None),
            Pass::Frozen { .. } | Pass::Unrecorded => Self::new(tensor.detach(), self.pass, None),
        }
    }

    /// The tensor as candle's operators should see it in this forward pass: detached where parameters are constants.
    #[must_use]
    pub(crate) fn weight(&self, tensor: &Tensor) -> Tensor {
        if self.is_frozen() { tensor.detach() } else { tensor.clone() }
    }

    /// Applies a function that is written in candle's operators, whose parameters candle's graph knows.
    ///
    /// ```
    /// # use candle_core::{Device, Tensor, Var};
    /// # use wgan::Traced;
    /// # fn main() -> wgan::Result<()> {
    /// let weight = Var::new(&[2f64, 3.0], &Device::Cpu)?;
    /// let x = Traced::untracked(&Tensor::new(&[0f64, 1.0], &Device::Cpu)?);
    /// let y = x.through_candle(|x| Ok(x.cos()?.mul(&weight)?))?;
    /// let gradients = y.sum(0)?.backward()?;
    /// assert_eq!(gradients.get(&weight).unwrap().to_vec1::<f64>()?, [1.0, 1f64.cos()]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotConnected`](crate::Error::NotConnected) where the gradient of an [`input`](Self::input) is taken, which
    /// candle cannot differentiate again; the function's.
    pub fn through_candle(&self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        if self.is_tracked() {
            return Err(crate::Error::NotConnected {
                what: "the output of a function in candle's operators".into(),
                on: "the traced input: candle cannot differentiate its gradient again".into(),
            });
        }
        let y = f(self.value())?;
        Ok(match self.pass {
            Pass::Plain => Self::plain(&y),
            pass => Self::lifted(&y, pass),
        })
    }

    /// This tensor as a factor of a gradient: not recorded where the gradient is not.
    pub(super) fn beside(&self, gradient: &Self) -> Self {
        if gradient.is_recorded() { self.clone() } else { Self::unrecorded(self.raw.clone()) }
    }

    /// The result of an operation on this tensor alone.
    pub(super) fn unary(
        &self,
        raw: Tensor,
        back: impl Fn(&Self) -> Result<Self> + Send + Sync + 'static,
    ) -> Self {
        let node = self.node.as_ref().map(|node| {
            let operand = vec![(node.clone(), pull_back(back))];
            Node::operation(Operands::Each(operand), &raw)
        });
        Self::new(raw, self.pass, node)
    }

    /// The result of an operation on several tensors, with a pull-back for each. Only those of operands that are on the
    /// tape are kept.
    pub(super) fn from_operands<'a>(
        raw: Tensor,
        operands: impl IntoIterator<Item = (&'a Self, PullBack)>,
    ) -> Self {
        let mut pass = Pass::Trained;
        let mut recorded = Vec::new();
        for (operand, pull_back) in operands {
            pass = pass.and(operand.pass);
            if let Some(node) = &operand.node {
                recorded.push((node.clone(), pull_back));
            }
        }
        let node = (pass != Pass::Unrecorded && !recorded.is_empty())
            .then(|| Node::operation(Operands::Each(recorded), &raw));
        Self::new(raw, pass, node)
    }

    /// The result of an operation whose gradients for all operands are computed at once, to the first order.
    pub(super) fn from_joint_operands(
        raw: Tensor,
        operands: &[&Self],
        pull_back: impl Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> Self {
        let pass = operands.iter().fold(Pass::Trained, |pass, operand| pass.and(operand.pass));
        let nodes: Vec<_> = operands.iter().map(|operand| operand.node.clone()).collect();
        let pull_back: JointPullBack =
            Box::new(move |g| Ok(pull_back(g.raw())?.into_iter().map(Self::unrecorded).collect()));
        let recorded = pass != Pass::Unrecorded && nodes.iter().any(Option::is_some);
        let node = recorded.then(|| Node::operation(Operands::Together(nodes, pull_back), &raw));
        Self::new(raw, pass, node)
    }
}

impl std::fmt::Debug for Traced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traced")
            .field("value", &self.raw)
            .field("pass", &self.pass)
            .field("tracked", &self.is_tracked())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    /// Each result counts once, whatever is made of it.
    #[test]
    fn the_size_of_a_pass_is_that_of_its_results() -> Result<()> {
        let weight = Var::ones((5, 3), DType::F64, &Device::Cpu)?;
        let x = Traced::untracked(&Tensor::ones((4, 3), DType::F64, &Device::Cpu)?);
        assert_eq!(x.exp()?.pass_bytes(), 0, "nothing leads back from it");
        let h = x.linear(&weight, None, "a layer")?;
        let y = h.tanh()?.mul(&h)?;
        let result = 8 * 4 * 5;
        assert_eq!(y.pass_bytes(), 3 * result);
        let joint = Traced::from_joint_operands(y.detach(), &[&y, &h, &x], |_| unreachable!());
        assert_eq!(joint.pass_bytes(), 4 * result);
        let of_candle = x.through_candle(|x| Ok(x.matmul(&weight.t()?)?.exp()?.tanh()?))?;
        assert_eq!(of_candle.sqr()?.pass_bytes(), 8 * 3 * 5 + 4 * result, "the weight's view, too");
        Ok(())
    }
}
