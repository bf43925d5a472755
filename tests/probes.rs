//! The probes proved by counts: 23 events happen, 23 are told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use hostscope_tests::host::host;
use hostscope_tests::records::{Records, Watch};
use hostscope_tests::workload::{self, Workload};
use hostscope_wire::loss::Loss;

const NONE: [&str; 0] = [];

/// Starts a spawner, watches it, lets it start its processes and waits until all have ended.
fn spawn_watched(arguments: &[&str]) -> (Watch, Workload) {
    let mut spawner = Workload::start("spawner", arguments);
    spawner.wait_until_ready();
    let watch = Watch::new(spawner.pid(), 99);
    spawner.go();
    while spawner.line() != "done" {}
    (watch, spawner)
}

#[test]
fn twenty_three_programs_are_twenty_three_births_execs_and_ends() {
    let _host = host();
    let shares = workload::path("shares");
    let (mut watch, spawner) = spawn_watched(&["23", "exec", shares.to_str().unwrap(), "1"]);
    let Records { forks, execs, exits, .. } = watch.drain();
    assert_eq!((forks, execs, exits), (23, 23, 23));
    assert_eq!(watch.drain(), Records::default());
    // The end of the target itself.
    drop(spawner);
    assert_eq!(watch.drain().exits, 1);
}

#[test]
fn twenty_three_children_without_a_program_are_no_execs() {
    let _host = host();
    let (mut watch, _spawner) = spawn_watched(&["23", "fork", "0"]);
    let Records { forks, execs, exits, .. } = watch.drain();
    assert_eq!((forks, execs, exits), (23, 0, 23));
}

#[test]
fn threads_are_no_processes() {
    let _host = host();
    // Its own birth and exec were before; two threads start while it is watched or before, and none is told.
    let mut starter = Workload::start("spawner", ["5", "exec", workload::path("threads").to_str().unwrap()]);
    starter.wait_until_ready();
    let mut watch = Watch::new(starter.pid(), 99);
    starter.go();
    std::thread::sleep(Duration::from_secs(1));
    let Records { forks, execs, exits, .. } = watch.drain();
    assert_eq!((forks, execs, exits), (5, 5, 0));
    for child in starter.children() {
        let child = rustix::process::Pid::from_raw(child as i32).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    }
    assert_eq!(starter.line(), "done");
    assert_eq!(watch.drain().exits, 5, "one end a process, not one a thread");
}

#[test]
fn twenty_three_libraries_opened_are_twenty_three_mappings() {
    let _host = host();
    let plugin = workload::path("libplugin");
    let plugin = plugin.to_str().unwrap();
    let mut workload = Workload::start("dlopener", [plugin, "23"]);
    workload.wait_until_ready();
    let mut watch = Watch::new(workload.pid(), 99);
    workload.go();
    assert_eq!(workload.line(), "done");
    let records = watch.drain();
    assert_eq!(records.mappings.get(plugin), Some(&23), "{:?}", records.mappings);
}

/// Two records of 56 bytes each: 560 KB for a ring of 512 KB that nobody reads.
const CHILDREN: u64 = 5000;

#[test]
fn what_the_full_ring_refuses_is_counted_exactly() {
    let _host = host();
    let (mut watch, _spawner) = spawn_watched(&[&CHILDREN.to_string(), "fork", "0"]);
    let Records { forks, execs, exits, .. } = watch.drain();
    let lost = watch.lost(Loss::RingFullProcess);
    assert!(lost > 0, "{forks} births and {exits} ends found room");
    assert_eq!(forks + exits + lost, 2 * CHILDREN);
    assert_eq!(execs, 0);
    // Once it is read there is room again.
    let shares = workload::path("shares");
    let mut next = Workload::start("spawner", ["1", "exec", shares.to_str().unwrap(), "1"]);
    next.wait_until_ready();
    let mut watch = Watch::new(next.pid(), 99);
    next.go();
    while next.line() != "done" {}
    assert_eq!(watch.drain().forks, 1);
}

#[test]
fn every_sample_is_counted_and_has_its_stack() {
    let _host = host();
    let workload = Workload::start("shares", NONE);
    let mut watch = Watch::new(workload.pid(), 999);
    watch.kernel.follow_cpus().unwrap_or_else(|error| panic!("{error}"));
    let before = workload.cpu_ns();
    std::thread::sleep(Duration::from_secs(2));
    watch.kernel.stop_sampling();
    let seconds = (workload.cpu_ns() - before) as f64 / 1e9;
    let records = watch.drain();
    let counts = watch.counts();
    let samples: u64 = counts.values().sum();
    let expected = 999.0 * seconds;
    assert!(
        (samples as f64 - expected).abs() < 0.08 * expected + 20.0,
        "{samples} samples in {seconds:.3} s of CPU"
    );
    // One thread: as many stacks as counts, each sent once.
    assert_eq!(records.stacks, counts.len() as u64);
    assert!(counts.keys().all(|key| key.tid == workload.pid() && key.comm.starts_with(b"shares\0")));
    assert!(watch.kernel.losses.read().is_empty(), "{:?}", watch.kernel.losses.read());
    assert_eq!(watch.kernel.sampled_cpus(), 0);
}
