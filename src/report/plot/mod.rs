//! Figures of several panels: lines, points, contour lines and histograms, drawn as SVG.

mod clip;
mod contour;
mod draw;

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

pub use contour::Field;

/// A figure: a title, a legend, and panels side by side.
///
/// What has one name has one colour in all panels, and one entry in the legend above them; colours are taken in the order in
/// which names appear, from eight that colour-blind readers can tell apart (Okabe and Ito). What has an empty name is grey and
/// not in the legend.
///
/// NaN and infinities are left out.
///
/// ```
/// use wgan::report::{Figure, Panel};
/// # fn main() -> wgan::Result<()> {
/// let distance = (0..=20).map(|i| f64::from(i) / 10.0 - 1.0).map(|theta: f64| (theta, theta.abs()));
/// let panel = Panel::new("Parallel lines").x("theta").y("distance").line("Wasserstein-1", distance);
/// let svg = Figure::new("Example 1").panel(panel).svg()?;
/// assert!(svg.starts_with("<svg"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Figure {
    title: String,
    columns: usize,
    panel_size: (u32, u32),
    panels: Vec<Panel>,
}

impl Figure {
    /// A figure without panels, three in a row.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), columns: 3, panel_size: (360, 280), panels: Vec::new() }
    }

    /// How many panels lie in a row. Default: 3.
    #[must_use]
    pub fn columns(self, columns: usize) -> Self {
        Self { columns, ..self }
    }

    /// The size of a panel with its labels, in pixels. Default: 360 by 280.
    #[must_use]
    pub fn panel_size(self, width: u32, height: u32) -> Self {
        Self { panel_size: (width, height), ..self }
    }

    /// Adds a panel, row by row.
    #[must_use]
    pub fn panel(mut self, panel: Panel) -> Self {
        self.panels.push(panel);
        self
    }

    /// The figure as an SVG document.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a figure without panels, one of 0 columns, panels of less than 100 or more than 4000
    /// pixels a side, and a range that is not finite and rising, or not above 0 on an axis of powers of ten.
    pub fn svg(&self) -> Result<String> {
        if self.panels.is_empty() {
            return Err(Error::config("the figure's panels", "none", "at least one"));
        }
        if self.columns == 0 {
            return Err(Error::config("the figure's columns", 0, "1 or more"));
        }
        let (width, height) = self.panel_size;
        if [width, height].iter().any(|side| !(100..=4000).contains(side)) {
            let size = format!("{width} x {height}");
            return Err(Error::config(
                "the figure's panel size",
                size,
                "100 to 4000 pixels a side",
            ));
        }
        self.panels.iter().try_for_each(Panel::check)?;
        draw::svg(self)
    }

    /// Writes the SVG document, whole or not at all.
    ///
    /// # Errors
    /// Those of [`svg`](Self::svg); [`Error::Io`] that names the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write_atomically(path.as_ref(), self.svg()?.as_bytes())
    }

    /// The names, in the order in which they appear.
    fn names(&self) -> Vec<&Mark> {
        let mut found: Vec<&Mark> = Vec::new();
        for mark in self.panels.iter().flat_map(|panel| &panel.marks) {
            if !mark.name.is_empty() && found.iter().all(|other| other.name != mark.name) {
                found.push(mark);
            }
        }
        found
    }
}

/// One set of axes with what is drawn on it, later marks over earlier ones.
///
/// Each axis spans all that is drawn, unless a range is given: points outside it are left out, and lines end at the frame.
#[derive(Debug, Clone, Default)]
pub struct Panel {
    title: String,
    x_name: String,
    y_name: String,
    x_range: Option<(f64, f64)>,
    y_range: Option<(f64, f64)>,
    log_y: bool,
    marks: Vec<Mark>,
}

impl Panel {
    /// A panel on which nothing is drawn yet.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// What the horizontal axis counts.
    #[must_use]
    pub fn x(self, name: impl Into<String>) -> Self {
        Self { x_name: name.into(), ..self }
    }

    /// What the vertical axis counts.
    #[must_use]
    pub fn y(self, name: impl Into<String>) -> Self {
        Self { y_name: name.into(), ..self }
    }

    /// The ends of the horizontal axis.
    #[must_use]
    pub fn x_range(self, low: f64, high: f64) -> Self {
        Self { x_range: Some((low, high)), ..self }
    }

    /// The ends of the vertical axis.
    #[must_use]
    pub fn y_range(self, low: f64, high: f64) -> Self {
        Self { y_range: Some((low, high)), ..self }
    }

    /// A vertical axis of powers of ten; values of 0 and below are left out.
    #[must_use]
    pub fn log_y(self) -> Self {
        Self { log_y: true, ..self }
    }

    /// A line through points `(x, y)`.
    #[must_use]
    pub fn line(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        self.mark(name, Shape::Line { dashed: false }, points)
    }

    /// A dashed line, such as what a theory says beside what was measured.
    #[must_use]
    pub fn dashed_line(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        self.mark(name, Shape::Line { dashed: true }, points)
    }

    /// A line with a dot at each point.
    #[must_use]
    pub fn dotted_line(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)> + Clone,
    ) -> Self {
        let name = name.into();
        self.line(name.clone(), points.clone()).mark(name, Shape::Dots { radius: 3.0 }, points)
    }

    /// Points `(x, y)`, each a small dot.
    #[must_use]
    pub fn scatter(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        self.mark(name, Shape::Dots { radius: 1.5 }, points)
    }

    /// The share of the values in each of `bins` equal parts of `[low, high]`, as bars that may lie over others; values
    /// outside are counted in the first and the last. There is 1 bin at least, and 10 000 at most.
    #[must_use]
    pub fn histogram(
        self,
        name: impl Into<String>,
        values: impl IntoIterator<Item = f64>,
        (low, high): (f64, f64),
        bins: usize,
    ) -> Self {
        let bins = bins.clamp(1, 10_000);
        let width = (high - low) / bins as f64;
        let (mut counts, mut all) = (vec![0usize; bins], 0);
        for value in values.into_iter().filter(|value| value.is_finite()) {
            // A cast of a negative number gives 0.
            counts[(((value - low) / width) as usize).min(bins - 1)] += 1;
            all += 1;
        }
        let share = |count: usize| count as f64 / f64::from(all.max(1));
        let bars = counts.into_iter().enumerate();
        let points = bars.map(|(bin, count)| (low + (bin as f64 + 0.5) * width, share(count)));
        self.mark(name, Shape::Bars { width }, points.collect::<Vec<_>>())
    }

    /// `levels` contour lines, 1000 at most, of a function of the plane, evenly spaced between its least and its greatest value,
    /// pale where it is low and dark where it is high.
    #[must_use]
    pub fn contours(mut self, field: Field, levels: usize) -> Self {
        let shape = Shape::Contours { field, levels: levels.min(1000) };
        self.marks.push(Mark { name: String::new(), shape, points: Vec::new() });
        self
    }

    fn check(&self) -> Result<()> {
        let check = |axis: &str, range: Option<(f64, f64)>, positive: bool| match range {
            Some((low, high))
                if !(low < high && (high - low).is_finite() && (low > 0.0 || !positive)) =>
            {
                let also = if positive { ", above 0 on an axis of powers of ten" } else { "" };
                Err(Error::config(
                    format!("the {axis} range of the panel {:?}", self.title),
                    format!("{low} to {high}"),
                    format!("finite ends, the first below the second{also}"),
                ))
            }
            _ => Ok(()),
        };
        check("horizontal", self.x_range, false)?;
        check("vertical", self.y_range, self.log_y)
    }

    fn mark(
        mut self,
        name: impl Into<String>,
        shape: Shape,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        let points = points.into_iter().filter(finite).collect();
        self.marks.push(Mark { name: name.into(), shape, points });
        self
    }
}

#[derive(Debug, Clone)]
struct Mark {
    name: String,
    shape: Shape,
    /// All finite.
    points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone)]
enum Shape {
    Line { dashed: bool },
    Dots { radius: f64 },
    Bars { width: f64 },
    Contours { field: Field, levels: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(panel: &Panel) -> Vec<f64> {
        panel.marks[0].points.iter().map(|point| point.1).collect()
    }

    #[test]
    fn a_histogram_counts_shares_and_keeps_what_lies_outside() {
        let values = [-9.0, 0.1, 0.2, 0.6, 0.999, 1.0, 7.0, f64::NAN];
        let panel = Panel::new("").histogram("values", values, (0.0, 1.0), 2);
        assert_eq!(shares(&panel), [3.0 / 7.0, 4.0 / 7.0]);
        assert_eq!(panel.marks[0].points[0].0, 0.25);
        assert_eq!(shares(&Panel::new("").histogram("none", [], (0.0, 1.0), 3)), [0.0; 3]);
        let many = Panel::new("").histogram("many", [0.5], (0.0, 1.0), usize::MAX);
        assert_eq!(shares(&many).len(), 10_000);
    }

    #[test]
    fn figures_that_cannot_be_drawn_are_refused() {
        let panel = Panel::new("one").line("a", [(0.0, 1.0), (1.0, 2.0)]);
        let refused = |figure: Figure| {
            assert!(matches!(figure.svg(), Err(Error::InvalidConfig { .. })), "{figure:?}");
        };
        refused(Figure::new("no panels"));
        refused(Figure::new("no columns").columns(0).panel(panel.clone()));
        for (low, high) in
            [(1.0, 1.0), (2.0, 1.0), (0.0, f64::INFINITY), (f64::NAN, 1.0), (f64::MIN, f64::MAX)]
        {
            refused(Figure::new("x").panel(panel.clone().x_range(low, high)));
            refused(Figure::new("y").panel(panel.clone().y_range(low, high)));
        }
        let error =
            Figure::new("").panel(panel.clone().log_y().y_range(0.0, 1.0)).svg().unwrap_err();
        let expected = "the vertical range of the panel \"one\" is 0 to 1; expected finite ends";
        assert!(error.to_string().starts_with(expected), "{error}");
        refused(Figure::new("tiny").panel_size(99, 200).panel(panel.clone()));
        refused(Figure::new("huge").panel_size(200, 4001).panel(panel));
    }

    #[test]
    fn a_name_has_one_colour_and_one_entry() -> Result<()> {
        let line = |name: &str, y: f64| Panel::new(name).line(name, [(0.0, 0.0), (1.0, y)]);
        let figure = Figure::new("").panel(line("a", 1.0)).panel(line("b", 1.0).line("a", []));
        let figure = figure.panel(line("a", 2.0));
        let names: Vec<&str> = figure.names().iter().map(|mark| mark.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let svg = figure.svg()?;
        // The legend's swatch and a line in two panels; the empty line is none.
        assert_eq!(svg.matches("<polyline").count(), 3 + svg_axes(&svg));
        Ok(())
    }

    /// Axes are grey polylines as well.
    fn svg_axes(svg: &str) -> usize {
        svg.lines().filter(|l| l.starts_with("<polyline") && l.contains("#787878")).count()
    }

    #[test]
    fn what_lies_outside_a_range_is_not_drawn() -> Result<()> {
        let drawn = |panel: Panel| -> Result<(usize, usize)> {
            let svg = Figure::new("").panel(panel.x_range(0.0, 1.0).y_range(0.0, 1.0)).svg()?;
            Ok((svg.matches("<circle").count(), svg.matches("<polyline").count() - svg_axes(&svg)))
        };
        let none = drawn(Panel::new(""))?;
        let dots = Panel::new("").scatter("", [(0.5, 0.5), (1.0, 0.0), (1.5, 0.5), (0.5, -1e300)]);
        assert_eq!(drawn(dots)?, (none.0 + 2, none.1));
        // In, out above, and in again: two pieces; a line that passes by is none.
        let line = [(0.1, 0.5), (0.2, 9.0), (0.8, 9.0), (0.9, 0.5)];
        assert_eq!(drawn(Panel::new("").line("", line))?.1, none.1 + 2);
        assert_eq!(drawn(Panel::new("").line("", [(-1.0, 0.5), (0.5, 3.0)]))?.1, none.1);
        Ok(())
    }

    #[test]
    fn anything_can_be_drawn() -> Result<()> {
        let field = Field::sample((-1.0, 1.0), (-1.0, 1.0), 9, |x, y| x * y)?;
        let extremes = [(0.0, f64::MAX), (1.0, f64::MIN), (2.0, f64::NAN), (f64::INFINITY, 0.0)];
        let figure = Figure::new("a < b & \"c\"\u{1}")
            .columns(2)
            .panel(Panel::new("nothing"))
            .panel(Panel::new("one").scatter("point", [(3.0, 3.0)]))
            .panel(Panel::new("extremes").line("extremes", extremes))
            .panel(
                Panel::new("log")
                    .log_y()
                    .dotted_line("log", [(0.0, 1e-20), (1.0, 0.0), (2.0, 5.0)]),
            )
            .panel(Panel::new("log of nothing").log_y().line("none", [(0.0, -1.0)]))
            .panel(Panel::new("bars").histogram("bars", [0.1, 0.2], (0.0, 1.0), 4))
            .panel(
                Panel::new("cut")
                    .x_range(0.0, 1.0)
                    .y_range(0.0, 1.0)
                    .line("cut", [(-5.0, 9.0), (5.0, -9.0)]),
            )
            .panel(
                Panel::new("contours").contours(field, 5).dashed_line("", [(0.0, 0.0), (1.0, 1.0)]),
            );
        let svg = figure.svg()?;
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
        Ok(())
    }
}
