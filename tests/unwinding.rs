//! Stacks of programs whose callers are known by construction, in code as compilers, linkers and the kernel lay it out:
//! nearly every sample reaches the entry, with exactly the frames that there are.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hostscope_tests::chains::{Chains, assert_end};
use hostscope_tests::host::host;
use hostscope_tests::program::{Recorded, Recording, record, run};
use hostscope_tests::stacks::{Stack, of_process, percent, stacks, text, total};
use hostscope_tests::workload::{self, Workload};
use hostscope_wire::limits::MAX_USER_FRAMES;

/// Of one case: about two thousand samples where a CPU is free.
const CAPTURE: [&str; 4] = ["-d", "2s", "-F", "999"];

/// The least share, in percent, of samples whose stack is whole, and of those whose callers are exact.
const NEARLY_ALL: f64 = 99.0;

fn watch(workload: &Workload) -> Recorded {
    let recorded = record(CAPTURE.into_iter().chain(["-p", &workload.pid_text()]));
    // In processes of its own, too.
    assert!(total(&stacks(&recorded.profile)) > 100, "{}", recorded.ended.stderr);
    recorded
}

/// Runs a case of a workload; its stacks must be whole, with these chains (see `chains`).
#[track_caller]
fn check(name: &str, case: &str, patterns: &[(f64, &str)]) {
    let workload = Workload::start(name, [case]);
    let recorded = watch(&workload);
    let all = of_process(&recorded.profile, workload.pid());
    assert_end(&all, "complete", NEARLY_ALL);
    Chains::new(&[name], patterns).assert(&all, NEARLY_ALL);
}

/// The chain of `frames CASE` with so many frames of different sizes: their functions call each other in turn.
fn descent(depth: usize) -> String {
    let mut names: Vec<&str> =
        ["plain", "buffered", "crowded", "sized"].into_iter().cycle().take(depth).collect();
    names.push("burn");
    names.reverse();
    names.join(" < ")
}

#[test]
fn deep_stacks_of_unlike_frames() {
    let _host = host();
    for name in ["frames", "frames_fixed"] {
        check(name, "deep", &[(90.0, &format!("{} < run_deep < main < ~ < _start", descent(40)))]);
    }
}

#[test]
fn static_executables() {
    let _host = host();
    for name in ["frames_static", "frames_static_pie"] {
        let workload = Workload::start(name, ["deep"]);
        let recorded = watch(&workload);
        let all = of_process(&recorded.profile, workload.pid());
        assert_end(&all, "complete", NEARLY_ALL);
        let chain = format!("{} < run_deep < main < ~ < _start", descent(40));
        Chains::new(&[name], &[(90.0, &chain)])
            .with_runtime(|name| name.starts_with("__libc_start"))
            .assert(&all, NEARLY_ALL);
    }
}

#[test]
fn frames_larger_than_a_16_bit_offset() {
    let _host = host();
    check("frames", "large", &[(90.0, "burn < large < run_large < main < ~ < _start")]);
}

#[test]
fn calls_that_became_jumps() {
    let _host = host();
    check(
        "frames",
        "tail",
        &[
            (5.0, "first|second|last < run_tail < main < ~ < _start"),
            (5.0, "burn < second < run_tail < main < ~ < _start"),
            (5.0, "burn < run_tail < main < ~ < _start"),
        ],
    );
}

#[test]
fn threads_end_at_their_entry() {
    let _host = host();
    let workload = Workload::start("frames", ["thread"]);
    let recorded = watch(&workload);
    let all = of_process(&recorded.profile, workload.pid());
    assert_end(&all, "complete", NEARLY_ALL);
    let chain = format!("{} < run_deep < thread < ~", descent(40));
    Chains::new(&["frames"], &[(90.0, &chain)]).assert(&all, NEARLY_ALL);
    assert!(all.iter().all(|stack| stack.thread == "descender"), "{}", text(&all));
}

#[test]
fn stacks_deeper_than_a_profile_keeps_are_cut() {
    let _host = host();
    let workload = Workload::start("frames", ["deeper"]);
    let recorded = watch(&workload);
    let all = of_process(&recorded.profile, workload.pid());
    let chain = descent(200);
    let kept: Vec<&str> = chain.split(" < ").take(MAX_USER_FRAMES).collect();
    let exact = percent(&all, |stack| stack.user() == kept && stack.end == "truncated");
    // The rest were taken between two descents; how many depends on how fast memory is against the CPU.
    assert!(exact > 70.0, "{exact:.2}%:\n{}", text(&all));
    let right = percent(&all, |stack| ["complete", "truncated"].contains(&stack.end));
    assert!(right >= NEARLY_ALL, "{right:.2}%:\n{}", text(&all));
}

#[test]
fn realigned_stacks() {
    let _host = host();
    for (case, burner) in [("fixed", "fixed"), ("sized", "sized"), ("variadic", "variadic")] {
        let (below, itself) = (
            format!("burn < {burner} < run_{case} < main < ~ < _start"),
            format!("{burner} < run_{case} < main < ~ < _start"),
        );
        check("aligned", case, &[(50.0, &below), (5.0, &itself)]);
    }
    check(
        "aligned",
        "jumper",
        &[
            (20.0, "burn < jumper < run_jumper < main < ~ < _start"),
            (20.0, "burn < sized < run_jumper < main < ~ < _start"),
            (2.0, "jumper < run_jumper < main < ~ < _start"),
        ],
    );
}

#[test]
fn exceptions_and_virtual_methods() {
    let _host = host();
    let workload = Workload::start("thrower", ["throw"]);
    let recorded = watch(&workload);
    let all = of_process(&recorded.profile, workload.pid());
    assert_end(&all, "complete", NEARLY_ALL);
    let attempt = "attempt < run_throw < main < ~ < _start";
    Chains::new(
        &["thrower"],
        &[
            (1.0, &format!("burn < Guard::~Guard < descend+ < {attempt}")),
            // In the unwinder of the language.
            (30.0, &format!("~ < descend+ < {attempt}")),
            (1.0, &format!("burn < {attempt}")),
            (0.0, &format!("~ < {attempt}")),
            (0.0, &format!("@plt < descend+ < {attempt}")),
        ],
    )
    // That unwinder leaves its own frame for another one's; of the last instructions there its tables do not tell.
    .with_strangers(0.5)
    .assert(&all, NEARLY_ALL);
    check(
        "thrower",
        "virtual",
        &[
            (20.0, "burn < Square::area < measure < run_virtual < main < ~ < _start"),
            (40.0, "burn < Circle::area < measure < run_virtual < main < ~ < _start"),
        ],
    );
}

#[test]
fn through_the_c_library_and_back() {
    let _host = host();
    check(
        "library",
        "sort",
        &[
            (80.0, "burn < compare < ~ < sort < run_sort < main < ~ < _start"),
            (0.1, "~ < sort < run_sort < main < ~ < _start"),
        ],
    );
    for (case, share) in [("print", 80.0), ("allocate", 50.0), ("copy", 80.0)] {
        let leaf = format!("~ < {case} < run_{case} < main < ~ < _start");
        let stub =
            "free@plt|malloc@plt|snprintf@plt|memset@plt|memcpy@plt|strlen@plt|memchr@plt|strcmp@plt|[]";
        let stub = format!("{stub} < {case} < run_{case} < main < ~ < _start");
        check("library", case, &[(share, &leaf), (0.0, &stub)]);
    }
}

#[test]
fn code_that_the_kernel_maps() {
    let _host = host();
    let stub = "@plt < ask_time < run_ask_time < main < ~ < _start";
    check("library", "clock", &[(50.0, "~ < ask_time < run_ask_time < main < ~ < _start"), (0.0, stub)]);
    let workload = Workload::start("library", ["clock"]);
    let recorded = watch(&workload);
    let all = of_process(&recorded.profile, workload.pid());
    let in_vdso = |stack: &Stack<'_>| stack.frames.first().is_some_and(|frame| frame.file.contains("vdso"));
    assert!(percent(&all, in_vdso) > 30.0, "{}", text(&all));
}

#[test]
fn signal_handlers_lead_to_what_they_interrupted() {
    let _host = host();
    // On the interrupted stack; on another one, lower; on one higher, in a thread.
    for (case, entry) in
        [("plain", "main < ~ < _start"), ("apart", "main < ~ < _start"), ("higher", "thread < ~")]
    {
        let patterns = [
            (5.0, format!("burn < handle < ~ < step < run < {entry}")),
            // Where a signal falls is chance.
            (0.3, format!("burn < handle < ~ < leaf < step < run < {entry}")),
            (0.3, format!("burn < handle < ~ < run < {entry}")),
            (0.5, format!("leaf < step < run < {entry}")),
        ];
        check("signals", case, &patterns.each_ref().map(|(share, pattern)| (*share, pattern.as_str())));
    }
    let interrupted = "leaf? < step? < run < main < ~ < _start";
    let inner = format!("burn < handle < ~ < handle_first < ~ < {interrupted}");
    let outer = format!("burn < handle_first < ~ < {interrupted}");
    // Between two signals there is little time, where handlers take long.
    check("signals", "nested", &[(5.0, &inner), (5.0, &outer), (0.0, interrupted)]);
}

#[test]
fn children_on_their_parents_stack_or_on_their_own() {
    let _host = host();
    let children = |case: &str, patterns: &[(f64, &str)], least: f64| {
        let workload = Workload::start("children", [case]);
        let recorded = watch(&workload);
        let all = stacks(&recorded.profile);
        assert_end(&all, "complete", least);
        let with_stack: Vec<_> = all.iter().filter(|stack| stack.end != "no_user_stack").cloned().collect();
        // A sample between an exec and the news of it is walked by what was mapped before.
        Chains::new(&["children"], patterns).with_strangers(0.5).assert(&with_stack, least);
    };
    for case in ["vfork", "fork"] {
        let started = format!("start_by_{case} < run_{case} < main < ~ < _start");
        children(
            case,
            &[
                (5.0, &format!("burn < child < {started}")),
                // The kernel makes or ends a process.
                (0.1, &format!("~ < {started}")),
                (0.0, &format!("@plt < {started}")),
            ],
            NEARLY_ALL,
        );
    }
    let started = "start_by_spawn < run_spawn < main < ~ < _start";
    children(
        "spawn",
        &[
            (70.0, "burn < child < main < ~ < _start"),
            (0.0, &format!("~ < {started}")),
            (0.0, &format!("@plt < {started}")),
            // The loader at its work, and the C library between vfork and exec.
            (0.0, "~ < _start?"),
        ],
        // These live for some 25 ms, of which their mappings are known from the second on.
        85.0,
    );
}

#[test]
fn stacks_that_a_program_makes_for_itself() {
    let _host = host();
    for (case, entry) in [("lower", "main < ~ < _start"), ("higher", "thread < ~")] {
        let chain = format!("burn < elsewhere < call_on < run_switch < {entry}");
        check("contexts", case, &[(90.0, &chain)]);
    }

    // What glibc says of a coroutine's entry does not say that it is one: the chain is exact up to there, and what
    // follows on the stack is no code.
    let workload = Workload::start("contexts", ["coroutine"]);
    let recorded = watch(&workload);
    let all = of_process(&recorded.profile, workload.pid());
    Chains::new(
        &["contexts"],
        &[
            (20.0, "burn < generate < ~?"),
            (20.0, "burn < run_coroutine < main < ~ < _start"),
            (0.0, "~|@plt < generate < ~?"),
            (0.0, "~|@plt < run_coroutine < main < ~ < _start"),
        ],
    )
    .assert(&all, NEARLY_ALL);
    let (inside, outside): (Vec<_>, Vec<_>) = all.into_iter().partition(|stack| stack.has("generate"));
    assert_end(&outside, "complete", NEARLY_ALL);
    for stack in &inside {
        let mut callers = stack.frames.iter().skip_while(|frame| frame.name != "generate").skip(1);
        let entry = callers.next();
        assert!(entry.is_none_or(|frame| frame.file.contains("/libc")), "{stack:?}");
        assert_eq!(callers.next(), None, "{stack:?}");
    }
}

#[test]
fn stubs_of_procedure_linkage_tables() {
    let _host = host();
    let stub = "@plt < call_library < run_bound < main < ~ < _start";
    for name in ["plt", "plt_now", "plt_ibt"] {
        check(
            name,
            "bound",
            &[
                (5.0, stub),
                (5.0, "~ < call_library < run_bound < main < ~ < _start"),
                (5.0, "call_library < run_bound < main < ~ < _start"),
            ],
        );
    }
    for name in ["plt", "plt_ibt"] {
        let stub = "@plt < look_up < run_resolved < main < ~ < _start";
        check(
            name,
            "resolved",
            &[
                // The loader saves what its caller has in registers on a stack that it aligns.
                (80.0, "~ < look_up < run_resolved < main < ~ < _start"),
                (0.1, stub),
            ],
        );
    }
}

#[test]
fn libraries_loaded_and_code_mapped_in_mid_run() {
    let _host = host();
    let library = workload::path("libquick");
    let mut workload = Workload::start("dlopener", [library.to_str().unwrap(), "0"]);
    workload.wait_until_ready();
    workload.go();
    assert_eq!(workload.line(), "done");
    let recording = Recording::begin(["-F", "999", "-p", &workload.pid_text()]);
    workload.go();
    std::thread::sleep(Duration::from_secs(2));
    let recorded = recording.stop();
    let all = of_process(&recorded.profile, workload.pid());
    assert_end(&all, "complete", NEARLY_ALL);
    Chains::new(
        &["dlopener", "libquick"],
        &[
            (90.0, "plugin_inner < plugin_hot < run_plugin < main < ~ < _start"),
            (0.0, "~ < main < ~ < _start"),
        ],
    )
    .assert(&all, NEARLY_ALL);

    check("made", "copied", &[(90.0, "burn < copied < run_copied < main < ~ < _start")]);
}

#[test]
fn code_made_at_run_time() {
    let _host = host();
    check("made", "framed", &[(90.0, "[anon] < [anon] < run_framed < main < ~ < _start")]);
    check(
        "made",
        "trampoline",
        &[(
            90.0,
            &format!(
                "burn {} < run_trampoline < main < ~ < _start",
                "< evaluate < [anon] ".repeat(5) + "< evaluate"
            ),
        )],
    );
    // Code that says nothing of its frames has no callers, whatever rbp holds, and the profile says so.
    for case in ["bare", "misleading"] {
        let workload = Workload::start("made", [case]);
        let recorded = watch(&workload);
        let all = of_process(&recorded.profile, workload.pid());
        Chains::new(&["made"], &[(90.0, "[anon]"), (0.0, "run_bare < main < ~ < _start")])
            .assert(&all, NEARLY_ALL);
        let claimed = percent(&all, |stack| stack.user() == ["[anon]"] && stack.end == "complete");
        assert!(claimed == 0.0, "{claimed:.2}%:\n{}", text(&all));
    }
}

#[test]
fn rust_as_it_is_released() {
    let _host = host();
    let is_runtime = |name: &str| !name.contains("optimised::");
    let entry = "optimised::main < ~ < _start";
    let optimised = |case: &str, patterns: &[(f64, &str)]| {
        let workload = Workload::start("optimised", [case]);
        let recorded = watch(&workload);
        let all = of_process(&recorded.profile, workload.pid());
        // Where libgcc makes ready to go on in the frame that catches, it writes over what its own callers' frames hold.
        let least = if case == "panics" { 98.0 } else { NEARLY_ALL };
        assert_end(&all, "complete", least);
        Chains::new(&["optimised"], patterns).with_runtime(is_runtime).assert(&all, least);
    };
    let boxed = "optimised::burn < optimised::main::{{closure}}";
    optimised(
        "calls",
        &[
            (10.0, &format!("optimised::burn < optimised::twice < optimised::run_calls < {entry}")),
            (5.0, &format!("{boxed} < optimised::twice < optimised::run_calls < {entry}")),
            (5.0, &format!("{boxed} < optimised::run_calls < {entry}")),
            (0.0, &format!("~ < {entry}")),
        ],
    );
    let guard = "<optimised::Guard as core::ops::drop::Drop>::drop";
    optimised(
        "panics",
        &[
            (
                1.0,
                &format!(
                    "optimised::burn < {guard} < optimised::descend+ < ~? < optimised::run_panics < {entry}"
                ),
            ),
            (30.0, &format!("~ < optimised::descend+ < ~? < optimised::run_panics < {entry}")),
            (0.0, &format!("~ < {guard} < optimised::descend+ < ~? < optimised::run_panics < {entry}")),
            (0.0, &format!("~ < optimised::run_panics? < {entry}")),
        ],
    );
}

/// Where functions lie in a file that is mapped from its beginning to `base`: first address and name.
fn functions(file: &Path, base: u64) -> BTreeMap<u64, String> {
    let symbols = run(Command::new("nm").arg("--defined-only").arg(file)).success().stdout;
    let text = symbols.lines().filter_map(|line| {
        let (address, rest) = line.split_once(' ')?;
        let (kind, name) = rest.split_once(' ')?;
        let offset = u64::from_str_radix(address, 16).ok()?.checked_sub(base)?;
        "tT".contains(kind).then(|| (offset, name.to_owned()))
    });
    text.collect()
}

#[test]
fn goroutines_by_their_frame_pointers() {
    let _host = host();
    let original = workload::path("gopher");
    let folder = tempfile::tempdir().unwrap();
    let stripped = workload::copy("gopher", &folder.path().join("stripped"));
    run(Command::new("strip").arg(&stripped)).success();
    // Where Go's linker places programs.
    let functions = functions(&original, 0x40_0000);
    let name_of = |name: &str| -> String {
        let hex = name.strip_prefix("[stripped+0x").and_then(|rest| rest.strip_suffix(']'));
        let Some(hex) = hex else { return name.to_owned() };
        let offset = u64::from_str_radix(hex, 16).unwrap();
        functions.range(..=offset).next_back().map_or(name, |(_, name)| name).to_owned()
    };
    for file in [&original, &stripped] {
        let workload = Workload::start_file(file, [""; 0]);
        let recorded = watch(&workload);
        let all = of_process(&recorded.profile, workload.pid());
        assert_end(&all, "complete", NEARLY_ALL);
        let exact = percent(&all, |stack| {
            let names: Vec<String> = stack.user().into_iter().map(name_of).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let [leaf, middle, worker, rest @ ..] = names.as_slice() else { return false };
            [*leaf, *middle] == ["main.burn", "main.middle"]
                && ["main.workEven", "main.workOdd"].contains(worker)
                && rest.iter().all(|name| name.starts_with("runtime.goexit"))
        });
        // The rest are the runtime's own.
        assert!(exact > 95.0, "{exact:.2}%:\n{}", text(&all));
    }
}
