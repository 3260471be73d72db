//! What the system's allocator does with the memory of a step.

use std::sync::Once;

/// Lets the allocator keep some of what a training step frees for the next step, instead of giving it back to the system page
/// by page and asking for it again, which a profile of a convolutional model shows among the first few entries.
///
/// The GNU C library keeps up to twice the largest block that it had from the system and saw freed, and counts only blocks
/// of up to 32 MiB. So it is shown such a block, which nothing is written to and which therefore takes no memory. Other
/// allocators do not mind.
pub(crate) fn keep_for_next_step() {
    static ONCE: Once = Once::new();
    /// 32 MiB with room for what the library puts in front.
    const LARGEST: usize = (32 << 20) - (64 << 10);
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGEST))));
}
