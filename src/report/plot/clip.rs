//! The part of a line that lies within a frame.

use std::ops::Range;

type Point = (f64, f64);

/// The pieces of a line that lie within the frame, which has its rim.
pub(super) fn clipped(line: &[Point], x: &Range<f64>, y: &Range<f64>) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    for ends in line.windows(2) {
        let Some([from, to]) = segment(ends[0], ends[1], x, y) else { continue };
        match pieces.last_mut() {
            Some(piece) if piece.last() == Some(&from) => piece.push(to),
            _ => pieces.push(vec![from, to]),
        }
    }
    pieces
}

pub(super) fn contains(range: &Range<f64>, value: f64) -> bool {
    (range.start..=range.end).contains(&value)
}

/// The part of a straight line between two points (Liang and Barsky 1984).
fn segment(from: Point, to: Point, x: &Range<f64>, y: &Range<f64>) -> Option<[Point; 2]> {
    let (mut enters, mut leaves) = (0.0f64, 1.0f64);
    for (from, to, range) in [(from.0, to.0, x), (from.1, to.1, y)] {
        if from == to {
            if !contains(range, from) {
                return None;
            }
            continue;
        }
        let (low, high) = ((range.start - from) / (to - from), (range.end - from) / (to - from));
        (enters, leaves) = (enters.max(low.min(high)), leaves.min(low.max(high)));
    }
    let between = |a: f64, b: f64, t: f64| match t {
        1.0 => b,
        t => a + t * (b - a),
    };
    let at = |t| (between(from.0, to.0, t), between(from.1, to.1, t));
    (enters <= leaves).then(|| [at(enters), at(leaves)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_the_frame_and_goes_on_where_it_comes_back() {
        let (x, y) = (0.0..2.0, 0.0..1.0);
        let line = [(-1.0, 0.5), (1.0, 0.5), (1.5, 0.5), (1.5, 3.0), (0.5, 3.0), (0.5, -1.0)];
        let pieces = clipped(&line, &x, &y);
        let first = vec![(0.0, 0.5), (1.0, 0.5), (1.5, 0.5), (1.5, 1.0)];
        assert_eq!(pieces, [first, vec![(0.5, 1.0), (0.5, 0.0)]]);
        assert!(clipped(&[(-1.0, 0.5), (0.5, 3.0)], &x, &y).is_empty(), "past the corner");
        assert_eq!(clipped(&[(0.0, 1.0), (2.0, 1.0)], &x, &y).len(), 1, "along the rim");
    }
}
