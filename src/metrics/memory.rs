//! Memory for as many numbers as a caller asks for.

use crate::error::{Error, Result};

/// An empty vector with room for the product of these counts, which are `what`; an error, not a panic, where there is none.
pub(super) fn room_for<T>(what: &str, counts: &[usize]) -> Result<Vec<T>> {
    let count = counts.iter().try_fold(1usize, |product, &count| product.checked_mul(count));
    let mut room = Vec::new();
    match count.filter(|&count| room.try_reserve_exact(count).is_ok()) {
        Some(_) => Ok(room),
        None => {
            let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
            Err(Error::config(what, counts.join(" times "), "what fits in memory"))
        }
    }
}
