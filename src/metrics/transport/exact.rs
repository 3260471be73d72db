//! Optimal plans between sets of points in any dimension.

use super::masses::{integer_masses, with_mass};
use super::network_simplex::{cheapest_plan, largest_cost};
use super::{check_dims, check_order, ground::Ground, mean_of_order, power};
use crate::error::{Error, Result};
use crate::metrics::{Points, WeightedPoints};

/// A cheapest way to carry one set of points to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The Wasserstein distance, the root of order `p` of the mean cost.
    pub distance: f64,
    /// What goes where, by source, then by target: at most `n + m - 1` couplings.
    pub couplings: Vec<Coupling>,
}

/// What one point gives to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coupling {
    /// The point of the first set, counted from 0.
    pub from: usize,
    /// The point of the second set, counted from 0.
    pub to: usize,
    /// The share of the whole mass, which is 1.
    pub mass: f64,
}

/// A cheapest way to pair the points of one set with those of another.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The Wasserstein distance.
    pub distance: f64,
    /// For each point of the first set its partner in the second: a permutation.
    pub partners: Vec<usize>,
}

/// The Wasserstein distance of order `p` between two sets with as many points each, with the pairs that give it.
///
/// It takes `8 n^2` bytes: 8 MB for 1000 points and 32 MB for 2000.
///
/// ```
/// use wgan::metrics::{Points, transport};
/// # fn main() -> wgan::Result<()> {
/// let a = Points::new(vec![0.0, 0.0, 5.0, 5.0], 2)?;
/// let b = Points::new(vec![5.0, 6.0, 0.0, 1.0], 2)?;
/// let pairs = transport::assignment(&a, &b, 2.0)?;
/// assert_eq!((pairs.distance, pairs.partners), (1.0, vec![1, 0]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`] unless both have the same shape; otherwise as [`wasserstein`](super::wasserstein).
pub fn assignment(a: &Points, b: &Points, p: f64) -> Result<Assignment> {
    if a.len() != b.len() {
        return Err(Error::Shape {
            what: "the second set of points".into(),
            got: vec![b.len(), b.dims()],
            expected: format!("{} points, as the first has", a.len()),
        });
    }
    let plan = exact(a, b, p)?;
    // Each point has a mass of one unit, which an integer plan does not split.
    let partners = plan.couplings.iter().map(|coupling| coupling.to).collect();
    Ok(Assignment { distance: plan.distance, partners })
}

/// The Wasserstein distance of order `p` between sets of any sizes, with or without weights, with the plan that gives it.
///
/// It takes `8 n m` bytes. Where several plans are best, it is one of them.
///
/// ```
/// use wgan::metrics::{Points, transport};
/// # fn main() -> wgan::Result<()> {
/// let a = Points::new(vec![0.0, 0.0], 2)?;
/// let b = Points::new(vec![3.0, 4.0, 0.0, 1.0], 2)?;
/// let plan = transport::exact(&a, b.weighted(&[1.0, 3.0])?, 1.0)?;
/// assert_eq!(plan.distance, 5.0 * 0.25 + 1.0 * 0.75);
/// assert_eq!(plan.couplings[1].mass, 0.75);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`wasserstein`](super::wasserstein).
pub fn exact<'a, 'b>(
    a: impl Into<WeightedPoints<'a>>,
    b: impl Into<WeightedPoints<'b>>,
    p: f64,
) -> Result<Plan> {
    let (a, b) = (a.into(), b.into());
    check_order(p)?;
    check_dims(&a, &b)?;
    let (supplies, demands, total) = integer_masses(&a, &b);
    let (rows, supplies) = with_mass(&supplies);
    let (columns, demands) = with_mass(&demands);
    let ground = Ground::new((a.points(), &rows), (b.points(), &columns));
    let plan = solve(&ground, (&rows, &supplies), (&columns, &demands), p)?;
    // From the points again: the costs were rounded.
    let pairs: Vec<(f64, u64)> = plan
        .iter()
        .map(|&(row, column, mass)| (ground.distance(rows[row], columns[column]), mass))
        .collect();
    let couplings = plan
        .iter()
        .map(|&(row, column, mass)| Coupling {
            from: rows[row],
            to: columns[column],
            mass: mass as f64 / total as f64,
        })
        .collect();
    Ok(Plan { distance: mean_of_order(p, ground.scale, &pairs, total)?, couplings })
}

/// The mean cost of a plan, in units of its rounding, that is enough for ten digits whatever the plan.
const ENOUGH: f64 = (1u64 << 36) as f64;

/// The cheapest plan for points with their masses, in a unit of cost that is small beside the mean.
///
/// Where the order is high or some points are far, most costs vanish beside the largest. Then all distances beyond those
/// that a plan needs count as one, and the costs below are rounded the finer: a plan of these costs that needs no longer ones
/// is the cheapest of all.
fn solve(
    ground: &Ground,
    (rows, supplies): (&[usize], &[u64]),
    (columns, demands): (&[usize], &[u64]),
    p: f64,
) -> Result<Vec<(usize, usize, u64)>> {
    let one = largest_cost(rows.len() + columns.len());
    let total = supplies.iter().sum::<u64>() as f64;
    let mut reach = ground.longest(rows, columns);
    let mut coarser = None;
    loop {
        let costs = ground.integer_costs(rows, columns, p, one, reach)?;
        let plan = cheapest_plan(supplies, demands, &costs);
        let needed = (plan.iter())
            .map(|&(row, column, _)| ground.distance(rows[row], columns[column]))
            .fold(0.0, f64::max);
        if let Some(coarser) = coarser.filter(|_| needed > reach) {
            return Ok(coarser);
        }
        let mean: f64 = (plan.iter())
            .map(|&(row, column, mass)| {
                costs[row * columns.len() + column] as f64 * (mass as f64 / total)
            })
            .sum();
        let next = 2.0 * needed; // some room for other plans
        if mean >= ENOUGH || needed == 0.0 || power(next / reach, p) > 0.5 {
            return Ok(plan);
        }
        (reach, coarser) = (next, Some(plan));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::random::Stream;

    fn normal(points: usize, dims: usize, index: u64) -> Points {
        let mut stream = Stream::new(5, "points", index);
        Points::from_tensor(&stream.normal((points, dims), DType::F64, &Device::Cpu).unwrap())
            .unwrap()
    }

    /// The mean cost of the best of all permutations.
    fn best_permutation(a: &Points, b: &Points, p: f64) -> f64 {
        fn search(costs: &[Vec<f64>], row: usize, free: &mut Vec<usize>) -> f64 {
            if free.is_empty() {
                return 0.0;
            }
            let mut best = f64::INFINITY;
            for at in 0..free.len() {
                let column = free.swap_remove(at);
                best = best.min(costs[row][column] + search(costs, row + 1, free));
                free.push(column);
                let last = free.len() - 1;
                free.swap(at, last);
            }
            best
        }
        let cost = |x: &[f64], y: &[f64]| {
            x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt().powf(p)
        };
        let costs: Vec<Vec<f64>> =
            a.iter().map(|x| b.iter().map(|y| cost(x, y)).collect()).collect();
        (search(&costs, 0, &mut (0..b.len()).collect()) / a.len() as f64).powf(p.recip())
    }

    #[test]
    fn no_permutation_is_cheaper_than_the_assignment() {
        for index in 0..60 {
            let (points, dims) = (1 + index as usize % 6, 1 + index as usize % 4);
            let (a, b) = (normal(points, dims, 2 * index), normal(points, dims, 2 * index + 1));
            for p in [1.0, 1.7, 2.0] {
                let Assignment { distance, mut partners } = assignment(&a, &b, p).unwrap();
                let expected = best_permutation(&a, &b, p);
                assert!((distance - expected).abs() < 1e-13 * expected, "{distance} {expected}");
                partners.sort_unstable();
                assert!(partners.into_iter().eq(0..points));
            }
        }
    }

    #[test]
    fn a_plan_carries_the_masses_of_both_sides() {
        let (a, b) = (normal(40, 3, 0), normal(27, 3, 1));
        let weights: Vec<f64> = (0..40).map(|i| f64::from(i % 7)).collect();
        let plan = exact(a.weighted(&weights).unwrap(), &b, 2.0).unwrap();
        let (mut out, mut into) = (vec![0.0; 40], vec![0.0; 27]);
        for Coupling { from, to, mass } in plan.couplings {
            out[from] += mass;
            into[to] += mass;
        }
        let expected = a.weighted(&weights).unwrap().probabilities();
        assert!(out.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-15));
        assert!(into.iter().all(|got| (got - 1.0 / 27.0).abs() < 1e-15));
    }

    #[test]
    fn a_point_without_mass_may_lie_however_far() {
        let near = Points::new(vec![0.0, 0.0, 1.0, 0.0, 1e200, 0.0], 2).unwrap();
        let to = Points::new(vec![0.0, 2.0, 1.0, 2.0], 2).unwrap();
        let from = near.weighted(&[1.0, 1.0, 0.0]).unwrap();
        assert_eq!(exact(from, &to, 2.0).unwrap().distance, 2.0);
    }

    #[test]
    fn ties_end_and_cost_what_they_should() {
        // A lattice has thousands of equal distances, and most steps of the method move nothing.
        let lattice: Vec<f64> =
            (0..144).flat_map(|i| [f64::from(i / 12), f64::from(i % 12)]).collect();
        let moved: Vec<f64> = lattice.iter().map(|x| x + 1.0).collect();
        let (a, b) = (Points::new(lattice, 2).unwrap(), Points::new(moved, 2).unwrap());
        assert_eq!(exact(&a, &a, 1.0).unwrap().distance, 0.0);
        assert_eq!(exact(&a, &b, 2.0).unwrap().distance, 2f64.sqrt());
    }
}
