//! How long each output takes for a profile of 2,000 stacks (a busy host at 99 Hz for half a minute), and its size.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hostscope::outputs::OUTPUTS;
use hostscope::profile::{FrameKind, Function, Line, Location, Process, Profile, Sample, Stack, ValueType};

const STACKS: u32 = 2_000;
const DEPTH: u32 = 40;
const FUNCTIONS: u32 = 5_000;
const RUNS: u32 = 10;

/// A profile whose stacks share their beginnings as real ones do: they part ways at a depth that differs.
fn profile() -> Profile {
    let functions = (0..FUNCTIONS).map(|number| Function {
        name: format!("company::module_{}::Handler<alloc::string::String>::function_{number}", number % 97),
        system_name: format!("_ZN7company6module7Handler8functionE{number}"),
        file: format!("src/module_{}.rs", number % 97),
    });
    let locations = (0..FUNCTIONS).map(|function| Location {
        address: 0x40_0000 + u64::from(function) * 64,
        mapping: None,
        lines: vec![Line { function, line: function % 900 + 1 }],
        kind: FrameKind::Native,
    });
    // At each depth, neighbours that still share a frame are the fewer the deeper it is: 12,000 frames in all.
    let frame = |stack: u32, depth: u32| {
        let shift = STACKS.ilog2() + 1 - (STACKS.ilog2() + 1) * (depth + 1) / DEPTH;
        let branch = stack >> shift;
        branch.wrapping_mul(2_654_435_761).wrapping_add(depth.wrapping_mul(40_503)) % FUNCTIONS
    };
    let stacks = (0..STACKS).map(|stack| Stack {
        locations: (0..DEPTH).rev().map(|depth| frame(stack, depth)).collect(),
        end: "complete".into(),
    });
    let processes =
        (0..50).map(|pid| Process { pid, start_time_ns: 0, name: format!("service-{}", pid % 30) });
    // Few stacks are hot and most were seen a few times: 12,000 samples.
    let count = |stack: u32| u64::from(1 + 1_200 / (1 + stack.wrapping_mul(2_654_435_761) % STACKS));
    let samples = (0..STACKS).map(|stack| Sample {
        process: stack / 64,
        thread_id: stack,
        thread_name: format!("worker-{}", stack / 16 % 4),
        stack,
        values: vec![count(stack), count(stack) * 10_101_010],
    });
    let value_type = |name: &str, unit: &str| ValueType { name: name.into(), unit: unit.into() };
    Profile {
        value_types: vec![value_type("samples", "count"), value_type("cpu", "nanoseconds")],
        functions: functions.collect(),
        locations: locations.collect(),
        stacks: stacks.collect(),
        processes: processes.collect(),
        samples: samples.collect(),
        ..Profile::empty()
    }
}

fn main() {
    let profile = profile();
    for output in OUTPUTS {
        let mut best = Duration::MAX;
        let mut bytes = Vec::new();
        for _ in 0..RUNS {
            bytes.clear();
            let start = Instant::now();
            if let Err(error) = output.write(black_box(&profile), &mut bytes) {
                println!("{}: {error}", output.extension());
            }
            best = best.min(start.elapsed());
        }
        let milliseconds = best.as_secs_f64() * 1e3;
        println!("{:18} {milliseconds:7.2} ms {:9} bytes", output.extension(), bytes.len());
    }
}
