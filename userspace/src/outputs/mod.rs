//! From a [`Profile`] to files and back: the trait that every format implements and the one list of them.
//!
//! To add a format, add its file, its line in [`OUTPUTS`] and its golden file; the command line and the HTTP API
//! offer what the list holds. Nothing here knows where a profile came from.

mod diff;
mod file;
mod folded;
mod frames;
mod json;
mod pprof;
mod pprof_read;
mod read;
mod speedscope;
mod svg;
mod table;
mod text;

use std::io;
use std::path::{Path, PathBuf};

use crate::config::Kind;
use crate::error::{Error, Result};
use crate::profile::Profile;

pub use diff::write_diff_file;
pub use file::{check_writable, write_file};
pub use read::{MAX_INPUT_BYTES, read_bytes, read_file};

/// The path that means standard output; folded stacks go there.
pub const STDOUT: &str = "-";

/// One format that profiles are written in.
pub trait Output: Sync {
    /// How names of its files end, with the leading dot, such as `.pb.gz`. No two outputs share it.
    fn extension(&self) -> &'static str;

    /// What it is, in a few words for a list of choices.
    fn describe(&self) -> &'static str;

    /// The media type for HTTP.
    fn content_type(&self) -> &'static str;

    /// Writes all of `profile`, which must satisfy [`Profile::validate`]. `to` should be buffered.
    ///
    /// # Errors
    /// Those of `to`, and `InvalidData` for numbers that the format cannot hold.
    fn write(&self, profile: &Profile, to: &mut dyn io::Write) -> io::Result<()>;
}

/// Every format there is, in the order in which help texts name them.
pub static OUTPUTS: &[&dyn Output] =
    &[&svg::FlameGraph, &pprof::Pprof, &folded::Folded, &speedscope::Speedscope, &json::Json];

/// The format that the end of `path` chooses: the longest extension that fits, so that `x.speedscope.json` is
/// speedscope's and `x.json` our own; [`STDOUT`] is folded stacks.
///
/// # Errors
/// Wrong usage where no extension fits; the mend lists those there are.
pub fn for_path(path: &Path) -> Result<&'static dyn Output> {
    if path.as_os_str() == STDOUT {
        return Ok(&folded::Folded);
    }
    let name = path.as_os_str().as_encoded_bytes();
    OUTPUTS
        .iter()
        .copied()
        .filter(|output| name.ends_with(output.extension().as_bytes()))
        .max_by_key(|output| output.extension().len())
        .ok_or_else(|| {
            Error::usage(
                format!("no output format is known by the end of {}", path.display()),
                format!("end the file name in one of {}", extensions()),
            )
        })
}

/// The format of an extension, with or without its leading dot, as in a URL.
#[must_use]
pub fn for_extension(extension: &str) -> Option<&'static dyn Output> {
    let bare = extension.trim_start_matches('.');
    OUTPUTS.iter().copied().find(|output| output.extension()[1..] == *bare)
}

/// Every extension, for error and help texts: `.svg, .pb.gz, …`.
#[must_use]
pub fn extensions() -> String {
    OUTPUTS.iter().map(|output| output.extension()).collect::<Vec<_>>().join(", ")
}

/// The files that a capture which began at `start_unix_ns` writes where the user names none:
/// `hostscope-cpu-20250131T235959Z.svg` and `.pb.gz`, relative to the current folder.
#[must_use]
pub fn default_paths(kind: Kind, start_unix_ns: u64) -> Vec<PathBuf> {
    let stem = format!("hostscope-{}-{}", kind.name(), text::date(start_unix_ns, "%Y%m%dT%H%M%SZ"));
    [svg::FlameGraph.extension(), pprof::Pprof.extension()]
        .iter()
        .map(|extension| PathBuf::from(format!("{stem}{extension}")))
        .collect()
}

/// What the profile is, for a title: `CPU profile: whole host`. Other programs' profiles name no target.
fn title(profile: &Profile) -> String {
    let kind = kind_title(profile.kind);
    match profile.target.as_str() {
        "" => kind.to_owned(),
        target => format!("{kind}: {}", text::shorten(&text::clean(target), MAX_TITLE_CHARS)),
    }
}

/// The name of a kind in titles.
fn kind_title(kind: Kind) -> &'static str {
    match kind {
        Kind::Cpu => "CPU profile",
    }
}

/// What fits into the 1,200 pixels of a flame graph's title beside the rest: a target may be a long command line.
const MAX_TITLE_CHARS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_extension_chooses() {
        for (path, extension) in [
            ("a.svg", ".svg"),
            ("/x/a.pb.gz", ".pb.gz"),
            ("a.folded", ".folded"),
            ("a.speedscope.json", ".speedscope.json"),
            ("a.json", ".json"),
            ("speedscope.json", ".json"),
            ("-", ".folded"),
        ] {
            assert_eq!(for_path(Path::new(path)).unwrap().extension(), extension, "{path}");
        }
    }

    #[test]
    fn an_unknown_extension_lists_the_known_ones() {
        for path in ["a.html", "a", "svg", "a.svg/", "a.pb", "--"] {
            let Err(error) = for_path(Path::new(path)) else { panic!("{path} has no format") };
            assert_eq!(error.class.exit_status(), 2);
            assert!(error.what.contains(path), "{error}");
            assert!(error.mend.contains(".svg, .pb.gz, .folded, .speedscope.json, .json"), "{error}");
        }
    }

    #[test]
    fn extensions_work_as_in_urls() {
        assert_eq!(for_extension("pb.gz").unwrap().content_type(), "application/gzip");
        assert_eq!(for_extension(".svg").unwrap().extension(), ".svg");
        assert!(for_extension("gz").is_none());
        assert!(for_extension("").is_none());
    }

    #[test]
    fn default_names_hold_kind_and_start() {
        let paths = default_paths(Kind::Cpu, 1_738_367_999_000_000_000);
        assert_eq!(paths[0], Path::new("hostscope-cpu-20250131T235959Z.svg"));
        assert_eq!(paths[1], Path::new("hostscope-cpu-20250131T235959Z.pb.gz"));
    }
}
