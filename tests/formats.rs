//! One real capture in every format at once, judged by those formats' own tools; and what hostscope prints for shells,
//! for man and for other programs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hostscope::outputs::OUTPUTS;
use hostscope_tests::host::{host, online_cpus};
use hostscope_tests::program::{Ended, Running, hostscope, read, run};
use hostscope_tests::skip;
use hostscope_tests::stacks::{count, of_process, percent, text, total};
use hostscope_tests::workload::{self, Workload};
use hostscope_wire::PROBES;
use serde_json::Value;
use tempfile::TempDir;

const NONE: [&str; 0] = [];

/// A capture of `workload` in every format, `capture.EXTENSION` each.
fn captured(workload: &Workload) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut command = hostscope(["record", "-d", "2s", "-F", "999", "-p", &workload.pid_text()]);
    for output in OUTPUTS {
        command.arg("-o").arg(folder.path().join(format!("capture{}", output.extension())));
    }
    run(&mut command).success();
    folder
}

fn go_pprof(home: &Path, arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new("go");
    command.args(["tool", "pprof", "-symbolize=none"]).args(arguments).arg(file);
    command
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env("PPROF_TMPDIR", home)
        .env("GOTOOLCHAIN", "local");
    run(&mut command).success().stdout
}

/// The build id of an ELF file, from binutils.
fn build_id(file: &Path) -> String {
    let notes = run(Command::new("readelf").args(["-n"]).arg(file)).success().stdout;
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
    id.expect("gcc writes build ids").to_owned()
}

#[test]
fn one_capture_in_every_format() {
    let _host = host();
    let workload = Workload::start("shares", NONE);
    let folder = captured(&workload);
    let at = |name: &str| folder.path().join(name);
    let profile = read(&at("capture.json"));
    let all = of_process(&profile, workload.pid());
    let (samples, seventy) = (total(&all), count(&all, |stack| stack.has("seventy")));
    assert!(samples > 100, "{}", text(&all));

    // Google's own reader names the same functions, with the same counts.
    let top = go_pprof(folder.path(), &["-top", "-sample_index=samples"], &at("capture.pb.gz"));
    assert!(top.contains(&format!("of {samples} total")), "{top}");
    let line = top.lines().find(|line| line.ends_with(" seventy")).unwrap_or_else(|| panic!("{top}"));
    assert_eq!(line.split_whitespace().nth(3), Some(seventy.to_string().as_str()), "{top}");
    let first = top.lines().find(|line| line.trim_start().starts_with(char::is_numeric));
    assert!(first.unwrap().ends_with(" burn"), "{top}");
    let raw = go_pprof(folder.path(), &["-raw"], &at("capture.pb.gz"));
    let id = build_id(&workload::path("shares"));
    let mapping = raw.lines().find(|line| line.contains("/shares ")).unwrap_or_else(|| panic!("{raw}"));
    assert!(mapping.contains(&id) && mapping.contains("[FN]"), "{mapping}");
    assert!(raw.contains(&format!("pid:[{}]", workload.pid())) && raw.contains("comm:[shares]"), "{raw}");
    assert!(raw.contains("PeriodType: cpu nanoseconds") && raw.contains("Period: 1001001"), "{raw}");

    // Ours reads all that can be read back, and finds the same.
    for name in ["capture.pb.gz", "capture.folded"] {
        assert_eq!(read(&at(name)).total(0), samples, "{name}");
    }
    let folded = fs::read_to_string(at("capture.folded")).unwrap();
    assert!(
        folded.lines().any(|line| line.starts_with("shares;") && line.contains("main;run;seventy;burn ")),
        "{folded}"
    );
    let speedscope: Value =
        serde_json::from_slice(&fs::read(at("capture.speedscope.json")).unwrap()).unwrap();
    assert_eq!(speedscope["profiles"][0]["endValue"].as_u64(), Some(samples * profile.period_ns));
    let svg = fs::read_to_string(at("capture.svg")).unwrap();
    assert!(svg.starts_with("<?xml") && svg.ends_with("</svg>\n"), "not a whole file");
    for words in
        [format!("CPU profile: pid {}", workload.pid()), "seventy (".into(), profile.host, "999 Hz".into()]
    {
        assert!(svg.contains(&words), "no {words:?} in the flame graph");
    }
    let left =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
}

#[test]
fn the_difference_of_two_captures_shows_what_grew() {
    let _host = host();
    let with_fp = Workload::start("shares", NONE);
    let before = captured(&with_fp);
    drop(with_fp);
    let other = Workload::start("rusty", NONE);
    let after = captured(&other);
    let to = before.path().join("difference.svg");
    for extension in ["json", "pb.gz", "folded"] {
        let name = format!("capture.{extension}");
        let mut command = hostscope(["diff"]);
        command.args([before.path().join(&name), after.path().join(&name)]).arg("-o").arg(&to);
        let ended = run(&mut command).success();
        assert_eq!(
            (ended.stdout.as_str(), ended.stderr.trim()),
            ("", &*format!("hostscope: wrote {}", to.display()))
        );
        let svg = fs::read_to_string(&to).unwrap();
        assert!(svg.contains("rusty::burn") && svg.ends_with("</svg>\n"), "{extension}");
        fs::remove_file(&to).unwrap();
    }
    let mut quiet = hostscope(["-q", "diff"]);
    quiet.args([before.path().join("capture.json"), after.path().join("capture.pb.gz")]).arg("-o").arg(&to);
    let Ended { stdout, stderr, .. } = run(&mut quiet).success();
    assert_eq!((stdout.as_str(), stderr.as_str()), ("", ""));
    assert!(to.exists());
}

#[test]
fn the_doctor_tells_of_every_probe() {
    let _host = host();
    let ended = run(&mut hostscope(["doctor"])).success();
    for probe in PROBES {
        let line = ended.stdout.lines().find(|line| line.starts_with(&format!("{} ", probe.name)));
        // f2fs is a module that few load.
        let is_absent = |line: &str| probe.name.starts_with("f2fs_") && line.contains("has no tracepoint");
        let is_right = |line: &str| line.contains(" on ") || is_absent(line);
        assert!(line.is_some_and(is_right), "{}: {}", probe.name, ended.stdout);
    }
    assert!(ended.stdout.contains(&format!("on {} CPUs", online_cpus())), "{}", ended.stdout);
    let ended = run(&mut hostscope(["doctor", "--json"])).success();
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["probes"].as_array().unwrap().len(), PROBES.len());
    for finding in report["checks"].as_array().unwrap().iter().chain(report["probes"].as_array().unwrap()) {
        for key in ["name", "state", "detail", "mend"] {
            assert!(finding[key].is_string(), "{finding}");
        }
    }
}

/// Where a shell is installed.
fn shell(name: &str) -> Option<PathBuf> {
    ["/bin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

#[test]
fn completions_are_understood_by_their_shells() {
    let folder = tempfile::tempdir().unwrap();
    let mut missing = Vec::new();
    for name in ["bash", "zsh", "fish"] {
        let script = run(&mut hostscope(["completions", name])).success();
        assert!(
            script.stdout.contains("record") && script.stdout.contains("cgroup"),
            "{name}: {}",
            script.stdout
        );
        assert_eq!(script.stderr, "");
        let file = folder.path().join(name);
        fs::write(&file, &script.stdout).unwrap();
        // Read without being run: a syntax error is all there can be.
        match shell(name) {
            Some(shell) => drop(run(Command::new(shell).arg("-n").arg(&file)).success()),
            None => missing.push(name),
        }
    }
    let complete = format!(
        "source {}; COMP_WORDS=(hostscope rec); COMP_CWORD=1; _hostscope hostscope rec hostscope; echo ${{COMPREPLY[@]}}",
        folder.path().join("bash").display()
    );
    let bash = shell("bash").expect("bash is part of every Debian");
    assert_eq!(run(Command::new(bash).args(["-c", &complete])).success().stdout, "record\n");
    if !missing.is_empty() {
        skip!("the syntax of completions for {}: not installed", missing.join(" and "));
    }
}

#[test]
fn the_manual_renders() {
    for (arguments, name) in [
        (&["man"][..], "hostscope"),
        (&["man", "record"], "record"),
        (&["man", "diff"], "diff"),
        (&["man", "doctor"], "doctor"),
    ] {
        let page = run(&mut hostscope(arguments)).success();
        for section in [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.stdout.contains(section), "{name}: no {section}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.1");
        fs::write(&file, &page.stdout).unwrap();
        let Some(man) = shell("man") else {
            skip!("rendering the manual: man is not installed");
            continue;
        };
        let mut command = Command::new(man);
        command
            .args(["--warnings", "-l"])
            .arg(&file)
            .env("MANWIDTH", "100")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        let rendered = Running::start(&mut command).end().success();
        assert!(
            rendered.stdout.contains("SYNOPSIS") && rendered.stdout.contains(name),
            "{}",
            rendered.stdout
        );
        assert_eq!(rendered.stderr, "", "{name}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = run(&mut hostscope(["--help"])).success();
    for subcommand in ["record", "diff", "doctor", "completions", "man"] {
        assert!(help.stdout.lines().any(|line| line.trim_start().starts_with(subcommand)), "{}", help.stdout);
    }
    assert_eq!(help.stderr, "");
    let version = run(&mut hostscope(["--version"])).success();
    assert_eq!(version.stdout, format!("hostscope {}\n", env!("CARGO_PKG_VERSION")));
    let record = run(&mut hostscope(["record", "--help"])).success();
    for output in OUTPUTS {
        assert!(
            record.stdout.contains(output.extension()),
            "{} is not offered: {}",
            output.extension(),
            record.stdout
        );
    }
}

#[test]
fn the_command_line_of_the_contract_takes_all_its_forms() {
    let _host = host();
    let workload = Workload::start("shares", NONE);
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("x.json");
    for (duration, seconds) in [("300ms", 0.3), ("1", 1.0), ("0.5s", 0.5)] {
        let mut command =
            hostscope(["record", "--duration", duration, "--frequency", "99Hz", "--kind", "cpu"]);
        run(command.args(["--pid", &workload.pid_text(), "--output"]).arg(&to)).success();
        let taken = read(&to).duration_ns as f64 / 1e9;
        assert!((seconds..seconds + 0.5).contains(&taken), "{taken} s for {duration}");
    }
    let profile = read(&to);
    assert!(percent(&of_process(&profile, workload.pid()), |stack| stack.has("main")) > 90.0);
}
