//! Tests of the real kernel that run on the host and, by `cargo xtask vmtest`, on every kernel that is supported.
//!
//! The environment names what they work with: `HOSTSCOPE_BIN` (our executable), `HOSTSCOPE_WORKLOADS` (the folder of the
//! programs built from `tests/workloads`) and, in a virtual machine only, `HOSTSCOPE_VM` (which kernel was booted). A
//! virtual machine without help from the CPU is slow, and has nothing but busybox: bounds are wide, no other tool is
//! used, and sampling is as slow as by default: a kernel whose timer interrupts take long lowers higher rates by itself,
//! and time that the host takes from the machine has no samples.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

/// What the programs of latency count.
mod latency_kernel;

use std::fs;
use std::time::Duration;

use hostscope_tests::chains::{Chains, assert_end};
use hostscope_tests::host::{host, online_cpus};
use hostscope_tests::program::{Recording, hostscope, record, run};
use hostscope_tests::records::{Records, Watch};
use hostscope_tests::skip;
use hostscope_tests::stacks::{Stack, assert_percent, count, of_process, percent, text};
use hostscope_tests::workload::{self, Workload};
use hostscope_wire::PROBES;
use serde_json::Value;

const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
const NONE: [&str; 0] = [];

#[test]
fn every_probe_is_on() {
    let _host = host();
    let ended = run(&mut hostscope(["doctor", "--json"])).success();
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let probes = report["probes"].as_array().unwrap();
    assert_eq!(probes.len(), PROBES.len());
    for finding in probes.iter().chain(report["checks"].as_array().unwrap()) {
        // f2fs is a module that few load; what a kernel is too old for is off by its release, and says so.
        let detail = finding["detail"].as_str().unwrap();
        if finding["name"].as_str().unwrap().starts_with("f2fs_") && detail.contains("has no tracepoint")
            || detail.starts_with("it needs Linux")
        {
            assert_eq!(finding["state"], "off", "{finding}");
        } else {
            assert_eq!(finding["state"], "on", "{finding}");
        }
    }
}

#[test]
fn process_events_are_told_exactly() {
    let _host = host();
    let shares = workload::path("shares");
    let mut spawner = Workload::start("spawner", ["23", "exec", shares.to_str().unwrap(), "1"]);
    spawner.wait_until_ready();
    let mut watch = Watch::new(spawner.pid(), 99);
    spawner.go();
    while spawner.line() != "done" {}
    let Records { forks, execs, exits, .. } = watch.drain();
    assert_eq!((forks, execs, exits), (23, 23, 23));
}

#[test]
fn shares_and_callers_are_right() {
    let _host = host();
    let workload = Workload::start("shares", NONE);
    let recorded = record(["-d", "5s", "-F", "99", "-p", &workload.pid_text()]);
    let all = of_process(&recorded.profile, workload.pid());
    for (function, share) in [("seventy", 70.0), ("twenty", 20.0), ("ten", 10.0)] {
        assert_percent(&all, function, share, 8.0, |stack| stack.has(function));
    }
    let chain = |stack: &Stack<'_>| {
        ["seventy", "twenty", "ten"]
            .iter()
            .any(|function| stack.user().starts_with(&["burn", function, "run", "main"]))
    };
    assert!(percent(&all, chain) > 95.0, "{}", text(&all));
}

#[test]
fn stacks_under_system_calls_go_from_the_kernel_to_the_caller() {
    let _host = host();
    let workload = Workload::start("syscalls", NONE);
    let recorded = record(["-d", "4s", "-F", "99", "-p", &workload.pid_text()]);
    let mut all = of_process(&recorded.profile, workload.pid());
    all.retain(|stack| stack.has("read_zeros") || stack.has("fill_random"));
    let whole = |stack: &Stack<'_>, call: &str, function: &str| {
        stack.kernel().iter().any(|name| name.contains(call))
            && stack.user().starts_with(&[function, "run", "main"])
    };
    // Their shares are asserted where the CPU is real (`cpu.rs`): emulated, what runs with interrupts off takes many
    // times as long, and the clock's samples of it come late or not at all.
    for (call, function) in [("read", "read_zeros"), ("getrandom", "fill_random")] {
        let mut own = all.clone();
        own.retain(|stack| stack.has(function) && !stack.kernel().is_empty());
        assert!(percent(&all, |stack| stack.has(function)) > 10.0, "{function}:\n{}", text(&all));
        assert!(percent(&own, |stack| whole(stack, call, function)) > 90.0, "{function}:\n{}", text(&own));
    }
}

/// Runs a case of a workload (see `unwinding.rs`): its stacks must be whole, with this chain.
#[track_caller]
fn check_chain(name: &str, case: &str, chains: &[(f64, &str)]) {
    let workload = Workload::start(name, [case]);
    let recorded = record(["-d", "3s", "-F", "99", "-p", &workload.pid_text()]);
    let all = of_process(&recorded.profile, workload.pid());
    assert!(count(&all, |_| true) > 50, "{}", text(&all));
    // A few of some two hundred.
    assert_end(&all, "complete", 98.0);
    // Static executables hold the C library, too.
    Chains::new(&[name], chains).with_runtime(|_| true).assert(&all, 98.0);
}

#[test]
fn stacks_without_frame_pointers_are_whole() {
    let _host = host();
    let four = "sized < crowded < buffered < plain";
    let descent = format!("burn < {}", [four; 10].join(" < "));
    check_chain("frames", "deep", &[(80.0, &format!("{descent} < run_deep < main < ~ < _start"))]);
    check_chain("frames", "thread", &[(80.0, &format!("{descent} < run_deep < thread < ~"))]);
    let throwing = "burn? < Guard::~Guard? < ~? < descend+ < attempt < run_throw < main < ~ < _start";
    let attempt = "attempt < run_throw < main < ~ < _start";
    let (caught, after) = (format!("~ < {attempt}"), format!("burn < {attempt}"));
    check_chain("thrower", "throw", &[(50.0, throwing), (0.0, &caught), (0.0, &after)]);
    check_chain("aligned", "sized", &[(50.0, "burn < sized < run_sized < main < ~ < _start")]);
    check_chain("aligned", "jumper", &[(50.0, "burn < jumper|sized < run_jumper < main < ~ < _start")]);
}

#[test]
fn signal_handlers_lead_to_what_they_interrupted() {
    let _host = host();
    let interrupted = "leaf? < step? < run < main < ~ < _start";
    check_chain("signals", "apart", &[(5.0, &format!("burn < handle < ~ < {interrupted}"))]);
    let inner = format!("burn < handle < ~ < handle_first < ~ < {interrupted}");
    let outer = format!("burn < handle_first < ~ < {interrupted}");
    check_chain("signals", "nested", &[(5.0, &inner), (5.0, &outer)]);
}

#[test]
fn a_process_that_has_ended_is_still_named() {
    let _host = host();
    let recording = Recording::begin(["-F", "99"]);
    let mut workload = Workload::start("shares", ["800"]);
    let pid = workload.pid();
    workload.wait();
    std::thread::sleep(Duration::from_millis(300));
    let recorded = recording.stop();
    let all = of_process(&recorded.profile, pid);
    assert!(
        count(&all, |stack| stack.user().starts_with(&["burn", "seventy", "run", "main"])) > 20,
        "{}",
        text(&all)
    );
    assert!(all.iter().all(|stack| !stack.process.starts_with("pid ")), "{}", text(&all));
}

#[test]
fn kernel_functions_have_names() {
    let _host = host();
    let workload = Workload::start("syscalls", NONE);
    let recorded = record(["-d", "2s", "-F", "99", "-p", &workload.pid_text()]);
    let all = of_process(&recorded.profile, workload.pid());
    assert!(percent(&all, |stack| !stack.kernel().is_empty()) > 50.0, "{}", text(&all));
    assert!(
        percent(&all, |stack| stack.kernel().iter().all(|name| !name.starts_with('['))) > 99.0,
        "{}",
        text(&all)
    );
}

#[test]
fn a_cpu_that_comes_back_is_sampled_again() {
    if std::env::var_os("HOSTSCOPE_VM").is_none() {
        return skip!("it takes a CPU offline, which is for virtual machines only: cargo xtask vmtest");
    }
    let _host = host();
    assert_eq!(online_cpus(), 2);
    // At a rate that an emulated machine keeps.
    let recording = Recording::begin(["-F", "99"]);
    fs::write(ONLINE, "0").unwrap();
    assert_eq!(online_cpus(), 1);
    // Over a turn, so that its going is seen too.
    std::thread::sleep(Duration::from_millis(1500));
    fs::write(ONLINE, "1").unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    let workload = Workload::start("shares", NONE);
    let mut second_cpu = rustix::thread::CpuSet::new();
    second_cpu.set(1);
    let pid = rustix::process::Pid::from_raw(workload.pid() as i32).unwrap();
    rustix::thread::sched_setaffinity(Some(pid), &second_cpu).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let used_ns = workload.cpu_ns();
    let recorded = recording.stop();
    let all = of_process(&recorded.profile, workload.pid());
    let (samples, expected) = (count(&all, |_| true), 99.0 * used_ns as f64 / 1e9);
    assert!(expected > 50.0, "it did not run: {used_ns} ns");
    // None at all where its event was not opened again.
    assert!(samples as f64 > 0.3 * expected, "{samples} samples of {expected:.0}");
    // New programs are known by the mapping records of the CPU that they start on.
    assert!(count(&all, |stack| stack.has("seventy")) as f64 > 0.5 * samples as f64, "{}", text(&all));
}
