//! Tests of the real kernel that run on the host and, by `cargo xtask vmtest`, on every kernel that is supported.
//!
//! The environment names what they work with: `HOSTSCOPE_BIN` (our executable), `HOSTSCOPE_WORKLOADS` (the folder of the
//! programs built from `tests/workloads`) and, in a virtual machine only, `HOSTSCOPE_VM` (which kernel was booted).
//!
//! Under emulation a second is short: shares have wider bounds here than in `cpu.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use hostscope::collect::{Collector, Event, MappingEvent, RingRecord};
use hostscope::load::preflight::State;
use hostscope::load::{Filter, Kernel, LoadSettings};
use hostscope_tests::host::host;
use hostscope_tests::program::record;
use hostscope_tests::skip;
use hostscope_tests::stacks::{assert_percent, of_process, percent, text, total};
use hostscope_tests::workload::Workload;

fn load(filter: Filter) -> Kernel {
    let settings = LoadSettings { filter, include_idle: false, frequency_hertz: 99, drain_interval_ms: 1000 };
    Kernel::load(&settings).unwrap_or_else(|error| panic!("{error}"))
}

/// Every struct offset comes from here.
#[test]
fn the_kernel_describes_its_types() {
    let btf =
        fs::read("/sys/kernel/btf/vmlinux").expect("kernels since 5.4 with CONFIG_DEBUG_INFO_BTF have it");
    assert_eq!(btf.get(..2), Some(&[0x9f, 0xeb][..]), "the magic number of BTF on a little-endian machine");
}

#[test]
fn every_probe_loads_and_attaches() {
    let _host = host();
    let mut kernel = load(Filter::Host);
    kernel.follow_cpus().unwrap_or_else(|error| panic!("{error}"));
    for probe in &kernel.probes {
        assert_eq!(probe.state, State::On, "{}: {}", probe.spec.name, probe.reason);
    }
    assert_eq!(kernel.sampled_cpus(), hostscope::load::online_cpus().unwrap().len());
    assert!(kernel.losses.read().is_empty());
}

/// How often each event of a process that this one starts is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    forks: u32,
    execs: u32,
    exits: u32,
    exec_begins: u32,
    /// By process: distinct mappings of the program's own file.
    programs_mapped: u32,
}

#[test]
fn process_life_is_counted_exactly() {
    const RUNS: u32 = 23;
    let _host = host();
    let mut kernel = load(Filter::Processes);
    kernel.targets.insert(std::process::id()).unwrap();
    let mut collector = Collector::default();
    collector.drain(&mut kernel, |_| ());
    let program = fs::canonicalize("/bin/true").unwrap();
    let mut started = BTreeMap::new();
    for _ in 0..RUNS {
        let mut child = Command::new("/bin/true").spawn().unwrap();
        started.insert(child.id(), ());
        assert!(child.wait().unwrap().success());
    }
    let mut counts = Counts::default();
    let mut mapped = BTreeMap::new();
    let mut last_time_ns = 0;
    collector.drain(&mut kernel, |event| match event {
        Event::Ring(RingRecord::Fork(record)) => {
            assert_eq!(record.parent_tgid, std::process::id());
            assert!(started.contains_key(&record.tgid));
            counts.forks += 1;
        }
        Event::Ring(RingRecord::Exec(record)) => {
            assert_eq!(&record.comm[..5], b"true\0");
            assert!(record.header.time_ns >= last_time_ns, "records are told in the order of time");
            last_time_ns = record.header.time_ns;
            counts.execs += 1;
        }
        Event::Ring(RingRecord::Exit(record)) => {
            assert!(started.contains_key(&record.tgid) && record.start_time_ns > 0);
            counts.exits += 1;
        }
        Event::Mapping(MappingEvent::Exec { pid }) if started.contains_key(&pid) => counts.exec_begins += 1,
        Event::Mapping(MappingEvent::New(mapping)) if started.contains_key(&mapping.pid) => {
            if program.as_os_str().as_encoded_bytes() == mapping.path {
                mapped.insert(mapping.pid, ());
            }
        }
        _ => {}
    });
    counts.programs_mapped = mapped.len() as u32;
    let right = Counts { forks: RUNS, execs: RUNS, exits: RUNS, exec_begins: RUNS, programs_mapped: RUNS };
    assert_eq!(counts, right);
    assert_eq!((kernel.losses.read(), collector.malformed), (Vec::new(), 0));
}

#[test]
fn what_finds_no_room_in_the_ring_is_counted_exactly() {
    let _host = host();
    let mut kernel = load(Filter::Processes);
    kernel.targets.insert(std::process::id()).unwrap();
    let mut collector = Collector::default();
    // The smallest ring is half a megabyte; a record of 48 bytes takes 56 of it, and each run makes three. Threads of
    // this process that end are no processes, so nothing else writes.
    let room = 512 * 1024 / 56;
    let runs = room / 3 + 200;
    let deadline = Instant::now() + Duration::from_secs(120);
    for _ in 0..runs {
        let status = Command::new("/bin/true").status().unwrap();
        assert!(status.success(), "/bin/true: {status}");
        if std::env::var_os("HOSTSCOPE_VM").is_some() && Instant::now() > deadline {
            return skip!("the emulated machine is too slow to fill the ring");
        }
    }
    let mut told = 0_u64;
    collector.drain(&mut kernel, |event| {
        told += u64::from(matches!(
            event,
            Event::Ring(RingRecord::Fork(_) | RingRecord::Exec(_) | RingRecord::Exit(_))
        ));
    });
    let lost: u64 = kernel.losses.read().iter().map(|(_, count)| count).sum();
    assert!(lost > 0, "the ring never filled up");
    assert_eq!(told + lost, 3 * runs as u64, "{told} told, {lost} lost");
}

#[test]
fn shares_and_callers_are_right() {
    let _host = host();
    let workload = Workload::start("shares", [""; 0]);
    let recorded = record(["-d", "6s", "-F", "499", "-p", &workload.pid_text()]);
    let all = of_process(&recorded.profile, workload.pid());
    assert!(total(&all) > 300, "only {} samples", total(&all));
    for (function, share) in [("seventy", 70.0), ("twenty", 20.0), ("ten", 10.0)] {
        assert_percent(&all, function, share, 8.0, |stack| stack.has(function));
    }
    let exact = percent(&all, |stack| {
        let user = stack.user();
        ["seventy", "twenty", "ten"]
            .iter()
            .any(|function| user.starts_with(&["burn", function, "run", "main"]))
    });
    assert!(exact > 97.0, "{exact:.2}% have the exact chain:\n{}", text(&all));
}

#[test]
fn user_frames_stand_below_a_system_call() {
    let _host = host();
    let workload = Workload::start("syscalls", [""; 0]);
    let recorded = record(["-d", "5s", "-F", "499", "-p", &workload.pid_text()]);
    let all = of_process(&recorded.profile, workload.pid());
    let in_kernel: Vec<_> = all.iter().filter(|stack| !stack.kernel().is_empty()).cloned().collect();
    assert!(total(&in_kernel) * 2 > total(&all), "{}", text(&all));
    let right = percent(&in_kernel, |stack| {
        let user = stack.user();
        user.starts_with(&["read_zeros", "run", "main"]) || user.starts_with(&["fill_random", "run", "main"])
    });
    // The rest asks for the time, or takes an interrupt between two calls.
    assert!(right > 85.0, "{right:.1}%:\n{}", text(&in_kernel));
}

#[test]
fn a_cpu_that_goes_and_comes_back_is_sampled_again() {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    let _host = host();
    if std::env::var_os("HOSTSCOPE_VM").is_none() {
        return skip!("takes a CPU offline: only in a virtual machine of its own (cargo xtask vmtest)");
    }
    let mut kernel = load(Filter::Host);
    kernel.follow_cpus().unwrap();
    assert_eq!(kernel.sampled_cpus(), 2);
    fs::write(ONLINE, "0").unwrap();
    kernel.follow_cpus().unwrap();
    assert_eq!(kernel.sampled_cpus(), 1);
    fs::write(ONLINE, "1").unwrap();
    kernel.follow_cpus().unwrap();
    assert_eq!(kernel.sampled_cpus(), 2);

    // Pinned to the CPU that came back, a program is seen there.
    let workload = Workload::start_command(
        Command::new("taskset").arg("2").arg(hostscope_tests::workload::path("shares")),
    );
    let mut samples = 0;
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(700));
        let mut collector = Collector::default();
        let mut stacks = Vec::new();
        collector.drain(&mut kernel, |event| {
            if let Event::Ring(RingRecord::Stack(stack, _)) = event
                && stack.tgid == workload.pid()
            {
                stacks.push(stack.stack_id);
            }
        });
        kernel
            .counts
            .turn(|key, count| samples += if key.tid == workload.pid() { *count } else { 0 })
            .unwrap();
    }
    assert!(samples > 50, "{samples} samples of a busy program on the CPU that came back");
}
