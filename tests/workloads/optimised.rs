//! optimised CASE: Rust as it is released, optimised and without frame pointers: generic functions and closures
//! (`calls`), panics through 30 frames (`panics`).
// flags: -C opt-level=3 -C force-frame-pointers=no

use std::arch::asm;
use std::hint::black_box;
use std::panic;
use std::time::{Duration, Instant};

#[inline(never)]
fn burn(iterations: u64) -> u64 {
    let mut left = iterations;
    while left > 0 {
        // SAFETY: no instruction; it keeps the loop.
        unsafe { asm!("/* {0} */", inout(reg) left) };
        left -= 1;
    }
    black_box(iterations)
}

/// Has a frame for each type and each function that it is made for.
#[inline(never)]
fn twice<T: Copy + Into<u64>>(units: T, action: impl Fn(u64) -> u64) -> u64 {
    action(black_box(units.into())) + action(black_box(units.into()))
}

/// Drops a `Guard` on the way out.
struct Guard(u64);

impl Drop for Guard {
    #[inline(never)]
    fn drop(&mut self) {
        burn(black_box(self.0));
    }
}

#[inline(never)]
fn descend(depth: u64) -> u64 {
    let guard = Guard(500);
    assert!(depth > 0, "the bottom");
    black_box(descend(depth - 1)) + guard.0
}

#[inline(never)]
fn run_panics() {
    let caught = panic::catch_unwind(|| descend(black_box(30)));
    assert!(caught.is_err());
}

#[inline(never)]
fn run_calls(boxed: &dyn Fn(u64) -> u64, side: u64) {
    let sum = match side {
        0 => twice(2_000_u32, |units| burn(units) + 1),
        1 => twice(3_000_u64, boxed),
        _ => boxed(4_000),
    };
    black_box(sum);
}

fn main() {
    let panics = std::env::args().nth(1).is_some_and(|case| case == "panics");
    panic::set_hook(Box::new(|_| {}));
    let factor = black_box(2);
    let boxed: Box<dyn Fn(u64) -> u64> = black_box(Box::new(move |units| burn(units * factor) + factor));
    let mut state = 1_u64;
    let began = Instant::now();
    // A workload whose test has died must not burn for ever.
    while began.elapsed() < Duration::from_secs(120) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if panics {
            run_panics();
        } else {
            run_calls(&boxed, (state >> 33) % 3);
        }
    }
}
