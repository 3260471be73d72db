//! The records of a run as a table.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{Flow, Models, Observer, Snapshot};
use crate::error::{Error, Result};
use crate::files;
use crate::history::{History, Record};

const HEADER: &str =
    "step,wasserstein_estimate,critic_loss,penalty,generator_loss,gradient_norm,seconds";
const COLUMNS: usize = 7;

/// Writes `history.csv`: one line for each record of the run, under the header
/// `step,wasserstein_estimate,critic_loss,penalty,generator_loss,gradient_norm,seconds`.
///
/// What [`Scores`](super::Scores) measures has a file of its own. Numbers have the digits that give the same `f64` back; NaN and infinities are `NaN`, `inf` and `-inf`. Each
/// call appends the records since the last one, whatever the interval, so that no step is left out and the file
/// is up to date between calls. A file of that name is replaced by the first call, as a whole: that of a run that was
/// killed has its records again as soon as it is resumed, each once, without those after the checkpoint.
///
/// ```
/// # use wgan::observers::Observer;
/// # fn main() -> wgan::Result<()> {
/// # let temporary = tempfile::tempdir().expect("a folder");
/// # let folder = temporary.path();
/// use wgan::observers::{HistoryCsv, read_history_csv};
/// let mut observer = HistoryCsv::new(folder);
/// # let _: &mut dyn Observer = &mut observer;
/// # std::fs::write(folder.join("history.csv"), "step,wasserstein_estimate,critic_loss,penalty,generator_loss,\
/// #     gradient_norm,seconds\n").expect("a file");
/// // After a run:
/// let history = read_history_csv(folder.join("history.csv"))?;
/// # assert!(history.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HistoryCsv {
    folder: PathBuf,
    file: Option<File>,
    written: usize,
}

impl HistoryCsv {
    /// Writes into this folder, which is made if need be.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), file: None, written: 0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("history.csv")
    }

    fn write(&mut self, history: &[Record]) -> Result<()> {
        let path = self.path();
        let lines: String = history.iter().skip(self.written).map(line).collect();
        match &mut self.file {
            Some(file) => append(file, &lines, &path)?,
            None => {
                files::ensure_writable_folder(&self.folder)?;
                // All records at once, so that the file never has fewer than the run that this one goes on from.
                files::write_atomically(&path, format!("{HEADER}\n{lines}").as_bytes())?;
                let file = File::options().append(true).open(&path);
                self.file = Some(file.map_err(|e| Error::io(&path, "opening the file", e))?);
            }
        }
        self.written = history.len();
        Ok(())
    }
}

impl Observer for HistoryCsv {
    fn prepare(&mut self, _models: &dyn Models) -> Result<()> {
        // The run may have been restored to an earlier step: later records are of another course.
        (self.file, self.written) = (None, 0);
        files::ensure_replaceable(&self.path())
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        self.write(snapshot.history).map(Into::into)
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        self.write(snapshot.history)
    }
}

fn append(file: &mut File, lines: &str, path: &Path) -> Result<()> {
    file.write_all(lines.as_bytes()).map_err(|e| Error::io(path, "appending to the file", e))
}

fn line(record: &Record) -> String {
    let Record {
        step,
        wasserstein_estimate,
        critic_loss,
        penalty,
        generator_loss,
        gradient_norm,
        seconds,
        scores: _,
    } = record;
    let mut line = step.to_string();
    for number in
        [wasserstein_estimate, critic_loss, penalty, generator_loss, gradient_norm, seconds]
    {
        // Debug is as exact as Display and shorter: it has exponents.
        let _ = write!(line, ",{number:?}");
    }
    line.push('\n');
    line
}

/// Reads what [`HistoryCsv`] wrote.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read, and [`Error::Format`] with the number of the first line, counted
/// from 1, that is not as expected.
pub fn read_history_csv(path: impl AsRef<Path>) -> Result<History> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "reading the file", e))?;
    let wrong = |line: usize, problem: String| Error::Format {
        path: path.to_path_buf(),
        problem: format!("line {line}: {problem}"),
    };
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    if header != HEADER {
        return Err(wrong(1, format!("the header is {header:?}; expected {HEADER:?}")));
    }
    lines
        .enumerate()
        .map(|(index, line)| parse(line).map_err(|problem| wrong(index + 2, problem)))
        .collect()
}

fn parse(line: &str) -> Result<Record, String> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[step, ref numbers @ ..] = fields.as_slice() else {
        return Err("no values".into());
    };
    let step = step.parse().map_err(|_| format!("step is {step:?}; expected a whole number"))?;
    let numbers = numbers
        .iter()
        .map(|field| field.parse().map_err(|_| format!("{field:?} is not a number")))
        .collect::<Result<Vec<f64>, _>>()?;
    let Ok([wasserstein_estimate, critic_loss, penalty, generator_loss, gradient_norm, seconds]) =
        <[f64; COLUMNS - 1]>::try_from(numbers)
    else {
        return Err(format!("{} values; expected {COLUMNS}", fields.len()));
    };
    Ok(Record {
        step,
        wasserstein_estimate,
        critic_loss,
        penalty,
        generator_loss,
        gradient_norm,
        seconds,
        scores: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;

    fn run(observer: &mut HistoryCsv, history: &[Record], every: usize) -> Result<()> {
        let models = FakeModels::new(DType::F32);
        observer.on_start(history.len() as u64)?;
        for done in (every..=history.len()).step_by(every) {
            with_snapshot(&history[..done], &models, |s| observer.on_step(s))?;
            assert_eq!(read_history_csv(observer.path())?.len(), done, "visible at once");
        }
        with_snapshot(history, &models, |s| observer.on_end(s))
    }

    /// Compares bits, so that NaN equals NaN.
    fn assert_same(a: &[Record], b: &[Record]) {
        assert_eq!(a.iter().map(line).collect::<String>(), b.iter().map(line).collect::<String>());
    }

    #[test]
    fn every_record_comes_back_whatever_the_interval() -> Result<()> {
        let mut history: History = (1..=10).map(record).collect();
        history[3].wasserstein_estimate = f64::MIN_POSITIVE / 8.0;
        history[4].generator_loss = -0.0;
        for every in [1, 3, 10, 11] {
            let folder = tempfile::tempdir().unwrap();
            let mut observer = HistoryCsv::new(folder.path().join("new"));
            run(&mut observer, &history, every)?;
            assert_eq!(read_history_csv(observer.path())?, history, "every {every}");
        }
        Ok(())
    }

    #[test]
    fn numbers_that_are_none_come_back() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut observer = HistoryCsv::new(folder.path());
        let odd = [Record {
            wasserstein_estimate: f64::NAN,
            critic_loss: f64::INFINITY,
            penalty: f64::NEG_INFINITY,
            ..record(1)
        }];
        run(&mut observer, &odd, 1)?;
        let text = std::fs::read_to_string(observer.path()).unwrap();
        assert_eq!(text, format!("{HEADER}\n1,NaN,inf,-inf,1e300,1.1,1.0\n"));
        let back = read_history_csv(observer.path())?;
        assert!(back[0].wasserstein_estimate.is_nan());
        assert_same(&back, &odd);
        Ok(())
    }

    #[test]
    fn an_old_file_is_replaced_by_the_first_record_and_not_before() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let history: History = (1..=3).map(record).collect();
        run(&mut HistoryCsv::new(folder.path()), &history, 1)?;
        let mut observer = HistoryCsv::new(folder.path());
        observer.prepare(&FakeModels::new(DType::F32))?;
        observer.on_start(1)?;
        assert_eq!(read_history_csv(observer.path())?, history);
        run(&mut observer, &history[..1], 1)?;
        // The same observer in a second run.
        run(&mut observer, &history[..2], 1)?;
        assert_eq!(read_history_csv(observer.path())?, history[..2]);
        Ok(())
    }

    /// Of the old file, one record more than the checkpoint had is gone, and those before it are there at once.
    #[test]
    fn a_resumed_run_has_each_record_once() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let history: History = (1..=9).map(record).collect();
        run(&mut HistoryCsv::new(folder.path()), &history[..7], 1)?;
        let models = FakeModels::new(DType::F32);
        let mut resumed = HistoryCsv::new(folder.path());
        for done in 6..=9 {
            with_snapshot(&history[..done], &models, |s| resumed.on_step(s))?;
            assert_eq!(read_history_csv(resumed.path())?, history[..done]);
        }
        Ok(())
    }

    #[test]
    fn a_run_that_goes_back_has_each_record_once() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let history: History = (1..=9).map(record).collect();
        let mut observer = HistoryCsv::new(folder.path());
        for steps in [1..=9, 4..=9] {
            observer.prepare(&FakeModels::new(DType::F32))?;
            for done in steps {
                let models = FakeModels::new(DType::F32);
                with_snapshot(&history[..done], &models, |s| observer.on_step(s))?;
                assert_eq!(read_history_csv(observer.path())?, history[..done]);
            }
        }
        Ok(())
    }

    #[test]
    fn a_step_without_a_start_is_written_too() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut observer = HistoryCsv::new(folder.path());
        with_snapshot(&[record(1)], &FakeModels::new(DType::F32), |s| observer.on_step(s))?;
        assert_eq!(read_history_csv(observer.path())?, [record(1)]);
        Ok(())
    }

    #[test]
    fn a_path_that_cannot_be_created_ends_the_run_before_it_starts() {
        let models = FakeModels::new(DType::F32);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("history.csv")).unwrap();
        let error = HistoryCsv::new(folder.path()).prepare(&models).unwrap_err();
        assert!(error.to_string().contains("history.csv"), "{error}");

        let file = tempfile::NamedTempFile::new().unwrap();
        let error = HistoryCsv::new(file.path().join("out")).prepare(&models).unwrap_err();
        assert!(error.to_string().contains("out"), "{error}");
    }

    #[test]
    fn errors_name_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cases = [
            ("", "line 1: the header is \"\""),
            ("step\n1\n", "line 1: the header is \"step\""),
            ("HEADER\n1,2,3,4,5,6,7\n2,2,3,4,5,6\n", "line 3: 6 values; expected 7"),
            ("HEADER\n1,2,3,4,5,6,7,8\n", "line 2: 8 values; expected 7"),
            ("HEADER\n1.5,2,3,4,5,6,7\n", "line 2: step is \"1.5\""),
            ("HEADER\n1,2,x,4,5,6,7\n", "line 2: \"x\" is not a number"),
            ("HEADER\n\n", "line 2: step is \"\""),
        ];
        for (text, expected) in cases {
            std::fs::write(file.path(), text.replace("HEADER", HEADER)).unwrap();
            let error = read_history_csv(file.path()).unwrap_err();
            assert!(matches!(error, Error::Format { .. }));
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(matches!(read_history_csv("/no/such.csv"), Err(Error::Io { .. })));
    }
}
