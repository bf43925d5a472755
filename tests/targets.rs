//! Whom a capture watches: a command, processes, what they start, a cgroup; and nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hostscope::profile::Profile;
use hostscope_tests::cgroup::{Cgroup, cgroup2};
use hostscope_tests::host::host;
use hostscope_tests::program::{Recorded, Recording, record};
use hostscope_tests::stacks::{count, of_process, stacks, text, total};
use hostscope_tests::workload::{self, Workload};

const NONE: [&str; 0] = [];

fn pids(profile: &Profile) -> BTreeSet<u32> {
    profile.processes.iter().map(|process| process.pid).collect()
}

/// `hostscope record OPTIONS -- shares ARGUMENTS`.
fn record_command(options: &[&str], arguments: &[&str]) -> Recorded {
    let shares = workload::path("shares");
    let words = [options, &["--", shares.to_str().unwrap()], arguments].concat();
    Recording::start(words).end()
}

#[test]
fn a_command_is_seen_from_its_first_instruction_and_gives_its_status() {
    let _host = host();
    let recorded = record_command(&["-F", "499"], &["400", "exit", "7"]);
    assert_eq!(recorded.ended.code(), 7, "{}", recorded.ended.stderr);
    let all = stacks(&recorded.profile);
    // 200 on average, with a standard error of 14 where the host is busy.
    assert!((150..=250).contains(&total(&all)), "{}", text(&all));
    assert!(
        recorded.ended.stdout.starts_with("cpu_ns "),
        "the command's own output: {}",
        recorded.ended.stdout
    );
    assert!(
        all.iter().all(|stack| stack.process == "shares" || !stack.kernel().is_empty()),
        "{}",
        text(&all)
    );

    let recorded = record_command(&["-F", "4999"], &["30"]);
    let all = stacks(&recorded.profile);
    // What comes before `main` is there: the kernel's exec, and the loader.
    assert!(all.iter().any(|stack| !stack.has("main")), "{}", text(&all));
    assert!(total(&all) > 100, "{} samples of about 150:\n{}", total(&all), text(&all));
}

#[test]
fn a_command_ended_by_a_signal_gives_the_shells_status() {
    let _host = host();
    for (signal, status) in [("15", 143), ("9", 137)] {
        let recorded = record_command(&["-F", "99"], &["50", "signal", signal]);
        assert_eq!(recorded.ended.code(), status, "{}", recorded.ended.stderr);
    }
}

#[test]
fn a_capture_shorter_than_its_command_ends_first_and_waits_for_the_status() {
    let _host = host();
    let recorded = record_command(&["-d", "300ms"], &["1000", "exit", "5"]);
    assert_eq!(recorded.ended.code(), 5, "{}", recorded.ended.stderr);
    let seconds = recorded.profile.duration_ns as f64 / 1e9;
    assert!((0.3..0.6).contains(&seconds), "{seconds} s");
}

#[test]
fn what_a_command_starts_is_followed() {
    let _host = host();
    let shares = workload::path("shares");
    let script = format!("{0} 150 & {0} 150; wait; exit 3", shares.display());
    let recorded = Recording::start(["-F", "999", "--", "sh", "-c", &script]).end();
    assert_eq!(recorded.ended.code(), 3, "{}", recorded.ended.stderr);
    let all = stacks(&recorded.profile);
    let children: BTreeSet<u32> =
        all.iter().filter(|stack| stack.has("burn")).map(|stack| stack.pid).collect();
    assert_eq!(children.len(), 2, "{}", text(&all));
    for child in children {
        let samples =
            count(&all, |stack| stack.pid == child && stack.has("seventy") && stack.process == "shares");
        assert!(samples > 60, "{samples} of about 105:\n{}", text(&all));
    }
}

#[test]
fn forked_and_executed_children_are_followed_and_others_are_not() {
    let _host = host();
    let other = Workload::start("shares", NONE);
    let shares = workload::path("shares");
    let mut spawner = Workload::start("spawner", ["6", "mixed", "80", shares.to_str().unwrap(), "80"]);
    spawner.wait_until_ready();
    let recording = Recording::begin(["-F", "999", "-p", &spawner.pid_text()]);
    spawner.go();
    while spawner.line() != "done" {}
    let recorded = recording.stop();
    let all = stacks(&recorded.profile);
    assert!(!pids(&recorded.profile).contains(&other.pid()), "{}", text(&all));
    let with = |function: &str, process: &str| -> BTreeSet<u32> {
        let found = all.iter().filter(|stack| stack.has(function) && stack.process == process);
        found.map(|stack| stack.pid).collect()
    };
    let (forked, executed) = (with("forked_child", "spawner"), with("burn", "shares"));
    assert_eq!((forked.len(), executed.len()), (3, 3), "{}", text(&all));
    let known: BTreeSet<u32> = forked.union(&executed).copied().chain([spawner.pid()]).collect();
    assert!(pids(&recorded.profile).is_subset(&known), "{}", text(&all));
}

#[test]
fn several_processes_can_be_named() {
    let _host = host();
    let three = [(); 3].map(|()| Workload::start("shares", NONE));
    let recorded = record(["-d", "1s", "-F", "499", "-p", &three[0].pid_text(), "-p", &three[2].pid_text()]);
    let wanted = BTreeSet::from([three[0].pid(), three[2].pid()]);
    assert_eq!(pids(&recorded.profile), wanted);
    assert_eq!(
        recorded.profile.target,
        format!("pids {}, {}", wanted.first().unwrap(), wanted.last().unwrap())
    );
}

#[test]
fn the_end_of_the_last_target_ends_the_capture() {
    let _host = host();
    let mut first = Workload::start("shares", ["800"]);
    let mut last = Workload::start("shares", ["2000"]);
    let began = Instant::now();
    let recording =
        Recording::start(["-F", "499", "-d", "60s", "-p", &first.pid_text(), "-p", &last.pid_text()]);
    first.wait();
    last.wait();
    let ended = Instant::now();
    let recorded = recording.end();
    // At the latest with the next turn, a second later.
    assert!(ended.elapsed() < Duration::from_secs(4), "{:?} after the end", ended.elapsed());
    assert!(began.elapsed() < Duration::from_secs(50));
    let recorded = Recorded { ended: recorded.ended.success(), ..recorded };
    let all = of_process(&recorded.profile, last.pid());
    assert!(count(&all, |stack| stack.has("seventy")) > 50, "{}", text(&all));
}

#[test]
fn a_cgroup_and_what_is_below_it_are_watched() {
    let _host = host();
    let mount = cgroup2();
    let name = format!("hostscope-test-{}", std::process::id());
    let parent = Cgroup::below(&mount, &name);
    let child = Cgroup::below(&parent.0, "child");
    let sibling = Cgroup::below(&mount, &format!("{name}-sibling"));
    let in_parent = Workload::start("shares", NONE);
    let in_child = Workload::start("threads", NONE);
    let in_sibling = Workload::start("shares", NONE);
    parent.adopt(&in_parent);
    child.adopt(&in_child);
    sibling.adopt(&in_sibling);
    let below_mount = format!("/{name}");
    for path in [parent.0.to_str().unwrap(), &below_mount] {
        let recorded = record(["-d", "1s", "-F", "499", "--cgroup", path]);
        let all = stacks(&recorded.profile);
        assert_eq!(
            pids(&recorded.profile),
            BTreeSet::from([in_parent.pid(), in_child.pid()]),
            "{}",
            text(&all)
        );
        assert!(all.iter().any(|stack| stack.thread == "heavy" && stack.has("burn")), "{}", text(&all));
    }
    let recorded = record(["-d", "1s", "-F", "499", "--cgroup", child.0.to_str().unwrap()]);
    assert_eq!(pids(&recorded.profile), BTreeSet::from([in_child.pid()]));

    // A process that is born into the cgroup during the capture.
    let recording = Recording::begin(["-F", "999", "--cgroup", parent.0.to_str().unwrap()]);
    let shares = workload::path("shares");
    let mut spawner = Workload::start("spawner", ["3", "exec", shares.to_str().unwrap(), "60"]);
    spawner.wait_until_ready();
    parent.adopt(&spawner);
    spawner.go();
    while spawner.line() != "done" {}
    let recorded = recording.stop();
    let all = stacks(&recorded.profile);
    let known = [in_parent.pid(), in_child.pid(), spawner.pid()];
    let born = all.iter().filter(|stack| !known.contains(&stack.pid)).collect::<Vec<_>>();
    assert_eq!(born.iter().map(|stack| stack.pid).collect::<BTreeSet<_>>().len(), 3, "{}", text(&all));
    assert!(born.iter().any(|stack| stack.has("seventy") && stack.process == "shares"), "{}", text(&all));
    assert!(!pids(&recorded.profile).contains(&in_sibling.pid()));
    drop((in_parent, in_child, in_sibling, spawner));
}
