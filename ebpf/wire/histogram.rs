//! The histogram that the kernel side counts into: powers of two of nanoseconds, upper bounds inclusive.

/// The first upper bound is 2 to this power, in nanoseconds: 1.024 µs. What is faster than that nobody waits for.
pub const FIRST_BOUND_LOG2: u32 = 10;

/// Upper bounds: 2^10 to 2^34 ns, the last being 17.2 s. What is longer goes to one more bucket.
pub const BOUNDS: usize = 25;

/// Buckets, that of overflow included.
pub const BUCKETS: usize = BOUNDS + 1;

/// The bucket that `nanoseconds` fall into, the overflow bucket being the last.
///
/// By binary search over the bits, since eBPF has no instruction that counts leading zeros: 10 branchless steps.
#[inline(always)]
#[must_use]
pub const fn bucket(nanoseconds: u64) -> usize {
    // An upper bound belongs to its bucket: 1024 is in the first, 1025 in the second.
    let mut rest = nanoseconds.saturating_sub(1) >> FIRST_BOUND_LOG2;
    if rest >> BOUNDS != 0 {
        return BOUNDS;
    }
    let mut bits = 0;
    let mut width = 16;
    while width > 0 {
        let above = (rest >> width != 0) as usize * width;
        bits += above;
        rest >>= above;
        width /= 2;
    }
    bits + rest as usize
}

/// The inclusive upper bound of a bucket, in nanoseconds; `None` for that of overflow.
#[must_use]
pub const fn bound_ns(bucket: usize) -> Option<u64> {
    if bucket < BOUNDS { Some(1 << (FIRST_BOUND_LOG2 as usize + bucket)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_bounds_are_inclusive() {
        assert_eq!((bucket(0), bucket(1), bucket(1024)), (0, 0, 0));
        for index in 0..BOUNDS {
            let bound = bound_ns(index).unwrap_or(0);
            assert_eq!((bucket(bound), bucket(bound + 1)), (index, index + 1));
        }
        assert_eq!((bucket(u64::MAX), bound_ns(BOUNDS)), (BOUNDS, None));
    }
}
