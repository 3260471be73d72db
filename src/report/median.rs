//! A running median.

/// The running median of `values`: entry `i` is the median of the window of `width` values around value `i`.
///
/// Near both ends the window is cut off where the values end, so the result has as many entries as `values`.
/// An even width acts as the next odd one. NaN is left out of every window; a window of nothing else has the
/// median NaN. The median of an even number of values is the mean of the middle two.
///
/// For each value it costs two binary searches and two moves of at most `width` numbers.
///
/// ```
/// use wgan::report::median_filter;
/// assert_eq!(median_filter(&[1.0, 9.0, 2.0, 3.0, 2.5], 3), [5.0, 2.0, 3.0, 2.5, 2.75]);
/// ```
#[must_use]
pub fn median_filter(values: &[f64], width: usize) -> Vec<f64> {
    let half = width / 2;
    let mut window = SortedWindow::default();
    let mut entered = 0;
    (0..values.len())
        .map(|centre| {
            let end = centre.saturating_add(half).saturating_add(1).min(values.len());
            values[entered..end].iter().for_each(|&value| window.insert(value));
            entered = end;
            if let Some(left) = centre.checked_sub(half + 1) {
                window.remove(values[left]);
            }
            window.median()
        })
        .collect()
}

/// Numbers in ascending order, without NaN.
#[derive(Default)]
struct SortedWindow(Vec<f64>);

impl SortedWindow {
    fn insert(&mut self, value: f64) {
        if !value.is_nan() {
            let at = self.0.partition_point(|other| other.total_cmp(&value).is_lt());
            self.0.insert(at, value);
        }
    }

    fn remove(&mut self, value: f64) {
        if let Ok(at) = self.0.binary_search_by(|other| other.total_cmp(&value)) {
            self.0.remove(at);
        }
    }

    fn median(&self) -> f64 {
        match self.0.as_slice() {
            [] => f64::NAN,
            sorted => f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word for word.
    fn by_sorting(values: &[f64], width: usize) -> Vec<f64> {
        let half = width / 2;
        (0..values.len())
            .map(|i| {
                let window = &values[i.saturating_sub(half)..(i + half + 1).min(values.len())];
                let mut sorted: Vec<f64> = window.iter().copied().filter(|v| !v.is_nan()).collect();
                sorted.sort_by(f64::total_cmp);
                match sorted.len() {
                    0 => f64::NAN,
                    n if n % 2 == 1 => sorted[n / 2],
                    n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
                }
            })
            .collect()
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn agrees_with_sorting_every_window() {
        // Few distinct values, so that windows hold duplicates, and some NaN.
        let mut stream = crate::random::Stream::new(1, "median", 0);
        let values: Vec<f64> = (0..500)
            .map(|_| match stream.below(20) {
                0 => f64::NAN,
                draw => draw as f64 / 4.0 - 2.0,
            })
            .collect();
        for width in [0, 1, 2, 3, 4, 5, 101, 499, 500, 501, 2000] {
            assert_eq!(
                bits(&median_filter(&values, width)),
                bits(&by_sorting(&values, width)),
                "width {width}"
            );
        }
    }

    #[test]
    fn width_one_is_the_identity_and_a_huge_one_the_median_of_all() {
        let values = [3.0, -1.0, f64::INFINITY, 7.0];
        assert_eq!(median_filter(&values, 1), values);
        assert_eq!(median_filter(&values, usize::MAX), [5.0; 4]);
        assert!(median_filter(&[], 5).is_empty());
    }

    #[test]
    fn a_single_outlier_vanishes() {
        assert_eq!(median_filter(&[1.0, 1.0, 1e9, 1.0, 1.0], 3), [1.0; 5]);
    }

    #[test]
    fn windows_of_nan_alone_stay_nan() {
        let filtered = median_filter(&[f64::NAN, f64::NAN, f64::NAN, 4.0], 3);
        assert!(filtered[0].is_nan() && filtered[1].is_nan());
        assert_eq!(filtered[2..], [4.0, 4.0]);
    }
}
