//! Reads profiles back from files: our JSON, any pprof, folded stacks; told apart by what they hold, not by name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::profile::Profile;

use super::{folded, json, pprof_read};

/// The largest input, as it lies in the file and unzipped: 50 times what 20,000 stacks take as JSON, and its tables
/// still fit into the memory of a small host. A zip bomb of 100 KB could otherwise fill any.
pub const MAX_INPUT_BYTES: u64 = 128 << 20;

/// Reads the profile in the file at `path`.
///
/// # Errors
/// The file cannot be read, is too large, holds no profile that is known, or one that is damaged.
pub fn read_file(path: &Path) -> Result<Profile> {
    let shown = path.display();
    let failed =
        |why: &dyn std::fmt::Display, mend: &str| Error::failed(format!("cannot read {shown}: {why}"), mend);
    let file = File::open(path).map_err(|error| failed(&error, "check the path and its permissions"))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(failed(&"it is a folder", "give a file in it"));
    }
    let bytes = bounded(file).map_err(|why| failed(&why, "give a smaller file, or check the disk"))?;
    read_bytes(&bytes)
        .map_err(|why| failed(&why, "give a .json of hostscope's, a pprof profile (.pb.gz) or folded stacks"))
}

/// Reads the profile in `bytes`, gzipped or not.
///
/// # Errors
/// Why it cannot be read, in words that follow a file's name and a colon.
pub fn read_bytes(bytes: &[u8]) -> std::result::Result<Profile, String> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let unzipped = bounded(MultiGzDecoder::new(bytes))?;
        return read_plain(&unzipped);
    }
    read_plain(bytes)
}

fn read_plain(bytes: &[u8]) -> std::result::Result<Profile, String> {
    let profile = match text(bytes) {
        _ if bytes.is_empty() => return Err("it is empty".into()),
        Some(text) if text.trim_start().starts_with('{') => json::parse(bytes)?,
        Some(text) => folded::parse(text)?,
        None => pprof_read::parse(bytes)?,
    };
    profile.validate()?;
    Ok(profile)
}

/// `bytes` as text; a protocol buffer always has control characters (its tags of the first fields are such).
fn text(bytes: &[u8]) -> Option<&str> {
    let control = |&byte: &u8| byte < b' ' && !matches!(byte, b'\n' | b'\r' | b'\t');
    if bytes.iter().any(control) { None } else { std::str::from_utf8(bytes).ok() }
}

/// All that `from` gives, up to [`MAX_INPUT_BYTES`].
fn bounded(from: impl Read) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(format!("it is larger than {} MiB", MAX_INPUT_BYTES >> 20));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::read::GzDecoder;
    use flate2::write::GzEncoder;

    use super::super::OUTPUTS;
    use super::*;

    /// The profile of the golden files.
    const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/profile.json");

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    /// The golden profile in each format that can be read back, unzipped.
    fn inputs() -> Vec<Vec<u8>> {
        let profile = read_bytes(GOLDEN).unwrap();
        let readable = OUTPUTS.iter().filter(|o| matches!(o.extension(), ".json" | ".folded" | ".pb.gz"));
        let written = readable.map(|output| {
            let mut bytes = Vec::new();
            output.write(&profile, &mut bytes).unwrap();
            if output.extension() != ".pb.gz" {
                return bytes;
            }
            let mut plain = Vec::new();
            GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
            plain
        });
        written.collect()
    }

    /// What must hold for any input: an error, or a profile that every output takes.
    fn survives(bytes: &[u8]) {
        if let Ok(profile) = read_bytes(bytes) {
            for output in OUTPUTS {
                // Too large numbers are an error and no panic.
                let _ = output.write(&profile, &mut std::io::sink());
            }
        }
    }

    #[test]
    fn formats_are_told_apart_zipped_or_not() {
        for input in inputs() {
            let profile = read_bytes(&input).unwrap();
            assert!(profile.total(profile.count_index()) > 0);
            assert_eq!(read_bytes(&gzipped(&input)).unwrap(), profile);
        }
    }

    #[test]
    fn truncated_inputs_never_panic() {
        for input in inputs() {
            for length in (0..input.len()).step_by(input.len().div_ceil(200)) {
                survives(&input[..length]);
            }
            let zipped = gzipped(&input);
            assert!(read_bytes(&zipped[..zipped.len() - 1]).is_err());
        }
    }

    #[test]
    fn garbled_inputs_never_panic() {
        // A linear congruential generator (Knuth's MMIX constants): the same garbling in every run.
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for input in inputs() {
            for _ in 0..300 {
                let mut garbled = input.clone();
                for _ in 0..=random(8) {
                    let at = random(garbled.len());
                    garbled[at] = match random(3) {
                        0 => random(256) as u8,
                        1 => b'0' + random(10) as u8,
                        _ => garbled[at] ^ 1 << random(8),
                    };
                }
                survives(&garbled);
            }
        }
    }

    #[test]
    fn what_is_no_profile_says_why() {
        for (bytes, why) in [
            (&b""[..], "empty"),
            (b"hello", "line 1"),
            (b"\0\0\0\0", "no pprof profile"),
            (b"\x1f\x8bnot gzip", "gzip"),
            (b"{}", "not a hostscope-profile"),
            (b"\xff\xfe\xfd", "no pprof profile"),
        ] {
            let error = read_bytes(bytes).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_zip_bomb_is_refused() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let block = vec![b' '; 1 << 20];
        for _ in 0..=(MAX_INPUT_BYTES >> 20) {
            gzip.write_all(&block).unwrap();
        }
        let error = read_bytes(&gzip.finish().unwrap()).unwrap_err();
        assert_eq!(error, "it is larger than 128 MiB");
    }

    #[test]
    fn files_that_cannot_be_read_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_file(folder.path()).unwrap_err().what.ends_with("it is a folder"));
        let missing = folder.path().join("missing.json");
        let error = read_file(&missing).unwrap_err();
        assert!(error.what.contains("missing.json: No such file"), "{error}");
    }
}
