//! What the experiments share: flags, the folder with the results, and the verdict.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser};
use serde::Serialize;
use wgan::files::{self, FolderLock};
use wgan::report::Figure;

#[derive(Args)]
pub struct Flags {
    /// Folder for the figures and results.json [default: runs/ and the experiment's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Decides every random draw: the same seed gives the same results
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// A short form that still shows the effect, within two minutes on two cores
    #[arg(long)]
    pub quick: bool,
}

impl Flags {
    /// One of two settings: the full form's or the short one's.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// A statement of the paper's and whether the measured numbers bear it out.
#[derive(Serialize)]
pub struct Claim {
    claim: String,
    measured: String,
    holds: bool,
}

impl Claim {
    pub fn new(claim: impl Into<String>, measured: impl Into<String>, holds: bool) -> Self {
        Self { claim: claim.into(), measured: measured.into(), holds }
    }
}

/// What `results.json` holds; no times, so that it is the same for a seed.
#[derive(Serialize)]
struct Results<'a, S, M> {
    experiment: &'a str,
    version: &'a str,
    seed: u64,
    quick: bool,
    settings: &'a S,
    measured: &'a M,
    verdict: &'a [Claim],
}

/// One run of an experiment.
pub struct Experiment<'a> {
    name: &'static str,
    flags: &'a Flags,
    /// No other run may write into the folder meanwhile.
    pub folder: FolderLock,
}

impl<'a> Experiment<'a> {
    /// Takes the folder, before anything is computed.
    pub fn start(name: &'static str, flags: &'a Flags) -> Result<Self> {
        let folder = flags.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name));
        Ok(Self { name, flags, folder: FolderLock::acquire(folder)? })
    }

    /// Writes a figure, `<name>.svg`.
    pub fn figure(&self, name: &str, figure: &Figure) -> Result<()> {
        Ok(figure.save(self.folder.folder().join(format!("{name}.svg")))?)
    }

    /// Writes `results.json`, prints the verdict, and says whether every claim holds.
    pub fn finish(
        self,
        settings: &impl Serialize,
        measured: &impl Serialize,
        verdict: &[Claim],
    ) -> Result<ExitCode> {
        let results = Results {
            experiment: self.name,
            version: env!("CARGO_PKG_VERSION"),
            seed: self.flags.seed,
            quick: self.flags.quick,
            settings,
            measured,
            verdict,
        };
        let path = self.folder.folder().join("results.json");
        files::write_atomically(&path, &serde_json::to_vec_pretty(&results)?)?;
        let mut out = std::io::stdout();
        for Claim { claim, measured, holds } in verdict {
            let verdict = if *holds { "shown" } else { "NOT SHOWN" };
            // Nobody may be reading: the exit code says the same.
            let _ = writeln!(out, "{verdict}: {claim}: {measured}");
        }
        let _ = writeln!(out, "{}: results.json and figures", self.folder.folder().display());
        let shown = verdict.iter().all(|claim| claim.holds);
        Ok(if shown { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Reads the flags, runs the experiment and prints its error, if any, in one line.
pub fn main<A: Parser>(run: impl FnOnce(&A) -> Result<ExitCode>) -> ExitCode {
    let colours = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours);
    subscriber.with_target(false).without_time().init();
    run(&A::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
