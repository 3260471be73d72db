//! A run's learning curve as a figure.

use plotters::style::RGBColor;

use super::figure::{Line, Panel, two_panels};
use super::median_filter;
use crate::error::{Error, Result};
use crate::history::Record;

/// Wide enough to smooth a long run, narrow enough to follow its first few hundred steps.
const MAX_MEDIAN_WIDTH: usize = 101;

const PALE_BLUE: RGBColor = RGBColor(166, 200, 232);
const BLUE: RGBColor = RGBColor(25, 95, 165);
const ORANGE: RGBColor = RGBColor(205, 92, 20);
const GREEN: RGBColor = RGBColor(20, 130, 105);

/// Draws the learning curve of a run as an SVG document of 800 x 600 pixels.
///
/// The upper panel shows the Wasserstein estimate against the generator step, each record pale and their
/// running median over it; the lower one the running medians of the critic's and the generator's loss. The
/// median is taken over a tenth of the records, at most 101 of them.
///
/// Each axis spans all values but the most extreme 1/200 at either end, so that a spike at the start of a run
/// does not hide the rest: what lies beyond is drawn at the edge. NaN and infinities are left out. A line has at
/// most about 2000 points, among them the least and the greatest value of every stretch, and the document is
/// below 500 kB for any number of records.
///
/// # Errors
/// [`Error::InvalidConfig`] for a history without records.
///
/// ```
/// # use wgan::history::Record;
/// # fn main() -> wgan::Result<()> {
/// # let history: Vec<Record> = (1..=50).map(|step| Record {
/// #     step, wasserstein_estimate: 5.0 / step as f64, critic_loss: 0.0, penalty: 0.0,
/// #     generator_loss: 0.0, gradient_norm: 1.0, ..Record::default()
/// # }).collect();
/// let svg = wgan::report::learning_curve_svg(&history, "WGAN-GP on MNIST")?;
/// assert!(svg.starts_with("<svg"));
/// # Ok(())
/// # }
/// ```
pub fn learning_curve_svg(history: &[Record], title: &str) -> Result<String> {
    if history.is_empty() {
        return Err(Error::config("learning curve's history", "empty", "at least one record"));
    }
    let steps: Vec<f64> = history.iter().map(|record| record.step as f64).collect();
    let width = median_width(history.len());
    let medians = |figure: fn(&Record) -> f64| median_filter(&column(history, figure), width);
    let estimate = Panel {
        name: "Wasserstein estimate",
        axis_holds_zero: true,
        lines: vec![
            Line {
                name: "each step".into(),
                values: column(history, |record| record.wasserstein_estimate),
                color: PALE_BLUE,
                width: 1,
            },
            Line {
                name: format!("running median of {width}"),
                values: medians(|record| record.wasserstein_estimate),
                color: BLUE,
                width: 2,
            },
        ],
    };
    let losses = Panel {
        name: "loss",
        axis_holds_zero: false,
        lines: vec![
            Line {
                name: "critic".into(),
                values: medians(|record| record.critic_loss),
                color: ORANGE,
                width: 2,
            },
            Line {
                name: "generator".into(),
                values: medians(|record| record.generator_loss),
                color: GREEN,
                width: 2,
            },
        ],
    };

    two_panels(&steps, [&estimate, &losses], title)
}

/// A tenth of the records, odd, from 1 to 101.
fn median_width(records: usize) -> usize {
    (records / 10).clamp(1, MAX_MEDIAN_WIDTH) | 1
}

fn column(history: &[Record], figure: impl Fn(&Record) -> f64) -> Vec<f64> {
    history.iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figure::{MAX_POINTS, SIZE, px};
    use super::*;

    fn record(step: u64, wasserstein_estimate: f64) -> Record {
        Record {
            step,
            wasserstein_estimate,
            critic_loss: -wasserstein_estimate,
            penalty: 0.0,
            generator_loss: 0.1 * wasserstein_estimate - 1.0,
            gradient_norm: 1.0,
            seconds: step as f64,
            ..Default::default()
        }
    }

    fn history(len: u64, estimate: impl Fn(u64) -> f64) -> Vec<Record> {
        (1..=len).map(|step| record(step, estimate(step))).collect()
    }

    /// A run as it looks: a steep rise, a slow fall, noise and a few spikes.
    fn like_a_run(len: u64) -> Vec<Record> {
        let noise = crate::random::Stream::new(1, "curve", 0)
            .normal(len as usize, candle_core::DType::F64, &candle_core::Device::Cpu)
            .and_then(|noise| Ok(noise.to_vec1::<f64>()?))
            .unwrap();
        history(len, |step| {
            let done = step as f64 / len as f64;
            let noise = noise[step as usize - 1];
            let spike = if step % 997 == 3 { 30.0 } else { 0.0 };
            (1.0 - (-done * 80.0).exp()) * (14.0 * (-done * 4.0).exp() + 2.5) + 0.4 * noise + spike
        })
    }

    /// The polylines of this colour, each as its points.
    fn polylines(svg: &str, RGBColor(r, g, b): RGBColor) -> Vec<Vec<(i32, i32)>> {
        let stroke = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"");
        let point = |pair: &str| {
            let (x, y) = pair.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        };
        svg.lines()
            .filter(|line| line.starts_with("<polyline") && line.contains(&stroke))
            .map(|line| line.split("points=\"").nth(1).unwrap().trim_end_matches("\"/>"))
            .map(|points| points.split_whitespace().map(point).collect())
            .collect()
    }

    /// Every line once, within the figure, and no number that is none.
    fn assert_sound(svg: &str) {
        for color in [PALE_BLUE, BLUE, ORANGE, GREEN] {
            let lines = polylines(svg, color);
            assert_eq!(lines.len(), 1, "{color:?}");
            assert!(
                lines[0]
                    .iter()
                    .all(|(x, y)| (0..=px(SIZE.0)).contains(x) && (0..=px(SIZE.1)).contains(y))
            );
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.trim_end().ends_with("</svg>"));
        assert!(svg.len() < 500_000, "{} bytes", svg.len());
    }

    #[test]
    fn any_number_of_records_can_be_drawn() -> Result<()> {
        for len in [1, 2, 3, 11, 100, 3000] {
            assert_sound(&learning_curve_svg(&like_a_run(len), "a run")?);
        }
        Ok(())
    }

    #[test]
    fn a_history_without_records_is_an_error() {
        assert!(matches!(learning_curve_svg(&[], "nothing"), Err(Error::InvalidConfig { .. })));
    }

    #[test]
    fn a_million_records_give_a_small_file() -> Result<()> {
        let svg = learning_curve_svg(&like_a_run(1_000_000), "a long run")?;
        assert_sound(&svg);
        assert!((1000..=MAX_POINTS).contains(&polylines(&svg, PALE_BLUE)[0].len()));
        Ok(())
    }

    #[test]
    fn constant_and_extreme_series_can_be_drawn() -> Result<()> {
        for value in [0.0, 3.0, -1e-9, 1e-310, f64::MAX, f64::MIN] {
            assert_sound(&learning_curve_svg(&history(20, |_| value), "constant")?);
        }
        let extreme = history(20, |step| if step % 2 == 0 { f64::MAX } else { f64::MIN });
        assert_sound(&learning_curve_svg(&extreme, "extreme")?);
        Ok(())
    }

    #[test]
    fn values_that_are_no_numbers_are_left_out() -> Result<()> {
        let svg = learning_curve_svg(
            &history(6, |step| match step {
                2 => f64::NAN,
                4 => f64::INFINITY,
                _ => 1.0,
            }),
            "gaps",
        )?;
        assert_sound(&svg);
        assert_eq!(polylines(&svg, PALE_BLUE)[0].len(), 4);

        let svg = learning_curve_svg(&history(6, |_| f64::NAN), "nothing to see")?;
        assert!(polylines(&svg, BLUE).is_empty() && !svg.contains("NaN"));
        Ok(())
    }

    #[test]
    fn higher_values_lie_higher_and_later_ones_further_right() -> Result<()> {
        let svg = learning_curve_svg(&history(5, |step| step as f64), "rising")?;
        let line = &polylines(&svg, PALE_BLUE)[0];
        assert!(line.windows(2).all(|p| p[0].0 < p[1].0 && p[0].1 > p[1].1), "{line:?}");
        Ok(())
    }

    #[test]
    fn a_spike_does_not_flatten_the_rest() -> Result<()> {
        let spiked = history(1000, |step| if step == 500 { 1e6 } else { step as f64 });
        let svg = learning_curve_svg(&spiked, "spike")?;
        let heights: Vec<i32> = polylines(&svg, BLUE)[0].iter().map(|point| point.1).collect();
        assert!(heights.iter().max().unwrap() - heights.iter().min().unwrap() > px(100));
        Ok(())
    }

    #[test]
    fn the_title_is_text_whatever_it_holds() -> Result<()> {
        let svg = learning_curve_svg(&like_a_run(5), "a < b & \"c\"\u{1}\n")?;
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;  \n"), "{}", &svg[..600]);
        Ok(())
    }

    #[test]
    fn the_median_is_odd_and_at_most_101_wide() {
        assert_eq!(
            [1, 9, 10, 29, 100, 1010, 1_000_000].map(median_width),
            [1, 1, 1, 3, 11, 101, 101]
        );
    }
}
