//! The table, its pictures and its verdict.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use clap::ValueEnum;
use serde::Serialize;
use wgan::report::{Figure, Panel, Picture, image_grid};

use crate::experiment::Claim;
use crate::finished::Run;
use crate::judge::{Figures, NEIGHBOUR, SHOWN, SPLITS, samples_path};
use crate::rows::{Model, Row, RunSettings, Strategy, Tuning};

/// A figure of [`Figures`].
type Of = fn(&Figures) -> f64;
/// The columns of the table: the title, the figure, digits after the point.
const COLUMNS: [(&str, Of, usize); 3] = [
    ("Frechet distance", |figures| figures.frechet_distance, 1),
    ("classifier score", |figures| figures.classifier_score, 2),
    ("coverage", |figures| figures.coverage, 3),
];

/// The figures of a row.
#[derive(Serialize)]
pub struct Scores {
    #[serde(flatten)]
    row: Row,
    generator_steps: u64,
    runs: Vec<SeedScores>,
    mean: Figures,
    /// The sample deviation over the seeds, where there are two or more.
    deviation: Option<Figures>,
}

#[derive(Serialize)]
pub struct SeedScores {
    seed: u64,
    figures: Figures,
}

impl Scores {
    pub fn of(row: Row, runs: &[(&Run<RunSettings>, Figures)]) -> Self {
        let of_row = runs.iter().filter(|(run, _)| run.settings.row == row);
        let (configs, figures): (Vec<_>, Vec<_>) =
            of_row.map(|(run, figures)| (&run.settings.training, *figures)).unzip();
        let over_seeds = |statistic: fn(&[f64]) -> f64| {
            Figures::each(|of| statistic(&figures.iter().map(of).collect::<Vec<_>>()))
        };
        Self {
            row,
            generator_steps: configs[0].generator_steps,
            mean: over_seeds(mean),
            deviation: (figures.len() > 1).then(|| over_seeds(deviation)),
            runs: (configs.iter().zip(figures))
                .map(|(config, figures)| SeedScores { seed: config.seed, figures })
                .collect(),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// With n - 1.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

#[derive(Serialize)]
pub struct Measured {
    /// Whose features and classes the figures are of.
    pub classifier: String,
    /// Generated ones and test digits.
    pub samples: [usize; 2],
    /// The figures of as many training digits.
    pub training_digits: Figures,
    pub rows: Vec<Scores>,
}

impl Measured {
    /// As Markdown, with a caption.
    pub fn table(&self) -> Result<String> {
        let Self { classifier, samples: [samples, digits], .. } = self;
        let mut table = format!(
            "Features and classes by {classifier}; {samples} samples against {digits} test digits; classifier score \
             of {SPLITS} splits, coverage with k = {NEIGHBOUR}; means +- sample deviations over the seeds.\n\n"
        );
        table += "| networks | strategy | settings | steps |";
        for (title, ..) in COLUMNS {
            write!(table, " {title} |")?;
        }
        table += "\n|---|---|---|--:|";
        table += &"--:|".repeat(COLUMNS.len());
        for Scores { row, generator_steps, mean, deviation, .. } in &self.rows {
            let [model, strategy, tuning] = row.words();
            write!(table, "\n| {model} | {strategy} | {tuning} | {generator_steps} |")?;
            for (_, of, digits) in COLUMNS {
                write!(table, " {:.digits$}", of(mean))?;
                if let Some(deviation) = deviation {
                    write!(table, " +- {:.digits$}", of(deviation))?;
                }
                table += " |";
            }
        }
        table += "\n| *training digits* | | | |";
        for (_, of, digits) in COLUMNS {
            write!(table, " {:.digits$} |", of(&self.training_digits))?;
        }
        table += "\n";
        Ok(table)
    }
}

/// Samples of the first seed, a row for each row of the table.
pub fn picture(runs: &[(&Run<RunSettings>, Figures)], seed: u64) -> Result<Picture> {
    let first = runs.iter().filter(|(run, _)| run.settings.training.seed == seed);
    let rows = first.map(|(run, _)| -> Result<Tensor> {
        let path = samples_path(run);
        let again = format!("{}: no samples; remove the file beside it too", path.display());
        let mut tensors =
            candle_core::safetensors::load(&path, &Device::Cpu).with_context(|| again.clone())?;
        let samples = tensors.remove("samples").context(again.clone())?;
        ensure!(samples.dims() == [SHOWN, 1, 28, 28], again);
        Ok(samples)
    });
    Ok(image_grid(&Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?, SHOWN)?)
}

/// Every run, the better the further to the upper left.
pub fn figure(measured: &Measured) -> Figure {
    let mut figure =
        Figure::new(format!("Coverage against Frechet distance, by {}", measured.classifier))
            .columns(2)
            .panel_size(420, 320);
    for &model in Model::value_variants() {
        let rows: Vec<_> =
            measured.rows.iter().filter(|scores| scores.row.model == model).collect();
        let Some(first) = rows.first() else { continue };
        let mut panel = Panel::new(first.row.words()[0]).x("Frechet distance").y("coverage");
        for scores in rows {
            let [_, strategy, tuning] = scores.row.words();
            let point = |run: &SeedScores| (run.figures.frechet_distance, run.figures.coverage);
            panel = panel.scatter(format!("{strategy}, {tuning}"), scores.runs.iter().map(point));
        }
        figure = figure.panel(panel);
    }
    figure
}

pub fn verdict(measured: &Measured) -> Vec<Claim> {
    let mut claims = Vec::new();
    let against = |one: f64, other: f64| {
        format!("Frechet distance ({}) {one:.2} against {other:.2}", measured.classifier)
    };
    let distance = |scores: &Scores| scores.mean.frechet_distance;
    let name = |row: Row| row.words()[..2].join(" ");
    let tuned = || measured.rows.iter().filter(|scores| scores.row.settings == Tuning::Tuned);
    for scores in tuned() {
        let paper = Row { settings: Tuning::Paper, ..scores.row };
        let Some(paper) = measured.rows.iter().find(|scores| scores.row == paper) else { continue };
        claims.push(Claim::new(
            format!(
                "{}: tuned settings come nearer than the paper's in as many steps",
                name(scores.row)
            ),
            against(distance(scores), distance(paper)),
            distance(scores) < distance(paper),
        ));
    }
    for scores in tuned().filter(|scores| scores.row.lipschitz != Strategy::Clip) {
        let clip = Row { lipschitz: Strategy::Clip, ..scores.row };
        let Some(clip) = tuned().find(|scores| scores.row == clip) else { continue };
        claims.push(Claim::new(
            format!("{}: tuned, it comes nearer than clipping does", name(scores.row)),
            against(distance(scores), distance(clip)),
            distance(scores) < distance(clip),
        ));
    }
    let floor = measured.training_digits.frechet_distance;
    let nearest = measured.rows.iter().map(distance).fold(f64::INFINITY, f64::min);
    claims.push(Claim::new(
        "no generator comes nearer to the test digits than the training digits are",
        against(nearest, floor),
        nearest > floor,
    ));
    claims
}
