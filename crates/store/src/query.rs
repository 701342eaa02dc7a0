//! How queries are bounded.

pub(crate) fn batch(size: usize) -> u32 {
    // A batch of exactly the limit's size would leave the cursor open for one more round trip.
    u32::try_from(size).unwrap_or(u32::MAX).saturating_add(1)
}
