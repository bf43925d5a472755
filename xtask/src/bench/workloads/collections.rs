//! A load for the benchmark: optimized Rust that recurses, sorts by closures, hashes, formats. Never ends.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hint::black_box;

#[inline(never)]
fn recurse(left: u32, seed: u64) -> u64 {
    let local = [seed, seed ^ 7, seed.rotate_left(left), u64::from(left)];
    let below = if left == 0 { seed } else { recurse(left - 1, local[(seed % 4) as usize] + 1) };
    black_box(local).iter().fold(below, |sum, value| sum.wrapping_mul(31).wrapping_add(*value))
}

fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |last| Some(last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)))
}

#[inline(never)]
fn collections(seed: u64) -> usize {
    let mut values: Vec<u64> = numbers(seed).take(2000).map(|value| value >> 40).collect();
    values.sort_by(|a, b| (b % 1000).cmp(&(a % 1000)));
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut text = String::new();
    for value in &values {
        text.clear();
        let _ = write!(text, "{:>8} {:.3}", value % 500, *value as f64 / 7.0);
        *counts.entry(text.clone()).or_default() += 1;
    }
    let ordered: BTreeMap<_, _> = counts.into_iter().collect();
    ordered.len()
}

fn work() {
    for seed in 1.. {
        for turn in 0..200 {
            black_box(recurse(50, seed + turn));
        }
        black_box(collections(seed));
    }
}

fn main() {
    std::thread::spawn(work);
    work();
}
