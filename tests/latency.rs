//! `hostscope latency`: waits and system calls of known numbers and lengths are counted, all of them and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::{Duration, Instant};

use hostscope_tests::cgroup::{Cgroup, cgroup2};
use hostscope_tests::host::host;
use hostscope_tests::latency::{Measured, Measuring};
use hostscope_tests::program::{Running, hostscope, run};
use hostscope_tests::workload::{self, Workload};
use serde_json::Value;

/// Measures `delays go MODE` from its go to its end.
fn measure(options: &[&str], mode: &[&str]) -> (Measured, Vec<String>) {
    let mut delays = Workload::start("delays", [&["go"], mode].concat());
    delays.wait_until_ready();
    let measuring = Measuring::begin([options, &["-p", &delays.pid_text()]].concat());
    delays.go();
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "done") {
        lines.push(delays.line());
        assert_ne!(lines.last().unwrap(), "", "it died");
    }
    delays.wait();
    let measured = measuring.end();
    assert_eq!(measured.ended.code(), 0, "{}", measured.ended.stderr);
    assert_eq!(measured.json["lost"], serde_json::json!({}));
    (measured, lines)
}

/// Measures `COMMAND`, which prints nothing.
fn measure_command(options: &[&str], command: &[&str], status: i32) -> Measured {
    let measured = Measuring::start([options, &["--"], command].concat()).end();
    assert_eq!(measured.ended.code(), status, "{}", measured.ended.stderr);
    assert_eq!(measured.json["lost"], serde_json::json!({}));
    measured
}

fn count(measured: &Measured, family: &str, labels: &[(&str, &str)]) -> u64 {
    measured.sum(family, labels, "count")
}

/// Asserts that there were so many waits, exactly: except that where another takes the CPU between a thread's decision to wait and
/// its leaving, and what it waits for comes meanwhile, the kernel sees a preemption and no wait. On a busy host one in ten may be that.
#[track_caller]
fn assert_waits(measured: &Measured, family: &str, labels: &[(&str, &str)], expected: u64) {
    let found = count(measured, family, labels);
    let preempted = count(measured, "offcpu", &[("reason", "preempted")]);
    let least = expected - preempted.min(expected / 10);
    assert!(
        (least..=expected).contains(&found),
        "{found} of {expected} {family} {labels:?}, {preempted} preempted"
    );
}

/// Asserts that half of the waits and more lasted `ms`: the bucket that has so much has the median.
#[track_caller]
fn assert_median(series: &Value, ms: f64) {
    let p50_ms = series["total"]["p50_seconds"].as_f64().unwrap() * 1e3;
    let upper_ms = f64::exp2((ms * 1e6).log2().ceil()) / 1e6;
    assert!((upper_ms / 2.0..=upper_ms).contains(&p50_ms), "{p50_ms} ms, not {ms}: {series}");
    let buckets = series["buckets"].as_array().unwrap();
    let total: u64 = buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
    assert_eq!(total, series["total"]["count"].as_u64().unwrap());
}

#[test]
fn twenty_three_reads_that_wait_are_twenty_three() {
    let _host = host();
    let (measured, _) = measure(&[], &["reads", "23", "10000"]);
    let blocked = measured.one("syscall_blocked", &[("syscall", "read")]);
    assert_eq!(blocked["labels"]["service"], "delays");
    assert_waits(&measured, "syscall_blocked", &[("syscall", "read")], 23);
    assert_median(blocked, 10.0);
    assert_waits(&measured, "offcpu", &[("reason", "io")], 23);
    assert_waits(&measured, "offcpu", &[("reason", "sleep")], 23);
    let timed = measured.one("syscall_duration", &[("syscall", "read")]);
    assert_eq!((&timed["total"]["count"], &timed["total"]["errors"]), (&23.into(), &0.into()));
    assert_median(timed, 10.0);
    assert_eq!(measured.json["every_system_call"], true);
    // Nobody else's, and no devices'.
    let families = measured.json["families"].as_array().unwrap();
    for series in families.iter().flat_map(|family| family["series"].as_array().unwrap()) {
        assert_eq!(series["labels"]["service"], "delays", "{series}");
    }
    assert_eq!(measured.json["processes"]["processes"].as_array().unwrap().len(), 1);
    for probe in measured.json["probes"].as_array().unwrap() {
        let absent = probe["reason"].as_str().unwrap().contains("has no tracepoint f2fs");
        assert!(probe["state"] == "on" || absent, "{probe}");
    }
}

#[test]
fn errors_are_counted_by_call_and_name() {
    let _host = host();
    let (measured, _) = measure(&[], &["errors"]);
    let errors = |call, error| count(&measured, "syscall_errors", &[("syscall", call), ("error", error)]);
    assert_eq!((errors("openat", "ENOENT"), errors("close", "EBADF")), (17, 5));
    for (call, number) in [("openat", 17), ("close", 5)] {
        let timed = &measured.one("syscall_duration", &[("syscall", call)])["total"];
        assert_eq!((&timed["count"], &timed["errors"]), (&number.into(), &number.into()));
    }
    assert_eq!(measured.series("syscall_errors", &[]).len(), 2);
}

#[test]
fn sleeps_and_locks_are_told_apart() {
    let _host = host();
    let (measured, lines) = measure(&[], &["sleeps", "40", "5000"]);
    // Where the time is over before the thread has left the CPU, as on a virtual machine that stood still, it did not wait.
    let waits: u64 = lines[0].parse().unwrap();
    assert!((36..=40).contains(&waits), "{waits}");
    assert_eq!(count(&measured, "syscall_blocked", &[("syscall", "nanosleep")]), waits);
    assert_eq!(count(&measured, "syscall_duration", &[("syscall", "nanosleep")]), 40);
    assert_median(measured.one("offcpu", &[("reason", "sleep")]), 5.0);
    assert_eq!(count(&measured, "offcpu", &[("reason", "sleep")]), waits);
    assert_eq!(count(&measured, "offcpu", &[("reason", "lock")]), 0);

    let (measured, _) = measure(&["--no-syscalls"], &["futexes", "20", "20000"]);
    assert_median(measured.one("syscall_blocked", &[("syscall", "futex")]), 20.0);
    assert_waits(&measured, "syscall_blocked", &[("syscall", "futex")], 20);
    assert_waits(&measured, "offcpu", &[("reason", "lock")], 20);
    assert_eq!(count(&measured, "syscall_duration", &[]), 0);
    assert_eq!(measured.json["every_system_call"], false);
}

#[test]
fn a_loop_of_events_waits_in_epoll() {
    let _host = host();
    let (measured, _) = measure(&[], &["epolls", "23", "10000"]);
    assert_median(measured.one("syscall_blocked", &[("syscall", "epoll_wait")]), 10.0);
    // An event that is there before the loop asks for it makes nobody wait.
    let waits = count(&measured, "syscall_blocked", &[("syscall", "epoll_wait")]);
    assert!((21..=23).contains(&waits), "{waits}");
    assert_eq!(count(&measured, "syscall_blocked", &[("syscall", "read")]), 0);
    assert_eq!(count(&measured, "syscall_duration", &[("syscall", "read")]), 23);
}

#[test]
fn two_threads_on_one_cpu_wait_half_of_the_time() {
    let _host = host();
    let cpu = hostscope::load::online_cpus().unwrap()[0].to_string();
    let (measured, lines) = measure(&[], &["busy", &cpu, "2000"]);
    let numbers: Vec<f64> = lines[0].split(' ').map(|number| number.parse().unwrap()).collect();
    let [run_delay_ns, switches, wall_ns] = numbers[..] else { panic!("{lines:?}") };
    let waited_ns = measured.seconds("runqueue_latency", &[]) * 1e9;
    assert!((waited_ns / run_delay_ns - 1.0).abs() < 0.1, "{waited_ns} ns, the kernel says {run_delay_ns}");
    // Both together; more where others want the CPU as well.
    assert!(waited_ns > 0.9 * wall_ns, "{waited_ns} of {wall_ns} ns");
    let involuntary = count(&measured, "context_switches", &[("kind", "involuntary")]) as f64;
    assert!((involuntary / switches - 1.0).abs() < 0.1, "{involuntary}, the kernel says {switches}");
    let cpu_ns = measured.seconds("cpu", &[]) * 1e9;
    let expected_ns = 2.0 * wall_ns - run_delay_ns;
    assert!((cpu_ns / expected_ns - 1.0).abs() < 0.1, "{cpu_ns} of {expected_ns} ns");
}

#[test]
fn children_are_counted_from_their_first_call_to_their_last() {
    let _host = host();
    let delays = workload::path("delays");
    let script = format!(
        "i=0; while [ $i -lt 100 ]; do {} now calls 3 5000; i=$((i+1)); done; exit 3",
        delays.display()
    );
    let measured = measure_command(&[], &["sh", "-c", &script], 3);
    let of_children = [("service", "delays")];
    let calls = |name| count(&measured, "syscall_duration", &[of_children[0], ("syscall", name)]);
    assert_eq!((calls("getppid"), measured.processes("delays").len()), (300, 100));
    assert_eq!(measured.processes("sh").len(), 1);
    let execs = [("syscall", "execve")];
    let failed = measured.sum("syscall_duration", &execs, "errors");
    assert_eq!(count(&measured, "syscall_duration", &execs) - failed, 101);
    // 5 ms each of their own, and what an exec takes.
    let cpu_seconds = measured.seconds("cpu", &of_children);
    assert!((0.5..0.8).contains(&cpu_seconds), "{cpu_seconds} s");
}

/// `0m1.250s` in seconds.
fn shell_seconds(text: &str) -> f64 {
    let (minutes, seconds) = text.trim_end_matches('s').split_once('m').unwrap();
    60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
}

#[test]
fn the_cpu_time_of_programs_shorter_than_a_tick_is_counted() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let (delays, times) = (workload::path("delays"), folder.path().join("times"));
    let script = format!(
        "i=0; while [ $i -lt 300 ]; do {} now calls 1 500; i=$((i+1)); done; times > {}",
        delays.display(),
        times.display()
    );
    let measured = measure_command(&[], &["sh", "-c", &script], 0);
    // The shell's own on the first line, its children's on the second; to 10 ms.
    let times = fs::read_to_string(times).unwrap();
    let children = times.lines().nth(1).unwrap();
    let expected: f64 = children.split(' ').map(shell_seconds).sum();
    let found = measured.seconds("cpu", &[("service", "delays")]);
    // Some 50 us each are spent after the end was told; what the hypervisor stole since the last switch is counted.
    assert!((0.75..1.3).contains(&(found / expected)), "{found} of {expected} s");
}

#[test]
fn an_exec_from_another_thread_keeps_the_process() {
    let _host = host();
    let delays = workload::path("delays");
    let delays = delays.to_str().unwrap();
    let measured = measure_command(&[], &[delays, "now", "exec", delays, "now", "sleeps", "10", "5000"], 0);
    assert_eq!(count(&measured, "syscall_duration", &[("syscall", "nanosleep")]), 10);
    assert_waits(&measured, "syscall_blocked", &[("syscall", "nanosleep")], 10);
    assert_eq!(measured.json["processes"]["processes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_command_is_counted_from_its_exec_on() {
    let _host = host();
    let delays = workload::path("delays");
    let delays = delays.to_str().unwrap();
    let measured = measure_command(&["-d", "100ms"], &[delays, "now", "sleeps", "40", "5000"], 0);
    assert!(measured.json["total_seconds"].as_f64().unwrap() < 1.0, "it ended by itself");
    let measured = measure_command(&[], &[delays, "now", "reads", "23", "10000"], 0);
    // Its wait to be let go, which is a read, is not its own.
    assert_waits(&measured, "syscall_blocked", &[("syscall", "read")], 23);
    assert_eq!(count(&measured, "syscall_duration", &[("syscall", "read")]), 23);
    assert_eq!(count(&measured, "syscall_duration", &[("syscall", "execve")]), 1);
}

#[test]
fn a_cgroup_is_those_that_are_in_it() {
    let _host = host();
    let cgroup = Cgroup::below(&cgroup2(), &format!("hostscope-latency-{}", std::process::id()));
    let path = cgroup.0.to_str().unwrap().to_owned();
    let ended = run(&mut hostscope(["latency", "--cgroup", &path]));
    assert_eq!((ended.code(), ended.stderr.lines().count()), (1, 2), "{}", ended.stderr);
    assert!(ended.stderr.contains("there is no process in the cgroup"), "{}", ended.stderr);
    let mut delays = Workload::start("delays", ["go", "sleeps", "40", "5000"]);
    delays.wait_until_ready();
    cgroup.adopt(&delays);
    let measuring = Measuring::begin(["--cgroup", &path]);
    delays.go();
    while delays.line() != "done" {}
    delays.wait();
    let measured = measuring.end();
    assert_eq!(count(&measured, "syscall_duration", &[("syscall", "nanosleep")]), 40);
    assert_eq!(measured.json["processes"]["processes"].as_array().unwrap().len(), 1);
}

#[test]
fn it_ends_with_its_targets_or_by_a_signal() {
    let _host = host();
    let sleeper = Workload::start("delays", ["now", "sleeps", "100", "10000"]);
    let began = Instant::now();
    let measured = Measuring::begin(["-d", "60s", "-p", &sleeper.pid_text()]).end();
    assert!(measured.ended.code() == 0 && began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let began = Instant::now();
    let measured = Measuring::begin(["-d", "60s"]).stop();
    assert!(measured.ended.code() == 0 && began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(!measured.series("offcpu", &[]).is_empty());
    // Of the whole host, system calls are timed where they wait.
    assert_eq!(measured.json["every_system_call"], false);
    assert!(measured.series("syscall_duration", &[]).is_empty());
}

#[test]
fn a_target_that_does_not_exist_is_said() {
    let _host = host();
    for (arguments, what) in [
        (["-p", "4194305"], "there is no process 4194305"),
        (["--cgroup", "/no/such/cgroup"], "there is no cgroup (version 2) /no/such/cgroup"),
        (["--", "/no/such/program"], "cannot start /no/such/program: No such file or directory"),
    ] {
        let ended = run(hostscope(["latency", "--json"]).args(arguments));
        assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, format!("hostscope: {what}").as_str()));
    }
}

/// Where the words of a line end, and where they begin: figures line up at one, words at the other.
fn edges(line: &str) -> (Vec<usize>, Vec<usize>) {
    let chars: Vec<char> = line.chars().collect();
    let is_word = |at: usize| chars.get(at).is_some_and(|c| *c != ' ');
    let ends = (1..=chars.len()).filter(|&at| is_word(at - 1) && !is_word(at));
    let begins = (0..chars.len()).filter(|&at| is_word(at) && (at == 0 || !is_word(at - 1)));
    (ends.collect(), begins.collect())
}

#[test]
fn the_tables_can_be_read() {
    let _host = host();
    let delays = workload::path("delays");
    let script = format!("{0} now errors; {0} now reads 5 2000; ls / >/dev/null", delays.display());
    let ended = Running::start(&mut hostscope(["latency", "--", "sh", "-c", &script])).end().success();
    assert_eq!(ended.stderr.lines().count(), 1, "one summary line: {}", ended.stderr);
    assert!(ended.stderr.contains("every system call timed, 0 lost"), "{}", ended.stderr);
    for line in ended.stdout.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert!(!line.contains("NaN") && !line.contains("inf ") && line.trim_end() == line, "{line:?}");
    }
    let mut tables = 0;
    for block in ended.stdout.split("\n\n") {
        let mut lines = block.lines().skip_while(|line| !line.contains("  p50"));
        let Some(head) = lines.next() else { continue };
        tables += 1;
        let (head_ends, _) = edges(head);
        let place = |name: &str| {
            let byte = head.find(name).unwrap_or_else(|| panic!("no {name}: {head}"));
            head[..byte].chars().count() + name.len()
        };
        let bars = place("1µs") - "1µs".len();
        for line in lines.filter(|line| !line.starts_with("and ")) {
            let figures: String = line.chars().take(bars).collect();
            let (ends, begins) = edges(&figures);
            assert!(
                begins[0] == 0
                    && ["count", "p50", "p90", "p99", "max"].iter().all(|name| ends.contains(&place(name))),
                "{head}\n{line}"
            );
            assert!(head_ends.contains(&place("max")), "{head}");
            let bars: String = line.chars().skip(bars).collect();
            assert!(!bars.trim().is_empty() && bars.chars().all(|c| " ▁▂▃▄▅▆▇█".contains(c)), "{line}");
        }
    }
    assert!(tables >= 4 && ended.stdout.contains("\ncounter"), "{}", ended.stdout);
    let quiet = run(&mut hostscope(["latency", "-q", "-d", "300ms"])).success();
    assert_eq!(quiet.stderr, "");
}
