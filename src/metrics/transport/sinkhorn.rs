//! Transport with an entropic penalty, solved by Sinkhorn's iterations on potentials.

use rayon::prelude::*;

use super::linearised::Linearised;
use super::{check_dims, check_order, ground::Ground, power};
use crate::error::{Error, Result};
use crate::metrics::WeightedPoints;

/// Settings of [`sinkhorn`] and [`sinkhorn_divergence`].
///
/// ```
/// use wgan::metrics::transport::Sinkhorn;
/// let settings = Sinkhorn { p: 1.0, ..Sinkhorn::new(0.1) };
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinkhorn {
    /// The cost of a unit of mass is `|x - y|^p`; at least 1, and 2 unless set.
    pub p: f64,
    /// The weight of the penalty, in the unit of the cost. The smaller, the nearer to exact transport, and the more
    /// iterations. At least `1e-12` of the largest cost.
    pub epsilon: f64,
    /// When to stop: the sum of what the masses of the plan miss, of 1 in all; `1e-9` unless set.
    pub tolerance: f64,
    /// When to give up, with an error; 1000 unless set, of which some dozens are used, a hundred where points lie far off.
    pub max_iterations: usize,
}

impl Sinkhorn {
    /// Squared distances, with a penalty of this weight. There is no default for it: it depends on the unit of the points.
    #[must_use]
    pub fn new(epsilon: f64) -> Self {
        Self { p: 2.0, epsilon, tolerance: 1e-9, max_iterations: 1000 }
    }

    fn validate(&self) -> Result<()> {
        check_order(self.p)?;
        for (name, value) in [("epsilon", self.epsilon), ("tolerance", self.tolerance)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(name, value, "a finite number above 0"));
            }
        }
        if self.max_iterations == 0 {
            return Err(Error::config("max_iterations", 0, "at least 1"));
        }
        Ok(())
    }
}

/// The plan that is best with an entropic penalty.
#[derive(Debug, Clone, PartialEq)]
pub struct EntropicPlan {
    /// The mean cost `E |x - y|^p` under the plan, without the penalty: at least `W_p^p`, but for the tolerance.
    pub cost: f64,
    /// The least of `E |x - y|^p + epsilon KL(plan, a x b)`.
    pub penalised: f64,
    /// The potentials `f` and `g`: the plan is `a_i b_j exp((f_i + g_j - |x_i - y_j|^p) / epsilon)`.
    /// That of a point without mass is the limit for a mass that goes to 0.
    pub potentials: [Vec<f64>; 2],
    /// How many iterations it took.
    pub iterations: usize,
}

/// Entropic transport (Cuturi 2013) between sets of any sizes, with or without weights: the least mean cost `|x - y|^p` plus
/// `epsilon` times the divergence of the plan from independence.
///
/// All is in the log domain, so a small `epsilon` costs no precision. It is reached from a large one by halves; for each, Sinkhorn's
/// fixed point is found by Newton's method, where his iterations alone would take some `1 / epsilon`: some dozen steps in all
/// even for a nearly exact plan, a hundred where points lie far off. It takes `24 n m` bytes.
///
/// # Errors
/// [`Error::NotConverged`] where the tolerance is not met in time; [`Error::InvalidConfig`] for a setting outside its range;
/// otherwise as [`wasserstein`](super::wasserstein).
pub fn sinkhorn<'a, 'b>(
    a: impl Into<WeightedPoints<'a>>,
    b: impl Into<WeightedPoints<'b>>,
    settings: &Sinkhorn,
) -> Result<EntropicPlan> {
    let (a, b) = (a.into(), b.into());
    let (problem, solution) = solve(&a, &b, settings)?;
    let Solution { f, g, iterations, cost, penalised } = solution;
    let first = Side { points: &a, masses: &problem.a, potentials: &f };
    let second = Side { points: &b, masses: &problem.b, potentials: &g };
    // Both from the potentials of points with mass, on which alone the plan depends.
    let potentials = [first.all(&second, settings)?, second.all(&first, settings)?];
    Ok(EntropicPlan { cost, penalised, potentials, iterations })
}

/// What is found for the points that have mass.
struct Solution {
    f: Vec<f64>,
    g: Vec<f64>,
    iterations: usize,
    cost: f64,
    penalised: f64,
}

fn solve(
    a: &WeightedPoints,
    b: &WeightedPoints,
    settings: &Sinkhorn,
) -> Result<(Problem, Solution)> {
    let (there, back) = (Problem::new(a, b, settings)?, Problem::new(b, a, settings)?);
    let look = |f: Vec<f64>, epsilon| {
        let g = back.best_response(&f, epsilon);
        let response = there.best_response(&g, epsilon);
        let missing = there.missing(&f, &response, epsilon);
        Iterate { f, g, response, missing }
    };
    let mut epsilon = there.largest.max(settings.epsilon);
    let mut now = look(vec![0.0; there.a.shares.len()], epsilon);
    for iteration in 1..=settings.max_iterations {
        let last = epsilon == settings.epsilon;
        if last && now.missing <= settings.tolerance {
            let solution = there.solution(now.f, now.g, iteration)?;
            return Ok((there, solution));
        }
        now = if !last && now.missing <= NEAR {
            epsilon = (0.5 * epsilon).max(settings.epsilon);
            look(now.response, epsilon)
        } else {
            let newton = there.newton_direction(&now, epsilon);
            (0..5)
                .map(|halvings| look(moved(&now.f, &newton, 0.5f64.powi(halvings)), epsilon))
                .find(|candidate| candidate.missing < now.missing)
                .unwrap_or_else(|| look(now.response, epsilon))
        }
    }
    // The plan that there is with the epsilon that was asked for.
    Err(there.not_converged(look(now.f, settings.epsilon).missing))
}

/// How much mass may be missing when `epsilon` is halved. Little enough that what clusters owe each other is paid while
/// `epsilon` is large: later hardly any mass can pass between them.
const NEAR: f64 = 1e-6;

/// A potential, and what follows from it.
struct Iterate {
    f: Vec<f64>,
    /// The best response to `f`, with which the plan has the masses of `b`.
    g: Vec<f64>,
    /// The best response to `g`, which is `f` where the plan has those of `a` too.
    response: Vec<f64>,
    /// What the masses of `a` miss, in sum.
    missing: f64,
}

fn moved(f: &[f64], direction: &[f64], share: f64) -> Vec<f64> {
    f.iter().zip(direction).map(|(f, step)| f + share * step).collect()
}

/// The Sinkhorn divergence (Genevay et al. 2018): `OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2`, where `OT` is the
/// [penalised](EntropicPlan::penalised) cost of [`sinkhorn`].
///
/// Unlike that cost it is 0 for equal distributions, and for `p <= 2` never negative, but for rounding (Feydy et al. 2019).
/// It is in the unit of `|x - y|^p`: as `epsilon` goes to 0 it becomes `W_p^p`, and as it grows
/// `E |x - y|^p - E |x - x'|^p / 2 - E |y - y'|^p / 2`, half the squared energy distance.
///
/// ```
/// use wgan::metrics::{Points, transport};
/// # fn main() -> wgan::Result<()> {
/// let a = Points::new(vec![0.0, 0.0, 1.0, 1.0], 2)?;
/// let b = Points::new(vec![3.0, 4.0, 4.0, 5.0], 2)?;
/// // Moving a set by (3, 4) costs 25 with squared distances, whatever the penalty.
/// let settings = transport::Sinkhorn::new(0.5);
/// assert!((transport::sinkhorn_divergence(&a, &b, &settings)? - 25.0).abs() < 1e-8);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`sinkhorn`].
pub fn sinkhorn_divergence<'a, 'b>(
    a: impl Into<WeightedPoints<'a>>,
    b: impl Into<WeightedPoints<'b>>,
    settings: &Sinkhorn,
) -> Result<f64> {
    let (a, b) = (a.into(), b.into());
    let between = solve(&a, &b, settings)?.1.penalised;
    let [within_a, within_b] = [within(&a, settings)?, within(&b, settings)?];
    Ok(between - 0.5 * (within_a + within_b))
}

/// The penalised cost of carrying a distribution to itself.
///
/// Both potentials are the same one. Steps half of the way to the best response at least halve the distance to it for
/// `p <= 2`, whatever `epsilon`: the kernel is positive, and so has no oscillating direction (Feydy et al. 2019).
fn within(a: &WeightedPoints, settings: &Sinkhorn) -> Result<f64> {
    let problem = Problem::new(a, a, settings)?;
    let mut f = vec![0.0; problem.a.shares.len()];
    for iteration in 1..=settings.max_iterations {
        let epsilon = problem.epsilon_at(iteration);
        let response = problem.best_response(&f, epsilon);
        let missing = problem.missing(&f, &response, epsilon);
        if epsilon == settings.epsilon && missing <= settings.tolerance {
            let shares = &problem.a.shares;
            return Ok(weighted_sum(shares, &f) + weighted_sum(shares, &response));
        }
        f.iter_mut().zip(response).for_each(|(f, response)| *f = 0.5 * (*f + response));
    }
    let response = problem.best_response(&f, settings.epsilon);
    Err(problem.not_converged(problem.missing(&f, &response, settings.epsilon)))
}

/// A share of the mass that no figure shows. The tolerance does not hold the potential of a point
/// with less: its part of the plan may come out as a mass of 0 times an infinite exponential.
const NO_MASS: f64 = 1e-300;

/// The points that have mass.
struct Masses {
    indices: Vec<usize>,
    shares: Vec<f64>,
}

impl Masses {
    fn new(points: &WeightedPoints) -> Self {
        let shares = points.probabilities().into_iter().enumerate();
        let (indices, shares) = shares.filter(|&(_, share)| share > NO_MASS).unzip();
        Self { indices, shares }
    }
}

/// One direction of the problem, between points that have mass.
struct Problem {
    settings: Sinkhorn,
    a: Masses,
    b: Masses,
    /// `|x_i - y_j|^p`, a row for each point of `a`.
    costs: Vec<f64>,
    largest: f64,
}

impl Problem {
    fn new(a: &WeightedPoints, b: &WeightedPoints, settings: &Sinkhorn) -> Result<Self> {
        settings.validate()?;
        check_dims(a, b)?;
        let masses = [Masses::new(a), Masses::new(b)];
        let [rows, columns] = [&masses[0].indices, &masses[1].indices];
        let costs = costs((a, rows), (b, columns), settings.p)?;
        let largest = costs.iter().copied().fold(0.0, f64::max);
        if !largest.is_finite() {
            return Err(non_finite("the matrix of costs", largest, vec![]));
        }
        // Below, the rounding of the costs alone moves the plan by more than any tolerance.
        if settings.epsilon < 1e-12 * largest {
            return Err(Error::config(
                "epsilon",
                format!("{:e}", settings.epsilon),
                format!("at least 1e-12 of the largest cost, {largest:e}; or the exact distance"),
            ));
        }
        let [a, b] = masses;
        Ok(Self { settings: *settings, a, b, costs, largest })
    }

    fn epsilon_at(&self, iteration: usize) -> f64 {
        let halved = self.largest * 0.5f64.powi(iteration.min(1000) as i32);
        halved.max(self.settings.epsilon)
    }

    /// The potential for `a` with which the plan has the masses of `a`, given the one for `b`.
    fn best_response(&self, g: &[f64], epsilon: f64) -> Vec<f64> {
        best_response(&self.costs, (&self.b.shares, g), epsilon)
    }

    /// What the masses of the plan with potential `f` miss, summed over the points of `a`, given the best response.
    fn missing(&self, f: &[f64], response: &[f64], epsilon: f64) -> f64 {
        (self.a.shares.iter().zip(f).zip(response))
            .map(|((mass, f), response)| mass * ((f - response) / epsilon).exp_m1().abs())
            .sum()
    }

    /// The step to where the linearised masses are those of `a`, at most as long as the linearisation means anything.
    fn newton_direction(&self, now: &Iterate, epsilon: f64) -> Vec<f64> {
        let Iterate { f, g, response, .. } = now;
        let (a, b) = (&self.a.shares, &self.b.shares);
        let rows: Vec<f64> = (a.iter().zip(f).zip(response))
            .map(|((mass, f), response)| mass * ((f - response) / epsilon).exp())
            .collect();
        let residual: Vec<f64> = a.iter().zip(&rows).map(|(a, row)| a - row).collect();
        let mut plan = vec![0.0; self.costs.len()];
        let targets = plan.par_chunks_exact_mut(b.len());
        targets.zip(self.costs.par_chunks_exact(b.len())).zip(a).zip(f).for_each(
            |(((target, costs), a), f)| {
                for (((cell, cost), b), g) in target.iter_mut().zip(costs).zip(b).zip(g) {
                    *cell = a * ((f + g - cost) / epsilon).exp() * b;
                }
            },
        );
        let mut step = Linearised { plan, rows, columns: b }.solve(&residual);
        let longest = step.iter().fold(0.0f64, |max, x| max.max(x.abs()));
        let scale = epsilon * (5.0 / longest).min(1.0);
        step.iter_mut().for_each(|x| *x *= scale);
        step
    }

    fn solution(&self, f: Vec<f64>, g: Vec<f64>, iterations: usize) -> Result<Solution> {
        let (a, b) = (&self.a.shares, &self.b.shares);
        let rows = self.costs.par_chunks_exact(b.len()).zip(a).zip(&f);
        let cost_of_row = |((row, a), f): ((&[f64], &f64), &f64)| -> f64 {
            let columns = row.iter().zip(b).zip(&g);
            columns
                .map(|((cost, b), g)| a * ((f + g - cost) / self.settings.epsilon).exp() * b * cost)
                .sum()
        };
        let by_row: Vec<f64> = rows.map(cost_of_row).collect();
        let cost: f64 = by_row.iter().sum();
        let penalised = weighted_sum(a, &f) + weighted_sum(b, &g);
        for (what, value) in [("the cost of a plan", cost), ("its penalised cost", penalised)] {
            if !value.is_finite() {
                return Err(non_finite(what, value, vec![]));
            }
        }
        Ok(Solution { f, g, iterations, cost, penalised })
    }

    fn not_converged(&self, missing: f64) -> Error {
        Error::NotConverged {
            what: format!("Sinkhorn's plan with epsilon {:e}", self.settings.epsilon),
            iterations: self.settings.max_iterations,
            residual: missing,
            tolerance: self.settings.tolerance,
        }
    }
}

/// One of the two sets, with the potentials that were found for its points with mass.
struct Side<'a> {
    points: &'a WeightedPoints<'a>,
    masses: &'a Masses,
    potentials: &'a [f64],
}

impl Side<'_> {
    /// The potentials of all points. Those without mass get the best response to the other side's,
    /// as any mass would.
    fn all(&self, other: &Side, settings: &Sinkhorn) -> Result<Vec<f64>> {
        let mut all = vec![None; self.points.points().len()];
        for (&at, &potential) in self.masses.indices.iter().zip(self.potentials) {
            all[at] = Some(potential);
        }
        let rest: Vec<usize> = (0..all.len()).filter(|&at| all[at].is_none()).collect();
        let costs = costs((self.points, &rest), (other.points, &other.masses.indices), settings.p)?;
        let others = (other.masses.shares.as_slice(), other.potentials);
        for (&at, potential) in rest.iter().zip(best_response(&costs, others, settings.epsilon)) {
            if !potential.is_finite() {
                let what = "the potential of a point without mass";
                return Err(non_finite(what, potential, vec![at]));
            }
            all[at] = Some(potential);
        }
        Ok(all.into_iter().flatten().collect())
    }
}

/// `|x_i - y_j|^p` of some points, a row for each of the first.
fn costs(
    (a, rows): (&WeightedPoints, &[usize]),
    (b, columns): (&WeightedPoints, &[usize]),
    p: f64,
) -> Result<Vec<f64>> {
    let ground = Ground::new((a.points(), rows), (b.points(), columns));
    ground.matrix(rows, columns, |distance| power(distance * ground.scale, p))
}

/// The potential with which points at these costs from others, a row each, have their masses, given
/// that of the others.
fn best_response(costs: &[f64], (masses, g): (&[f64], &[f64]), epsilon: f64) -> Vec<f64> {
    let scale = epsilon.recip();
    let base: Vec<f64> = g.iter().zip(masses).map(|(g, mass)| mass.ln() + g * scale).collect();
    (costs.par_chunks_exact(masses.len()))
        .map(|row| {
            let exponents = || base.iter().zip(row).map(|(base, cost)| base - cost * scale);
            let largest = exponents().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = exponents().map(|exponent| (exponent - largest).exp()).sum();
            -epsilon * (largest + sum.ln())
        })
        .collect()
}

fn non_finite(what: &str, value: f64, position: Vec<usize>) -> Error {
    Error::NonFiniteData { what: what.into(), value, position }
}

fn weighted_sum(weights: &[f64], values: &[f64]) -> f64 {
    weights.iter().zip(values).map(|(weight, value)| weight * value).sum()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::metrics::{Points, transport::wasserstein};
    use crate::random::Stream;

    fn normal(points: usize, index: u64) -> Points {
        let mut stream = Stream::new(4, "points", index);
        Points::from_tensor(&stream.normal((points, 2), DType::F64, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn two_points_have_a_closed_form() {
        // Costs 0 and 1: by symmetry the plan is (q, 1/2 - q) with the odds exp(-1 / epsilon).
        let line = Points::new(vec![0.0, 1.0], 1).unwrap();
        for epsilon in [0.01, 0.3, 1.0, 50.0] {
            let got = sinkhorn(&line, &line, &Sinkhorn::new(epsilon)).unwrap();
            let off = 1.0 / (1.0 + f64::exp(1.0 / epsilon));
            let entropy = |x: f64| if x > 0.0 { x * (2.0 * x).ln() } else { 0.0 };
            let penalised = off + epsilon * (entropy(off) + entropy(1.0 - off));
            assert!((got.cost - off).abs() < 1e-9, "{} {off}", got.cost);
            assert!((got.penalised - penalised).abs() < 1e-12, "{} {penalised}", got.penalised);
        }
    }

    #[test]
    fn it_goes_from_exact_transport_to_independence() {
        let (a, b) = (normal(20, 0), normal(30, 1));
        let cost = |epsilon| sinkhorn(&a, &b, &Sinkhorn::new(epsilon)).unwrap().cost;
        let exact = wasserstein(&a, &b, 2.0).unwrap().powi(2);
        let square = |x: &[f64], y: &[f64]| (x[0] - y[0]).powi(2) + (x[1] - y[1]).powi(2);
        let independent =
            a.iter().flat_map(|x| b.iter().map(move |y| square(x, y))).sum::<f64>() / 600.0;
        assert!((cost(1e-3) - exact).abs() < 1e-3 * exact, "{} {exact}", cost(1e-3));
        assert!(exact < cost(0.1) && cost(0.1) < cost(1.0) && cost(1.0) < independent);
        assert!((cost(1e6) - independent).abs() < 1e-4);
    }

    #[test]
    fn the_divergence_is_symmetric_and_nought_on_itself() {
        let (a, b) = (normal(20, 0), normal(15, 1));
        let weights: Vec<f64> = (0..15).map(|i| f64::from(i % 3)).collect();
        let b = b.weighted(&weights).unwrap();
        for p in [1.0, 2.0] {
            for epsilon in [0.05, 1.0] {
                let settings = Sinkhorn { p, tolerance: 1e-12, ..Sinkhorn::new(epsilon) };
                let there = sinkhorn_divergence(&a, b, &settings).unwrap();
                let back = sinkhorn_divergence(b, &a, &settings).unwrap();
                assert!(there > 0.01 && (there - back).abs() < 1e-12, "{there} {back}");
                assert!(sinkhorn_divergence(b, b, &settings).unwrap().abs() < 1e-12);
            }
        }
    }

    #[test]
    fn points_without_mass_change_nothing_and_have_a_potential() {
        let line = Points::new(vec![0.0, 10.0], 1).unwrap();
        let one = line.weighted(&[1.0, 0.0]).unwrap();
        let got = sinkhorn(one, one, &Sinkhorn::new(0.1)).unwrap();
        assert_eq!((got.cost, got.penalised), (0.0, 0.0));
        assert_eq!(got.potentials, [[0.0, 100.0], [0.0, 100.0]]);

        let (a, b) = (normal(6, 0), normal(5, 1));
        let settings = Sinkhorn { tolerance: 1e-12, ..Sinkhorn::new(0.05) };
        let expected = sinkhorn(&a, &b, &settings).unwrap();
        let divergence = sinkhorn_divergence(&a, &b, &settings).unwrap();
        let with = |points: &Points, another: [f64; 2]| {
            Points::new([&another, points.values()].concat(), 2).unwrap()
        };
        // Nothing is less than what a logarithm or an exponential can tell from nothing.
        for nothing in [0.0, 5e-324, 1e-310] {
            let (a, b) = (with(&a, [30.0, 0.0]), with(&b, [0.0, 40.0]));
            let weights = [vec![nothing], vec![1.0; 6]].concat();
            let (a, b) = (a.weighted(&weights).unwrap(), b.weighted(&weights[..6]).unwrap());
            let got = sinkhorn(a, b, &settings).unwrap();
            assert_eq!((got.cost, got.penalised), (expected.cost, expected.penalised));
            assert_eq!(got.potentials[0][1..], expected.potentials[0]);
            assert_eq!(got.potentials[1][1..], expected.potentials[1]);
            assert!(got.potentials.iter().flatten().all(|potential| potential.is_finite()));
        }
        // However far: the costs from there are not needed, but for the potential.
        let far = with(&a, [1e200, 0.0]);
        let weights = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let far = far.weighted(&weights).unwrap();
        assert_eq!(sinkhorn_divergence(far, &b, &settings).unwrap(), divergence);
        let error = sinkhorn(far, &b, &settings).unwrap_err();
        assert!(matches!(error, Error::NonFiniteData { .. }), "{error}");
    }

    #[test]
    fn unequal_clusters_and_a_far_point_take_no_more_steps() {
        // Mass has to pass between the clusters, and hardly any can where epsilon is small.
        let clusters = |index: u64, left: usize, far: f64| {
            let mut values = normal(200, index).values().to_vec();
            for (i, point) in values.chunks_exact_mut(2).enumerate() {
                point.iter_mut().for_each(|x| *x *= 0.02);
                point[0] += if i < left { 0.0 } else { 2.0 };
            }
            values[1] += far;
            Points::new(values, 2).unwrap()
        };
        for far in [0.0, 50.0] {
            let (a, b) = (clusters(0, 100, far), clusters(1, 101, 0.0));
            let plan = sinkhorn(&a, &b, &Sinkhorn::new(1e-3)).unwrap();
            let exact = wasserstein(&a, &b, 2.0).unwrap().powi(2);
            assert!(plan.iterations < 150, "{}", plan.iterations);
            assert!((plan.cost - exact).abs() < 0.02, "{} {exact}", plan.cost);
        }
    }

    #[test]
    fn what_does_not_converge_is_an_error_with_what_is_missing() {
        let (a, b) = (normal(20, 0), normal(30, 1));
        let settings = Sinkhorn { max_iterations: 3, ..Sinkhorn::new(1e-3) };
        for result in [
            sinkhorn(&a, &b, &settings).map(|plan| plan.cost),
            sinkhorn_divergence(&a, &a, &settings),
        ] {
            let Err(Error::NotConverged { iterations: 3, residual, tolerance, .. }) = result else {
                panic!("{result:?}");
            };
            assert!(residual > tolerance, "{residual}");
        }
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        let a = normal(4, 0);
        let good = Sinkhorn::new(0.1);
        for bad in [
            Sinkhorn::new(0.0),
            Sinkhorn::new(-1.0),
            Sinkhorn::new(f64::NAN),
            Sinkhorn::new(1e-15),
            Sinkhorn { p: 0.5, ..good },
            Sinkhorn { tolerance: 0.0, ..good },
            Sinkhorn { max_iterations: 0, ..good },
        ] {
            let result = sinkhorn(&a, &a, &bad);
            assert!(matches!(result, Err(Error::InvalidConfig { .. })), "{bad:?} {result:?}");
        }
        let far = Points::new(vec![1e200, 0.0], 1).unwrap();
        assert!(matches!(sinkhorn(&far, &far, &good), Err(Error::NonFiniteData { .. })));
    }
}
