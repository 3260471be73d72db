//! The network simplex method for transport between two sets (Dantzig 1951), all of it in integers.
//!
//! A basis is a spanning tree of sources and sinks; only its arcs carry flow. Each step takes in an arc that is cheaper than
//! the way through the tree, and drops one of the cycle's arcs that it empties. Which one follows Cunningham (1976): the
//! tree stays *strongly feasible*, every empty arc points to the root, and so the method ends although many steps move
//! nothing. With integers that argument is not spoilt by rounding.

use super::masses::north_west;

const NONE: usize = usize::MAX;

/// The largest cost that leaves room for the potentials of a tree with so many nodes.
pub(super) fn largest_cost(nodes: usize) -> i64 {
    // A potential is a sum of at most `nodes` costs, and a reduced cost one of three such numbers.
    1 << (60 - nodes.next_power_of_two().ilog2()).min(52)
}

/// The cheapest plan `(source, sink, flow)` for positive `supplies` and `demands` with equal sums, where `costs`, row by row,
/// are between 0 and [`largest_cost`].
pub(super) fn cheapest_plan(
    supplies: &[u64],
    demands: &[u64],
    costs: &[i64],
) -> Vec<(usize, usize, u64)> {
    let mut tree = Tree::new(supplies, demands, costs);
    let sinks = demands.len();
    // About as many arcs are looked at for each step as a row or a column has.
    let block = costs.len().isqrt().clamp(1, sinks);
    let blocks_in_row = sinks.div_ceil(block);
    let blocks = supplies.len() * blocks_in_row;
    let (mut at, mut without_gain) = (0, 0);
    while without_gain < blocks {
        let (source, from) = (at / blocks_in_row, at % blocks_in_row * block);
        let columns = from..(from + block).min(sinks);
        match tree.best_arc(source, columns, costs) {
            Some((sink, gain)) => {
                tree.pivot(source, sink, gain);
                without_gain = 0;
            }
            None => without_gain += 1,
        }
        at = (at + 1) % blocks;
    }
    tree.plan()
}

/// A spanning tree with root 0. Nodes are the sources, then the sinks; the arc of a node is the one to its parent.
struct Tree {
    sources: usize,
    parent: Vec<usize>,
    depth: Vec<usize>,
    /// The flow in the arc of each node, from its source to its sink.
    flow: Vec<u64>,
    /// For an arc of the tree, the potentials of its ends add up to its cost.
    potential: Vec<i64>,
    /// Children are a list in both directions.
    first_child: Vec<usize>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Nodes still to be visited; kept for its memory.
    stack: Vec<usize>,
}

impl Tree {
    fn new(supplies: &[u64], demands: &[u64], costs: &[i64]) -> Self {
        let (sources, sinks) = (supplies.len(), demands.len());
        let nodes = sources + sinks;
        let mut tree = Self {
            sources,
            parent: vec![NONE; nodes],
            depth: vec![0; nodes],
            flow: vec![0; nodes],
            potential: vec![0; nodes],
            first_child: vec![NONE; nodes],
            next: vec![NONE; nodes],
            previous: vec![NONE; nodes],
            stack: Vec::new(),
        };
        let mut last_source = 0;
        for (source, sink, flow) in north_west(supplies, demands) {
            let sink_node = sources + sink;
            // Each arc but the first brings one new node: a source where the source moved on, else a sink.
            let (node, parent) =
                if source == last_source { (sink_node, source) } else { (source, sink_node) };
            last_source = source;
            tree.link(node, parent);
            tree.flow[node] = flow;
            tree.depth[node] = tree.depth[parent] + 1;
            tree.potential[node] = costs[source * sinks + sink] - tree.potential[parent];
        }
        tree
    }

    /// Of the arcs from `source` to the sinks of `columns` the one that gains most by unit of flow: sink and (negative) gain.
    fn best_arc(
        &self,
        source: usize,
        columns: std::ops::Range<usize>,
        costs: &[i64],
    ) -> Option<(usize, i64)> {
        let sinks = &self.potential[self.sources..];
        let start = source * sinks.len();
        let row = &costs[start + columns.start..start + columns.end];
        let best = (row.iter().zip(&sinks[columns.clone()]))
            .map(|(cost, potential)| cost - potential)
            .enumerate()
            .min_by_key(|&(_, reduced)| reduced)?;
        let gain = best.1 - self.potential[source];
        (gain < 0).then_some((columns.start + best.0, gain))
    }

    /// Takes in the arc from `source` to `sink`, whose reduced cost is `gain`.
    fn pivot(&mut self, source: usize, sink: usize, gain: i64) {
        let sink = self.sources + sink;
        let apex = self.common_ancestor(source, sink);
        // Flow goes along the new arc, up from the sink to the apex and down to the source: it is taken from the arcs of
        // sources below the apex on one side and of sinks on the other. The last of the emptied arcs, seen from the apex,
        // leaves the tree.
        let (mut least, mut leaving, mut on_sources_side) = (u64::MAX, NONE, true);
        let mut node = source;
        while node != apex {
            if node < self.sources && self.flow[node] < least {
                (least, leaving) = (self.flow[node], node);
            }
            node = self.parent[node];
        }
        node = sink;
        while node != apex {
            if node >= self.sources && self.flow[node] <= least {
                (least, leaving, on_sources_side) = (self.flow[node], node, false);
            }
            node = self.parent[node];
        }
        if least > 0 {
            self.shift_flow(source, apex, least, |node, sources| node >= sources);
            self.shift_flow(sink, apex, least, |node, sources| node < sources);
        }
        let (child, parent) = if on_sources_side { (source, sink) } else { (sink, source) };
        self.reroot(child, leaving);
        self.link(child, parent);
        self.flow[child] = least;
        self.shift_potentials(child, gain);
    }

    fn common_ancestor(&self, mut x: usize, mut y: usize) -> usize {
        while x != y {
            if self.depth[x] >= self.depth[y] {
                x = self.parent[x];
            } else {
                y = self.parent[y];
            }
        }
        x
    }

    fn shift_flow(
        &mut self,
        mut node: usize,
        apex: usize,
        amount: u64,
        grows: impl Fn(usize, usize) -> bool,
    ) {
        while node != apex {
            let flow = &mut self.flow[node];
            *flow = if grows(node, self.sources) { *flow + amount } else { *flow - amount };
            node = self.parent[node];
        }
    }

    /// Cuts the arc of `leaving` and makes `root`, a node below it, the root of what is cut off.
    fn reroot(&mut self, root: usize, leaving: usize) {
        let (mut node, mut new_parent, mut new_flow) = (root, NONE, 0);
        loop {
            let (old_parent, old_flow) = (self.parent[node], self.flow[node]);
            self.unlink(node);
            if new_parent != NONE {
                self.link(node, new_parent);
                self.flow[node] = new_flow;
            }
            if node == leaving {
                return;
            }
            (new_parent, new_flow, node) = (node, old_flow, old_parent);
        }
    }

    /// After `top` was hung on an arc of reduced cost `gain`: depths and potentials of all below.
    fn shift_potentials(&mut self, top: usize, gain: i64) {
        let of_sources = if top < self.sources { gain } else { -gain };
        self.stack.push(top);
        while let Some(node) = self.stack.pop() {
            self.depth[node] = self.depth[self.parent[node]] + 1;
            self.potential[node] += if node < self.sources { of_sources } else { -of_sources };
            let mut child = self.first_child[node];
            while child != NONE {
                self.stack.push(child);
                child = self.next[child];
            }
        }
    }

    fn link(&mut self, node: usize, parent: usize) {
        let after = self.first_child[parent];
        self.parent[node] = parent;
        self.previous[node] = NONE;
        self.next[node] = after;
        self.first_child[parent] = node;
        if after != NONE {
            self.previous[after] = node;
        }
    }

    fn unlink(&mut self, node: usize) {
        let (before, after) = (self.previous[node], self.next[node]);
        if before == NONE {
            self.first_child[self.parent[node]] = after;
        } else {
            self.next[before] = after;
        }
        if after != NONE {
            self.previous[after] = before;
        }
    }

    fn plan(&self) -> Vec<(usize, usize, u64)> {
        let mut plan: Vec<_> = (1..self.parent.len())
            .filter(|&node| self.flow[node] > 0)
            .map(|node| {
                let (source, sink) = if node < self.sources {
                    (node, self.parent[node])
                } else {
                    (self.parent[node], node)
                };
                (source, sink - self.sources, self.flow[node])
            })
            .collect();
        plan.sort_unstable();
        plan
    }
}
