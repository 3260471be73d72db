//! Contour lines by marching squares.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The values of a function of the plane on a square grid.
#[derive(Debug, Clone)]
pub struct Field {
    x: (f64, f64),
    y: (f64, f64),
    side: usize,
    /// Row by row from the lowest `y`.
    values: Vec<f64>,
}

impl Field {
    /// A function's values on a grid of `side` by `side` points that spans both ranges.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    ///
    /// ```
    /// use wgan::report::Field;
    /// # fn main() -> wgan::Result<()> {
    /// let distance = Field::sample((-1.0, 1.0), (-1.0, 1.0), 50, f64::hypot)?;
    /// # let _ = distance;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sample(
        x: (f64, f64),
        y: (f64, f64),
        side: usize,
        function: impl Fn(f64, f64) -> f64,
    ) -> Result<Self> {
        check(x, y, side)?;
        let values = Self::grid(x, y, side).into_iter().map(|(x, y)| function(x, y)).collect();
        Self::new(x, y, side, values)
    }

    /// Values at the points of [`grid`](Self::grid), in its order: what a critic, which scores a batch at once, gives.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for ranges that are not finite and rising and unless there are 2 to 10 000 points a side;
    /// [`Error::Shape`] unless there is one value a point; [`Error::NonFiniteData`] for NaN and infinity.
    pub fn new(x: (f64, f64), y: (f64, f64), side: usize, values: Vec<f64>) -> Result<Self> {
        check(x, y, side)?;
        if side * side != values.len() {
            return Err(Error::Shape {
                what: "the field's values".into(),
                got: vec![values.len()],
                expected: format!("one for each of {side} x {side} points"),
            });
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(Error::NonFiniteData {
                what: "the field".into(),
                value: values[at],
                position: vec![at / side, at % side],
            }),
            None => Ok(Self { x, y, side, values }),
        }
    }

    /// The points of a grid, row by row from the lowest `y`.
    #[must_use]
    pub fn grid(x: (f64, f64), y: (f64, f64), side: usize) -> Vec<(f64, f64)> {
        let at = |(low, high): (f64, f64), i: usize| {
            low + (high - low) * i as f64 / side.saturating_sub(1).max(1) as f64
        };
        (0..side).flat_map(|j| (0..side).map(move |i| (at(x, i), at(y, j)))).collect()
    }

    /// The ends of both ranges.
    pub(super) fn corners(&self) -> [(f64, f64); 2] {
        [(self.x.0, self.y.0), (self.x.1, self.y.1)]
    }

    /// So many levels, evenly spaced inside the values' range; none where all values are one.
    pub(super) fn levels(&self, count: usize) -> Vec<f64> {
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low == high {
            return Vec::new();
        }
        let step = high / (count + 1) as f64 - low / (count + 1) as f64;
        (1..=count).map(|i| low + step * i as f64).collect()
    }

    /// The contour lines of a level: through the points where it lies on an edge between two neighbours of the grid,
    /// interpolated linearly.
    pub(super) fn contour(&self, level: f64) -> Vec<Vec<(f64, f64)>> {
        let grid = Self::grid(self.x, self.y, self.side);
        let crossing = |(a, b): Edge| {
            let t = (level - self.values[a]) / (self.values[b] - self.values[a]);
            let between = |p: f64, q: f64| p + t * (q - p);
            (between(grid[a].0, grid[b].0), between(grid[a].1, grid[b].1))
        };
        let lines = chained(self.neighbours(level)).into_iter();
        lines.map(|line| line.into_iter().map(crossing).collect()).collect()
    }

    /// The edges that a level crosses, each with those that its line goes on to, one in each of the cells beside it.
    fn neighbours(&self, level: f64) -> BTreeMap<Edge, Vec<Edge>> {
        let mut neighbours: BTreeMap<Edge, Vec<Edge>> = BTreeMap::new();
        for row in 0..self.side - 1 {
            for column in 0..self.side - 1 {
                let first = row * self.side + column;
                let above = first + self.side;
                // In turn around the cell, so that a line never crosses another at a saddle point.
                let around = [
                    (first, first + 1),
                    (first + 1, above + 1),
                    (above, above + 1),
                    (first, above),
                ];
                let crosses = |&(a, b): &Edge| (self.values[a] < level) != (self.values[b] < level);
                let crossed: Vec<Edge> = around.into_iter().filter(crosses).collect();
                for pair in crossed.chunks_exact(2) {
                    neighbours.entry(pair[0]).or_default().push(pair[1]);
                    neighbours.entry(pair[1]).or_default().push(pair[0]);
                }
            }
        }
        neighbours
    }
}

fn check(x: (f64, f64), y: (f64, f64), side: usize) -> Result<()> {
    if let Some((low, high)) =
        [x, y].into_iter().find(|(low, high)| !(low < high && (high - low).is_finite()))
    {
        let expected = "finite ends, the first below the second";
        return Err(Error::config("a field's range", format!("{low} to {high}"), expected));
    }
    if !(2..=10_000).contains(&side) {
        return Err(Error::config("a field's points a side", side, "2 to 10000"));
    }
    Ok(())
}

/// An edge of the grid, by the indices of its two ends.
type Edge = (usize, usize);

/// Walks from neighbour to neighbour until every one was met: first from the ends of open lines, then around closed ones.
fn chained(mut neighbours: BTreeMap<Edge, Vec<Edge>>) -> Vec<Vec<Edge>> {
    let starts: Vec<Edge> = {
        let (open, closed): (Vec<_>, Vec<_>) =
            neighbours.iter().partition(|(_, others)| others.len() == 1);
        open.into_iter().chain(closed).map(|(edge, _)| *edge).collect()
    };
    let mut lines = Vec::new();
    for start in starts {
        let mut line = vec![start];
        let mut last = start;
        while let Some(next) = neighbours.get_mut(&last).and_then(Vec::pop) {
            if let Some(back) = neighbours.get_mut(&next) {
                let at = back.iter().position(|edge| *edge == last);
                at.map(|at| back.swap_remove(at));
            }
            line.push(next);
            last = next;
        }
        if line.len() > 1 {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contours_of_a_distance_are_circles() -> Result<()> {
        let field = Field::sample((-1.0, 1.0), (-1.0, 1.0), 201, f64::hypot)?;
        let [circle] = &field.contour(0.5)[..] else { panic!("one closed line") };
        assert_eq!(circle.first(), circle.last());
        assert!(circle.iter().all(|(x, y)| (x.hypot(*y) - 0.5).abs() < 1e-4));
        let length: f64 = circle.windows(2).map(|p| (p[0].0 - p[1].0).hypot(p[0].1 - p[1].1)).sum();
        // What the frame cuts off a circle leaves four open lines, one in each corner.
        assert_eq!(field.contour(1.2).len(), 4);
        assert!((length - std::f64::consts::PI).abs() < 1e-3, "{length}");
        Ok(())
    }

    /// A plane is linear, so every crossing is exact and every row of cells is passed once.
    #[test]
    fn the_contours_of_a_plane_are_straight() -> Result<()> {
        let field = Field::sample((0.0, 2.0), (-1.0, 1.0), 5, |x, _| 3.0 * x + 1.0)?;
        let [line] = &field.contour(4.0)[..] else { panic!("one line") };
        assert_eq!(line.len(), 5);
        assert!(line.iter().all(|(x, _)| (x - 1.0).abs() < 1e-15));
        assert_eq!(field.levels(2), [3.0, 5.0]);
        Ok(())
    }

    #[test]
    fn a_constant_has_no_contours() -> Result<()> {
        let field = Field::sample((0.0, 1.0), (0.0, 1.0), 3, |_, _| 2.0)?;
        assert!(field.levels(7).is_empty() && field.contour(2.0).is_empty());
        Ok(())
    }

    #[test]
    fn what_is_no_field_is_refused() {
        let unit = (0.0, 1.0);
        let bad = |x, side, values| Field::new(x, unit, side, values).unwrap_err();
        assert!(matches!(bad((1.0, 0.0), 2, vec![0.0; 4]), Error::InvalidConfig { .. }));
        assert!(matches!(bad((0.0, f64::NAN), 2, vec![0.0; 4]), Error::InvalidConfig { .. }));
        assert!(matches!(bad(unit, 1, vec![0.0]), Error::InvalidConfig { .. }));
        assert!(matches!(bad(unit, 2, vec![0.0; 3]), Error::Shape { .. }));
        let endless = Field::sample(unit, unit, usize::MAX, |_, _| panic!("it is not to be made"));
        assert!(matches!(endless, Err(Error::InvalidConfig { .. })));
        let Error::NonFiniteData { position, .. } = bad(unit, 2, vec![0.0, 0.0, 0.0, f64::NAN])
        else {
            panic!("NaN was taken");
        };
        assert_eq!(position, [1, 1]);
    }
}
