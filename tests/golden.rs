//! Every output format against its golden file, and the way back from those that can be read.
//!
//! The input is `golden/profile.json`, made by hand: kernel and inlined frames, C++, Rust and Python, names with
//! spaces, line ends, semicolons and letters of other scripts, one address in two processes. `BLESS=1 cargo test -p
//! hostscope-tests --test golden` writes the golden files anew; look at the difference before committing it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use hostscope::outputs::{self, OUTPUTS};
use hostscope::profile::{FrameKind, Profile};
use pprof::protos::{self, Message};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn input() -> Profile {
    outputs::read_file(&golden("profile.json")).unwrap()
}

fn written(profile: &Profile, extension: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    outputs::for_extension(extension).unwrap().write(profile, &mut bytes).unwrap();
    bytes
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// What is in the golden file, after writing `actual` there where blessing is asked for.
fn blessed(name: &str, actual: &[u8]) -> Vec<u8> {
    if std::env::var_os("BLESS").is_some() {
        fs::write(golden(name), actual).unwrap();
    }
    fs::read(golden(name)).unwrap_or_else(|error| panic!("golden/{name}: {error}; BLESS=1 makes it"))
}

fn assert_golden(name: &str, actual: &[u8]) {
    let expected = blessed(name, actual);
    if expected != actual {
        let at = expected.iter().zip(actual).take_while(|(a, b)| a == b).count();
        let around = |bytes: &[u8]| {
            let (from, to) = (at.saturating_sub(60).min(bytes.len()), (at + 60).min(bytes.len()));
            String::from_utf8_lossy(&bytes[from..to]).into_owned()
        };
        panic!(
            "golden/{name} differs at byte {at} (BLESS=1 accepts it):\nexpected …{}…\n  actual …{}…",
            around(&expected),
            around(actual)
        );
    }
}

#[test]
fn every_format_is_as_its_golden_file() {
    let profile = input();
    for output in OUTPUTS {
        let mut bytes = Vec::new();
        output.write(&profile, &mut bytes).unwrap();
        match output.extension() {
            // Bytes of gzip may change with the library; the message may not, whatever the order of its fields.
            ".pb.gz" => {
                let message = unzipped(&bytes);
                let expected = blessed("expected.pb", &message);
                let decoded = |bytes: &[u8]| protos::Profile::decode(bytes).unwrap();
                assert_eq!(decoded(&message), decoded(&expected));
            }
            extension => assert_golden(&format!("expected{extension}"), &bytes),
        }
    }
}

#[test]
fn no_golden_file_holds_the_version() {
    for entry in fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let named = format!("hostscope {}", env!("CARGO_PKG_VERSION"));
        let tagged = format!("hostscope@{}", env!("CARGO_PKG_VERSION"));
        assert!(!text.contains(&named) && !text.contains(&tagged), "{}", path.display());
    }
}

#[test]
fn json_comes_back_identical() {
    let profile = input();
    let json = written(&profile, "json");
    let again = outputs::read_bytes(&json).unwrap();
    assert_eq!(again, profile);
    assert_eq!(written(&again, "json"), json);
}

#[test]
fn folded_stacks_come_back_identical() {
    let folded = written(&input(), "folded");
    assert_eq!(written(&outputs::read_bytes(&folded).unwrap(), "folded"), folded);
}

#[test]
fn pprof_comes_back_with_all_that_it_can_hold() {
    let mut expected = input();
    let again = outputs::read_bytes(&written(&expected, "pb.gz")).unwrap();
    // The format has no field for these, and readers number tables in the order in which samples use them.
    expected.processes.iter_mut().for_each(|process| process.start_time_ns = 0);
    expected.stacks.iter_mut().for_each(|stack| stack.end.clear());
    for index in 0..expected.value_types.len() {
        assert_eq!(again.total(index), expected.total(index));
    }
    assert_eq!(again, expected);
    assert!(again.locations.iter().any(|location| location.kind == FrameKind::Interpreted));
    assert_eq!(written(&again, "folded"), written(&expected, "folded"));
}

#[test]
fn folded_stacks_hold_every_sample_on_lines_that_cannot_be_misread() {
    let profile = input();
    let folded = String::from_utf8(written(&profile, "folded")).unwrap();
    let mut total = 0;
    for line in folded.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        total += count.parse::<u64>().unwrap();
        assert!(!stack.chars().any(char::is_control), "{line:?}");
        assert!(stack.split(';').all(|frame| !frame.is_empty()), "{line:?}");
        let last_word = stack.rsplit(' ').next().unwrap();
        assert!(!last_word.bytes().all(|byte| byte.is_ascii_digit()), "reads as two counts: {line:?}");
    }
    assert_eq!(total, profile.total(0));
    assert!(folded.contains("orders;pool\u{a0}7;main;read;entry_SYSCALL_64_after_hwframe_[k];"), "{folded}");
}

/// By <https://www.speedscope.app/file-format-schema.json>: `FileFormat.File`, `SampledProfile` and `Frame`, and what
/// the schema cannot say (indexes and sums).
#[test]
fn speedscope_follows_its_schema() {
    let profile = input();
    let file: Value = serde_json::from_slice(&written(&profile, "speedscope.json")).unwrap();
    assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
    assert_eq!(file["activeProfileIndex"], 0);
    assert!(file["name"].is_string() && file["exporter"] == "hostscope");
    let frames = file["shared"]["frames"].as_array().unwrap();
    for frame in frames {
        let members = frame.as_object().unwrap();
        assert!(
            frame["name"].is_string() && members.keys().all(|key| key == "name" || key == "file"),
            "{frame}"
        );
        assert!(members.values().all(Value::is_string), "{frame}");
    }
    let [sampled] = &file["profiles"].as_array().unwrap()[..] else { panic!("one profile") };
    assert_eq!((&sampled["type"], &sampled["unit"]), (&"sampled".into(), &"nanoseconds".into()));
    assert!(sampled["name"].is_string() && sampled["startValue"] == 0);
    let samples = sampled["samples"].as_array().unwrap();
    for index in samples.iter().flat_map(|sample| sample.as_array().unwrap()) {
        assert!(index.as_u64().unwrap() < frames.len() as u64);
    }
    let weights = sampled["weights"].as_array().unwrap();
    assert_eq!(weights.len(), samples.len());
    let sum: u64 = weights.iter().map(|weight| weight.as_u64().unwrap()).sum();
    assert_eq!(Some(sum), sampled["endValue"].as_u64());
    assert_eq!(sum, profile.total(1));
}

#[test]
fn a_difference_reads_all_formats_and_is_as_its_golden_file() {
    let folder = tempfile::tempdir().unwrap();
    let before = folder.path().join("before.folded");
    let after = folder.path().join("after.pb.gz");
    let mut slower = input();
    for sample in slower.samples.iter_mut().filter(|sample| sample.thread_name == "python3") {
        sample.values.iter_mut().for_each(|value| *value *= 4);
    }
    outputs::write_file(&input(), &before).unwrap();
    outputs::write_file(&slower, &after).unwrap();
    let difference = folder.path().join("difference.svg");
    outputs::write_diff_file(&before, &after, &difference).unwrap();
    assert_golden("expected-diff.svg", &fs::read(difference).unwrap());
}
