//! A figure in plotters' terms.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::axis::Axis;
use super::super::figure::{AXES, Area, Drawn, MESH, UNITS, px, shown, text, thinned};
use super::clip::{clipped, contains};
use super::{Figure, Mark, Panel, Shape};
use crate::error::{Error, Result};

/// Okabe and Ito's colours, those that lie far apart first.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 70, 50),
    RGBColor(150, 150, 0),
];
/// What has no name.
const GREY: RGBColor = RGBColor(150, 150, 150);
const LOW: RGBColor = RGBColor(205, 210, 220);
const HIGH: RGBColor = RGBColor(60, 65, 85);

const TITLE_HEIGHT: u32 = 34;
const LEGEND_ROW: u32 = 20;
const PANEL_TITLE: u32 = 22;
const LABELS: (u32, u32) = (56, 40);
const MARGIN: u32 = 10;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

pub(super) fn svg(figure: &Figure) -> Result<String> {
    let columns = figure.columns.min(figure.panels.len());
    let rows = figure.panels.len().div_ceil(columns);
    let width = figure.panel_size.0 * columns as u32;
    let legend = legend_rows(&figure.names(), px(width));
    let header = TITLE_HEIGHT + LEGEND_ROW * legend.len() as u32;
    let size = (width, header + figure.panel_size.1 * rows as u32);

    let mut svg = String::new();
    draw(&mut svg, figure, &legend, header, (rows, columns), size).map_err(|e| Error::Format {
        path: "figure.svg".into(),
        problem: format!("plotters could not draw it: {e}"),
    })?;
    Ok(shown(svg, size))
}

fn draw(
    svg: &mut String,
    figure: &Figure,
    legend: &[Vec<(i32, &Mark)>],
    header: u32,
    grid: (usize, usize),
    (width, height): (u32, u32),
) -> Drawn {
    let root = SVGBackend::with_string(svg, (width * UNITS, height * UNITS)).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, panels) = root.split_vertically(px(header));
    draw_title(&top, &figure.title, 18.0, (px(width) / 2, px(18)))?;
    let names = figure.names();
    let color = |name: &str| match names.iter().position(|mark| mark.name == name) {
        Some(place) => COLORS[place % COLORS.len()],
        None => GREY,
    };
    for (row, entries) in legend.iter().enumerate() {
        let middle = px(TITLE_HEIGHT + LEGEND_ROW * row as u32 + LEGEND_ROW / 2);
        for (x, mark) in entries {
            draw_entry(&top, mark, color(&mark.name), (*x, middle))?;
        }
    }
    for (panel, area) in figure.panels.iter().zip(panels.split_evenly(grid)) {
        draw_panel(&area, panel, &color)?;
    }
    root.present()
}

/// Control characters are not allowed in XML, however they are written.
fn draw_title(area: &Area<'_>, title: &str, size: f64, at: (i32, i32)) -> Drawn {
    let style = text(size).pos(Pos::new(HPos::Center, VPos::Center));
    area.draw_text(&title.replace(char::is_control, " "), &style, at)
}

const SWATCH: u32 = 22;
const ENTRY_TEXT: f64 = 13.0;

/// The names and where they begin, in as many rows as it takes, each in the middle.
fn legend_rows<'a>(names: &[&'a Mark], width: i32) -> Vec<Vec<(i32, &'a Mark)>> {
    // An average letter is little more than half as wide as it is high.
    let length = |mark: &Mark| {
        px(SWATCH + 24)
            + (0.56 * ENTRY_TEXT * f64::from(UNITS)) as i32 * mark.name.chars().count() as i32
    };
    let mut rows: Vec<(i32, Vec<(i32, &Mark)>)> = Vec::new();
    for mark in names {
        match rows.last_mut() {
            Some((end, row)) if *end + length(mark) <= width => {
                row.push((*end, mark));
                *end += length(mark);
            }
            _ => rows.push((length(mark), vec![(0, mark)])),
        }
    }
    let centred = |(end, row): (i32, Vec<(i32, &'a Mark)>)| {
        let left = (width - end) / 2;
        row.into_iter().map(|(x, mark)| (left + x, mark)).collect()
    };
    rows.into_iter().map(centred).collect()
}

fn draw_entry(area: &Area<'_>, mark: &Mark, color: RGBColor, (x, y): (i32, i32)) -> Drawn {
    let bar = |from: i32, to: i32, half: i32| {
        area.draw(&Rectangle::new([(x + from, y - half), (x + to, y + half)], color.filled()))
    };
    let end = px(SWATCH);
    match mark.shape {
        Shape::Line { dashed: false } => bar(0, end, px(1))?,
        Shape::Line { dashed: true } => {
            bar(0, end / 3, px(1))?;
            bar(2 * end / 3, end, px(1))?;
        }
        Shape::Dots { .. } => area.draw(&Circle::new((x + end / 2, y), px(3), color.filled()))?,
        Shape::Bars { .. } | Shape::Contours { .. } => bar(0, end, px(5))?,
    }
    let style = text(ENTRY_TEXT).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw_text(&mark.name.replace(char::is_control, " "), &style, (x + end + px(6), y))
}

/// The axes of a panel, which place its marks.
struct Axes {
    x: Axis,
    y: Axis,
    log_y: bool,
}

impl Axes {
    fn of(panel: &Panel) -> Self {
        let log_y = panel.log_y;
        let height = |y: f64| if log_y { y.log10() } else { y };
        let spans: Vec<(f64, f64)> = panel.marks.iter().flat_map(span).collect();
        let axis = |range: Option<(f64, f64)>, values: Vec<f64>| match range {
            Some((low, high)) => Axis::from_to(low, high),
            None => Axis::over(values),
        };
        let heights = spans.iter().map(|point| height(point.1));
        Self {
            x: axis(panel.x_range, spans.iter().map(|point| point.0).collect()),
            y: axis(
                panel.y_range.map(|(low, high)| (height(low), height(high))),
                heights.filter(|y| y.is_finite()).collect(),
            ),
            log_y,
        }
    }

    /// Within the frame or outside it; `None` for what has no place on a logarithmic axis.
    fn locate(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let y = if self.log_y { y.log10() } else { y };
        y.is_finite().then(|| (self.x.locate(x), self.y.locate(y)))
    }

    /// A point of the frame.
    fn holds(&self, (x, y): (f64, f64)) -> bool {
        contains(&self.x.range(), x) && contains(&self.y.range(), y)
    }

    /// What of a line lies within the frame.
    fn pieces(&self, line: impl IntoIterator<Item = (f64, f64)>) -> Vec<Vec<(f64, f64)>> {
        let line = thinned(line.into_iter().filter_map(|point| self.locate(point)).collect());
        clipped(&line, &self.x.range(), &self.y.range())
    }

    /// The corners of a bar, or of what of it lies within the frame.
    fn bar(&self, (x, y): (f64, f64), width: f64) -> Option<[(f64, f64); 2]> {
        let height = |y: f64| if self.log_y { y.log10() } else { y };
        let foot = if self.log_y { f64::MIN_POSITIVE } else { 0.0 };
        let corners = [(x - width / 2.0, height(foot)), (x + width / 2.0, height(y))];
        let [low, high] = corners.map(|(x, y)| (self.x.place(x), self.y.place(y)));
        (height(y).is_finite() && low.0 < high.0).then_some([low, high])
    }

    fn y_label(&self, position: f64) -> String {
        if self.log_y { self.y.power_label(position) } else { self.y.label(position) }
    }
}

/// Points that an axis over all of a mark must hold.
fn span(mark: &Mark) -> Vec<(f64, f64)> {
    match &mark.shape {
        Shape::Contours { field, .. } => field.corners().into(),
        Shape::Bars { width } => {
            let sides = mark
                .points
                .iter()
                .flat_map(|&(x, y)| [(x - width / 2.0, y), (x + width / 2.0, 0.0)]);
            sides.collect()
        }
        Shape::Line { .. } | Shape::Dots { .. } => mark.points.clone(),
    }
}

fn draw_panel(area: &Area<'_>, panel: &Panel, color: &dyn Fn(&str) -> RGBColor) -> Drawn {
    let (head, plot) = area.split_vertically(px(PANEL_TITLE));
    let (width, _) = area.dim_in_pixel();
    draw_title(
        &head,
        &panel.title,
        15.0,
        ((width as i32 + px(LABELS.0)) / 2, px(PANEL_TITLE / 2)),
    )?;
    let axes = Axes::of(panel);
    let mut chart = ChartBuilder::on(&plot.margin(0, 0, px(MARGIN), px(MARGIN)))
        .set_label_area_size(LabelAreaPosition::Left, px(LABELS.0))
        .set_label_area_size(LabelAreaPosition::Bottom, px(LABELS.1))
        .build_cartesian_2d(axes.x.range(), axes.y.range())?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(MESH.stroke_width(UNITS))
        .axis_style(AXES.stroke_width(UNITS))
        .set_all_tick_mark_size(px(4))
        .label_style(text(12.0))
        .axis_desc_style(text(13.0))
        .x_desc(&panel.x_name)
        .y_desc(&panel.y_name)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|position| axes.x.label(*position))
        .y_label_formatter(&|position| axes.y_label(*position))
        .draw()?;
    for mark in &panel.marks {
        draw_mark(&mut chart, mark, &axes, color(&mark.name))?;
    }
    Ok(())
}

fn draw_mark(chart: &mut Chart<'_, '_>, mark: &Mark, axes: &Axes, color: RGBColor) -> Drawn {
    let points = || mark.points.iter().copied();
    let stroke = color.stroke_width(2 * UNITS);
    match &mark.shape {
        Shape::Line { dashed: false } => {
            for piece in axes.pieces(points()) {
                chart.draw_series(LineSeries::new(piece, stroke))?;
            }
        }
        Shape::Line { dashed: true } => {
            for piece in axes.pieces(points()) {
                let (dash, gap) = (px(6) as u32, px(4) as u32);
                chart.draw_series(DashedLineSeries::new(piece, dash, gap, stroke))?;
            }
        }
        Shape::Dots { radius } => {
            let radius = (radius * f64::from(UNITS)) as i32;
            let places = points().filter_map(|point| axes.locate(point));
            let places = places.filter(|&place| axes.holds(place));
            chart.draw_series(places.map(|at| Circle::new(at, radius, color.filled())))?;
        }
        Shape::Bars { width } => {
            let bars = points().filter_map(|point| axes.bar(point, *width));
            chart.draw_series(bars.map(|bar| Rectangle::new(bar, color.mix(0.6).filled())))?;
        }
        Shape::Contours { field, levels } => {
            let levels = field.levels(*levels);
            let last = levels.len().saturating_sub(1).max(1) as f64;
            for (place, &level) in levels.iter().enumerate() {
                let style = between(LOW, HIGH, place as f64 / last).stroke_width(UNITS);
                for piece in field.contour(level).into_iter().flat_map(|line| axes.pieces(line)) {
                    chart.draw_series(LineSeries::new(piece, style))?;
                }
            }
        }
    }
    Ok(())
}

fn between(low: RGBColor, high: RGBColor, t: f64) -> RGBColor {
    let mix = |a: u8, b: u8| (f64::from(a) + t * (f64::from(b) - f64::from(a))).round() as u8;
    RGBColor(mix(low.0, high.0), mix(low.1, high.1), mix(low.2, high.2))
}
