//! The same work on several tensors.

use candle_core::Tensor;

use crate::kernels::beside;

/// What `work` makes of each item, in the items' order. On the CPU two groups with about as many elements of the items' tensors are
/// worked on beside each other, so that no short work waits for the end of another; a group that is done helps with the other.
pub(crate) fn each_beside<T: Send, R: Send>(
    mut items: Vec<T>,
    tensor: impl Fn(&T) -> &Tensor,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    if !items.iter().all(|item| tensor(item).device().is_cpu()) {
        return items.into_iter().map(work).collect();
    }
    let sizes: Vec<usize> = items.iter().map(|item| tensor(item).elem_count()).collect();
    let others = items.split_off(middle(&sizes));
    let each = |items: Vec<T>| items.into_iter().map(&work).collect::<Vec<R>>();
    let (mut made, others) = beside(|| each(items), || each(others));
    made.extend(others);
    made
}

/// How many come before the middle, as near as there is a border.
fn middle(sizes: &[usize]) -> usize {
    let total: usize = sizes.iter().sum();
    let off = |&count: &usize| (2 * sizes[..count].iter().sum::<usize>()).abs_diff(total);
    (0..=sizes.len()).min_by_key(off).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn groups_have_about_one_size() {
        for (sizes, expected) in [
            (vec![], 0),
            (vec![5], 0),
            (vec![1, 5], 1),
            (vec![5, 1, 1], 1),
            (vec![3, 1, 3, 1], 2),
            (vec![13, 33, 131, 525, 804], 4),
        ] {
            assert_eq!(middle(&sizes), expected, "{sizes:?}");
        }
    }

    #[test]
    fn each_is_made_in_its_place() -> candle_core::Result<()> {
        for count in 0..9 {
            let tensor = |i: usize| Tensor::zeros(1 + i * 7 % 5, DType::F32, &Device::Cpu);
            let items = (0..count).map(|i| Ok((i, tensor(i)?))).collect::<candle_core::Result<_>>();
            let made = each_beside(items?, |(_, tensor)| tensor, |(i, _)| 10 * i);
            assert_eq!(made, (0..count).map(|i| 10 * i).collect::<Vec<_>>());
        }
        Ok(())
    }
}
