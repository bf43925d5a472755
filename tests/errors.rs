//! Every error that a user meets: what it says, the mend, the exit status, and that nothing else is printed or left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hostscope_tests::host::{host, wait_for};
use hostscope_tests::program::{Ended, binary, hostscope, run};
use hostscope_tests::workload::{self, Workload};
use tempfile::TempDir;

const NONE: [&str; 0] = [];

/// Asserts that `command` fails with `status`, two lines on standard error (what, and its mend) and nothing else.
#[track_caller]
fn fails(command: &mut Command, status: i32, what: &str, mend: &str) -> Ended {
    let ended = run(command);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(ended.code(), status, "{command:?}: {}", ended.stderr);
    assert_eq!(lines.len(), 2, "{command:?} prints other than two lines:\n{}", ended.stderr);
    assert_eq!(lines[0], format!("hostscope: {what}"), "{command:?}");
    let shown = lines[1].strip_prefix("  mend: ").unwrap_or_else(|| panic!("no mend: {}", lines[1]));
    assert!(shown.contains(mend), "{command:?}: {shown}");
    assert_eq!(ended.stdout, "", "{command:?}");
    ended
}

/// Asserts that the parser refuses this: exit status 2, and `what` in its words.
#[track_caller]
fn is_wrong_usage(arguments: &[&str], what: &str) {
    let ended = run(&mut hostscope(arguments));
    assert_eq!(ended.code(), 2, "{arguments:?}: {}", ended.stderr);
    assert!(ended.stderr.contains(what), "{arguments:?}: {}", ended.stderr);
    assert!(ended.stdout.is_empty() && !ended.stderr.contains("panicked"), "{arguments:?}: {}", ended.stderr);
}

fn folder() -> (TempDir, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    (folder, move |name: &str| path.join(name).display().to_string())
}

#[track_caller]
fn is_empty(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn targets_that_do_not_exist() {
    let _host = host();
    let (_folder, at) = folder();
    let to = at("x.svg");
    // Above the largest id there can be (`PID_MAX_LIMIT`).
    let no_process = "there is no process 4194305";
    fails(&mut hostscope(["record", "-o", &to, "-p", "4194305"]), 1, no_process, "check the id (ps -e)");
    fails(&mut hostscope(["record", "-o", &to, "-p", "1", "-p", "4194305"]), 1, no_process, "pid namespace");
    let threads = Workload::start("threads", NONE);
    let tasks = format!("/proc/{}/task", threads.pid());
    let thread = wait_for("a second thread", std::time::Duration::from_secs(5), || {
        let ids = fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().file_name().into_string().unwrap());
        ids.into_iter().find(|id| *id != threads.pid_text())
    });
    let what = format!("{thread} is a thread of process {}, not a process", threads.pid());
    let mend = format!("name the process: -p {}", threads.pid());
    fails(&mut hostscope(["record", "-o", &to, "-p", &thread]), 1, &what, &mend);
    for path in ["/no/such/cgroup", "/proc"] {
        let what = format!("there is no cgroup (version 2) {path}");
        fails(&mut hostscope(["record", "-o", &to, "--cgroup", path]), 1, &what, "/proc/PID/cgroup");
    }
    is_empty(Path::new(&to).parent().unwrap());
}

#[test]
fn commands_that_cannot_be_started() {
    let _host = host();
    let (folder, at) = folder();
    let to = at("x.svg");
    let record = |words: &[&str]| hostscope([&["record", "-o", &to], words].concat());
    fails(&mut record(&["--"]), 2, "there is no command after --", "hostscope record -- COMMAND");
    let missing = "cannot start /no/such/program: No such file or directory";
    fails(&mut record(&["--", "/no/such/program"]), 1, missing, "check the name");
    let missing = "cannot start no-such-program: No such file or directory";
    fails(&mut record(&["--", "no-such-program", "-x"]), 1, missing, "check the name");
    let denied = "cannot start /etc/passwd: Permission denied";
    fails(&mut record(&["--", "/etc/passwd"]), 1, denied, "chmod +x");
    is_empty(folder.path());
}

#[test]
fn files_that_cannot_be_written_are_refused_before_the_capture() {
    let _host = host();
    let (folder, at) = folder();
    fs::create_dir(at("folder.svg")).unwrap();
    fs::write(at("file"), "").unwrap();
    let cannot = |name: &str, why: &str| format!("cannot write {}: {why}", at(name));
    let began = std::time::Instant::now();
    for (name, why, mend) in [
        (
            "none/x.svg",
            format!("the folder {} does not exist", at("none")),
            format!("mkdir -p '{}'", at("none")),
        ),
        ("file/x.svg", format!("{} is not a folder", at("file")), "write into a folder that exists".into()),
        ("folder.svg", "it is a folder".into(), "give another name".into()),
    ] {
        fails(&mut hostscope(["record", "-d", "60s", "-o", &at(name)]), 1, &cannot(name, &why), &mend);
    }
    for name in ["x.html", "x", "svg", "x.pb"] {
        let what = format!("no output format is known by the end of {}", at(name));
        let mend = ".svg, .pb.gz, .folded, .speedscope.json, .json";
        fails(&mut hostscope(["record", "-d", "60s", "-o", &at(name)]), 2, &what, mend);
    }
    let twice = "-o - is there twice";
    fails(
        &mut hostscope(["record", "-d", "60s", "-o", "-", "-o", "-"]),
        2,
        twice,
        "name standard output once",
    );
    assert!(began.elapsed().as_secs() < 30, "it captured first");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something was left behind");
}

/// hostscope as the user nobody with what profiling needs and no more, copied to where that user may go.
fn as_nobody(folder: &TempDir, arguments: &[&str]) -> Command {
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("hostscope");
    if !program.exists() {
        fs::copy(binary(), &program).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args([
        "--inh-caps=+bpf,+perfmon",
        "--ambient-caps=+bpf,+perfmon",
        "--bounding-set=-all,+bpf,+perfmon",
    ]);
    command.arg(program).args(arguments).current_dir("/");
    command
}

#[test]
fn a_folder_of_another_user_is_refused_before_the_capture() {
    let _host = host();
    let home = tempfile::tempdir().unwrap();
    let (folder, at) = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let to = at("x.svg");
    let what =
        format!("cannot write {to}: this user may not write into the folder {}", folder.path().display());
    fails(&mut as_nobody(&home, &["record", "-d", "60s", "-o", &to]), 1, &what, "-o /tmp/x.svg");
    // A sticky folder, as /tmp is, and in it a file of somebody else.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(&to, "somebody's").unwrap();
    let what =
        format!("cannot write {to}: there is such a file of another user in {}", folder.path().display());
    fails(&mut as_nobody(&home, &["record", "-d", "60s", "-o", &to]), 1, &what, "give another name");
    assert_eq!(fs::read_to_string(&to).unwrap(), "somebody's");
}

/// Runs hostscope where `folder` is a file system of its own, and then lists what is in it.
fn in_small_file_system(folder: &TempDir, options: &str, arguments: &[&str]) -> Command {
    let script = format!(
        "mount -t tmpfs -o {options} none {0} && cd {0} && \"$@\"; status=$?; ls -A {0} >&2; exit $status",
        folder.path().display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(binary())
        .args(arguments)
        .env_remove("RUST_BACKTRACE");
    command
}

#[test]
fn a_full_disk_leaves_no_file() {
    let _host = host();
    // On a host on which nothing runs the profile would fit.
    let _load = Workload::start("many", [""; 0]);
    let (folder, at) = folder();
    let what =
        format!("cannot write {}: the disk that holds {} is full", at("x.json"), folder.path().display());
    // Room for an empty file, found before the capture, but not for a profile: `ls` prints no third line.
    let record = ["record", "-d", "300ms", "-F", "1999", "-o", &at("x.json")];
    fails(&mut in_small_file_system(&folder, "size=4k", &record), 1, &what, "free some space");
    // Not even room for a file: one inode is the root's.
    let what =
        format!("cannot write {}: the disk that holds {} is full", at("x.svg"), folder.path().display());
    let record = ["record", "-d", "60s", "-o", &at("x.svg")];
    fails(&mut in_small_file_system(&folder, "nr_inodes=1", &record), 1, &what, "choose another folder");
}

#[test]
fn a_read_only_file_system_is_named() {
    let _host = host();
    let (folder, at) = folder();
    let what =
        format!("cannot write {}: the filesystem of {} is read-only", at("x.svg"), folder.path().display());
    let record = ["record", "-d", "60s", "-o", &at("x.svg")];
    fails(&mut in_small_file_system(&folder, "ro", &record), 1, &what, "choose another folder");
}

#[test]
fn a_missing_privilege_has_a_status_of_its_own() {
    let _host = host();
    let (folder, at) = folder();
    let without = |set: &str, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set={set}")).arg(binary()).args(arguments);
        command
    };
    let record = ["record", "-d", "60s", "-o", &at("x.svg")];
    let mend = "sudo setcap cap_bpf,cap_perfmon,";
    fails(&mut without("-all", &record), 3, "cannot profile: CAP_BPF and CAP_PERFMON missing", mend);
    fails(&mut without("-all,+bpf", &record), 3, "cannot profile: CAP_PERFMON missing", "run it with sudo");
    is_empty(folder.path());
    let doctor = run(&mut without("-all", &["doctor"]));
    assert_eq!(doctor.code(), 3, "{}", doctor.stdout);
    assert!(doctor.stdout.contains("CAP_BPF, CAP_PERFMON"), "{}", doctor.stdout);
    // What is enough is enough.
    run(&mut without("-all,+bpf,+perfmon", &["record", "-d", "200ms", "-o", &at("x.svg")])).success();
}

#[test]
fn wrong_usage() {
    is_wrong_usage(&["record", "-d", "0"], "it must be longer than zero");
    is_wrong_usage(&["record", "-d", "10x"], "is no unit of time");
    is_wrong_usage(&["record", "-d", "9999h"], "at most 7 days");
    is_wrong_usage(&["record", "-F", "0"], "it must be a number from 1 to 10000");
    is_wrong_usage(&["record", "-F", "20000"], "it must be a number from 1 to 10000");
    is_wrong_usage(&["record", "-k", "nonsense"], "[possible values: cpu]");
    is_wrong_usage(&["record", "-p", "0"], "invalid value '0'");
    is_wrong_usage(&["record", "-p", "x"], "invalid value 'x'");
    is_wrong_usage(&["record", "-p", "1", "--cgroup", "/"], "cannot be used with");
    is_wrong_usage(&["record", "-p", "1", "--", "true"], "cannot be used with");
    is_wrong_usage(&["record", "--cgroup", "/", "--", "true"], "cannot be used with");
    is_wrong_usage(&["record", "-q", "-v"], "cannot be used with");
    is_wrong_usage(&["nonsense"], "unrecognized subcommand 'nonsense'");
    is_wrong_usage(&[], "Usage: hostscope");
    is_wrong_usage(&["completions", "nonsense"], "[possible values: bash");
    fails(&mut hostscope(["man", "nonsense"]), 2, "hostscope has no subcommand nonsense", "hostscope --help");
}

#[test]
fn profiles_that_cannot_be_read() {
    let (folder, at) = folder();
    let to = at("x.svg");
    let good = at("good.folded");
    fs::write(&good, "a;b 1\n").unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).map(|()| at(name)).unwrap();
    let formats = "give a .json of hostscope's, a pprof profile (.pb.gz) or folded stacks";
    for (path, why, mend) in [
        (at("none.json"), "No such file or directory (os error 2)", "check the path"),
        (write("empty.json", b""), "it is empty", formats),
        (write("words.folded", b"no profile\n"), "line 1 is not \"frame;frame;... COUNT\"", formats),
        (write("short.pb.gz", b"\x1f\x8bxx"), "unexpected end of file", formats),
        (folder.path().display().to_string(), "it is a folder", "give a file in it"),
    ] {
        let what = format!("cannot read {path}: {why}");
        fails(&mut hostscope(["diff", &path, &good, "-o", &to]), 1, &what, mend);
        fails(&mut hostscope(["diff", &good, &path, "-o", &to]), 1, &what, mend);
    }
    let what = format!("a difference cannot be written to {}", at("x.json"));
    fails(&mut hostscope(["diff", &good, &good, "-o", &at("x.json")]), 2, &what, ".svg");
    let what = format!("cannot write {}: the folder {} does not exist", at("none/x.svg"), at("none"));
    fails(&mut hostscope(["diff", &good, &good, "-o", &at("none/x.svg")]), 1, &what, "mkdir -p");
    assert!(!PathBuf::from(&to).exists());

    fs::set_permissions(&good, fs::Permissions::from_mode(0o600)).unwrap();
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let what = format!("cannot read {good}: Permission denied (os error 13)");
    fails(&mut as_nobody(&home, &["diff", &good, &good, "-o", &to]), 1, &what, "permissions");
}

#[test]
fn a_target_that_sleeps_is_no_error() {
    let _host = host();
    let (_folder, at) = folder();
    let mut workload = Workload::start("spawner", ["1", "fork", "1"]);
    workload.wait_until_ready();
    let ended =
        run(&mut hostscope(["record", "-d", "300ms", "-o", &at("x.svg"), "-p", &workload.pid_text()]))
            .success();
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines[0].starts_with("hostscope: 0 samples of 0 processes in 0.3 s"), "{}", ended.stderr);
    assert_eq!(
        lines[1],
        "note: no sample met the target: it slept, or ran too briefly for this rate (try a higher -F)"
    );
    assert!(fs::read_to_string(at("x.svg")).unwrap().ends_with("</svg>\n"), "no flame graph");
    assert!(workload::path("spawner").exists());
}
