//! CPU profiles of programs whose split of CPU time is known by construction: shares, callers, names, rates.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;

use hostscope::profile::FrameKind;
use hostscope_tests::host::host;
use hostscope_tests::program::{Recorded, Recording, record};
use hostscope_tests::skip;
use hostscope_tests::stacks::{Stack, assert_percent, count, of_process, percent, stacks, text, total};
use hostscope_tests::workload::{self, Workload};

/// Samples a second and CPU where shares are compared: thousands in 5 s even where the workload gets half a CPU, so
/// that three points are four times the standard error (0.7 of a point for a share of 70% of 4,000).
const FAST: &str = "1999";

fn shares_of(workload: &Workload, duration: &str) -> Recorded {
    record(["-d", duration, "-F", FAST, "-p", &workload.pid_text()])
}

/// Whether the user frames, leaf first, begin with `names`, and from there on lead through the C library to the entry.
fn has_chain(stack: &Stack<'_>, names: &[&str]) -> bool {
    let user: Vec<_> = stack.frames.iter().filter(|frame| frame.kind != FrameKind::Kernel).collect();
    let begins = user.len() >= names.len() && user.iter().zip(names).all(|(frame, name)| frame.name == *name);
    let rest = user.get(names.len()..).unwrap_or_default();
    begins
        && stack.end == "complete"
        && rest.iter().all(|frame| frame.file.contains("libc") || frame.name == "_start")
}

#[test]
fn shares_and_callers_are_exact_with_frame_pointers() {
    let _host = host();
    let workload = Workload::start("shares", [""; 0]);
    let recorded = shares_of(&workload, "5s");
    let all = of_process(&recorded.profile, workload.pid());
    for (function, share) in [("seventy", 70.0), ("twenty", 20.0), ("ten", 10.0)] {
        assert_percent(&all, function, share, 3.0, |stack| stack.has(function));
    }
    let exact = percent(&all, |stack| {
        ["seventy", "twenty", "ten"]
            .iter()
            .any(|function| has_chain(stack, &["burn", function, "run", "main"]))
    });
    assert!(exact > 99.0, "{exact:.2}% have the exact chain:\n{}", text(&all));
    assert!(all.iter().all(|stack| stack.process == "shares" && stack.thread == "shares"), "{}", text(&all));
    assert_eq!(stacks(&recorded.profile).len(), all.len(), "another process than -p is in the profile");
    assert_eq!(recorded.lost("ring_full_sample") + recorded.lost("counts_full"), 0);
}

#[test]
fn shares_are_right_without_frame_pointers() {
    let _host = host();
    let workload = Workload::start("shares_nofp", [""; 0]);
    let recorded = shares_of(&workload, "5s");
    let all = of_process(&recorded.profile, workload.pid());
    for (function, share) in [("seventy", 70.0), ("twenty", 20.0), ("ten", 10.0)] {
        assert_percent(&all, function, share, 3.0, |stack| stack.user().first() == Some(&function));
    }
    // Whatever stands in rbp: no caller is made up. The only ones there are in truth are these.
    let real = ["seventy", "twenty", "ten", "run", "main", "__libc_start_call_main", "_start"];
    for stack in &all {
        assert!(
            stack.user().iter().all(|name| real.contains(name) || name.starts_with("__libc_start_main")),
            "{}",
            text(&all)
        );
    }
}

#[test]
fn threads_have_their_names_and_shares() {
    let _host = host();
    let workload = Workload::start("threads", [""; 0]);
    let recorded = shares_of(&workload, "4s");
    let all = of_process(&recorded.profile, workload.pid());
    assert_percent(&all, "heavy", 75.0, 3.0, |stack| stack.thread == "heavy");
    assert_percent(&all, "light", 25.0, 3.0, |stack| stack.thread == "light");
    let chain = |stack: &Stack<'_>| has_chain(stack, &["burn", "work_for", stack.thread]);
    let in_burn = |stack: &Stack<'_>| stack.user().first() == Some(&"burn");
    let (exact, burning) = (percent(&all, |stack| in_burn(stack) && chain(stack)), percent(&all, in_burn));
    // The rest asks for the time.
    assert!(burning > 90.0 && exact > burning - 1.0, "{exact:.2}% of {burning:.2}%:\n{}", text(&all));
    let tids = |name: &str| {
        let mut tids: Vec<u32> =
            all.iter().filter(|stack| stack.thread == name).map(|stack| stack.tid).collect();
        tids.dedup();
        tids
    };
    assert_eq!((tids("heavy").len(), tids("light").len()), (1, 1));
    assert_ne!(tids("heavy"), tids("light"));
    assert!(all.iter().all(|stack| stack.process == "threads"), "{}", text(&all));
}

#[test]
fn cpp_names_are_demangled() {
    let _host = host();
    let workload = Workload::start("cpp", [""; 0]);
    let recorded = shares_of(&workload, "4s");
    let all = of_process(&recorded.profile, workload.pid());
    assert_percent(&all, "the engine", 60.0, 3.0, |stack| stack.has("app::Engine<long>::turn"));
    assert_percent(&all, "the shop", 40.0, 3.0, |stack| stack.has("app::Shop::price"));
    let engine = ["app::detail::burn", "app::Engine<long>::turn", "main"];
    let shop = ["app::detail::burn", "app::Shop::price", "main"];
    let exact = percent(&all, |stack| has_chain(stack, &engine) || has_chain(stack, &shop));
    assert!(exact > 98.0, "{exact:.2}% have the exact chain:\n{}", text(&all));
    let mangled = recorded.profile.functions.iter().find(|function| function.name.starts_with("app::Engine"));
    assert_eq!(mangled.unwrap().system_name, "_ZN3app6EngineIlE4turnEi");
}

#[test]
fn rust_names_are_demangled() {
    let _host = host();
    let workload = Workload::start("rusty", [""; 0]);
    let recorded = shares_of(&workload, "4s");
    let all = of_process(&recorded.profile, workload.pid());
    let chain = |stack: &Stack<'_>, names: &[&str]| stack.user().starts_with(names);
    let generic = ["rusty::burn", "<rusty::Worker<T> as rusty::Work>::work", "rusty::main"];
    let closure = ["rusty::burn", "rusty::main::{{closure}}", "rusty::call", "rusty::main"];
    assert_percent(&all, "the trait's method", 60.0, 3.0, |stack| chain(stack, &generic));
    assert_percent(&all, "the closure", 40.0, 3.0, |stack| chain(stack, &closure));
}

#[test]
fn lines_and_files_come_with_inlines() {
    let _host = host();
    let workload = Workload::start("shares", [""; 0]);
    let recorded = record(["-d", "2s", "-F", FAST, "--inlines", "-p", &workload.pid_text()]);
    let all = of_process(&recorded.profile, workload.pid());
    // `burn_inline` is inlined into `burn`: a frame of its own, which the symbol table knows nothing of.
    let exact =
        percent(&all, |stack| stack.user().starts_with(&["burn_inline", "burn", "seventy", "run", "main"]));
    assert!((exact - 70.0).abs() < 6.0, "{exact:.1}%:\n{}", text(&all));
    let profile = &recorded.profile;
    let file = |name: &str| &profile.functions.iter().find(|function| function.name == name).unwrap().file;
    assert!(file("burn_inline").ends_with("work.h"), "{}", file("burn_inline"));
    assert!(file("seventy").ends_with("shares.c"), "{}", file("seventy"));
    assert!(profile.locations.iter().flat_map(|location| &location.lines).any(|line| line.line > 0));
}

#[test]
fn stacks_under_system_calls_go_from_the_kernel_to_the_caller() {
    let _host = host();
    let workload = Workload::start("syscalls", [""; 0]);
    let recorded = shares_of(&workload, "4s");
    let mut all = of_process(&recorded.profile, workload.pid());
    // Asking for the time is a system call too, by another way.
    all.retain(|stack| stack.has("read_zeros") || stack.has("fill_random"));
    assert_percent(&all, "read", 60.0, 4.0, |stack| stack.has("read_zeros"));
    let in_kernel = |stack: &Stack<'_>, call: &str| stack.kernel().iter().any(|name| name.contains(call));
    assert_percent(&all, "read, whole", 60.0, 5.0, |stack| {
        in_kernel(stack, "read") && has_chain(stack, &["read_zeros", "run", "main"])
    });
    assert_percent(&all, "getrandom, whole", 40.0, 5.0, |stack| {
        in_kernel(stack, "getrandom") && has_chain(stack, &["fill_random", "run", "main"])
    });
    // The kernel's frames come first, and every one has its name.
    for stack in &all {
        let kernel = stack.kernel().len();
        assert!(stack.frames[..kernel].iter().all(|frame| frame.kind == FrameKind::Kernel), "{}", text(&all));
    }
    let named = percent(&all, |stack| stack.kernel().iter().all(|name| !name.starts_with("[kernel+")));
    assert!(named > 99.9, "{named:.1}%:\n{}", text(&all));
}

#[test]
fn samples_are_rate_times_busy_seconds() {
    let _host = host();
    for (hertz, milliseconds) in [(49, 3000), (499, 3000)] {
        let shares = workload::path("shares");
        let arguments = ["-F", &hertz.to_string(), "--", shares.to_str().unwrap(), &milliseconds.to_string()]
            .map(String::from);
        let recorded = record(arguments);
        let used_ns: f64 = recorded.ended.stdout.trim().strip_prefix("cpu_ns ").unwrap().parse().unwrap();
        let expected = f64::from(hertz) * used_ns / 1e9;
        let actual = total(&stacks(&recorded.profile)) as f64;
        // 5%, and what chance may do: on a busy host it is chance whether a sample meets the program or another, so the
        // standard error is the root of the number.
        let bound = 0.05 * expected + 2.5 * expected.sqrt();
        assert!((actual - expected).abs() <= bound, "{actual} samples at {hertz} Hz, {expected:.0} expected");
        let profile = &recorded.profile;
        assert_eq!((profile.frequency_hertz, profile.period_ns), (hertz, 1_000_000_000 / u64::from(hertz)));
        assert_eq!(profile.total(1), profile.total(0) * profile.period_ns);
    }
}

/// The time that all CPUs have been idle since boot, in nanoseconds.
fn idle_ns() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    stat.lines().next().unwrap().split_whitespace().nth(4).unwrap().parse::<u64>().unwrap() * 10_000_000
}

#[test]
fn idle_is_left_out_unless_asked_for() {
    let _host = host();
    let without = record(["-d", "1s", "-F", "499"]);
    assert_eq!(count(&stacks(&without.profile), |stack| stack.pid == 0), 0);
    for _ in 0..8 {
        let before = idle_ns();
        let with = record(["-d", "1s", "-F", "499", "--idle"]);
        let idle_seconds = (idle_ns() - before) as f64 / 1e9;
        let all = stacks(&with.profile);
        let idle = count(&all, |stack| stack.pid == 0);
        // The interval of the tick's account is longer than the capture's by the start and the end.
        if idle_seconds > 0.5 {
            assert!(
                idle as f64 > 0.2 * idle_seconds * 499.0,
                "{idle} samples in {idle_seconds:.2} s of idleness"
            );
            assert!(
                all.iter().filter(|stack| stack.pid == 0).all(|stack| stack.process == "swapper"),
                "{}",
                text(&all)
            );
            assert!(
                all.iter().filter(|stack| stack.pid == 0).all(|stack| stack.thread.starts_with("swapper/")),
                "{}",
                text(&all)
            );
            return;
        }
    }
    skip!("no CPU was idle for half a second in eight attempts");
}

#[test]
fn kernel_threads_have_their_names() {
    let _host = host();
    let recording = Recording::begin(["-F", "1999"]);
    // The kernel tears a network namespace down in a worker thread.
    for _ in 0..60 {
        let made = std::process::Command::new("unshare").args(["-n", "true"]).status().unwrap();
        assert!(made.success(), "unshare -n: {made}");
    }
    let recorded = recording.stop();
    let all = stacks(&recorded.profile);
    let of_worker = |stack: &Stack<'_>| stack.process.starts_with("kworker/");
    assert!(count(&all, of_worker) > 0, "{}", text(&all));
    for stack in all.iter().filter(|stack| of_worker(stack)) {
        assert!(stack.user().is_empty() && stack.end == "no_user_stack", "{stack:?}");
        assert_eq!(stack.frames.last().unwrap().name, "ret_from_fork_asm", "{stack:?}");
        assert!(stack.thread.starts_with("kworker/"), "{stack:?}");
    }
}
