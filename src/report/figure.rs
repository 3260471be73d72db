//! Lines over the steps of a run, drawn as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::{Axis, step_label};
use crate::error::{Error, Result};

/// Size of the figure in pixels as it is shown.
pub(super) const SIZE: (u32, u32) = (800, 600);
/// plotters rounds to whole units: a finer grid than the pixels of the screen keeps lines smooth.
pub(super) const UNITS: u32 = 4;
/// The most points that a line is drawn with.
pub(super) const MAX_POINTS: usize = 2000;

const TEXT: RGBColor = RGBColor(50, 50, 50);
pub(super) const AXES: RGBColor = RGBColor(120, 120, 120);
pub(super) const MESH: RGBColor = RGBColor(232, 232, 232);

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// One set of axes.
pub(super) struct Panel {
    /// What the vertical axis counts.
    pub name: &'static str,
    /// Whether that axis reaches 0 even where no value does.
    pub axis_holds_zero: bool,
    pub lines: Vec<Line>,
}

pub(super) struct Line {
    pub name: String,
    /// One for each step.
    pub values: Vec<f64>,
    pub color: RGBColor,
    /// In pixels.
    pub width: u32,
}

impl Panel {
    fn axis(&self) -> Axis {
        let zero = self.axis_holds_zero.then_some(0.0);
        Axis::over(self.lines.iter().flat_map(|line| bulk(&line.values)).chain(zero))
    }
}

/// The least and the greatest of the finite values, without the most extreme 1/200 at either end.
fn bulk(values: &[f64]) -> Vec<f64> {
    let mut finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let Some(last) = finite.len().checked_sub(1) else {
        return Vec::new();
    };
    let cut = finite.len() / 200;
    [cut, last - cut].map(|rank| *finite.select_nth_unstable_by(rank, f64::total_cmp).1).into()
}

/// Keeps the lowest and the highest point of each stretch, so that the drawn line looks like the whole one.
pub(super) fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= MAX_POINTS {
        return points;
    }
    points
        .chunks(points.len().div_ceil(MAX_POINTS / 2))
        .flat_map(|stretch| {
            let (low, high) =
                stretch.iter().fold((stretch[0], stretch[0]), |(low, high), &point| {
                    (
                        if point.1 < low.1 { point } else { low },
                        if point.1 > high.1 { point } else { high },
                    )
                });
            if low.0 <= high.0 { [low, high] } else { [high, low] }
        })
        .collect()
}

/// Draws two panels over the same steps, one above the other, as an SVG document of `SIZE` pixels.
pub(super) fn two_panels(steps: &[f64], panels: [&Panel; 2], title: &str) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, steps, panels, title).map_err(|e| Error::Format {
        path: "learning_curve.svg".into(),
        problem: format!("plotters could not draw it: {e}"),
    })?;
    Ok(shown(svg, SIZE))
}

/// The document in pixels of the screen, with the finer grid as its view box.
pub(super) fn shown(svg: String, (width, height): (u32, u32)) -> String {
    let size = |units: u32| format!("width=\"{}\" height=\"{}\"", width * units, height * units);
    svg.replacen(&size(UNITS), &size(1), 1)
}

fn draw(svg: &mut String, steps: &[f64], panels: [&Panel; 2], title: &str) -> Drawn {
    let size = (SIZE.0 * UNITS, SIZE.1 * UNITS);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    // Control characters are not allowed in XML, however they are written.
    let title = title.replace(char::is_control, " ");
    root.draw_text(&title, &text(20.0).pos(centred()), (px(SIZE.0 / 2), px(22)))?;
    let (upper, lower) = root.margin(px(36), 0, px(8), px(20)).split_vertically(px(268));
    let first = steps.iter().copied().fold(f64::INFINITY, f64::min);
    let last = steps.iter().copied().fold(0.0, f64::max);
    // From the state before the first step, so that a single record spans a range too.
    let range = first - 1.0..last;
    draw_panel(&upper, steps, range.clone(), panels[0], "")?;
    draw_panel(&lower, steps, range, panels[1], "generator step")?;
    root.present()
}

fn draw_panel(
    area: &Area<'_>,
    steps: &[f64],
    range: std::ops::Range<f64>,
    panel: &Panel,
    x_name: &str,
) -> Drawn {
    const LABELS_WIDTH: u32 = 66;
    let (header, plot) = area.split_vertically(px(24));
    draw_legend(&header, &panel.lines, px(LABELS_WIDTH))?;

    let axis = panel.axis();
    let whole_steps = (range.end - range.start) as usize;
    let mut chart = ChartBuilder::on(&plot)
        .set_label_area_size(LabelAreaPosition::Left, px(LABELS_WIDTH))
        .set_label_area_size(LabelAreaPosition::Bottom, px(if x_name.is_empty() { 26 } else { 46 }))
        .build_cartesian_2d(range.clone(), axis.range())?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(MESH.stroke_width(UNITS))
        .axis_style(AXES.stroke_width(UNITS))
        .set_all_tick_mark_size(px(4))
        .label_style(text(15.0))
        .axis_desc_style(text(16.0))
        .x_desc(x_name)
        .y_desc(panel.name)
        .x_labels(whole_steps.clamp(1, 10) + 1)
        .y_labels(6)
        .x_label_formatter(&|step| step_label(*step, range.end))
        .y_label_formatter(&|position| axis.label(*position))
        .draw()?;
    for line in &panel.lines {
        let finite = steps.iter().zip(&line.values).filter(|(_, value)| value.is_finite());
        let points = thinned(finite.map(|(&step, &value)| (step, axis.place(value))).collect());
        // A line through one point would not be seen.
        let dot = if points.len() == 1 { 3 * UNITS } else { 0 };
        let style = line.color.stroke_width(line.width * UNITS).filled();
        chart.draw_series(LineSeries::new(points, style).point_size(dot))?;
    }
    Ok(())
}

/// A swatch and a name for each line, side by side from `left`.
fn draw_legend(area: &Area<'_>, lines: &[Line], left: i32) -> Drawn {
    let middle = px(11);
    for (slot, line) in lines.iter().enumerate() {
        let x = left + slot as i32 * px(190);
        let half = (line.width * UNITS) as i32;
        let swatch = [(x, middle - half), (x + px(24), middle + half)];
        area.draw(&Rectangle::new(swatch, line.color.filled()))?;
        let style = text(15.0).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(&line.name, &style, (x + px(32), middle))?;
    }
    Ok(())
}

pub(super) fn px(pixels: u32) -> i32 {
    (pixels * UNITS) as i32
}

pub(super) fn text(pixels: f64) -> TextStyle<'static> {
    // plotters writes a font size divided by 1.24 into the document.
    ("sans-serif", pixels * 1.24 * f64::from(UNITS)).into_font().color(&TEXT)
}

fn centred() -> Pos {
    Pos::new(HPos::Center, VPos::Center)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_extremes() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 0.0)).collect();
        points[77_777].1 = 5.0;
        points[12_345].1 = -5.0;
        let thin = thinned(points);
        assert!(thin.len() <= MAX_POINTS);
        assert!(thin.contains(&(77_777.0, 5.0)) && thin.contains(&(12_345.0, -5.0)));
        assert!(thin.windows(2).all(|p| p[0].0 <= p[1].0));
    }
}
