//! Processes in every stage of life, each with its names: short-lived ones, bursts, exec, reused pids, namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use hostscope_tests::host::{host, wait_for};
use hostscope_tests::program::{Recording, binary, read, run};
use hostscope_tests::stacks::{Stack, assert_percent, count, of_process, percent, stacks, text, total};
use hostscope_tests::workload::{self, Workload, children};

const NONE: [&str; 0] = [];

#[test]
fn a_process_that_lived_20_ms_is_still_named() {
    let _host = host();
    let recording = Recording::begin(["-F", "1999"]);
    let mut workload = Workload::start("shares", ["20"]);
    let pid = workload.pid();
    workload.wait();
    // Long gone when names are looked for.
    std::thread::sleep(Duration::from_millis(300));
    let recorded = recording.stop();
    let all = of_process(&recorded.profile, pid);
    let in_main = count(&all, |stack| stack.user().ends_with(&["run", "main", "__libc_start_call_main"]) || stack.has("main"));
    assert!(in_main >= 20, "{in_main} of about 40:\n{}", text(&all));
    assert!(count(&all, |stack| stack.has("seventy") && stack.has("burn")) >= 10, "{}", text(&all));
    let nameless = count(&all, |stack| stack.has("[unmapped]"));
    assert_eq!(nameless, 0, "{}", text(&all));
}

#[test]
fn five_hundred_processes_in_a_burst_all_have_names() {
    let _host = host();
    let shares = workload::path("shares");
    let mut spawner = Workload::start("spawner", ["500", "mixed", "6", shares.to_str().unwrap(), "6"]);
    spawner.wait_until_ready();
    let pid = spawner.pid();
    let recording = Recording::begin(["-F", "999"]);
    spawner.go();
    while spawner.line() != "done" {}
    let recorded = recording.stop();
    let all = stacks(&recorded.profile);
    let of_burst = |stack: &Stack<'_>| (stack.process == "spawner" && stack.pid != pid) || stack.process == "shares";
    let seen: BTreeSet<u32> = all.iter().filter(|stack| of_burst(stack)).map(|stack| stack.pid).collect();
    // Six samples are what each is good for.
    assert!(seen.len() > 480, "{} of 500 have samples\n{:?} {:?}\n{}", seen.len(), recorded.profile.losses, recorded.ended.stderr, text(&all));
    let nameless: Vec<_> = all.iter().filter(|stack| stack.process.starts_with("pid ")).cloned().collect();
    assert!(nameless.is_empty(), "{}", text(&nameless));
    let unmapped: Vec<_> = all.iter().filter(|stack| stack.has("[unmapped]")).cloned().collect();
    assert!(unmapped.is_empty(), "of {} stacks:\n{}", all.len(), text(&unmapped));
    let working = |function: &str| {
        let found = all.iter().filter(|stack| of_burst(stack) && stack.has(function));
        found.map(|stack| stack.pid).collect::<BTreeSet<_>>().len()
    };
    assert!(working("forked_child") > 230, "{} of 250 children are seen at work", working("forked_child"));
    assert!(working("burn") > 230, "{} of 250 programs are seen at work", working("burn"));
    assert_eq!(recorded.lost("ring_full_process") + recorded.lost("mapping_records_lost"), 0);
}

#[test]
fn nothing_is_nameless_from_the_first_second_on() {
    let _host = host();
    // Programs that start while hostscope starts: neither its first look at /proc nor the records must miss them.
    let shares = workload::path("shares");
    let script = format!("while :; do {} 5; done", shares.display());
    let starter = Workload::start_command(Command::new("sh").args(["-c", &script]));
    let recorded = Recording::start(["-d", "1s", "-F", "1999"]).end();
    drop(starter);
    let all = stacks(&recorded.profile);
    assert!(all.iter().filter(|stack| stack.has("seventy")).map(|stack| stack.pid).collect::<BTreeSet<_>>().len() > 5);
    let nameless = |stack: &&Stack<'_>| stack.process.starts_with("pid ") || stack.has("[unmapped]");
    let nameless: Vec<_> = all.iter().filter(nameless).cloned().collect();
    assert!(nameless.is_empty(), "{} of {}:\n{}", total(&nameless), total(&all), text(&nameless));
}

#[test]
fn an_exec_in_place_names_both_programs() {
    let _host = host();
    let shares = workload::path("shares");
    let recorded = Recording::start([
        "-F", "999", "--", workload::path("exec_self").to_str().unwrap(), "200", shares.to_str().unwrap(), "400",
    ])
    .end();
    let all = stacks(&recorded.profile);
    assert_eq!(all.iter().map(|stack| stack.pid).collect::<BTreeSet<_>>().len(), 1, "{}", text(&all));
    // The clock goes on over the exec.
    assert_percent(&all, "the first program", 50.0, 8.0, |stack| stack.has("before_exec"));
    assert_percent(&all, "the second program", 50.0, 8.0, |stack| stack.has("burn") && stack.thread == "shares");
    assert!(all.iter().filter(|stack| stack.has("before_exec")).all(|stack| stack.thread == "exec_self"));
}

#[test]
fn a_thread_renamed_in_flight_has_both_names() {
    let _host = host();
    let recorded =
        Recording::start(["-F", "999", "--", workload::path("rename").to_str().unwrap(), "300"]).end();
    let all = stacks(&recorded.profile);
    for name in ["phase-one", "phase-two"] {
        assert_percent(&all, name, 50.0, 8.0, |stack| stack.thread == name);
    }
}

#[test]
fn a_reused_pid_is_two_processes() {
    let _host = host();
    let [first, second] = ["shares", "rename"].map(workload::path);
    let recording = Recording::begin(["-F", "999"]);
    let reuser = run(Command::new(workload::path("pid_reuse")).arg("100").args([&first, &second])).success();
    let recorded = recording.stop();
    let line = reuser.stdout.lines().find_map(|line| line.strip_prefix("pid "));
    let pid: u32 = line.expect("the pid that was used twice").parse().unwrap();
    let profile = &recorded.profile;
    let mut processes: Vec<_> = profile.processes.iter().filter(|process| process.pid == pid).collect();
    processes.sort_by_key(|process| process.start_time_ns);
    assert_eq!(processes.iter().map(|process| process.name.as_str()).collect::<Vec<_>>(), ["shares", "rename"]);
    let all = of_process(profile, pid);
    for (process, own, others) in [("shares", "seventy", "phase"), ("rename", "phase", "seventy")] {
        assert!(count(&all, |stack| stack.process == process && stack.has(own)) > 30, "{}", text(&all));
        assert_eq!(count(&all, |stack| stack.process == process && stack.has(others)), 0, "{}", text(&all));
    }
}

#[test]
fn a_library_opened_during_the_capture_is_named() {
    let _host = host();
    let plugin = workload::path("libplugin");
    let mut workload = Workload::start("dlopener", [plugin.to_str().unwrap(), "0"]);
    workload.wait_until_ready();
    let recording = Recording::begin(["-F", "999", "-p", &workload.pid_text()]);
    workload.go();
    // Two signals at once would be one.
    assert_eq!(workload.line(), "done");
    workload.go();
    std::thread::sleep(Duration::from_millis(1500));
    let recorded = recording.stop();
    let all = of_process(&recorded.profile, workload.pid());
    let exact = percent(&all, |stack| stack.user().starts_with(&["plugin_inner", "plugin_hot", "run_plugin", "main"]));
    assert!(exact > 90.0, "{exact:.1}%:\n{}", text(&all));
}

#[test]
fn a_file_in_another_mount_namespace_is_named_even_after_its_end() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let start = |milliseconds: &str| {
        let script = format!(
            "mount -t tmpfs none {0} && cp {1} {0}/inside && exec {0}/inside {milliseconds}",
            folder.path().display(),
            workload::path("shares").display()
        );
        Workload::start_command(Command::new("unshare").args(["-m", "sh", "-c", &script]))
    };
    let living = start("0");
    let recording = Recording::begin(["-F", "999"]);
    let mut ended = start("300");
    ended.wait();
    let recorded = recording.stop();
    assert!(!folder.path().join("inside").exists(), "the test is none: the file is on the host too");
    for pid in [living.pid(), ended.pid()] {
        let mut all = of_process(&recorded.profile, pid);
        all.retain(|stack| stack.process == "inside" && stack.thread == "inside");
        let exact = count(&all, |stack| stack.user().starts_with(&["burn", "seventy", "run", "main"]));
        assert!(exact > 50, "{exact}:\n{}", text(&all));
    }
}

#[test]
fn a_process_in_a_pid_namespace_of_its_own_is_named() {
    let _host = host();
    let shares = workload::path("shares");
    let arguments = ["--pid", "--fork", "--kill-child", shares.to_str().unwrap()];
    let outside = Workload::start_command(Command::new("unshare").args(arguments));
    let pid = wait_for("the process inside", Duration::from_secs(5), || children(outside.pid()).first().copied());
    wait_for("its program", Duration::from_secs(5), || {
        (fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "shares").then_some(())
    });
    let recorded = Recording::start(["-d", "1s", "-F", "999", "-p", &pid.to_string()]).end();
    let all = of_process(&recorded.profile, pid);
    assert!(count(&all, |stack| stack.user().starts_with(&["burn", "seventy", "run", "main"])) > 50, "{}", text(&all));
}

#[test]
fn inside_a_pid_namespace_hostscope_says_so_and_counts_the_rest() {
    let _host = host();
    let outside = Workload::start("shares", NONE);
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile.json");
    let script = format!(
        "{} & inner=$!; {} record -d 2s -F 999 -o {} ; echo inner $inner; kill $inner",
        workload::path("shares").display(),
        binary().display(),
        profile.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]).stdin(Stdio::null());
    let ended = run(&mut unshare);
    assert!(profile.exists(), "{}", ended.stderr);
    let inner: u32 = ended.stdout.lines().find_map(|line| line.strip_prefix("inner ")).unwrap().parse().unwrap();
    let profile = read(&profile);
    let all = stacks(&profile);
    let named = count(&all, |stack| stack.pid == inner && stack.user().starts_with(&["burn", "seventy", "run", "main"]));
    assert!(named > 50, "{named}:\n{}", text(&all));
    let lost: u64 = profile.losses.iter().filter(|loss| loss.reason == "outside_pid_namespace").map(|loss| loss.count).sum();
    assert!(lost > 50, "{lost} samples of {} and others", outside.pid());
    assert!(ended.stderr.contains("pid namespace"), "it does not say so: {}", ended.stderr);
    assert!(all.iter().all(|stack| stack.pid < 100), "ids of the host: {}", text(&all));
}

#[test]
fn processes_that_were_there_before_are_named_without_a_record() {
    let _host = host();
    let workloads = ["shares", "threads", "cpp", "rusty"].map(|name| (name, Workload::start(name, NONE)));
    let recorded = Recording::start(["-d", "2s", "-F", "999"]).end();
    let all = stacks(&recorded.profile);
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    for stack in &all {
        *by_name.entry(stack.process).or_default() += stack.count;
    }
    for (name, workload) in &workloads {
        let own: Vec<_> = all.iter().filter(|stack| stack.pid == workload.pid()).cloned().collect();
        assert!(total(&own) > 20, "{name}: {by_name:?}");
        assert!(own.iter().all(|stack| stack.process == *name && !stack.has("[unmapped]")), "{}", text(&own));
    }
}
