//! A closure as an observer.

use super::{Flow, Observer, Snapshot};
use crate::error::Result;

/// An observer that calls `f` after each step that its interval selects.
///
/// `f` returns nothing, or a [`Flow`] to end the run after this step; an error ends it with that error.
///
/// ```
/// use wgan::observers::{Observer, callback};
/// let mut estimates = Vec::new();
/// let mut observer = callback(|snapshot| {
///     estimates.push(snapshot.record.wasserstein_estimate);
///     Ok(())
/// });
/// # let _: &mut dyn Observer = &mut observer;
/// # drop(observer);
/// use wgan::observers::Flow;
/// let mut good_enough = callback(|snapshot| match snapshot.record.wasserstein_estimate {
///     estimate if estimate < 0.1 => Ok(Flow::stop("the estimate is below 0.1")),
///     _ => Ok(Flow::Continue),
/// });
/// # let _: &mut dyn Observer = &mut good_enough;
/// ```
pub fn callback<F, R>(f: F) -> impl Observer
where
    F: FnMut(&Snapshot<'_>) -> Result<R>,
    R: Into<Flow>,
{
    Callback(f)
}

struct Callback<F>(F);

impl<F, R> Observer for Callback<F>
where
    F: FnMut(&Snapshot<'_>) -> Result<R>,
    R: Into<Flow>,
{
    fn on_step(&mut self, snapshot: &Snapshot<'_>) -> Result<Flow> {
        (self.0)(snapshot).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::fake::{FakeModels, record, with_snapshot};
    use super::*;
    use crate::error::Error;

    #[test]
    fn the_closure_sees_each_step_and_can_end_the_run() -> Result<()> {
        let models = FakeModels::new(DType::F32);
        let mut seen = Vec::new();
        let mut observer = callback(|snapshot| {
            seen.push(snapshot.record.step);
            match snapshot.record.step {
                3 => Err(Error::config("step", 3, "less than 3")),
                _ => Ok(()),
            }
        });
        observer.on_start(100)?;
        for step in 1..=2 {
            with_snapshot(&[record(step)], &models, |s| observer.on_step(s))?;
        }
        assert!(with_snapshot(&[record(3)], &models, |s| observer.on_step(s)).is_err());
        with_snapshot(&[record(3)], &models, |s| observer.on_end(s))?;
        drop(observer);
        assert_eq!(seen, [1, 2, 3]);
        Ok(())
    }
}
