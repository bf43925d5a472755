//! Names where they are hard to come by: files deleted, stripped, damaged or unreadable, and code without a file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hostscope::profile::FrameKind;
use hostscope_tests::host::host;
use hostscope_tests::program::{Recorded, Recording, binary, record, run};
use hostscope_tests::stacks::{Stack, count, of_process, percent, text, total};
use hostscope_tests::workload::{self, Workload};
use rustix::process::Signal;

const NONE: [&str; 0] = [];
const CHAIN: [&str; 4] = ["burn", "seventy", "run", "main"];

fn watch(workload: &Workload) -> Recorded {
    record(["-d", "1s", "-F", "999", "-p", &workload.pid_text()])
}

fn is_named(stack: &Stack<'_>) -> bool {
    stack.user().starts_with(&CHAIN)
}

/// The `[file+0xoffset]` of a frame without a name.
fn offset(frame: &str, file: &str) -> Option<u64> {
    let hex = frame.strip_prefix(&format!("[{file}+0x"))?.strip_suffix(']')?;
    u64::from_str_radix(hex, 16).ok()
}

/// First and last file offset of a function, from `nm -S`; in these files, addresses are offsets.
fn range(file: &Path, function: &str) -> std::ops::Range<u64> {
    let symbols = run(Command::new("nm").arg("-S").arg(file)).success().stdout;
    let line = symbols.lines().find(|line| line.ends_with(&format!(" {function}"))).expect("the function");
    let numbers: Vec<u64> =
        line.split(' ').take(2).map(|hex| u64::from_str_radix(hex, 16).unwrap()).collect();
    numbers[0]..numbers[0] + numbers[1]
}

#[test]
fn a_deleted_executable_is_named() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let before = Workload::start_file(&workload::copy("shares", &folder.path().join("before")), NONE);
    fs::remove_file(folder.path().join("before")).unwrap();
    let during = Workload::start_file(&workload::copy("shares", &folder.path().join("during")), NONE);
    let recording = Recording::begin(["-F", "999", "-p", &before.pid_text(), "-p", &during.pid_text()]);
    fs::remove_file(folder.path().join("during")).unwrap();
    // Another file by the same name must not be taken for it.
    workload::copy("cpp", &folder.path().join("during"));
    std::thread::sleep(Duration::from_secs(1));
    let recorded = recording.stop();
    for (workload, name) in [(&before, "before"), (&during, "during")] {
        let all = of_process(&recorded.profile, workload.pid());
        assert!(percent(&all, is_named) > 60.0, "{}", text(&all));
        let mapping = recorded.profile.mappings.iter().find(|mapping| mapping.file.ends_with(name)).unwrap();
        assert_eq!(mapping.build_id.len(), 40, "{mapping:?}");
    }
}

#[test]
fn a_stripped_file_shows_offsets_that_lead_to_the_function() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let stripped = workload::copy("shares", &folder.path().join("stripped"));
    run(Command::new("strip").arg(&stripped)).success();
    let workload = Workload::start_file(&stripped, NONE);
    let all_of = watch(&workload);
    let all = of_process(&all_of.profile, workload.pid());
    let original = workload::path("shares");
    let ranges = ["burn", "seventy", "run", "main"].map(|function| range(&original, function));
    let exact = percent(&all, |stack| {
        let user = stack.user();
        user.len() >= 4
            && user
                .iter()
                .zip(&ranges)
                .all(|(frame, range)| offset(frame, "stripped").is_some_and(|at| range.contains(&at)))
    });
    assert!((exact - 70.0).abs() < 15.0, "{exact:.1}%:\n{}", text(&all));
}

/// Garbles an executable so that it still runs: the kernel reads none of this.
fn garble(kind: &str, path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).unwrap();
    let sections = u64::from_le_bytes(header[0x28..0x30].try_into().unwrap());
    let length = file.metadata().unwrap().len();
    match kind {
        // Where the section headers are.
        "far" => file.write_all_at(&(u64::MAX - 7).to_le_bytes(), 0x28).unwrap(),
        // Every section header.
        "wild" => file.write_all_at(&vec![0xff; (length - sections) as usize], sections).unwrap(),
        // The sizes and offsets in every section header.
        "huge" => {
            for at in (sections..length - 64).step_by(64) {
                file.write_all_at(&[0xf0; 40], at + 16).unwrap();
            }
        }
        // The section headers are cut off.
        "short" => file.set_len(sections + 100).unwrap(),
        // The number of sections, and the one of the names.
        "many" => file.write_all_at(&[0xff; 4], 0x3c).unwrap(),
        _ => unreachable!("{kind}"),
    }
    file.sync_all().unwrap();
}

#[test]
fn a_damaged_file_spoils_no_capture() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let whole = Workload::start("shares", NONE);
    let damaged = ["far", "wild", "huge", "short", "many"].map(|kind| {
        let path = workload::copy("shares", &folder.path().join(kind));
        garble(kind, &path);
        (kind, Workload::start_file(&path, NONE))
    });
    let pids = damaged.iter().flat_map(|(_, workload)| ["-p".to_owned(), workload.pid_text()]);
    let arguments =
        ["-d", "3s", "-F", "999", "-p", &whole.pid_text()].map(String::from).into_iter().chain(pids);
    let recorded = record(arguments.collect::<Vec<_>>());
    let all = of_process(&recorded.profile, whole.pid());
    assert!(percent(&all, is_named) > 60.0, "{}", text(&all));
    let burn = range(&workload::path("shares"), "burn");
    for (kind, workload) in &damaged {
        let all = of_process(&recorded.profile, workload.pid());
        assert!(total(&all) > 30, "{kind}: {} samples\n{}", total(&all), recorded.ended.stderr);
        let right = percent(&all, |stack| {
            let leaf = stack.user().first().copied().unwrap_or_default();
            leaf == "burn" || offset(leaf, kind).is_some_and(|at| burn.contains(&at))
        });
        assert!(right > 90.0, "{kind}: {right:.1}%\n{}", text(&all));
    }
}

#[test]
fn a_library_cut_short_while_it_is_mapped_spoils_no_capture() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let library = workload::copy("libplugin", &folder.path().join("libcut"));
    let mut workload = Workload::start("dlopener", [library.to_str().unwrap(), "0"]);
    workload.wait_until_ready();
    workload.go();
    assert_eq!(workload.line(), "done");
    let recording = Recording::begin(["-F", "999", "-p", &workload.pid_text()]);
    workload.go();
    std::thread::sleep(Duration::from_millis(800));
    // Behind the code and the data that are in use.
    fs::OpenOptions::new().write(true).open(&library).unwrap().set_len(0x3100).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let Recorded { profile, ended } = recording.stop();
    ended.success();
    let all = of_process(&profile, workload.pid());
    let in_library = percent(&all, |stack| stack.frames.iter().any(|frame| frame.file.ends_with("/libcut")));
    assert!(in_library > 90.0, "{in_library:.1}%:\n{}", text(&all));
}

#[test]
fn code_made_at_run_time_has_the_names_of_its_perf_map() {
    let _host = host();
    let mut workload = Workload::start("jit", NONE);
    workload.wait_until_ready();
    let recorded = watch(&workload);
    let all = of_process(&recorded.profile, workload.pid());
    let exact = percent(&all, |stack| stack.user().starts_with(&["jit:hot loop", "run_jit", "main"]));
    assert!(exact > 95.0, "{exact:.1}%:\n{}", text(&all));
    let frames = all.iter().flat_map(|stack| &stack.frames).filter(|frame| frame.name == "jit:hot loop");
    assert!(frames.into_iter().all(|frame| frame.kind == FrameKind::Interpreted), "{}", text(&all));

    // The map goes with the process: it was opened while it lived.
    let recording = Recording::begin(["-F", "999", "-p", &workload.pid_text()]);
    std::thread::sleep(Duration::from_millis(1500));
    workload.signal(Signal::TERM);
    workload.wait();
    let recorded = recording.end();
    let all = of_process(&recorded.profile, workload.pid());
    assert!(percent(&all, |stack| stack.has("jit:hot loop")) > 95.0, "{}", text(&all));
}

/// A command line that runs `words` as the user nobody, with these capabilities alone.
fn as_nobody(capabilities: &str, words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    command.arg(format!("--inh-caps={capabilities}")).arg(format!("--ambient-caps={capabilities}"));
    command.arg("--bounding-set=-all,+bpf,+perfmon").args(words);
    command
}

#[test]
fn files_that_may_not_be_read_go_without_names_and_nothing_else_does() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let secret = workload::copy("shares", &folder.path().join("secret"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let unreadable = Workload::start_file(&secret, NONE);
    // Where this user may go.
    let open = workload::copy("shares", &folder.path().join("open"));
    let program = folder.path().join("hostscope");
    fs::copy(binary(), &program).unwrap();
    let mut own = Command::new("setpriv");
    own.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(open);
    let own = Workload::start_command(&mut own);
    let profile = folder.path().join("profile.json");
    let words =
        [program.to_str().unwrap(), "record", "-d", "2s", "-F", "999", "-o", profile.to_str().unwrap()];
    let ended = run(&mut as_nobody("+bpf,+perfmon", &words)).success();
    let profile = hostscope_tests::program::read(&profile);
    let all = of_process(&profile, own.pid());
    assert!(count(&all, is_named) > 30, "{}\n{}", text(&all), ended.stderr);
    let all = of_process(&profile, unreadable.pid());
    assert!(total(&all) > 30, "{}", ended.stderr);
    assert!(all.iter().all(|stack| !stack.has("burn")), "{}", text(&all));
    assert!(all.iter().all(|stack| stack.thread == "secret"), "{}", text(&all));
}
