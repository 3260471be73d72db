//! How a run is doing, on the terminal.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::{Flow, Observer, Snapshot};
use crate::error::Result;

/// Seconds over which the speed is measured.
const WINDOW: f64 = 10.0;
/// Seconds between two lines.
const LINE_INTERVAL: f64 = 5.0;

/// Shows how far a run is, its figures, its speed and the time that is left, on standard error.
///
/// On a terminal it is a bar; elsewhere it is a line about every five seconds and one at the end:
///
/// ```text
/// step 1200/10000  W 3.214  critic -3.102  generator 0.4201  51200 images/s  0:12:34 left
/// ```
///
/// The speed counts the real samples that the critic took in the last ten seconds. What cannot be written is
/// dropped: a run does not end because nobody watches.
///
/// ```
/// use wgan::observers::{Every, Progress};
/// let (every, observer) = (Every::Step, Progress::new());
/// ```
pub struct Progress {
    display: Display,
    speed: Speed,
}

enum Display {
    Bar(ProgressBar),
    Lines { output: Box<dyn Write + Send>, last: Option<Shown> },
}

/// What the last line showed.
#[derive(Clone, Copy)]
struct Shown {
    step: u64,
    seconds: f64,
}

impl Progress {
    /// A bar where standard error is a terminal, lines elsewhere.
    #[must_use]
    pub fn new() -> Self {
        let stderr = std::io::stderr();
        let display = match stderr.is_terminal() {
            true => Display::Bar(ProgressBar::hidden()),
            false => Display::lines(stderr),
        };
        Self { display, speed: Speed::default() }
    }

    fn figures(&mut self, snapshot: &Snapshot<'_>) -> String {
        let record = snapshot.record;
        let speed = self.speed.after(record.step, snapshot.samples_per_step, record.seconds);
        let mut text = format!(
            "W {}  critic {}  generator {}",
            short(record.wasserstein_estimate),
            short(record.critic_loss),
            short(record.generator_loss)
        );
        if let Some((_, images)) = speed {
            text += &format!("  {images:.0} images/s");
        }
        match (snapshot.total_steps.saturating_sub(record.step), speed) {
            (0, _) => text += &format!("  {} in all", clock(record.seconds)),
            (left, Some((steps, _))) => text += &format!("  {} left", clock(left as f64 / steps)),
            _ => {}
        }
        text
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Progress {
    fn on_start(&mut self, total_steps: u64) -> Result<()> {
        self.speed = Speed::default();
        self.display.start(total_steps);
        Ok(())
    }

    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        let figures = self.figures(snapshot);
        self.display.show(snapshot, figures, false);
        Ok(Flow::Continue)
    }

    fn on_end(&mut self, snapshot: &Snapshot<'_>) -> Result<()> {
        let figures = self.figures(snapshot);
        self.display.show(snapshot, figures, true);
        Ok(())
    }
}

impl Display {
    fn lines(output: impl Write + Send + 'static) -> Self {
        Self::Lines { output: Box::new(output), last: None }
    }

    fn start(&mut self, total_steps: u64) {
        match self {
            Self::Bar(bar) => {
                let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {wide_msg}");
                *bar = ProgressBar::new(total_steps)
                    .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                    // A run that fails leaves its last figures on the screen.
                    .with_finish(ProgressFinish::Abandon);
            }
            Self::Lines { last, .. } => *last = None,
        }
    }

    fn show(&mut self, snapshot: &Snapshot<'_>, figures: String, is_end: bool) {
        let (step, seconds) = (snapshot.record.step, snapshot.record.seconds);
        match self {
            Self::Bar(bar) => {
                bar.set_position(step);
                bar.set_message(figures);
                if is_end {
                    bar.abandon();
                }
            }
            Self::Lines { output, last } => {
                let due = match last {
                    None => is_end || seconds >= LINE_INTERVAL,
                    Some(shown) if is_end => shown.step != step,
                    Some(shown) => seconds - shown.seconds >= LINE_INTERVAL,
                };
                if due {
                    let total = snapshot.total_steps;
                    // Nobody is left to be told.
                    let _ = writeln!(output, "step {step}/{total}  {figures}");
                    *last = Some(Shown { step, seconds });
                }
            }
        }
    }
}

/// The speed of a run in its recent past.
#[derive(Default)]
struct Speed {
    /// Oldest first.
    marks: VecDeque<Mark>,
}

/// How far a run was at some time.
#[derive(Clone, Copy)]
struct Mark {
    step: u64,
    /// Since the first mark.
    images: u64,
    seconds: f64,
}

impl Speed {
    /// Steps and images a second; nothing before a second mark. `images` are those of the step, and taken to be those of the
    /// steps that were not seen before it too.
    fn after(&mut self, step: u64, images: usize, seconds: f64) -> Option<(f64, f64)> {
        let last = self.marks.back().copied().unwrap_or(Mark { step, images: 0, seconds });
        let seen = step.saturating_sub(last.step).saturating_mul(images as u64);
        self.marks.push_back(Mark { step, images: last.images.saturating_add(seen), seconds });
        while self.marks.len() > 2 && seconds - self.marks[0].seconds > WINDOW {
            self.marks.pop_front();
        }
        let (first, last) = (self.marks.front()?, self.marks.back()?);
        let took = seconds - first.seconds;
        let steps = step.checked_sub(first.step)? as f64 / took;
        let images = (last.images - first.images) as f64 / took;
        (steps.is_finite() && steps > 0.0).then_some((steps, images))
    }
}

/// A number with about four digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) && value.is_finite() => format!("{value:.2e}"),
        size if size < 1.0 => format!("{value:.4}"),
        size if size < 100.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

/// Hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use candle_core::DType;

    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;
    use crate::error::Error;
    use crate::history::Record;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().unwrap();
            std::str::from_utf8(&bytes).unwrap().lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn the_speed_is_that_of_the_last_seconds_whatever_a_step_takes() {
        let mut speed = Speed::default();
        assert_eq!(speed.after(1, 100, 1.0), None);
        // Ten times the images in one of two steps, a second each.
        assert_eq!(speed.after(2, 1_000, 2.0), Some((1.0, 1_000.0)));
        assert_eq!(speed.after(3, 100, 3.0), Some((1.0, 550.0)));
        // Steps that were not seen count as this one does.
        assert_eq!(speed.after(7, 100, 7.0), Some((1.0, 250.0)));
        // The window has gone on: only the marks of the last ten seconds are left.
        let (steps, images) = speed.after(15, 100, 15.0).expect("a speed");
        assert_eq!((steps, images), (1.0, 100.0));
    }

    /// A run of `last` steps of the 100, at two seconds a step.
    fn run(last: u64, display: Display) -> Result<Progress> {
        let models = FakeModels::new(DType::F32);
        let mut observer = Progress { display, speed: Speed::default() };
        let at = |step| Record { seconds: 2.0 * step as f64, ..record(step) };
        observer.on_start(100)?;
        for step in 1..=last {
            with_snapshot(&[at(step)], &models, |s| observer.on_step(s))?;
        }
        with_snapshot(&[at(last)], &models, |s| observer.on_end(s))?;
        Ok(observer)
    }

    #[test]
    fn a_line_about_every_five_seconds_and_one_at_the_end() -> Result<()> {
        let output = Shared::default();
        run(100, Display::lines(output.clone()))?;
        let lines = output.lines();
        assert_eq!(lines.len(), 34);
        assert_eq!(
            lines[0],
            "step 3/100  W 1.000  critic -0.4286  generator 3.33e299  320 images/s  0:03:14 left"
        );
        assert!(lines[1].starts_with("step 6/100 "));
        assert_eq!(
            lines[33],
            "step 100/100  W 33.333  critic -14.286  generator 1.00e298  320 images/s  0:03:20 in all"
        );
        Ok(())
    }

    #[test]
    fn the_last_step_is_shown_once() -> Result<()> {
        for (last, expected) in [(1, 1), (3, 1), (4, 2), (6, 2)] {
            let output = Shared::default();
            run(last, Display::lines(output.clone()))?;
            assert_eq!(output.lines().len(), expected, "{last} steps");
        }
        Ok(())
    }

    #[test]
    fn a_closed_output_does_not_end_a_run() -> Result<()> {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        run(10, Display::lines(Closed)).map(drop)
    }

    #[test]
    fn the_bar_shows_step_and_figures() -> Result<()> {
        let Display::Bar(bar) = run(40, Display::Bar(ProgressBar::hidden()))?.display else {
            return Err(Error::config("display", "lines", "a bar"));
        };
        assert_eq!((bar.position(), bar.length()), (40, Some(100)));
        assert!(bar.is_finished());
        assert!(bar.message().ends_with("320 images/s  0:02:00 left"), "{}", bar.message());
        Ok(())
    }

    #[test]
    fn speed_is_that_of_the_last_ten_seconds() {
        let mut speed = Speed::default();
        assert_eq!(speed.after(1, 1, 1.0), None);
        assert_eq!(speed.after(1, 1, 1.0), None);
        for step in 2..=30 {
            let _ = speed.after(step, 1, step as f64);
        }
        // From here ten steps a second.
        let last = (1..=110).fold(None, |_, i| speed.after(30 + i, 1, 30.0 + i as f64 / 10.0));
        assert!((last.unwrap().0 - 10.0).abs() < 1e-9, "{last:?}");
        // A long pause between two calls is still a speed.
        assert_eq!(speed.after(241, 1, 142.0), Some((1.0, 1.0)));
    }

    #[test]
    fn figures_are_short() {
        let numbers = [0.0, -0.01234, 3.21449, -123.456, 1e-5, -2.5e7, f64::NAN];
        let expected = ["0", "-0.0123", "3.214", "-123.5", "1.00e-5", "-2.50e7", "NaN"];
        assert_eq!(numbers.map(short), expected);
        assert_eq!(clock(3725.4), "1:02:05");
    }
}
