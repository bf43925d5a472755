//! Ctrl-C, the terminal, and what goes to standard output: a capture as its user lives it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hostscope_tests::host::{host, wait_for};
use hostscope_tests::program::{Recording, Running, binary, hostscope, read, run};
use hostscope_tests::stacks::{count, of_process, text};
use hostscope_tests::workload::{self, Workload};
use rustix::process::{Pid, Signal, kill_process};

const NONE: [&str; 0] = [];

fn files(folder: &Path) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    files
}

#[test]
fn the_first_ctrl_c_ends_the_capture_and_writes_the_files() {
    let _host = host();
    for signal in [Signal::INT, Signal::TERM] {
        let workload = Workload::start("shares", NONE);
        let mut recording = Recording::begin(["-F", "499", "-d", "60s", "-p", &workload.pid_text()]);
        std::thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        recording.running().signal(signal);
        let recorded = recording.end();
        assert_eq!(recorded.ended.code(), 0, "{}", recorded.ended.stderr);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let all = of_process(&recorded.profile, workload.pid());
        assert!(count(&all, |stack| stack.has("seventy")) > 20, "{}", text(&all));
        assert!(recorded.profile.duration_ns < 20_000_000_000);
    }
}

/// Something to sample: a host on which nothing runs gives no sample at all.
fn load() -> Workload {
    Workload::start("many", NONE)
}

/// A capture that has ended by a first SIGINT and now waits for somebody to read its standard output.
fn stuck_in_writing(folder: &Path) -> (std::process::Child, PathBuf) {
    let _load = load();
    let file = folder.join("x.json");
    let mut command = hostscope(["record", "-F", "4999", "-o", "-", "-o"]);
    let mut child = command.arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // As small as pipes get, so that the stacks of one second do not fit.
    rustix::pipe::fcntl_setpipe_size(child.stdout.as_ref().unwrap(), 4096).unwrap();
    // Long enough to begin on a busy host too; a signal before that ends hostscope by itself.
    std::thread::sleep(Duration::from_secs(3));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let state = format!("/proc/{}/wchan", child.id());
    wait_for("hostscope to wait for its reader", Duration::from_secs(30), || {
        assert!(child.try_wait().unwrap().is_none(), "it has ended: the stacks fit into a page");
        fs::read_to_string(&state).is_ok_and(|wchan| wchan.contains("pipe_write")).then_some(())
    });
    (child, file)
}

#[test]
fn the_second_ctrl_c_gives_up_and_leaves_no_file() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let (mut child, _) = stuck_in_writing(folder.path());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status}");
    assert_eq!(files(folder.path()), NONE);
}

#[test]
fn a_slow_reader_gets_everything() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let (mut child, file) = stuck_in_writing(folder.path());
    let mut folded = String::new();
    child.stdout.take().unwrap().read_to_string(&mut folded).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let samples: u64 =
        folded.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert_eq!(samples, read(&file).total(0));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let _host = host();
    let _load = load();
    let script =
        format!("{} record -d 300ms -F 1999 -o - | head -n 1; echo ${{PIPESTATUS[0]}}", binary().display());
    let ended = run(Command::new("bash").args(["-c", &script])).success();
    assert!(ended.stdout.ends_with("\n0\n") && !ended.stderr.contains("cannot"), "{ended:?}");
}

#[test]
fn nothing_but_results_goes_to_standard_output() {
    let _host = host();
    let _load = load();
    let folder = tempfile::tempdir().unwrap();
    let mut command = hostscope(["record", "-d", "300ms"]);
    let ended = run(command.current_dir(folder.path())).success();
    let names: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(names.len(), 2, "{}", ended.stdout);
    for (name, extension) in names.iter().zip(["svg", "pb.gz"]) {
        let words = name.split_once('.').map(|(stem, end)| (stem.starts_with("hostscope-cpu-"), end));
        assert_eq!(words, Some((true, extension)), "{}", ended.stdout);
    }
    let mut written = names.clone();
    written.sort_unstable();
    assert_eq!(files(folder.path()), written, "a temporary file is left, or one is missing");
    // The one summary line, and no progress: this is no terminal.
    let summary = ended.stderr.lines().next().unwrap();
    let parts = ["hostscope: ", " samples of ", " in 0.3 s, ", "% of user stacks complete, ", " lost"];
    assert!(parts.iter().all(|part| summary.contains(part)), "{}", ended.stderr);
    assert!(!ended.stderr.contains('\r') && !ended.stderr.contains('\x1b'), "{:?}", ended.stderr);

    let path = folder.path().join("x.folded");
    let mut command = hostscope(["record", "-d", "300ms", "-o"]);
    assert_eq!(run(command.arg(&path)).success().stdout, "");
}

#[test]
fn quiet_is_quiet() {
    let _host = host();
    let _load = load();
    let folder = tempfile::tempdir().unwrap();
    for arguments in [["-q", "record"], ["record", "-q"]] {
        let mut command = hostscope(arguments);
        let ended = run(command.args(["-d", "200ms"]).current_dir(folder.path())).success();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    }
    assert!(files(folder.path()).len() >= 2);
    let ended = run(&mut hostscope(["-q", "record", "-p", "4194305"]));
    assert_eq!(ended.stderr.lines().count(), 2, "errors are told all the same: {}", ended.stderr);
}

/// Runs hostscope with a terminal for its output, and returns what that showed.
fn in_terminal(arguments: &str) -> String {
    let words = format!("{} {arguments}", binary().display());
    let ended = run(Command::new("script").args(["-qefc", &words, "/dev/null"]).stdin(Stdio::null()));
    ended.success().stdout
}

#[test]
fn progress_is_for_terminals() {
    let _host = host();
    let _load = load();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("x.folded");
    let shown = in_terminal(&format!("record -d 2500ms -o {}", to.display()));
    assert!(
        shown.contains("\r\x1b[Khostscope: 1 of 2 s, ") || shown.contains("\r\x1b[Khostscope: 1 of 3 s, "),
        "{shown:?}"
    );
    // The line is wiped before the summary.
    assert!(shown.contains("\r\x1b[Khostscope: ") && shown.contains(" samples of "), "{shown:?}");
    let shown = in_terminal(&format!("-q record -d 1500ms -o {}", to.display()));
    assert_eq!(shown, "", "{shown:?}");
}

#[test]
fn a_terminal_is_told_how_to_end_a_capture_without_a_duration() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("x.folded");
    let shares = workload::path("shares");
    let shown = in_terminal(&format!("record -o {} -- {} 100", to.display(), shares.display()));
    assert!(shown.contains("Ctrl-C ends it and writes the files"), "{shown:?}");
}

#[test]
fn ctrl_c_reaches_the_command_too_and_its_status_is_given() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("x.json");
    let mut command = Command::new("setsid");
    command.arg(binary()).args(["record", "-o"]).arg(&to).arg("--").arg(workload::path("shares"));
    let mut running = Running::start(&mut command);
    running.wait_until_sampling();
    std::thread::sleep(Duration::from_millis(300));
    // As a terminal does: to the whole group, of which hostscope is the leader (setsid needs no fork to make it one).
    rustix::process::kill_process_group(Pid::from_raw(running.pid() as i32).unwrap(), Signal::INT).unwrap();
    let ended = running.end();
    assert_eq!(ended.code(), 130, "{}", ended.stderr);
    assert!(read(&to).total(0) > 5, "{}", ended.stderr);
    assert_eq!(files(folder.path()), ["x.json"]);
}
