//! NaN and infinities, which a ReLU, a clamp or a maximum would hide.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ops::first_non_finite;

pub(super) fn finite(what: &str, values: &Tensor) -> Result<()> {
    match first_non_finite(values)? {
        Some(value) => Err(Error::NonFiniteData { what: what.into(), value, position: vec![] }),
        None => Ok(()),
    }
}
