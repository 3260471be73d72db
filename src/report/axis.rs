//! The range and the labels of a vertical axis.

/// A vertical axis that counts in powers of ten of its largest value.
///
/// plotters places its ticks with absolute tolerances: in units of `10^exponent` the numbers that it sees are
/// of the order of 1, whatever the data.
#[derive(Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    exponent: i32,
}

impl Axis {
    /// An axis over these finite values with a margin at both ends; from 0 to 1 where there are none.
    pub(super) fn over(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = values
            .into_iter()
            // Keeps the margin and the length of the axis finite.
            .map(|value| value.clamp(-1e300, 1e300))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let largest = low.abs().max(high.abs());
        if low > high || largest < 1e-300 {
            return Self { low: 0.0, high: 1.0, exponent: 0 };
        }
        let exponent = largest.log10().floor() as i32;
        let (low, high) = (low / ten_to(exponent), high / ten_to(exponent));
        let margin = (0.05 * (high - low)).max(1e-3);
        Self { low: low - margin, high: high + margin, exponent }
    }

    /// An axis with these ends, without margins; as [`over`](Self::over) them where they are not rising.
    pub(super) fn from_to(low: f64, high: f64) -> Self {
        let axis = Self::over([low, high]);
        let unit = ten_to(axis.exponent);
        match (low / unit, high / unit) {
            (low, high) if high - low >= 1e-3 => Self { low, high, ..axis },
            _ => axis,
        }
    }

    /// The ends, in units of the axis.
    pub(super) fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }

    /// A finite value in units of the axis, wherever it lies; not so far that differences overflow.
    pub(super) fn locate(&self, value: f64) -> f64 {
        (value / ten_to(self.exponent)).clamp(-1e15, 1e15)
    }

    /// The same, moved to the nearer end where it lies outside.
    pub(super) fn place(&self, value: f64) -> f64 {
        (value / ten_to(self.exponent)).clamp(self.low, self.high)
    }

    /// The label of a tick at `position` in units of the axis, with the digits that tell neighbours apart.
    pub(super) fn label(&self, position: f64) -> String {
        // Ticks are 1, 2 or 5 times a power of ten apart, about five on the axis.
        let decimals = (1.0 - (self.high - self.low).log10().floor()).clamp(0.0, 6.0) as i32;
        let rounded = (position * ten_to(decimals)).round() / ten_to(decimals);
        if rounded == 0.0 {
            "0".into()
        } else if (-3..=4).contains(&self.exponent) {
            let decimals = (decimals - self.exponent).max(0) as usize;
            trimmed(format!("{:.decimals$}", rounded * ten_to(self.exponent)))
        } else {
            let mantissa = trimmed(format!("{rounded:.*}", decimals as usize));
            format!("{mantissa}e{}", self.exponent)
        }
    }

    /// The label of a tick on an axis whose values are powers of ten; empty between two powers.
    pub(super) fn power_label(&self, position: f64) -> String {
        let power = position * ten_to(self.exponent);
        match power.round() {
            whole if (power - whole).abs() < 1e-6 => format!("1e{whole}"),
            _ => String::new(),
        }
    }
}

fn ten_to(exponent: i32) -> f64 {
    10f64.powi(exponent)
}

/// A decimal number without the zeros at its end.
fn trimmed(number: String) -> String {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.').into(),
        false => number,
    }
}

/// The label of a tick at a step on an axis that ends at `last`, for example `2500` or `12.5k`; empty between
/// two steps.
pub(super) fn step_label(step: f64, last: f64) -> String {
    let whole = step.round();
    if (step - whole).abs() > 1e-6 {
        return String::new();
    }
    match last {
        _ if whole == 0.0 => "0".into(),
        1e6.. => format!("{}M", whole / 1e6),
        1e4.. => format!("{}k", whole / 1e3),
        _ => whole.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_finite_and_of_order_one() {
        let cases: [&[f64]; 9] = [
            &[],
            &[0.0],
            &[3.0, 3.0],
            &[-1e-200, 1e-200],
            &[f64::MAX, f64::MIN],
            &[5e-324],
            &[1e15, 1e15 + 0.25],
            &[1e300],
            &[9.999_999_999_999_999e-301],
        ];
        for values in cases {
            let Axis { low, high, .. } = Axis::over(values.iter().copied());
            assert!(low.is_finite() && high.is_finite(), "{values:?}");
            assert!((1e-3..25.0).contains(&(high - low)), "{values:?}: {low} to {high}");
        }
    }

    #[test]
    fn values_inside_stay_and_those_outside_move_to_the_end() {
        let axis = Axis::over([0.0, 200.0]);
        assert_eq!(axis.place(100.0), 1.0);
        assert_eq!(axis.place(1e9), axis.range().end);
        assert_eq!(axis.place(-1e9), axis.range().start);
    }

    #[test]
    fn labels_show_the_digits_that_differ() {
        let label = |ends: [f64; 2], position| Axis::over(ends).label(position);
        assert_eq!(label([0.0, 12.0], 1.2), "12");
        assert_eq!(label([0.0, 12.0], -1e-17), "0");
        assert_eq!(label([-3.0, 3.0], -2.5), "-2.5");
        assert_eq!(label([0.0, 0.02], 1.5), "0.015");
        assert_eq!(label([1234.0, 1236.0], 1.235), "1235");
        assert_eq!(label([1.0, 1.0], 1.0005), "1.0005");
        assert_eq!(label([0.0, 3e7], 1.5), "1.5e7");
        assert_eq!(label([0.0, 3e-7], 2.0), "2e-7");
    }

    #[test]
    fn an_axis_with_ends_has_these_and_no_others() {
        assert_eq!(Axis::from_to(-20.0, 50.0), Axis { low: -2.0, high: 5.0, exponent: 1 });
        for (low, high) in [(1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0)] {
            let Axis { low, high, .. } = Axis::from_to(low, high);
            assert!(low < high);
        }
    }

    #[test]
    fn powers_are_whole() {
        let axis = Axis::over([-20.0, 0.0]);
        assert_eq!(
            [-1.5, -0.25, 0.0].map(|position| axis.power_label(position)),
            ["1e-15", "", "1e0"]
        );
    }

    #[test]
    fn steps_are_whole_and_short() {
        assert_eq!(step_label(0.5, 3.0), "");
        assert_eq!(step_label(0.0, 2e4), "0");
        assert_eq!(step_label(2500.0, 5000.0), "2500");
        assert_eq!(step_label(5000.0, 2e4), "5k");
        assert_eq!(step_label(12_500.0, 2e4), "12.5k");
        assert_eq!(step_label(2e5, 1e6), "0.2M");
    }
}
