//! A class-conditional critic whose samples' classes are settled: from there on a critic like any other.

use candle_core::Tensor;

use super::Critic;
use crate::error::{Error, Result};
use crate::second_order::Traced;

/// The critic given the labels `(batch,)` of its samples, or as it is where there are none.
///
/// A batch that holds several batches one behind the other, real and generated ones say, has the labels repeated for each.
pub(crate) fn given<'a, C: Critic + ?Sized>(
    critic: &'a C,
    labels: Option<&'a Tensor>,
) -> Box<dyn Critic + 'a> {
    match labels {
        Some(labels) => Box::new(Given { critic, labels }),
        None => Box::new(critic),
    }
}

struct Given<'a, C: ?Sized> {
    critic: &'a C,
    labels: &'a Tensor,
}

impl<C: Critic + ?Sized> Critic for Given<'_, C> {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        let (batch, count) =
            (samples.dims().first().copied().unwrap_or(0), self.labels.elem_count());
        if self.labels.rank() != 1 || count == 0 || !batch.is_multiple_of(count) {
            return Err(Error::Shape {
                what: "the batch of labels".into(),
                got: self.labels.dims().to_vec(),
                expected: format!("one label for each of {batch} samples"),
            });
        }
        self.critic.forward_conditional(samples, &self.labels.repeat(batch / count)?)
    }
}
