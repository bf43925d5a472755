//! Our pprof files as Google's own tool reads them (`go tool pprof`), offline.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use hostscope::outputs;

/// What `go tool pprof ARGUMENTS FILE` prints for the profile of the golden files.
fn go_pprof(arguments: &[&str]) -> String {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/profile.json");
    let profile = outputs::read_file(&golden).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile.pb.gz");
    outputs::write_file(&profile, &file).unwrap();
    let output = Command::new("go")
        .args(["tool", "pprof", "-symbolize=none"])
        .args(arguments)
        .arg(&file)
        // It keeps settings and fetched profiles in these folders.
        .env("HOME", folder.path())
        .env("XDG_CONFIG_HOME", folder.path())
        .env("PPROF_TMPDIR", folder.path())
        .env("GOTOOLCHAIN", "local")
        .output()
        .unwrap_or_else(|error| panic!("go: {error}; install the package golang-go"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The line that holds `text`, its words joined by one space.
fn line(output: &str, text: &str) -> String {
    let found = output.lines().find(|line| line.contains(text));
    let found = found.unwrap_or_else(|| panic!("no line holds {text:?}:\n{output}"));
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn top_shows_the_totals_and_the_names() {
    // 320 samples of 10.101010 ms.
    let time = go_pprof(&["-top", "-unit=ms"]);
    assert!(time.contains("of 3232.32ms total"), "{time}");
    assert!(time.contains("Type: cpu"), "{time}");
    assert!(time.contains("Duration: 30"), "{time}");

    let count = go_pprof(&["-top", "-sample_index=samples"]);
    assert!(count.contains("of 320 total"), "{count}");
    for (function, flat, cumulative) in [
        ("core::iter::adapters::map::Map<I,F>::next (inline)", 120, 165),
        ("<[u8; 32] as orders::Parse>::parse", 45, 45),
        ("copy_user_generic_string", 25, 25),
        ("vfs_read", 5, 30),
        ("größe_berechnen", 18, 18),
        ("[libfoo.so+0x2234]", 0, 18),
        ("[0xdead0000]", 2, 2),
        ("_PyEval_EvalFrameDefault", 0, 65),
        ("py::render:/srv/app/views.py", 22, 65),
    ] {
        let line = line(&count, function);
        let numbers: Vec<&str> = line.split(' ').collect();
        assert_eq!(numbers[0], flat.to_string(), "{line}");
        assert_eq!(numbers[3], cumulative.to_string(), "{line}");
    }
}

#[test]
fn raw_shows_labels_mappings_and_inlined_lines() {
    let raw = go_pprof(&["-raw"]);
    assert_eq!(line(&raw, "PeriodType"), "PeriodType: cpu nanoseconds");
    assert_eq!(line(&raw, "Period:"), "Period: 10101010");
    assert!(raw.contains("samples/count cpu/nanoseconds[dflt]"), "{raw}");
    for comment in ["host: web-1", "target: whole host", "event: cpu-clock", "lost: 12 ring_full"] {
        line(&raw, comment);
    }
    // 120 samples in one stack, the leaf first, with the labels of its thread; the tool numbers anew as it reads.
    let mut sample = raw.lines().skip_while(|line| !line.trim().starts_with("120 ")).map(str::trim);
    assert_eq!(sample.next().unwrap(), "120 1212121200: 1 2");
    assert_eq!(sample.next().unwrap(), "comm:[orders] thread:[orders]");
    assert_eq!(sample.next().unwrap(), "pid:[4242] tid:[4242]");
    // One address in two processes is two locations.
    line(&raw, "0x561f2c002010 M=1 main src/main.rs:12");
    line(&raw, "0x561f2c002010 M=7 main src/main.rs:12");
    // An inlined function, then the one it is inlined into, on the lines that follow the location's.
    let mut location = raw.lines().skip_while(|line| !line.contains("0x561f2c00341c M=1")).map(str::trim);
    assert!(
        location.next().unwrap().contains("core::iter::adapters::map::Map<I,F>::next library/core"),
        "{raw}"
    );
    assert!(location.next().unwrap().starts_with("orders::price::sum src/price.rs:31"), "{raw}");
    let outermost = location.next().unwrap();
    assert!(outermost.starts_with("orders::Handler::process src/handler.rs:88"), "{outermost}");
    assert!(outermost.contains("(_ZN6orders7Handler7process"), "{outermost}");
    for mapping in [
        "1: 0x561f2c001000/0x561f2c0a9000/0x1000 /usr/bin/orders 5f0c2d3e8a7b41961c0de4b2f3a59876d1e0c4b3 [FN][IN]",
        "4: 0x7f3a10601000/0x7f3a10640000/0x1000 /opt/vendor/libfoo.so",
        "2: 0xffffffff81000000/0xffffffff82800000/0x0 [kernel] a4c7e06b1b9c1a3f6e4d2b70c8f5a9e1d3b2c4f6 [FN]",
    ] {
        assert_eq!(line(&raw, mapping.split(' ').nth(1).unwrap()), mapping);
    }
}

#[test]
fn labels_select_and_group() {
    let one = go_pprof(&["-top", "-sample_index=samples", "-tagfocus=pid=4300:4300"]);
    assert!(one.contains("65, 20.31% of 320 total"), "{one}");
    let tree = go_pprof(&["-top", "-cum", "-sample_index=samples", "-tagroot=comm"]);
    assert_eq!(line(&tree, "%  orders").split(' ').nth(3).unwrap(), "251", "{tree}");
}
