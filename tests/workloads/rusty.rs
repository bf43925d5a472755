//! Names as Rust makes them: generics, trait methods, closures; CPU time 60 : 40 by construction, in an
//! order without a rhythm (see work.h).
// flags: -C opt-level=0 -C force-frame-pointers=yes

use std::arch::asm;
use std::time::{Duration, Instant};

trait Work {
    fn work(&self, times: u32);
}

struct Worker<T> {
    iterations: T,
}

impl<T: Copy + Into<u64>> Work for Worker<T> {
    #[inline(never)]
    fn work(&self, times: u32) {
        let mut done = 0;
        while done < times {
            burn(self.iterations.into());
            done += 1;
        }
    }
}

#[inline(never)]
fn burn(iterations: u64) {
    let mut left = iterations;
    while left > 0 {
        // SAFETY: no instruction; it keeps the loop.
        unsafe { asm!("/* {0} */", inout(reg) left) };
        left -= 1;
    }
}

#[inline(never)]
fn call(action: impl Fn()) {
    action();
}

fn main() {
    let worker = Worker { iterations: 20_000_u32 };
    let mut state = 1_u64;
    let began = Instant::now();
    // A workload whose test has died must not burn for ever.
    while began.elapsed() < Duration::from_secs(120) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (state >> 33) % 5 < 3 {
            worker.work(1);
        } else {
            call(|| burn(20_000));
        }
    }
}
