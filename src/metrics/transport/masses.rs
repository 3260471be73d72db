//! Masses as integers, so that sums of them are exact and ties are ties.

use crate::metrics::WeightedPoints;

const TOTAL: u64 = 1 << 62;

/// The masses of both in one unit, and their common sum, at most `2^62`.
///
/// Exact for weights that are whole numbers, such as the 1 of each point that was given none, unless they are huge; else
/// the unit is `2^-62` of the whole.
pub(super) fn integer_masses(a: &WeightedPoints, b: &WeightedPoints) -> (Vec<u64>, Vec<u64>, u64) {
    if let (Some(first), Some(second)) = (whole(a), whole(b)) {
        let sums: [u64; 2] = [first.iter().sum(), second.iter().sum()];
        let divisor = greatest_common_divisor(sums[0], sums[1]);
        // Each sum is below 2^31, and so the product below 2^62.
        let times = |masses: Vec<u64>, factor| masses.iter().map(|mass| mass * factor).collect();
        let (by_first, by_second) = (sums[1] / divisor, sums[0] / divisor);
        return (times(first, by_first), times(second, by_second), sums[0] * by_first);
    }
    (rounded(&a.probabilities()), rounded(&b.probabilities()), TOTAL)
}

/// Weights that are whole numbers with a sum below `2^31`.
fn whole(points: &WeightedPoints) -> Option<Vec<u64>> {
    const LIMIT: f64 = (1u64 << 31) as f64;
    let Some(weights) = points.weights() else {
        let count = points.points().len();
        return (count < LIMIT as usize).then(|| vec![1; count]);
    };
    let fits =
        weights.iter().all(|weight| weight.fract() == 0.0) && weights.iter().sum::<f64>() < LIMIT;
    fits.then(|| weights.iter().map(|&weight| weight as u64).collect())
}

fn rounded(probabilities: &[f64]) -> Vec<u64> {
    let mut masses: Vec<u64> =
        probabilities.iter().map(|share| (share * TOTAL as f64) as u64).collect();
    // What rounding leaves over, a few units a point, goes to the heaviest, for which it matters least.
    let sum: u64 = masses.iter().sum();
    if let Some(heaviest) = masses.iter_mut().max() {
        *heaviest = (*heaviest).saturating_add_signed(TOTAL as i64 - sum as i64);
    }
    masses
}

/// The points that have any mass, and how much.
pub(super) fn with_mass(masses: &[u64]) -> (Vec<usize>, Vec<u64>) {
    masses.iter().copied().enumerate().filter(|&(_, mass)| mass > 0).unzip()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The plan that empties the first point of `a` into the first of `b` until one of the two is used up, and goes on with the
/// next: `(from, to, mass)`, `a.len() + b.len() - 1` of them.
///
/// For points of a line in ascending order it is the best of all. For others it is where the simplex method starts: its
/// pairs are a spanning tree, and where both are used up at once it is `a` that moves on, with a mass of 0.
pub(super) fn north_west(a: &[u64], b: &[u64]) -> Vec<(usize, usize, u64)> {
    let (mut i, mut j) = (0, 0);
    let (mut left_of_a, mut left_of_b) = (a[0], b[0]);
    let mut plan = Vec::with_capacity(a.len() + b.len() - 1);
    loop {
        let mass = left_of_a.min(left_of_b);
        plan.push((i, j, mass));
        left_of_a -= mass;
        left_of_b -= mass;
        if i + 1 < a.len() && (left_of_a == 0 || j + 1 == b.len()) {
            i += 1;
            left_of_a = a[i];
        } else if j + 1 < b.len() {
            j += 1;
            left_of_b = b[j];
        } else {
            return plan;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Points;

    fn masses(a: &[f64], b: &[f64]) -> (Vec<u64>, Vec<u64>, u64) {
        let points = |n| Points::new(vec![0.0; n], 1).unwrap();
        let (first, second) = (points(a.len()), points(b.len()));
        integer_masses(&first.weighted(a).unwrap(), &second.weighted(b).unwrap())
    }

    #[test]
    fn both_sides_weigh_the_same() {
        assert_eq!(masses(&[1.0; 4], &[1.0; 6]), (vec![3; 4], vec![2; 6], 12));
        assert_eq!(masses(&[3.0, 1.0], &[0.0, 2.0]), (vec![3, 1], vec![0, 4], 4));
        for (a, b) in [
            (vec![0.1; 7], vec![1.0; 3]),
            (vec![1e300, 1e-300, 3e299], vec![0.3, 0.7]),
            (vec![4e9, 1.0], vec![1.0, 1.0]),
        ] {
            let (a, b, total) = masses(&a, &b);
            assert_eq!((a.iter().sum::<u64>(), b.iter().sum::<u64>()), (total, total));
        }
    }

    #[test]
    fn the_north_west_corner_has_the_masses_of_both() {
        let (a, b) = ([2, 3, 1, 4], [5, 1, 4]);
        let plan = north_west(&a, &b);
        assert_eq!(plan, [(0, 0, 2), (1, 0, 3), (2, 0, 0), (2, 1, 1), (3, 1, 0), (3, 2, 4)]);
    }
}
